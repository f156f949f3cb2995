//! The order of API groups and their versions, which decides what `kubectl get NAME` means where two
//! groups have the name.

/// Priorities of the built-in groups, as upstream registers them: group, its priority, and the
/// priorities of its versions.
pub const BUILT_IN: &[(&str, i64, &[(&str, i64)])] = &[
    ("", 18000, &[("v1", 1)]),
    ("apiregistration.k8s.io", 18000, &[("v1", 18)]),
    ("apps", 17800, &[("v1", 15)]),
    ("events.k8s.io", 17750, &[("v1", 15)]),
    ("authentication.k8s.io", 17700, &[("v1", 15)]),
    ("authorization.k8s.io", 17600, &[("v1", 15)]),
    ("autoscaling", 17500, &[("v2", 30), ("v1", 15)]),
    ("batch", 17400, &[("v1", 15)]),
    ("certificates.k8s.io", 17300, &[("v1", 15)]),
    ("networking.k8s.io", 17200, &[("v1", 15)]),
    ("policy", 17100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17000, &[("v1", 15)]),
    ("storage.k8s.io", 16800, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16700, &[("v1", 15)]),
    ("apiextensions.k8s.io", 16700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16600, &[("v1", 15)]),
    ("coordination.k8s.io", 16500, &[("v1", 15)]),
    ("node.k8s.io", 16300, &[("v1", 15)]),
    ("discovery.k8s.io", 16200, &[("v1", 15)]),
    ("resource.k8s.io", 16200, &[("v1", 21)]),
    ("flowcontrol.apiserver.k8s.io", 16100, &[("v1", 21)]),
    ("storagemigration.k8s.io", 15800, &[("v1", 15)]),
];

/// Priority of the groups of CustomResourceDefinitions,
pub const CUSTOM: i64 = 1000;
/// and of each of their versions.
pub const CUSTOM_VERSION: i64 = 100;

/// A group's priority; higher comes first.
pub fn priority(group: &str) -> i64 {
    BUILT_IN.iter().find(|(g, ..)| *g == group).map_or(CUSTOM, |(_, priority, _)| *priority)
}
