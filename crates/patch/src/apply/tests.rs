//! Cases in the words of the documentation of server-side apply, and the properties that ownership
//! must have.

use super::*;
use coracle_schema::{Minor, pack};
use proptest::prelude::*;
use serde_json::json;

/// An object with its owners, as a server would keep it.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    object: Value,
    managed: Managed,
    clock: u32,
}

fn typed(kind: &str) -> Typed<'static> {
    let pack = pack::of(Minor::LATEST);
    let kind = pack.kinds.iter().find(|k| k.kind == kind).unwrap();
    Typed::object(kind.arena(), kind.root(), pack)
}

fn with<R>(object: &Value, f: impl FnOnce(&Versions<'_>) -> R) -> R {
    let versions = Versions {
        current: object["apiVersion"].as_str().unwrap(),
        typed: typed(object["kind"].as_str().unwrap()),
        convert: &|_, _| None,
        convert_back: &|_, _| None,
    };
    f(&versions)
}

impl Stored {
    fn new(kind: &str, api_version: &str) -> Self {
        let object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "uid": "1"}});
        Self { object, managed: Managed::default(), clock: 0 }
    }

    fn who<R>(&mut self, manager: &str, f: impl FnOnce(&mut Self, &Writer<'_>) -> R) -> R {
        self.clock += 1;
        let now = format!("2026-01-01T00:00:{:02}Z", self.clock % 60);
        let reset = FieldSet::of_fields(&["status"]);
        f(self, &Writer { manager, subresource: "", reset: &reset, now: &now })
    }

    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), ApplyError> {
        let mut config = config;
        for f in ["apiVersion", "kind"] {
            config[f] = self.object[f].clone();
        }
        config["metadata"]["name"] = json!("x");
        self.who(manager, |s, writer| {
            let (object, managed) =
                with(&config, |v| super::apply(v, &s.object, &config, &s.managed, writer, force))?;
            (s.object, s.managed) = (object, managed);
            Ok(())
        })
    }

    fn apply(&mut self, manager: &str, config: Value) {
        self.try_apply(manager, config, false).unwrap();
    }

    fn update(&mut self, manager: &str, change: impl FnOnce(&mut Value)) {
        let mut new = self.object.clone();
        change(&mut new);
        self.who(manager, |s, writer| {
            s.managed =
                with(&new, |v| super::update(v, &s.object, &new, s.managed.clone(), writer))
                    .unwrap();
            s.object = new;
        });
    }

    fn owned(&self, manager: &str) -> Vec<String> {
        self.managed
            .0
            .iter()
            .filter(|(m, _)| m.name == manager)
            .flat_map(|(_, o)| o.fields.paths())
            .collect()
    }
}

fn deployment() -> Stored {
    Stored::new("Deployment", "apps/v1")
}

#[test]
fn who_applies_owns_what_it_says() {
    let mut s = deployment();
    let config = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"replicas": 1, "template": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}}}});
    s.apply("me", config.clone());
    assert_eq!(
        s.owned("me"),
        [
            ".metadata.labels.a",
            ".spec.replicas",
            ".spec.template.spec.containers[name=\"c\"]",
            ".spec.template.spec.containers[name=\"c\"].name",
            ".spec.template.spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]",
            ".spec.template.spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"].containerPort",
        ]
    );
    let before = s.clone();
    s.apply("me", config);
    assert_eq!((s.object, s.managed), (before.object, before.managed), "nothing changed");
}

#[test]
fn a_conflict_names_the_owner_and_the_field() {
    let mut s = deployment();
    s.apply("a", json!({"spec": {"replicas": 1, "paused": true}}));
    s.update("hpa", |v| v["spec"]["replicas"] = json!(2));
    assert_eq!(s.owned("a"), [".spec.paused"], "an update takes what it changes");
    let e = s.try_apply("a", json!({"spec": {"replicas": 3, "paused": true}}), false).unwrap_err();
    assert_eq!(
        e.to_string(),
        "Apply failed with 1 conflict: conflict with \"hpa\" using apps/v1: .spec.replicas"
    );
    let e = s.try_apply("b", json!({"spec": {"replicas": 3, "paused": false}}), false).unwrap_err();
    assert_eq!(
        e.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.paused\nconflicts with \"hpa\" using apps/v1:\n- .spec.replicas"
    );
    s.try_apply("b", json!({"spec": {"replicas": 3, "paused": false}}), true).unwrap();
    assert_eq!(s.object["spec"], json!({"replicas": 3, "paused": false}));
    assert!(s.owned("a").is_empty() && s.owned("hpa").is_empty());
}

#[test]
fn what_is_no_longer_said_goes_unless_another_owns_it() {
    let mut s = deployment();
    let env = |names: &[&str]| {
        let env: Vec<Value> = names.iter().map(|n| json!({"name": n, "value": "1"})).collect();
        json!({"metadata": {"labels": {"x": "1"}}, "spec": {"template": {"spec": {"containers": [{"name": "c", "env": env}]}}}})
    };
    s.apply("a", env(&["A", "B", "C"]));
    s.apply("b", env(&["B"]));
    s.update("c", |v| v["metadata"]["annotations"] = json!({"by": "c"}));
    s.apply("a", json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}}}}));
    let names = |s: &Stored| -> Vec<String> {
        let env = s.object["spec"]["template"]["spec"]["containers"][0]["env"]
            .as_array()
            .unwrap()
            .clone();
        env.iter().map(|e| e["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&s), ["A", "B"]);
    assert_eq!(s.object["metadata"]["labels"], json!({"x": "1"}), "b still says so");
    s.apply("b", json!({}));
    assert_eq!(names(&s), ["A"]);
    assert_eq!(
        s.object["metadata"],
        json!({"name": "x", "uid": "1", "annotations": {"by": "c"}}),
        "labels went, what nobody may own stays"
    );
    assert!(s.owned("b").is_empty());
    // Who removes a field by an update takes it from everybody.
    s.update("d", |v| v["spec"] = json!({}));
    assert!(s.owned("a").is_empty());
}

#[test]
fn sets_atoms_and_order() {
    let mut s = deployment();
    s.apply("a", json!({"metadata": {"finalizers": ["a/1"]}, "spec": {"selector": {"matchLabels": {"a": "1"}}, "template": {"spec": {"nodeSelector": {"d": "ssd"}}}}}));
    s.apply("b", json!({"metadata": {"finalizers": ["b/1"]}}));
    assert_eq!(s.object["metadata"]["finalizers"], json!(["a/1", "b/1"]));
    assert_eq!(
        s.owned("a"),
        [".metadata.finalizers[=\"a/1\"]", ".spec.selector", ".spec.template.spec.nodeSelector"]
    );
    let e = s
        .try_apply(
            "b",
            json!({"spec": {"template": {"spec": {"nodeSelector": {"e": "f"}}}}}),
            false,
        )
        .unwrap_err();
    assert!(e.to_string().contains(".spec.template.spec.nodeSelector"), "{e}");
    let containers = |names: &[&str]| {
        let list: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
        json!({"spec": {"template": {"spec": {"containers": list}}}})
    };
    let mut s = deployment();
    s.apply("a", containers(&["one", "two", "three"]));
    s.apply("b", containers(&["zero", "two"]));
    let now: Vec<String> = s.object["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(now, ["one", "zero", "two", "three"]);
    let e = s.try_apply(
        "b",
        json!({"spec": {"template": {"spec": {"containers": [{"image": "i"}]}}}}),
        false,
    );
    assert!(e.unwrap_err().to_string().contains("omits key field \"name\""));
}

#[test]
fn client_side_apply_is_taken_over() {
    let mut s = deployment();
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replicas": 1}});
    s.update("kubectl-client-side-apply", |v| {
        v["spec"] = json!({"replicas": 1});
        v["metadata"]["annotations"] = json!({LAST_APPLIED: config.to_string()});
    });
    s.clone().try_apply("other", json!({"spec": {"replicas": 2}}), false).unwrap_err();
    s.apply("kubectl", json!({"spec": {"replicas": 2}}));
    assert_eq!(s.object["spec"]["replicas"], 2);
    let kept: Value =
        serde_json::from_str(s.object["metadata"]["annotations"][LAST_APPLIED].as_str().unwrap())
            .unwrap();
    assert_eq!(kept["spec"]["replicas"], 2, "client-side apply could go on");
}

#[test]
fn old_updates_are_merged() {
    let mut s = Stored::new("ConfigMap", "v1");
    for i in 0..14 {
        s.update(&format!("m{i:02}"), |v| v["data"][format!("k{i:02}")] = json!("1"));
    }
    assert_eq!(s.managed.0.len(), 10);
    assert_eq!(
        s.owned("ancient-changes"),
        [".data", ".data.k00", ".data.k01", ".data.k02", ".data.k03", ".data.k04"]
    );
    let text = s.managed.write();
    assert_eq!(Managed::read(&text).unwrap(), s.managed);
    assert_eq!(text[0]["manager"], "ancient-changes");
}

#[test]
fn fields_below_what_has_become_atomic_become_it() {
    let mut s = deployment();
    let manager = Manager::new(Operation::Update, "old", "apps/v1", "");
    let fields = json!({"f:spec": {"f:selector": {"f:matchLabels": {"f:a": {}}}}});
    let owned = Owned {
        fields: FieldSet::from_json(&fields).unwrap(),
        api_version: "apps/v1".into(),
        time: None,
    };
    s.managed.0.insert(manager, owned);
    s.object["spec"] = json!({"selector": {"matchLabels": {"a": "1"}}});
    s.update("new", |v| v["spec"]["paused"] = json!(true));
    assert_eq!(s.owned("old"), [".spec.selector"]);
}

/// A configuration of a Deployment from few letters, so that managers meet.
fn config() -> impl Strategy<Value = Value> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let value = || prop::sample::select(vec!["1", "2"]);
    let map = prop::collection::btree_map(name(), value(), 0..3);
    let env = prop::collection::btree_map(name(), value(), 0..3);
    let containers = prop::collection::btree_map(name(), (env, prop::option::of(value())), 0..3);
    let finalizers = prop::collection::btree_set(name(), 0..3);
    (map, containers, finalizers, prop::option::of(0..3), any::<bool>()).prop_map(
        |(labels, containers, finalizers, replicas, selects)| {
            let mut v = json!({"metadata": {"name": "x"}, "spec": {}});
            if !labels.is_empty() {
                v["metadata"]["labels"] = json!(labels);
            }
            if !finalizers.is_empty() {
                let names: Vec<String> = finalizers.iter().map(|f| format!("x/{f}")).collect();
                v["metadata"]["finalizers"] = json!(names);
            }
            if let Some(n) = replicas {
                v["spec"]["replicas"] = json!(n);
            }
            if selects {
                v["spec"]["selector"] = json!({"matchLabels": {"a": "1"}});
            }
            let list: Vec<Value> = containers
                .into_iter()
                .map(|(name, (env, image))| {
                    let mut c = json!({"name": name});
                    if let Some(i) = image {
                        c["image"] = json!(i);
                    }
                    if !env.is_empty() {
                        let env: Vec<Value> =
                            env.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
                        c["env"] = json!(env);
                    }
                    c
                })
                .collect();
            if !list.is_empty() {
                v["spec"]["template"] = json!({"spec": {"containers": list}});
            }
            v
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn applying_twice_is_applying_once(before in config(), by in config(), mine in config()) {
        let mut s = deployment();
        s.apply("other", before);
        s.update("updater", |v| {
            for (k, x) in by["spec"].as_object().unwrap() { v["spec"][k] = x.clone(); }
        });
        s.try_apply("me", mine.clone(), true).unwrap();
        let once = s.clone();
        s.try_apply("me", mine.clone(), false).expect("what is mine does not conflict");
        prop_assert_eq!(&s.object, &once.object);
        prop_assert_eq!(&s.managed, &once.managed);
        // What was said is there.
        let stated = typed("Deployment").fields(&mine).unwrap();
        let there = all_places(&s.object, typed("Deployment"));
        prop_assert_eq!(stated.difference(&there).paths(), Vec::<String>::new());
    }

    #[test]
    fn appliers_of_different_fields_do_not_see_each_other(a in config(), b in config()) {
        let only = |v: &Value, keep: &[&str]| {
            let mut v = v.clone();
            for part in ["metadata", "spec"] {
                v[part].as_object_mut().unwrap().retain(|k, _| k == "name" || keep.contains(&k.as_str()));
            }
            v
        };
        let (a, b) = (only(&a, &["labels", "replicas"]), only(&b, &["finalizers", "template", "selector"]));
        let run = |order: [(&str, &Value); 2]| {
            let mut s = deployment();
            for (who, config) in order { s.apply(who, config.clone()); }
            let sets: Vec<_> = s.managed.0.into_iter().map(|(m, o)| (m, o.fields)).collect();
            (s.object, sets)
        };
        prop_assert_eq!(run([("a", &a), ("b", &b)]), run([("b", &b), ("a", &a)]));
    }

    #[test]
    fn every_field_has_an_owner_and_every_owner_a_field(
        steps in prop::collection::vec((0usize..3, any::<bool>(), config()), 1..8),
    ) {
        let mut s = deployment();
        for (who, applies, config) in steps {
            let who = ["a", "b", "c"][who];
            if applies {
                s.try_apply(who, config, true).unwrap();
            } else {
                s.update(who, |v| {
                    v["spec"] = config["spec"].clone();
                    v["metadata"] = config["metadata"].clone();
                    v["metadata"]["name"] = json!("x");
                    v["metadata"]["uid"] = json!("1");
                });
            }
            let t = typed("Deployment");
            let there = t.fields(&s.object).unwrap();
            let owned = s.managed.0.values().fold(FieldSet::default(), |all, o| all.union(&o.fields));
            let orphans = there.difference(&UNOWNED).difference(&owned);
            // A struct that an update emptied is a field of its own that nobody need own.
            let orphans: Vec<_> = orphans.paths().into_iter().filter(|p| p != ".spec").collect();
            prop_assert_eq!(orphans, Vec::<String>::new());
            let ghosts = owned.difference(&all_places(&s.object, t));
            prop_assert_eq!(ghosts.paths(), Vec::<String>::new());
        }
    }
}

/// Every path that an object has, containers too.
fn all_places(v: &Value, t: Typed<'_>) -> FieldSet {
    t.compare(&Value::Null, v).unwrap().added
}
