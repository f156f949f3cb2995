//! The controllers, seen from outside.

use crate::cluster::Cluster;

fn running(c: &Cluster, selector: &str) -> usize {
    let out = c.kubectl(&[
        "get",
        "pods",
        "-l",
        selector,
        "--field-selector=status.phase=Running",
        "-o",
        "name",
    ]);
    out.lines().count()
}

const SPEC: &str = "{terminationGracePeriodSeconds: 0, containers: [{name: c, image: 'i:1', resources: {requests: {cpu: 100m}}}]}";

#[test]
fn stateful_sets_keep_order_and_daemons_cover_nodes() {
    let c = Cluster::start(&["--cloud", "simulated:speed=4", "--in-memory"]);
    c.apply(&format!(
        "
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  serviceName: db
  replicas: 3
  selector: {{matchLabels: {{app: db}}}}
  template: {{metadata: {{labels: {{app: db}}}}, spec: {SPEC}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template: {{metadata: {{labels: {{app: agent}}}}, spec: {SPEC}}}
"
    ));
    c.kubectl(&["rollout", "status", "statefulset/db", "--timeout=60s"]);
    let v = c.json(&["get", "pods", "-l", "app=db", "--sort-by=.metadata.creationTimestamp"]);
    let names: Vec<&str> = v["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    c.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    c.eventually("one agent a node", || {
        let nodes = c.kubectl(&["get", "nodes", "-o", "name"]).lines().count();
        (nodes > 0 && running(&c, "app=agent") == nodes).then_some(())
    });
    c.kubectl(&["set", "image", "statefulset/db", "c=i:2"]);
    c.kubectl(&["rollout", "status", "statefulset/db", "--timeout=90s"]);
    c.eventually("all have the new image", || {
        let images = c.kubectl(&[
            "get",
            "pods",
            "-l",
            "app=db",
            "-o",
            "jsonpath={.items[*].spec.containers[0].image}",
        ]);
        (images == "i:2 i:2 i:2").then_some(())
    });
    c.kubectl(&["scale", "statefulset/db", "--replicas=1"]);
    c.eventually("the last ones go first", || {
        (c.kubectl(&["get", "pods", "-l", "app=db", "-o", "name"]) == "pod/db-0\n").then_some(())
    });
    c.kubectl(&["delete", "statefulset", "db", "--cascade=orphan"]);
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(c.kubectl(&["get", "pods", "-l", "app=db", "-o", "name"]), "pod/db-0\n");
}

#[test]
fn jobs_run_to_their_end() {
    let c = Cluster::start(&["--cloud", "simulated:speed=10", "--in-memory"]);
    let template = |annotations: &str| {
        format!(
            "{{metadata: {{annotations: {annotations}}}, spec: {{restartPolicy: Never, containers: [{{name: c, image: i, resources: {{requests: {{cpu: 100m}}}}}}]}}}}"
        )
    };
    c.apply(&format!("
apiVersion: batch/v1
kind: Job
metadata: {{name: indexed}}
spec: {{completions: 6, parallelism: 3, completionMode: Indexed, template: {ok}}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: fails}}
spec: {{backoffLimit: 0, template: {bad}}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: brief}}
spec: {{ttlSecondsAfterFinished: 1, template: {ok}}}
---
apiVersion: batch/v1
kind: Job
metadata: {{name: waits}}
spec: {{suspend: true, template: {ok}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: ticks}}
spec: {{schedule: '@every 1s', concurrencyPolicy: Forbid, jobTemplate: {{spec: {{template: {ok}}}}}}}
", ok = template("{coracle.dev/run-duration: 5s}"), bad = template("{coracle.dev/exit-code: '1'}")));
    c.kubectl(&["wait", "--for=condition=Complete", "job/indexed", "--timeout=60s"]);
    assert_eq!(
        c.kubectl(&[
            "get",
            "job",
            "indexed",
            "-o",
            "jsonpath={.status.completedIndexes} {.status.succeeded}"
        ]),
        "0-5 6"
    );
    c.kubectl(&["wait", "--for=condition=Failed", "job/fails", "--timeout=60s"]);
    assert!(c.kubectl(&["describe", "job", "fails"]).contains("BackoffLimitExceeded"));
    c.eventually("the brief job is gone", || {
        c.try_kubectl(&["get", "job", "brief"]).status.code().filter(|c| *c != 0)
    });
    assert_eq!(
        c.kubectl(&["get", "job", "waits", "-o", "jsonpath={.status.conditions[0].type}"]),
        "Suspended"
    );
    c.kubectl(&["patch", "job", "waits", "-p", "{\"spec\":{\"suspend\":false}}"]);
    c.kubectl(&["wait", "--for=condition=Complete", "job/waits", "--timeout=60s"]);
    c.eventually("the schedule fires", || {
        c.kubectl(&["get", "jobs", "-o", "name"]).contains("job.batch/ticks-").then_some(())
    });
}

#[test]
fn budgets_hold_back_evictions() {
    let c = Cluster::start(&["--cloud", "simulated:speed=4", "--in-memory"]);
    c.apply(&format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template: {{metadata: {{labels: {{app: web}}}}, spec: {SPEC}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: web}}
spec: {{minAvailable: 2, selector: {{matchLabels: {{app: web}}}}}}
"
    ));
    c.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    c.eventually("the budget knows", || {
        (c.kubectl(&["get", "pdb", "web", "-o", "jsonpath={.status.currentHealthy}"]) == "2")
            .then_some(())
    });
    let pod = c.kubectl(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"]);
    let file = c.directory.path().join("eviction.json");
    std::fs::write(&file, format!("{{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{{\"name\":\"{pod}\",\"namespace\":\"default\"}}}}")).unwrap();
    let at = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
    let evict = ["create", "--raw", &at, "-f", file.to_str().unwrap()];
    assert!(
        c.kubectl_error(&evict)
            .contains("Cannot evict pod as it would violate the pod's disruption budget.")
    );
    c.kubectl(&["patch", "pdb", "web", "--type=merge", "-p", "{\"spec\":{\"minAvailable\":1}}"]);
    c.eventually("one may go", || {
        (c.kubectl(&["get", "pdb", "web", "-o", "jsonpath={.status.disruptionsAllowed}"]) == "1")
            .then_some(())
    });
    c.kubectl(&evict);
    c.eventually("it is replaced", || {
        let names =
            c.kubectl(&["get", "pods", "--field-selector=status.phase=Running", "-o", "name"]);
        (names.lines().count() == 2 && !names.contains(&pod)).then_some(())
    });
}
