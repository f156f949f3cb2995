//! Reviews: kinds that are questions. They are created, answered and never stored.

use crate::{
    Server,
    authn::{self, Identity},
    request::RequestInfo,
};
use coracle_meta::Status;
use serde_json::{Value, json};

/// Answers a review, or `None` when the resource is no review.
pub(crate) fn answer(
    server: &Server,
    caller: &Identity,
    info: &RequestInfo,
    body: &Value,
) -> Option<Result<Value, Status>> {
    let spec = &body["spec"];
    let status = match (info.group.as_str(), info.resource.as_str()) {
        ("authorization.k8s.io", "selfsubjectaccessreviews") => access(server, caller, spec, None),
        ("authorization.k8s.io", "subjectaccessreviews") => {
            access(server, &subject(spec), spec, None)
        }
        ("authorization.k8s.io", "localsubjectaccessreviews") => {
            access(server, &subject(spec), spec, Some(&info.namespace))
        }
        ("authorization.k8s.io", "selfsubjectrulesreviews") => {
            let (resource, other) =
                server.rbac.rules_review(caller, spec["namespace"].as_str().unwrap_or_default());
            json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": false})
        }
        ("authentication.k8s.io", "selfsubjectreviews") => json!({"userInfo": caller.to_value()}),
        ("authentication.k8s.io", "tokenreviews") => token(server, spec),
        _ => return None,
    };
    let mut v = body.clone();
    v["status"] = status;
    if !v["metadata"].is_object() {
        v["metadata"] = json!({});
    }
    Some(Ok(v))
}

fn subject(spec: &Value) -> Identity {
    let groups = spec["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|g| g.as_str().map(Into::into))
        .collect();
    Identity { user: spec["user"].as_str().unwrap_or_default().into(), uid: String::new(), groups }
}

fn access(server: &Server, who: &Identity, spec: &Value, namespace: Option<&str>) -> Value {
    let resource = &spec["resourceAttributes"];
    let text = |v: &Value, f: &str| v[f].as_str().unwrap_or_default().to_owned();
    let info = if resource.is_object() {
        RequestInfo {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            version: text(resource, "version"),
            namespace: namespace.map_or_else(|| text(resource, "namespace"), str::to_owned),
            resource: text(resource, "resource"),
            name: text(resource, "name"),
            subresource: text(resource, "subresource"),
            path: String::new(),
        }
    } else {
        let url = &spec["nonResourceAttributes"];
        RequestInfo { verb: text(url, "verb"), path: text(url, "path"), ..RequestInfo::default() }
    };
    json!({"allowed": server.rbac.allows(who, &info)})
}

fn token(server: &Server, spec: &Value) -> Value {
    let wanted: Vec<&str> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let audiences = if wanted.is_empty() { vec![server.tokens.issuer()] } else { wanted };
    let token = spec["token"].as_str().unwrap_or_default();
    let found = audiences.iter().find_map(|a| Some((a, authn::of_token(server, token, a)?)));
    match found {
        Some((audience, who)) => {
            json!({"authenticated": true, "user": who.to_value(), "audiences": [audience]})
        }
        None => json!({"authenticated": false, "error": "the token is not valid for this server"}),
    }
}
