//! What a machine is told at its first start, so that its kubelet joins: a configuration of the image's
//! family, with what the class adds.

use crate::class::Spec;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Where the cluster is.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Address of its API server, as machines reach it.
    pub server: String,
    /// The certificate authority of that, as PEM.
    pub ca_pem: String,
    /// Kubernetes' minor version, such as `1.33`.
    pub minor: String,
}

/// What a kubelet joins with.
pub(crate) struct Joining<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) access: &'a Access,
    pub(crate) spec: &'a Spec,
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Taints as `key=value:effect`, by their parts.
    pub(crate) taints: &'a [Value],
}

/// The user data, encoded as launch templates want it.
pub(crate) fn encoded(j: &Joining<'_>) -> String {
    let own = j.spec.user_data.as_deref().unwrap_or_default();
    let text = match j.spec.family().as_str() {
        "al2023" => mime(&[own.to_owned(), nodeadm(j)]),
        "al2" => mime(&[own.to_owned(), bootstrap(j)]),
        "bottlerocket" => bottlerocket(j, own),
        _ => own.to_owned(),
    };
    STANDARD.encode(text)
}

fn ca(j: &Joining<'_>) -> String {
    STANDARD.encode(&j.access.ca_pem)
}

fn labels(j: &Joining<'_>) -> String {
    let all: Vec<String> = j.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    all.join(",")
}

fn taint(t: &Value) -> String {
    let text = |k: &str| t[k].as_str().unwrap_or_default();
    format!("{}={}:{}", text("key"), text("value"), text("effect"))
}

/// Settings of the kubelet, as its configuration file names them.
fn kubelet(j: &Joining<'_>) -> Value {
    let k = &j.spec.kubelet;
    let mut c = json!({"registerWithTaints": j.taints});
    if let Some(n) = k.max_pods {
        c["maxPods"] = json!(n);
    }
    if let Some(n) = k.pods_per_core {
        c["podsPerCore"] = json!(n);
    }
    for (name, list) in [
        ("kubeReserved", &k.kube_reserved),
        ("systemReserved", &k.system_reserved),
        ("evictionHard", &k.eviction_hard),
    ] {
        if !list.is_empty() {
            c[name] = json!(list);
        }
    }
    if !k.cluster_dns.is_empty() {
        c["clusterDNS"] = json!(k.cluster_dns);
    }
    for (name, v) in &k.rest {
        c[name] = v.clone();
    }
    c
}

/// Amazon Linux 2023: `node.eks.aws/v1alpha1`, read by nodeadm. YAML takes JSON.
fn nodeadm(j: &Joining<'_>) -> String {
    let config = json!({
        "apiVersion": "node.eks.aws/v1alpha1", "kind": "NodeConfig",
        "spec": {
            "cluster": {"name": j.cluster, "apiServerEndpoint": j.access.server, "certificateAuthority": ca(j),
                "cidr": j.spec.kubelet.cluster_dns.first().map_or("10.100.0.0/16".to_owned(), |d| cidr(d))},
            "kubelet": {"config": kubelet(j), "flags": [format!("--node-labels={}", labels(j))]},
            "instance": {"localStorage": {"strategy": j.spec.instance_store_policy.as_deref().map(|_| "RAID0")}},
        },
    });
    let mut config = config;
    if j.spec.instance_store_policy.is_none() {
        config["spec"].as_object_mut().map(|s| s.remove("instance"));
    }
    format!("Content-Type: application/node.eks.aws\n\n{config}\n")
}

/// The services' network, taken from the address of DNS in it.
fn cidr(dns: &str) -> String {
    let mut parts: Vec<&str> = dns.split('.').collect();
    if parts.len() != 4 {
        return "10.100.0.0/16".into();
    }
    (parts[2], parts[3]) = ("0", "0");
    format!("{}/16", parts.join("."))
}

/// Amazon Linux 2: its bootstrap script.
fn bootstrap(j: &Joining<'_>) -> String {
    let taints: Vec<String> = j.taints.iter().map(taint).collect();
    let mut args =
        format!("--node-labels={} --register-with-taints={}", labels(j), taints.join(","));
    let k = &j.spec.kubelet;
    if let Some(n) = k.max_pods {
        let _ = write!(args, " --max-pods={n}");
    }
    for (flag, list) in
        [("kube-reserved", &k.kube_reserved), ("system-reserved", &k.system_reserved)]
    {
        if !list.is_empty() {
            let all: Vec<String> = list.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let _ = write!(args, " --{flag}={}", all.join(","));
        }
    }
    let dns = k.cluster_dns.first().map(|d| format!(" --dns-cluster-ip '{d}'"));
    let dns = dns.unwrap_or_default();
    let max = if k.max_pods.is_some() { " --use-max-pods false" } else { "" };
    format!(
        "Content-Type: text/x-shellscript; charset=\"us-ascii\"\n\n#!/bin/bash -xe\n/etc/eks/bootstrap.sh '{}' --apiserver-endpoint '{}' --b64-cluster-ca '{}'{dns}{max} --kubelet-extra-args '{args}'\n",
        j.cluster,
        j.access.server,
        ca(j),
    )
}

/// Bottlerocket: settings in TOML; ours stand beside the class's own.
fn bottlerocket(j: &Joining<'_>, own: &str) -> String {
    let mut out = String::new();
    if !own.is_empty() {
        let _ = writeln!(out, "{}", own.trim_end());
    }
    let _ = writeln!(out, "[settings.kubernetes]\napi-server = {:?}", j.access.server);
    let _ = writeln!(out, "cluster-certificate = {:?}\ncluster-name = {:?}", ca(j), j.cluster);
    if let Some(d) = j.spec.kubelet.cluster_dns.first() {
        let _ = writeln!(out, "cluster-dns-ip = {d:?}");
    }
    if let Some(n) = j.spec.kubelet.max_pods {
        let _ = writeln!(out, "max-pods = {n}");
    }
    let _ = writeln!(out, "[settings.kubernetes.node-labels]");
    for (k, v) in j.labels {
        let _ = writeln!(out, "{k:?} = {v:?}");
    }
    let _ = writeln!(out, "[settings.kubernetes.node-taints]");
    let mut taints: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for t in j.taints {
        let text = |k: &str| t[k].as_str().unwrap_or_default();
        taints.entry(text("key")).or_default().push(format!(
            "{}:{}",
            text("value"),
            text("effect")
        ));
    }
    for (key, values) in taints {
        let _ = writeln!(out, "{key:?} = {values:?}");
    }
    out
}

/// Parts of a message, those that are not empty. A class's own part may be a script or a whole message.
fn mime(parts: &[String]) -> String {
    const BOUNDARY: &str = "//";
    let mut out =
        format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\n\n");
    for part in parts.iter().filter(|p| !p.trim().is_empty()) {
        let has_header = part.starts_with("Content-Type:") || part.starts_with("MIME-Version:");
        let header = match part.trim_start() {
            _ if has_header => "",
            p if p.starts_with("apiVersion: node.eks.aws") => {
                "Content-Type: application/node.eks.aws\n\n"
            }
            _ => "Content-Type: text/x-shellscript; charset=\"us-ascii\"\n\n",
        };
        let _ = write!(out, "--{BOUNDARY}\n{header}{}\n", part.trim_end());
    }
    let _ = writeln!(out, "--{BOUNDARY}--");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(spec: &Value) -> String {
        let spec = Spec::read(spec).unwrap();
        let access = Access {
            server: "https://10.0.0.1:443".into(),
            ca_pem: "PEM".into(),
            minor: "1.33".into(),
        };
        let j = Joining {
            cluster: "demo",
            access: &access,
            spec: &spec,
            labels: &[("karpenter.sh/nodepool".to_owned(), "default".to_owned())].into(),
            taints: &[json!({"key": "karpenter.sh/unregistered", "effect": "NoExecute"})],
        };
        String::from_utf8(STANDARD.decode(encoded(&j)).unwrap()).unwrap()
    }

    #[test]
    fn al2023_gets_a_node_config_after_the_classs_own_script() {
        let text = joined(
            &json!({"amiSelectorTerms": [{"alias": "al2023@latest"}], "userData": "#!/bin/sh\necho hi",
            "kubelet": {"maxPods": 20, "clusterDNS": ["172.20.0.10"], "imageGCHighThresholdPercent": 80}}),
        );
        let (script, config) = text.split_once("application/node.eks.aws\n\n").unwrap();
        assert!(script.contains("text/x-shellscript") && script.contains("echo hi"), "{text}");
        let config: Value = serde_json::from_str(config.lines().next().unwrap()).unwrap();
        let spec = &config["spec"];
        assert_eq!(spec["cluster"]["cidr"], "172.20.0.0/16");
        assert_eq!(spec["kubelet"]["config"]["maxPods"], 20);
        assert_eq!(spec["kubelet"]["config"]["imageGCHighThresholdPercent"], 80);
        assert_eq!(
            spec["kubelet"]["config"]["registerWithTaints"][0]["key"],
            "karpenter.sh/unregistered"
        );
        assert_eq!(spec["kubelet"]["flags"][0], "--node-labels=karpenter.sh/nodepool=default");
    }

    #[test]
    fn other_families_get_their_own_form() {
        let text = joined(
            &json!({"amiSelectorTerms": [{"alias": "bottlerocket@latest"}], "userData": "[settings.motd]"}),
        );
        assert!(
            text.starts_with(
                "[settings.motd]\n[settings.kubernetes]\napi-server = \"https://10.0.0.1:443\""
            ),
            "{text}"
        );
        assert!(text.contains("\"karpenter.sh/unregistered\" = [\":NoExecute\"]"), "{text}");
        let text = joined(
            &json!({"amiSelectorTerms": [{"alias": "al2@latest"}], "kubelet": {"maxPods": 20}}),
        );
        assert!(text.contains("bootstrap.sh 'demo'") && text.contains("--max-pods=20"), "{text}");
        let custom = joined(&json!({"amiFamily": "Custom", "userData": "anything"}));
        assert_eq!(custom, "anything");
    }
}
