//! EC2NodeClass (`karpenter.k8s.aws/v1`), as it is read: what machines of a class are to be like.

use coracle_meta::Quantity;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Annotation of classes and claims with the hash of what the class stamps on machines.
pub(crate) const HASH: &str = "karpenter.k8s.aws/ec2nodeclass-hash";
/// Annotation with how it was made: hashes of another version say nothing.
pub(crate) const HASH_VERSION: &str = "karpenter.k8s.aws/ec2nodeclass-hash-version";
/// Our version: the hash is ours, not Karpenter's.
pub(crate) const VERSION: &str = "coracle-1";

/// A term that selects subnets, security groups or images; a list of them selects what any selects.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Term {
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) alias: Option<String>,
    pub(crate) ssm_parameter: Option<String>,
}

/// Settings of the kubelet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Kubelet {
    pub(crate) max_pods: Option<i64>,
    pub(crate) pods_per_core: Option<i64>,
    pub(crate) kube_reserved: BTreeMap<String, String>,
    pub(crate) system_reserved: BTreeMap<String, String>,
    pub(crate) eviction_hard: BTreeMap<String, String>,
    #[serde(rename = "clusterDNS")]
    pub(crate) cluster_dns: Vec<String>,
    /// What is only passed on.
    #[serde(flatten)]
    pub(crate) rest: BTreeMap<String, Value>,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Disk {
    pub(crate) device_name: Option<String>,
    pub(crate) root_volume: bool,
    pub(crate) ebs: Ebs,
}

/// A volume of the block store.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Ebs {
    pub(crate) volume_size: Option<String>,
    pub(crate) volume_type: Option<String>,
    pub(crate) iops: Option<i64>,
    pub(crate) throughput: Option<i64>,
    pub(crate) encrypted: Option<bool>,
    pub(crate) delete_on_termination: Option<bool>,
    #[serde(rename = "kmsKeyID")]
    pub(crate) kms_key_id: Option<String>,
    #[serde(rename = "snapshotID")]
    pub(crate) snapshot_id: Option<String>,
}

impl Ebs {
    /// Size in GiB, as the cloud counts.
    pub(crate) fn gib(&self) -> Option<i64> {
        let bytes = self.volume_size.as_ref()?.parse::<Quantity>().ok()?.units_ceil();
        Some((bytes as f64 / f64::from(1 << 30)).ceil() as i64)
    }
}

/// How the metadata service answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MetadataOptions {
    pub(crate) http_endpoint: String,
    #[serde(rename = "httpProtocolIPv6")]
    pub(crate) http_protocol_ipv6: String,
    pub(crate) http_put_response_hop_limit: i64,
    pub(crate) http_tokens: String,
}

impl Default for MetadataOptions {
    fn default() -> Self {
        Self {
            http_endpoint: "enabled".into(),
            http_protocol_ipv6: "disabled".into(),
            http_put_response_hop_limit: 1,
            http_tokens: "required".into(),
        }
    }
}

/// The spec.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) subnet_selector_terms: Vec<Term>,
    pub(crate) security_group_selector_terms: Vec<Term>,
    pub(crate) ami_selector_terms: Vec<Term>,
    pub(crate) capacity_reservation_selector_terms: Vec<Value>,
    pub(crate) ami_family: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) instance_profile: Option<String>,
    pub(crate) user_data: Option<String>,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) kubelet: Kubelet,
    pub(crate) block_device_mappings: Vec<Disk>,
    pub(crate) instance_store_policy: Option<String>,
    pub(crate) metadata_options: MetadataOptions,
    #[serde(rename = "associatePublicIPAddress")]
    pub(crate) associate_public_ip_address: Option<bool>,
    pub(crate) detailed_monitoring: Option<bool>,
    pub(crate) context: Option<String>,
}

impl Spec {
    /// Reads a spec.
    pub(crate) fn read(spec: &Value) -> Result<Self, String> {
        let read = if spec.is_null() { json!({}) } else { spec.clone() };
        serde_json::from_value(read).map_err(|e| e.to_string())
    }

    /// Family of the image: `al2023`, `al2`, `bottlerocket`, `custom` or another word that was given.
    pub(crate) fn family(&self) -> String {
        let alias = self.ami_selector_terms.iter().find_map(|t| t.alias.as_deref());
        let by_alias = alias.map(|a| a.split('@').next().unwrap_or(a));
        by_alias.or(self.ami_family.as_deref()).unwrap_or("custom").to_lowercase()
    }

    /// Size of the disk that pods' files are on, if the class says.
    pub(crate) fn root_bytes(&self) -> Option<i64> {
        let disks = &self.block_device_mappings;
        // Bottlerocket keeps pods' files on its second disk.
        let of_pods = |d: &&Disk| d.device_name.as_deref() == Some("/dev/xvdb");
        let data = disks.iter().filter(|_| self.family() == "bottlerocket").find(of_pods);
        let root = data.or_else(|| disks.iter().find(|d| d.root_volume)).or_else(|| disks.first());
        root?.ebs.volume_size.as_ref()?.parse::<Quantity>().ok().map(|q| q.units_ceil())
    }

    /// What is wrong with it, beyond what its schema says.
    pub(crate) fn problem(&self) -> Option<String> {
        let known = ["al2023", "al2", "bottlerocket", "custom"];
        let family = self.family();
        if !known.contains(&family.as_str()) {
            return Some(format!(
                "spec.amiFamily: {family} is not supported; {}",
                known.join(", ")
            ));
        }
        if !self.capacity_reservation_selector_terms.is_empty() {
            return Some("spec.capacityReservationSelectorTerms: not supported yet".into());
        }
        if self.role.is_some() == self.instance_profile.is_some() {
            return Some("spec: one of role and instanceProfile is needed".into());
        }
        for (field, terms) in [
            ("subnetSelectorTerms", &self.subnet_selector_terms),
            ("securityGroupSelectorTerms", &self.security_group_selector_terms),
            ("amiSelectorTerms", &self.ami_selector_terms),
        ] {
            if terms.is_empty() {
                return Some(format!("spec.{field}: at least one term is needed"));
            }
            if let Some(i) = terms.iter().position(|t| *t == Term::default()) {
                return Some(format!("spec.{field}[{i}]: it selects nothing"));
            }
        }
        let reserved = ["kubernetes.io/cluster", "karpenter.sh/", "eks:eks-cluster-name"];
        let tag = self.tags.keys().find(|k| reserved.iter().any(|r| k.starts_with(r)));
        tag.map(|k| format!("spec.tags: {k} is set by the provisioner"))
    }
}

/// The hash of what a class stamps on machines: all of its spec but what selects and what only decides
/// about machines to come.
pub(crate) fn hash(class: &Value) -> String {
    let mut spec = class["spec"].clone();
    if let Some(s) = spec.as_object_mut() {
        for f in [
            "subnetSelectorTerms",
            "securityGroupSelectorTerms",
            "amiSelectorTerms",
            "capacityReservationSelectorTerms",
        ] {
            s.remove(f);
        }
    }
    // Keys of JSON objects are sorted here.
    let digest = ring::digest::digest(&ring::digest::SHA256, spec.to_string().as_bytes());
    crate::client::hex(&digest.as_ref()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok() -> Value {
        json!({"role": "nodes", "subnetSelectorTerms": [{"id": "subnet-1"}],
            "securityGroupSelectorTerms": [{"tags": {"a": "*"}}], "amiSelectorTerms": [{"alias": "al2023@latest"}],
            "blockDeviceMappings": [{"deviceName": "/dev/xvda", "ebs": {"volumeSize": "30Gi"}}]})
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(Spec::read(&ok()).unwrap().problem(), None);
        for (field, value, said) in [
            ("role", Value::Null, "role and instanceProfile"),
            ("subnetSelectorTerms", json!([]), "subnetSelectorTerms"),
            ("securityGroupSelectorTerms", json!([{}]), "securityGroupSelectorTerms[0]"),
            ("amiSelectorTerms", json!([{"alias": "windows2022@latest"}]), "windows2022"),
            ("tags", json!({"karpenter.sh/nodepool": "x"}), "karpenter.sh/nodepool"),
        ] {
            let mut spec = ok();
            spec[field] = value;
            if spec[field].is_null() {
                spec.as_object_mut().unwrap().remove(field);
            }
            let problem = Spec::read(&spec).unwrap().problem().unwrap();
            assert!(problem.contains(said), "{problem}");
        }
    }

    #[test]
    fn the_hash_is_of_what_machines_get() {
        let (class, mut other) = (json!({"spec": ok()}), json!({"spec": ok()}));
        other["spec"]["subnetSelectorTerms"] = json!([{"id": "subnet-2"}]);
        assert_eq!(hash(&class), hash(&other));
        other["spec"]["userData"] = json!("x");
        assert_ne!(hash(&class), hash(&other));
        assert_eq!(Spec::read(&ok()).unwrap().root_bytes(), Some(30 << 30));
    }
}
