//! Pods out of manifests: those that objects would have created for them.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{collections::BTreeMap, io::Read, path::Path};

/// Most pods that one object may ask for here: a typing error should not take the machine down.
const MOST: u64 = 100_000;

/// What was read.
#[derive(Default)]
pub(crate) struct Manifests {
    pods: Vec<Value>,
    /// NodePools that there would be.
    pub(crate) node_pools: Vec<Value>,
    /// How many pods each object would have.
    pub(crate) asked: BTreeMap<String, usize>,
    /// What else is to be known.
    pub(crate) notes: Vec<String>,
}

impl Manifests {
    /// Reads a file with one object or several.
    pub(crate) fn read(&mut self, file: &Path, namespace: &str) -> Result<()> {
        let mut text = String::new();
        let name = file.display();
        if file == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        } else {
            text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
        }
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("{name} is no YAML or JSON"))?;
        documents.iter().for_each(|d| self.add(d, namespace));
        Ok(())
    }

    /// Adds the pods of an object, or of the objects of a list.
    pub(crate) fn add(&mut self, object: &Value, namespace: &str) {
        if let Some(items) = object["items"].as_array() {
            items.iter().for_each(|o| self.add(o, namespace));
            return;
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let home = object["metadata"]["namespace"].as_str().unwrap_or(namespace).to_owned();
        let spec = &object["spec"];
        let (template, count) = match kind.as_str() {
            "Pod" => (object, 1),
            "Deployment" | "ReplicaSet" | "StatefulSet" | "ReplicationController" => {
                (&spec["template"], spec["replicas"].as_u64().unwrap_or(1))
            }
            "Job" => (&spec["template"], spec["parallelism"].as_u64().unwrap_or(1)),
            "DaemonSet" | "CronJob" => {
                return self.note(format!("{kind} {name} is not planned for"));
            }
            "NodePool" => {
                let mut pool = object.clone();
                // As the server defaults it: the hash of the template is over that.
                let spec = &mut pool["spec"]["template"]["spec"];
                if spec["expireAfter"].is_null() {
                    spec["expireAfter"] = json!("720h");
                }
                self.node_pools.push(pool);
                return;
            }
            _ => return,
        };
        let count = count.min(MOST);
        for i in 0..count {
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]});
            if !pod["metadata"].is_object() {
                pod["metadata"] = json!({});
            }
            let pod_name = if kind == "Pod" { name.clone() } else { format!("{name}-{i}") };
            pod["metadata"]["name"] = json!(pod_name);
            pod["metadata"]["namespace"] = json!(home);
            self.pods.push(pod);
        }
        *self.asked.entry(format!("{kind} {home}/{name}")).or_default() += count as usize;
    }

    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// The pods.
    ///
    /// # Errors
    /// When one does not decode: with the object that it is of, and the field.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>> {
        let decode = |v: &Value| {
            serde_json::from_value(v.clone())
                .with_context(|| format!("pod {} of the manifests", v["metadata"]["name"]))
        };
        self.pods.iter().map(decode).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_become_their_pods() {
        let mut m = Manifests::default();
        let text = "# first\n---\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 3, template: {metadata: {labels: {a: b}}, spec: {containers: []}}}\n---\nkind: Service\nmetadata: {name: s}\n---\n{\"kind\": \"List\", \"items\": [{\"kind\": \"Pod\", \"metadata\": {\"name\": \"p\", \"namespace\": \"x\"}, \"spec\": {\"containers\": []}}, {\"kind\": \"DaemonSet\", \"metadata\": {\"name\": \"d\"}}]}\n";
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        documents.iter().for_each(|d| m.add(d, "default"));
        let pods = m.pods().unwrap();
        let names: Vec<_> = pods
            .iter()
            .map(|p| {
                (p.metadata.namespace.as_deref().unwrap(), p.metadata.name.as_deref().unwrap())
            })
            .collect();
        assert_eq!(
            names,
            [("default", "web-0"), ("default", "web-1"), ("default", "web-2"), ("x", "p")]
        );
        assert_eq!((m.asked["Deployment default/web"], m.notes.len()), (3, 1));
    }
}
