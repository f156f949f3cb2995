//! What a fresh cluster has so that the first Deployment just runs: Karpenter's definitions, the
//! node class of the simulated cloud and a default pool.

use serde_json::{Value, json};

const CRDS: [&str; 4] = [
    include_str!("../manifests/karpenter.yaml"),
    include_str!("../manifests/autoscaling.yaml"),
    include_str!("../manifests/coracle.yaml"),
    include_str!("../manifests/ec2.yaml"),
];

/// Definitions of `karpenter.sh`, `autoscaling.x-k8s.io`, `coracle.dev` and `karpenter.k8s.aws`.
///
/// # Errors
/// When the manifest that was built in is malformed.
pub(crate) fn definitions() -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for text in CRDS {
        all.extend(serde_saphyr::from_multiple::<Value>(text)?);
    }
    Ok(all)
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
