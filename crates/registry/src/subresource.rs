//! Subresources that are not plain writes: scale, binding, eviction, finalize, approval and the
//! parts of a pod that can change while it runs.

use crate::{
    Registry,
    delete::DeleteOptions,
    parse,
    write::{Changed, Input, Patch, WriteOptions, Written, set_or_remove},
};
use coracle_meta::{GroupResource, LabelSelector, Status, json as path, status::Cause, time};
use coracle_schema::{Kind, ScalePaths, decode::json_type};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Where a kind keeps its scale.
fn scale_paths(kind: &Kind) -> ScalePaths {
    kind.scale.clone().unwrap_or_else(|| ScalePaths {
        spec_replicas: "spec.replicas".into(),
        status_replicas: "status.replicas".into(),
        selector: None,
    })
}

fn set_path(v: &mut Value, dotted: &str, value: Value) {
    let mut at = v;
    for step in dotted.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[step];
    }
    *at = value;
}

fn scale_of(kind: &Kind, v: &Value) -> Value {
    let paths = scale_paths(kind);
    let number = |p: &str| path::get(v, p).cloned().unwrap_or(json!(0));
    let selector = match &paths.selector {
        Some(p) => path::text(v, p).to_owned(),
        None if v["spec"]["selector"]["matchLabels"].is_object()
            || v["spec"]["selector"]["matchExpressions"].is_array() =>
        {
            LabelSelector::from_object(&v["spec"]["selector"])
                .map(|s| s.to_string())
                .unwrap_or_default()
        }
        None => {
            let pairs = v["spec"]["selector"].as_object().into_iter().flatten();
            pairs
                .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
                .collect::<Vec<_>>()
                .join(",")
        }
    };
    let mut meta = Map::new();
    for f in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !v["metadata"][f].is_null() {
            meta.insert(f.into(), v["metadata"][f].clone());
        }
    }
    let mut status = json!({"replicas": number(&paths.status_replicas)});
    if !selector.is_empty() {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": number(&paths.spec_replicas)}, "status": status})
}

fn as_scale(kind: &Kind, written: Written) -> Result<Written, Status> {
    let v: Value = serde_json::from_slice(&written.bytes).map_err(Status::internal)?;
    let bytes = serde_json::to_vec(&scale_of(kind, &v)).map_err(Status::internal)?;
    Ok(Written { bytes: bytes.into(), ..written })
}

impl Registry {
    fn current(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, Status> {
        let mut v = parse(&*self.stored(kind, namespace, name)?)?;
        self.read_back(kind, std::slice::from_mut(&mut v))?;
        Ok(v)
    }

    /// The scale of an object.
    ///
    /// # Errors
    /// 404.
    pub fn get_scale(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Value, Status> {
        Ok(scale_of(kind, &self.current(kind, namespace, name)?))
    }

    /// Sets the scale of an object.
    ///
    /// # Errors
    /// As update; 422 for a negative number.
    pub async fn update_scale(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        scale: &Value,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        let replicas = scale["spec"].get("replicas").cloned().unwrap_or(json!(0));
        match replicas.as_i64() {
            Some(n) if (0..=i64::from(i32::MAX)).contains(&n) => {}
            Some(n) => {
                let e = coracle_meta::status::FieldError::invalid(
                    "spec.replicas",
                    n,
                    "must be greater than or equal to 0",
                );
                return Err(Status::invalid("autoscaling", "Scale", name, vec![e]));
            }
            None => {
                return Err(Status::bad_request(format!(
                    "Scale in version \"v1\" cannot be handled as a Scale: json: cannot unmarshal {} into Go struct field ScaleSpec.spec.replicas of type int32",
                    json_type(&replicas)
                )));
            }
        }
        let revision = scale["metadata"]["resourceVersion"].clone();
        let paths = scale_paths(kind);
        let written = self
            .modify(kind, namespace, name, "", o, vec![], |old, _| {
                let mut v = old.clone();
                set_path(&mut v, &paths.spec_replicas, replicas.clone());
                if revision.is_string() {
                    v["metadata"]["resourceVersion"] = revision.clone();
                }
                Ok(v.into())
            })
            .await?;
        as_scale(kind, written)
    }

    /// Patches the scale of an object.
    ///
    /// # Errors
    /// As [`Registry::update_scale`], and 400 for a patch that is malformed.
    pub async fn patch_scale(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        patch: &Patch,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        let mut scale = self.get_scale(kind, namespace, name)?;
        let had = scale["metadata"]["resourceVersion"].clone();
        match patch {
            Patch::Json(p) => coracle_patch::json_patch::apply(&mut scale, p)
                .map_err(|e| Status::bad_request(e.to_string()))?,
            Patch::Merge(p) | Patch::Strategic(p) => {
                coracle_patch::merge::apply(&mut scale, p.clone())
            }
        }
        if scale["metadata"]["resourceVersion"] == had {
            set_or_remove(&mut scale["metadata"], "resourceVersion", Value::Null);
        }
        self.update_scale(kind, namespace, name, &scale, o).await
    }

    /// Assigns a pod to a node.
    ///
    /// # Errors
    /// 404, 409 when the pod has a node already or is being deleted.
    pub async fn bind(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        binding: &Value,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        let named = path::text(binding, "metadata.name");
        if !named.is_empty() && named != name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let node = path::text(binding, "target.name").to_owned();
        if node.is_empty() {
            let e = coracle_meta::status::FieldError::required("target.name", "");
            return Err(Status::invalid("", "Binding", name, vec![e]));
        }
        let now = time::rfc3339(self.now());
        let conflict =
            |why: String| Status::conflict(&GroupResource::new("", "pods/binding"), name, &why);
        let change = |old: &Value, _: &mut Vec<String>| -> Result<Changed, Status> {
            if let Some(uid) = binding["metadata"]["uid"]
                .as_str()
                .filter(|u| *u != path::text(old, "metadata.uid"))
            {
                return Err(conflict(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    path::text(old, "metadata.uid")
                )));
            }
            if old["metadata"]["deletionTimestamp"].is_string() {
                return Err(conflict(format!(
                    "pod {name} is being deleted, cannot be assigned to a host"
                )));
            }
            if old["spec"]["schedulingGates"].as_array().is_some_and(|g| !g.is_empty()) {
                return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
            }
            match path::text(old, "spec.nodeName") {
                "" => {}
                other => {
                    return Err(conflict(format!(
                        "pod {name} is already assigned to node {other:?}"
                    )));
                }
            }
            let mut v = old.clone();
            v["spec"]["nodeName"] = json!(node);
            let mut conditions = v["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions
                .push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
            v["status"]["conditions"] = Value::Array(conditions);
            Ok(v.into())
        };
        self.modify(kind, namespace, name, "binding", o, vec![], change).await
    }

    /// Evicts a pod: deletes it unless a PodDisruptionBudget forbids it now.
    ///
    /// # Errors
    /// 404, 429 when the budget has nothing left, 500 when several budgets select the pod.
    pub async fn evict(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        o: &DeleteOptions,
    ) -> Result<(), Status> {
        let pod = self.current(kind, namespace, name)?;
        let phase = path::text(&pod, "status.phase");
        let idle = ["Succeeded", "Failed", "Pending"].contains(&phase)
            || pod["metadata"]["deletionTimestamp"].is_string();
        if !idle {
            self.charge_budget(namespace, name, &pod, o.dry_run).await?;
        }
        self.delete(kind, namespace, name, o).await.map(drop)
    }

    async fn charge_budget(
        &self,
        namespace: &str,
        name: &str,
        pod: &Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        let kinds = self.kinds();
        let Some(pdb_kind) = kinds.get("policy", "v1", "poddisruptionbudgets").cloned() else {
            return Ok(());
        };
        let labels = pod["metadata"]["labels"].as_object();
        let snapshot = self.store().snapshot("policy/poddisruptionbudgets");
        let mut budgets = Vec::new();
        for (key, object) in snapshot.iter(Some(namespace), None) {
            let v = parse(object)?;
            let selects = v["spec"]["selector"].is_object()
                && LabelSelector::from_object(&v["spec"]["selector"])
                    .is_ok_and(|s| s.matches(labels));
            if selects {
                budgets.push(key.name.to_string());
            }
        }
        let budget = match &budgets[..] {
            [] => return Ok(()),
            [one] => one.clone(),
            _ => {
                return Err(Status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        let now = time::rfc3339(self.now());
        let refuse = |message: String| {
            let mut s = Status::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                10,
            );
            s.causes = vec![Cause { reason: "DisruptionBudget", message, field: String::new() }];
            s
        };
        let change = |old: &Value, _: &mut Vec<String>| -> Result<Changed, Status> {
            let unready = path::get(pod, "status.conditions")
                .and_then(Value::as_array)
                .is_none_or(|c| !c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
            let (healthy, desired) = (
                old["status"]["currentHealthy"].as_i64().unwrap_or(0),
                old["status"]["desiredHealthy"].as_i64().unwrap_or(0),
            );
            let always = old["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
            if unready && (always || (healthy >= desired && desired > 0)) {
                return Ok(old.clone().into());
            }
            let behind = old["status"]["observedGeneration"].as_i64().unwrap_or(0)
                < old["metadata"]["generation"].as_i64().unwrap_or(0);
            if behind {
                return Err(refuse(format!(
                    "The disruption budget {budget} is still being processed by the server."
                )));
            }
            let allowed = old["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
            if allowed <= 0 {
                let mut s = refuse(format!(
                    "The disruption budget {budget} needs {desired} healthy pods and has {healthy} currently"
                ));
                // Nobody knows when: the client decides.
                s.retry_after_seconds = None;
                return Err(s);
            }
            let mut v = old.clone();
            v["status"]["disruptionsAllowed"] = json!(allowed - 1);
            if !v["status"]["disruptedPods"].is_object() {
                v["status"]["disruptedPods"] = json!({});
            }
            v["status"]["disruptedPods"][name] = json!(now);
            Ok(v.into())
        };
        let o = WriteOptions { dry_run, ..WriteOptions::default() };
        self.modify(&pdb_kind, namespace, &budget, "status", &o, vec![], change).await.map(drop)
    }

    /// Writes through a subresource that owns some fields: `finalize`, `approval`,
    /// `ephemeralcontainers`, `resize`.
    ///
    /// # Errors
    /// As update.
    pub async fn update_part(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        subresource: &str,
        input: Input,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        let mut warnings = Vec::new();
        let given = self.decode(kind, input, o, &mut warnings)?;
        self.modify(kind, namespace, name, subresource, o, warnings, |old, _| {
            Ok(take_part(subresource, old, &given).into())
        })
        .await
    }

    /// Patches through such a subresource.
    ///
    /// # Errors
    /// As patch.
    pub async fn patch_part(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
        o: &WriteOptions,
    ) -> Result<Written, Status> {
        self.modify(kind, namespace, name, subresource, o, vec![], |old, warnings| {
            let given = self.patched(kind, name, old, patch, &[], o, warnings)?;
            Ok(take_part(subresource, old, &given).into())
        })
        .await
    }
}

/// The old object with the fields that a subresource owns taken from the given one.
fn take_part(subresource: &str, old: &Value, given: &Value) -> Value {
    let mut v = old.clone();
    v["metadata"]["resourceVersion"] = given["metadata"]["resourceVersion"].clone();
    match subresource {
        "finalize" => {
            set_or_remove(&mut v["spec"], "finalizers", given["spec"]["finalizers"].clone())
        }
        "approval" => v["status"]["conditions"] = given["status"]["conditions"].clone(),
        "ephemeralcontainers" => set_or_remove(
            &mut v["spec"],
            "ephemeralContainers",
            given["spec"]["ephemeralContainers"].clone(),
        ),
        "resize" => {
            for field in ["containers", "initContainers"] {
                let wanted = given["spec"][field].as_array().cloned().unwrap_or_default();
                for c in
                    v["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
                {
                    if let Some(w) = wanted.iter().find(|w| w["name"] == c["name"]) {
                        set_or_remove(c, "resources", w["resources"].clone());
                    }
                }
            }
        }
        _ => {}
    }
    v
}
