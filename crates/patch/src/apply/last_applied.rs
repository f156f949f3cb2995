//! From client-side to server-side apply and back: kubectl's annotation with what it last applied.

use super::{Conflict, FieldSet, Versions, Writer};
use serde_json::{Value, json};

/// The annotation that `kubectl apply` keeps on the client's side.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager whose client-side applies are taken over.
const KUBECTL: &str = "kubectl";

fn annotation(v: &Value) -> Option<&str> {
    v["metadata"]["annotations"][LAST_APPLIED].as_str()
}

/// Whether all that conflicts was applied by the same tool on the client's side: then it is the same
/// owner by another name.
pub(super) fn excuses(
    versions: &Versions<'_>,
    live: &Value,
    writer: &Writer<'_>,
    conflicts: &[Conflict],
) -> bool {
    if writer.manager != KUBECTL {
        return false;
    }
    let last = annotation(live).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(last) = last.filter(|l| l["apiVersion"] == versions.current) else { return false };
    let Ok(applied) = versions.typed.fields(&last) else { return false };
    let all = conflicts.iter().fold(FieldSet::default(), |all, c| all.union(&c.fields));
    all.difference(&applied).is_empty()
}

/// Keeps the annotation true, where there is one, so that client-side apply can go on.
pub(super) fn refresh(object: &mut Value, config: &Value, writer: &Writer<'_>) {
    if writer.manager != KUBECTL || annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(a)) = config.pointer_mut("/metadata/annotations") {
        a.remove(LAST_APPLIED);
    }
    object["metadata"]["annotations"][LAST_APPLIED] = json!(format!("{config}\n"));
}
