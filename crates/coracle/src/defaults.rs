//! What a fresh cluster has so that the first Deployment just runs: Karpenter's definitions, the
//! node class of the simulated cloud and a default pool.

use serde_json::{Value, json};

const CRDS: &str = include_str!("../manifests/crds.yaml");

/// Definitions of `karpenter.sh` and `coracle.dev`.
///
/// # Errors
/// When the manifest that was built in is malformed.
pub(crate) fn definitions() -> anyhow::Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(CRDS)?)
}

/// The default NodePool and its class.
pub(crate) fn node_pool() -> [Value; 2] {
    let requirement =
        |key: &str, values: &[&str]| json!({"key": key, "operator": "In", "values": values});
    [
        json!({"apiVersion": "coracle.dev/v1", "kind": "SimulatedNodeClass", "metadata": {"name": "default"}, "spec": {}}),
        json!({"apiVersion": "karpenter.sh/v1", "kind": "NodePool", "metadata": {"name": "default"}, "spec": {
            "template": {"spec": {
                "nodeClassRef": {"group": "coracle.dev", "kind": "SimulatedNodeClass", "name": "default"},
                "requirements": [
                    requirement("kubernetes.io/arch", &["amd64"]),
                    requirement("kubernetes.io/os", &["linux"]),
                    requirement("karpenter.sh/capacity-type", &["on-demand", "spot"]),
                    // As Karpenter's own first example: no burstable, exotic or very old machines.
                    requirement("karpenter.k8s.aws/instance-category", &["c", "m", "r"]),
                    json!({"key": "karpenter.k8s.aws/instance-generation", "operator": "Gt", "values": ["2"]}),
                ],
                "expireAfter": "720h",
            }},
            "disruption": {"consolidationPolicy": "WhenEmptyOrUnderutilized", "consolidateAfter": "0s", "budgets": [{"nodes": "10%"}]},
        }}),
    ]
}
