//! Cases in the words of upstream's documentation, and random clusters held against a checker that
//! shares no code with the predicates.

use super::*;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

fn node(name: &str, zone: &str, cpu: &str, extra: Value) -> Value {
    let mut v = json!({"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}},
        "spec": {}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}}});
    merge(&mut v, &extra);
    v
}

fn merge(v: &mut Value, p: &Value) {
    match (v, p) {
        (Value::Object(v), Value::Object(p)) => {
            p.iter().for_each(|(k, x)| merge(v.entry(k).or_insert(Value::Null), x))
        }
        (v, p) => *v = p.clone(),
    }
}

fn pod(name: &str, cpu: &str, extra: Value) -> Value {
    let mut v = json!({"metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    merge(&mut v, &extra);
    v
}

fn read(v: &Value) -> Arc<PodSpec> {
    Arc::new(PodSpec::from_pod(&serde_json::from_value::<Pod>(v.clone()).unwrap()))
}

fn cluster(nodes: &[Value]) -> Snapshot {
    let mut s = Snapshot::default();
    for n in nodes {
        s.set_node(Node::from_node(&serde_json::from_value::<ApiNode>(n.clone()).unwrap()));
    }
    s
}

fn run(s: &mut Snapshot, v: &Value) -> Result<String, String> {
    let p = read(v);
    let n = s.schedule(&p, Profile::Spread).map_err(|e| e.to_string())?;
    s.add_pod(p, &n);
    Ok(n)
}

#[test]
fn reasons_are_upstreams() {
    let taint =
        json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    let mut s = cluster(&[
        node("a", "1", "1", json!({})),
        node("b", "1", "4", taint),
        node("c", "2", "4", json!({"spec": {"unschedulable": true}})),
    ]);
    let e = run(&mut s, &pod("p", "2", json!({}))).unwrap_err();
    assert_eq!(
        e,
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {gpu: yes}, 1 node(s) were unschedulable."
    );
    assert_eq!(
        run(&mut Snapshot::default(), &pod("p", "1", json!({}))).unwrap_err(),
        "0/0 nodes are available: no nodes available to schedule pods."
    );
    let e = run(&mut s, &pod("p", "1", json!({"spec": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"operator": "Exists"}]}}))).unwrap_err();
    assert_eq!(e, "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.");
}

#[test]
fn profiles_pack_or_spread() {
    for (profile, want) in [(Profile::Spread, 2), (Profile::Pack, 1)] {
        let mut s = cluster(&[node("a", "1", "4", json!({})), node("b", "1", "4", json!({}))]);
        let mut used = std::collections::BTreeSet::new();
        for i in 0..2 {
            let p = read(&pod(&i.to_string(), "1", json!({})));
            let n = s.schedule(&p, profile).unwrap();
            s.add_pod(p, &n);
            used.insert(n);
        }
        assert_eq!(used.len(), want, "{profile:?}");
    }
}

fn spread(key: &str) -> Value {
    json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}})
}

#[test]
fn spread_keeps_the_skew() {
    let mut s = cluster(&[node("a", "1", "4", json!({})), node("b", "2", "1", json!({}))]);
    let zones: Vec<_> = (0..3)
        .map(|i| {
            run(&mut s, &pod(&i.to_string(), "500m", spread("topology.kubernetes.io/zone")))
                .unwrap()
        })
        .collect();
    assert_eq!(zones.iter().filter(|n| *n == "b").count(), 1);
    run(&mut s, &pod("3", "500m", spread("topology.kubernetes.io/zone"))).unwrap();
    // Zone 2 is full, so one more in zone 1 is the most that the skew allows.
    run(&mut s, &pod("4", "500m", spread("topology.kubernetes.io/zone"))).unwrap();
    let e = run(&mut s, &pod("5", "500m", spread("topology.kubernetes.io/zone"))).unwrap_err();
    assert_eq!(
        e,
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints."
    );
}

#[test]
fn affinity_and_anti_affinity() {
    let term = |labels: Value| json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": labels}}]);
    let far = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(json!({"app": "web"}))}}}});
    let near = json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(json!({"app": "web"}))}}}});
    let mut s = cluster(&[node("a", "1", "4", json!({})), node("b", "1", "4", json!({}))]);
    let first = run(&mut s, &pod("1", "100m", near.clone())).unwrap();
    assert_eq!(run(&mut s, &pod("2", "100m", near)).unwrap(), first);
    let other = run(&mut s, &pod("3", "100m", far.clone())).unwrap();
    assert_ne!(other, first);
    assert!(
        run(&mut s, &pod("4", "100m", far))
            .unwrap_err()
            .contains("2 node(s) didn't match pod anti-affinity rules")
    );
    // Symmetry: a plain pod may not join one that repels it.
    assert_eq!(run(&mut s, &pod("5", "100m", json!({}))).unwrap(), first);
}

fn zone_affinity(kind: &str, extra: Value) -> Value {
    let mut term = json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector": {"matchLabels": {"app": "web"}}});
    merge(&mut term, &extra);
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
}

/// `namespaces` and `namespaceSelector` add up (KEP-2249), and follow the namespaces' labels.
#[test]
fn affinity_selects_namespaces_by_their_labels() {
    let mut s = cluster(&[node("a", "1", "4", json!({})), node("b", "2", "4", json!({}))]);
    let team = |t: &str| Some(BTreeMap::from([("team".to_owned(), t.to_owned())]));
    s.set_namespace("blue", team("blue"));
    s.set_namespace("red", team("red"));
    let in_namespace = |ns: &str| json!({"metadata": {"namespace": ns}});
    let at = run(&mut s, &pod("1", "1", in_namespace("blue"))).unwrap();
    let by_team = |t: &str| json!({"namespaceSelector": {"matchLabels": {"team": t}}});
    let far = |extra: Value| pod("2", "1", zone_affinity("podAntiAffinity", extra));
    let near = |extra: Value| pod("2", "1", zone_affinity("podAffinity", extra));
    let mut place = |v: Value| s.schedule(&read(&v), Profile::Pack);
    assert_eq!(place(near(by_team("blue"))).unwrap(), at);
    assert_ne!(place(far(by_team("blue"))).unwrap(), at);
    assert_eq!(place(near(json!({"namespaceSelector": {}}))).unwrap(), at);
    assert_eq!(place(near(json!({"namespaces": ["blue"]}))).unwrap(), at);
    assert_eq!(
        place(near(
            json!({"namespaces": ["green"], "namespaceSelector": {"matchLabels": {"team": "blue"}}})
        ))
        .unwrap(),
        at
    );
    // No such pod in red, and it is not of red itself, so it may not begin a group either.
    assert!(place(near(by_team("red"))).is_err());
    s.set_namespace("blue", team("red"));
    assert_eq!(s.schedule(&read(&near(by_team("red"))), Profile::Pack).unwrap(), at);
    assert!(s.schedule(&read(&near(by_team("blue"))), Profile::Pack).is_err());
    // Symmetry: who repels teams repels them wherever they come from.
    run(&mut s, &pod("3", "1", zone_affinity("podAntiAffinity", by_team("red")))).unwrap();
    assert_eq!(s.schedule(&read(&pod("4", "1", in_namespace("red"))), Profile::Pack).unwrap(), at);
}

#[test]
fn spread_counts_only_nodes_that_the_policies_admit() {
    let taint = json!({"spec": {"taints": [{"key": "t", "effect": "NoSchedule"}]}});
    let mut s = cluster(&[
        node("a", "1", "8", json!({"metadata": {"labels": {"disk": "ssd"}}})),
        node("b", "2", "8", json!({})),
        node("c", "3", "8", taint),
    ]);
    let with = |policy: Value| {
        let mut v = spread("topology.kubernetes.io/zone");
        merge(&mut v["spec"]["topologySpreadConstraints"][0], &policy);
        v
    };
    // The tainted zone counts with none unless taints are honoured: one a zone, then no more.
    run(&mut s, &pod("1", "1", with(json!({})))).unwrap();
    run(&mut s, &pod("2", "1", with(json!({})))).unwrap();
    assert!(run(&mut s, &pod("3", "1", with(json!({})))).is_err());
    run(&mut s, &pod("3", "1", with(json!({"nodeTaintsPolicy": "Honor"})))).unwrap();
    // Only the zone of ssd counts for who asks for it, so there is no other to fall behind.
    let mut ssd = with(json!({}));
    ssd["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    for i in 4..7 {
        assert_eq!(run(&mut s, &pod(&i.to_string(), "1", ssd.clone())).unwrap(), "a");
    }
    let mut ignored = with(json!({"nodeAffinityPolicy": "Ignore"}));
    ignored["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    assert!(run(&mut s, &pod("7", "1", ignored)).is_err());
    // A pod on its way out counts no more.
    let two = spread("topology.kubernetes.io/zone");
    let mut s = cluster(&[node("a", "1", "8", json!({})), node("b", "2", "0", json!({}))]);
    run(&mut s, &pod("1", "1", two.clone())).unwrap();
    assert!(run(&mut s, &pod("2", "1", two.clone())).is_err());
    let gone = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    s.add_pod(read(&pod("1", "1", gone)), "a");
    run(&mut s, &pod("2", "1", two)).unwrap();
}

#[test]
fn ports_and_init_containers() {
    let port = json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]}});
    let mut s = cluster(&[node("a", "1", "4", json!({}))]);
    run(&mut s, &pod("1", "1", port.clone())).unwrap();
    assert!(run(&mut s, &pod("2", "1", port)).unwrap_err().contains("free ports"));
    let init = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
        "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}}, {"name": "i", "resources": {"requests": {"cpu": "2"}}}]}});
    assert_eq!(read(&pod("3", "1", init)).requests.cpu_milli, 2500);
}

/// Checks a whole cluster against the documentation, from the API objects alone.
fn violations(nodes: &[Value], placed: &[(Value, String)]) -> Vec<String> {
    let milli = |v: &Value| {
        v.as_str().map_or(0, |s| {
            s.strip_suffix('m')
                .map_or_else(|| s.parse::<i64>().unwrap() * 1000, |m| m.parse().unwrap())
        })
    };
    let mut out = Vec::new();
    for n in nodes {
        let name = n["metadata"]["name"].as_str().unwrap();
        let here: Vec<&Value> =
            placed.iter().filter(|(_, at)| at == name).map(|(p, _)| p).collect();
        let used: i64 = here
            .iter()
            .map(|p| milli(&p["spec"]["containers"][0]["resources"]["requests"]["cpu"]))
            .sum();
        if used > milli(&n["status"]["allocatable"]["cpu"]) {
            out.push(format!("{name} is over its cpu"));
        }
        if here.len() > 10 {
            out.push(format!("{name} has too many pods"));
        }
        for p in &here {
            for (k, v) in p["spec"]["nodeSelector"].as_object().into_iter().flatten() {
                if n["metadata"]["labels"][k] != *v {
                    out.push(format!("{name} lacks {k}"));
                }
            }
            for t in n["spec"]["taints"].as_array().into_iter().flatten() {
                let tolerated = p["spec"]["tolerations"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|x| x["key"] == t["key"]);
                if !tolerated {
                    out.push(format!("{name} has an untolerated taint"));
                }
            }
        }
    }
    let at = |name: &str, key: &str| {
        nodes.iter().find(|n| n["metadata"]["name"] == name).unwrap()["metadata"]["labels"][key]
            .clone()
    };
    for (i, (p, here)) in placed.iter().enumerate() {
        let terms = &p["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        for t in terms.as_array().into_iter().flatten() {
            let key = t["topologyKey"].as_str().unwrap();
            for (j, (q, there)) in placed.iter().enumerate() {
                if i != j
                    && q["metadata"]["labels"]["app"] == t["labelSelector"]["matchLabels"]["app"]
                    && at(here, key) == at(there, key)
                {
                    out.push(format!("{} repels {}", p["metadata"]["name"], q["metadata"]["name"]));
                }
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_placement_breaks_a_rule(
        shapes in proptest::collection::vec((1u8..4, 1u8..5, any::<bool>(), any::<bool>()), 1..6),
        pods in proptest::collection::vec((1u16..20, 0u8..4, 0u8..3, 0u8..3), 1..30),
        remove in any::<bool>(),
    ) {
        let nodes: Vec<Value> = shapes.iter().enumerate().map(|(i, (zone, cpu, ssd, taint))| {
            let mut extra = json!({"metadata": {"labels": {"disk": if *ssd { "ssd" } else { "hdd" }}}});
            if *taint { extra["spec"] = json!({"taints": [{"key": "t", "effect": "NoSchedule"}]}); }
            node(&format!("n{i}"), &zone.to_string(), &cpu.to_string(), extra)
        }).collect();
        let mut s = cluster(&nodes);
        let mut placed: Vec<(Value, String)> = Vec::new();
        for (i, (cpu, app, kind, tolerate)) in pods.iter().enumerate() {
            let mut v = pod(&format!("p{i}"), &format!("{}m", cpu * 100), json!({"metadata": {"labels": {"app": app.to_string()}}}));
            if *kind == 1 { v["spec"]["nodeSelector"] = json!({"disk": "ssd"}); }
            if *kind == 2 {
                v["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": if *app % 2 == 0 { "kubernetes.io/hostname" } else { "topology.kubernetes.io/zone" }, "labelSelector": {"matchLabels": {"app": app.to_string()}}}]}});
            }
            if *tolerate > 0 { v["spec"]["tolerations"] = json!([{"key": "t", "operator": "Exists"}]); }
            if let Ok(n) = run(&mut s, &v) { placed.push((v, n)); }
            if remove && i % 5 == 4 && !placed.is_empty() {
                let (gone, _) = placed.remove(0);
                s.remove_pod(&read(&gone).key);
            }
        }
        prop_assert_eq!(violations(&nodes, &placed), Vec::<String>::new());
    }

    /// Counts that were kept step by step say what counts made from nothing say.
    #[test]
    fn counts_do_not_drift(steps in proptest::collection::vec((0u8..8, 0u8..6, 0u8..4), 1..40)) {
        let labels = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"];
        let make = |n: u8, zone: u8, tainted: bool| {
            let taints = if tainted { json!([{"key": "t", "effect": "NoSchedule"}]) } else { json!([]) };
            node(&format!("n{n}"), &zone.to_string(), "64", json!({"spec": {"taints": taints}}))
        };
        let shaped = |name: &str, kind: u8| {
            let key = labels[usize::from(kind % 2)];
            let mut extra = match kind {
                0 | 1 => spread(key),
                2 | 3 => json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "web"}}}]}}}}),
                _ => zone_affinity("podAffinity", json!({"namespaceSelector": {"matchLabels": {"team": "x"}}})),
            };
            extra["metadata"]["labels"]["app"] = json!(if kind == 5 { "db" } else { "web" });
            pod(name, "1", extra)
        };
        let mut kept = cluster(&[make(0, 0, false), make(1, 1, false)]);
        for (i, (what, a, b)) in steps.iter().enumerate() {
            let at = format!("n{b}");
            match what {
                0 => kept.set_node(Node::from_node(&serde_json::from_value(make(*b, a % 3, a % 2 == 0)).unwrap())),
                1 => drop(kept.remove_node(&at)),
                2 => drop(kept.remove_pod(&PodKey { namespace: "default".into(), name: format!("p{a}") })),
                3 => kept.set_namespace("default", (a % 2 == 0).then(|| BTreeMap::from([("team".into(), "x".into())]))),
                _ => kept.add_pod(read(&shaped(&format!("p{}", i % 6), *a)), &at),
            }
            let mut fresh = Snapshot::default();
            for (name, labels) in kept.topology.namespaces().clone() {
                fresh.set_namespace(&name, Some(labels));
            }
            for n in kept.nodes() {
                fresh.set_node(Node { pods: BTreeMap::new(), used: Default::default(), anti_affine: 0, ..n.clone() });
                n.pods.values().for_each(|p| fresh.add_pod(p.clone(), &n.name));
            }
            for kind in 0..6 {
                let next = read(&shaped("next", kind));
                let names: Vec<String> = kept.nodes().map(|n| n.name.clone()).collect();
                for n in names {
                    prop_assert_eq!(kept.fits(&next, &n), fresh.fits(&next, &n));
                }
            }
        }
    }
}
