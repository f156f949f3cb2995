//! Selectors, tolerations and node affinity, as documented.

use super::list;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Pods of some namespaces that a label selector takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Selection {
    /// `LabelSelector`; null takes none.
    selector: Value,
    namespaces: Vec<String>,
    /// `LabelSelector` of namespaces; null takes none.
    namespace_selector: Value,
    /// Pods that are being deleted do not count for spread.
    living: bool,
}

impl Selection {
    /// Of a term of pod affinity or anti-affinity.
    pub(super) fn of_term(term: &Value, pod: &Value) -> Self {
        let named: Vec<String> =
            list(term, "/namespaces").filter_map(|n| n.as_str().map(str::to_owned)).collect();
        let everywhere = term["namespaceSelector"].clone();
        let own = named.is_empty() && everywhere.is_null();
        Self {
            selector: with_own_labels(term, pod),
            namespaces: if own { vec![namespace(pod)] } else { named },
            namespace_selector: everywhere,
            living: false,
        }
    }

    /// Of a spread constraint.
    pub(super) fn of_spread(constraint: &Value, pod: &Value) -> Self {
        Self {
            selector: with_own_labels(constraint, pod),
            namespaces: vec![namespace(pod)],
            namespace_selector: Value::Null,
            living: true,
        }
    }

    pub(super) fn takes(&self, pod: &Value, namespaces: &BTreeMap<String, Value>) -> bool {
        let home = namespace(pod);
        let here = self.namespaces.contains(&home)
            || matches(&self.namespace_selector, namespaces.get(&home).unwrap_or(&Value::Null));
        let ending = self.living && !pod["metadata"]["deletionTimestamp"].is_null();
        here && !ending && matches(&self.selector, &pod["metadata"]["labels"])
    }
}

fn namespace(pod: &Value) -> String {
    pod["metadata"]["namespace"].as_str().unwrap_or("default").to_owned()
}

/// A selector with the pod's own values of `matchLabelKeys` and `mismatchLabelKeys`.
fn with_own_labels(rule: &Value, pod: &Value) -> Value {
    let mut selector = rule["labelSelector"].clone();
    if selector.is_null() {
        return selector;
    }
    for (field, operator) in [("/matchLabelKeys", "In"), ("/mismatchLabelKeys", "NotIn")] {
        for key in list(rule, field).filter_map(Value::as_str) {
            let Some(value) = pod["metadata"]["labels"][key].as_str() else { continue };
            let more = json!({"key": key, "operator": operator, "values": [value]});
            match selector["matchExpressions"].as_array_mut() {
                Some(all) => all.push(more),
                None => selector["matchExpressions"] = json!([more]),
            }
        }
    }
    selector
}

fn matches(selector: &Value, labels: &Value) -> bool {
    if selector.is_null() {
        return false;
    }
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    wanted.into_iter().all(|(k, v)| labels[k] == *v)
        && list(selector, "/matchExpressions").all(|e| expression(e, labels))
}

fn expression(e: &Value, labels: &Value) -> bool {
    let have = labels[e["key"].as_str().unwrap_or_default()].as_str();
    let listed = || list(e, "/values").any(|v| v.as_str() == have);
    let number = |s: &str| s.parse::<i64>().ok();
    let bound = || list(e, "/values").next().and_then(Value::as_str).and_then(number);
    match e["operator"].as_str().unwrap_or_default() {
        "In" => have.is_some() && listed(),
        "NotIn" => have.is_none() || !listed(),
        "Exists" => have.is_some(),
        "DoesNotExist" => have.is_none(),
        "Gt" => matches!((have.and_then(number), bound()), (Some(h), Some(b)) if h > b),
        "Lt" => matches!((have.and_then(number), bound()), (Some(h), Some(b)) if h < b),
        _ => false,
    }
}

/// Whether a pod's node selector and required node affinity take a node.
pub(super) fn node_matches(pod: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let selector = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
    if !selector.into_iter().all(|(k, v)| labels[k] == *v) {
        return false;
    }
    let required =
        &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    if required.is_null() {
        return true;
    }
    list(required, "/nodeSelectorTerms").any(|term| {
        let fields = json!({"metadata.name": node["metadata"]["name"]});
        let empty = term["matchExpressions"].is_null() && term["matchFields"].is_null();
        !empty
            && list(term, "/matchExpressions").all(|e| expression(e, labels))
            && list(term, "/matchFields").all(|e| expression(e, &fields))
    })
}

/// Whether a pod tolerates a taint.
pub(super) fn tolerates(pod: &Value, taint: &Value) -> bool {
    list(pod, "/spec/tolerations").any(|t| {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (key, effect) = (text(&t["key"]), text(&t["effect"]));
        let exists = t["operator"] == "Exists";
        (effect.is_empty() || effect == text(&taint["effect"]))
            && ((key.is_empty() && exists) || key == text(&taint["key"]))
            && (exists || text(&t["value"]) == text(&taint["value"]))
    })
}
