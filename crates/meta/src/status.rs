//! `metav1.Status`: what every failed request becomes, with upstream's reasons, codes and texts.

use crate::GroupResource;
use serde_json::{Value, json};
use std::fmt;

/// One entry of `status.details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable reason, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
    /// Path of the field, such as `spec.replicas`; may be empty.
    pub field: String,
}

/// What a failure is about: group, resource (or kind) and name.
pub type Details = (String, String, String);

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, such as `NotFound`; may be empty.
    pub reason: &'static str,
    /// What is wrong and where.
    pub message: String,
    /// Group, resource (or kind) and name that the failure is about.
    pub details: Option<Box<Details>>,
    /// Field by field.
    pub causes: Vec<Cause>,
    /// When trying again is worth it.
    pub retry_after_seconds: Option<u32>,
    /// For an expired continue token: one that goes on at the newest revision.
    pub continue_token: Option<Box<str>>,
}

impl Status {
    /// A failure with code, reason and message only.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            causes: vec![],
            retry_after_seconds: None,
            continue_token: None,
        }
    }

    fn about(mut self, r: &GroupResource, name: &str) -> Self {
        self.details = Some(Box::new((r.group.clone(), r.resource.clone(), name.into())));
        self
    }

    /// 404 for an object.
    pub fn not_found(r: &GroupResource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{r} {name:?} not found")).about(r, name)
    }

    /// 404 for a path that nothing serves.
    pub fn no_such_resource() -> Self {
        let mut s = Self::new(404, "NotFound", "the server could not find the requested resource");
        s.details = Some(Box::default());
        s
    }

    /// 409 for a name that is taken.
    pub fn already_exists(r: &GroupResource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{r} {name:?} already exists")).about(r, name)
    }

    /// 409 for a stale write.
    pub fn conflict(r: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {r} {name:?}: {why}");
        Self::new(409, "Conflict", message).about(r, name)
    }

    /// 409 for an update of an object that changed since it was read.
    pub fn modified(r: &GroupResource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(r, name, why)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403 with the reason appended.
    pub fn forbidden(r: &GroupResource, name: &str, why: &str) -> Self {
        let message = match name {
            "" => format!("{r} is forbidden: {why}"),
            _ => format!("{r} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(r, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed(message: impl Into<String>) -> Self {
        let mut s = Self::new(405, "MethodNotAllowed", message);
        s.details = Some(Box::default());
        s
    }

    /// 410 for a resourceVersion that was compacted away.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut s = Self::new(429, "TooManyRequests", message);
        s.retry_after_seconds = Some(retry_after_seconds);
        s
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
    }

    /// 504 for a resourceVersion of the future.
    pub fn future_revision(wanted: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        let mut s = Self::new(504, "Timeout", message);
        s.retry_after_seconds = Some(1);
        let cause = "Too large resource version".into();
        s.causes =
            vec![Cause { reason: "ResourceVersionTooLarge", message: cause, field: String::new() }];
        s
    }

    /// 422 with one cause a field, worded as upstream does.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let mut seen = std::collections::HashSet::new();
        let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        texts.retain(|t| seen.insert(t.clone()));
        let list = match texts.len() {
            1 => texts[0].clone(),
            _ => format!("[{}]", texts.join(", ")),
        };
        let kind_text = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let mut s = Self::new(422, "Invalid", format!("{kind_text} {name:?} is invalid: {list}"));
        s.details = Some(Box::new((group.into(), kind.into(), name.into())));
        s.causes = errors
            .into_iter()
            .map(|e| Cause { reason: e.kind.reason(), message: e.body(), field: e.path.clone() })
            .collect();
        s
    }

    /// The object as sent to clients.
    pub fn to_value(&self) -> Value {
        let mut v = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if let Some(token) = &self.continue_token {
            v["metadata"]["continue"] = json!(token);
        }
        if !self.reason.is_empty() {
            v["reason"] = json!(self.reason);
        }
        let mut details = serde_json::Map::new();
        if let Some((group, kind, name)) = self.details.as_deref() {
            for (k, t) in [("group", group), ("kind", kind), ("name", name)] {
                if !t.is_empty() {
                    details.insert(k.into(), json!(t));
                }
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(|c| {
                let mut v = json!({"reason": c.reason, "message": c.message});
                if !c.field.is_empty() {
                    v["field"] = json!(c.field);
                }
                v
            });
            details.insert("causes".into(), causes.collect());
        }
        if let Some(s) = self.retry_after_seconds {
            details.insert("retryAfterSeconds".into(), json!(s));
        }
        if !details.is_empty() || self.details.is_some() {
            v["details"] = Value::Object(details);
        }
        v
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for Status {}

/// What is wrong with a field, as upstream's `field.ErrorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A required field is absent.
    Required,
    /// The value is malformed.
    Invalid,
    /// The value is none of the supported ones.
    NotSupported,
    /// The value occurs twice.
    Duplicate,
    /// The value may not be given here.
    Forbidden,
    /// Too many characters.
    TooLong,
    /// Too many items.
    TooMany,
    /// The value refers to what is not there.
    NotFound,
    /// The value has the wrong JSON type.
    TypeInvalid,
}

impl FieldErrorKind {
    fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::TypeInvalid => "Invalid value",
        }
    }
}

/// One wrong field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What sort of wrong.
    pub kind: FieldErrorKind,
    /// Path such as `spec.containers[0].name`.
    pub path: String,
    /// The offending value, where showing it helps.
    pub value: Option<Value>,
    /// More words; may be empty.
    pub detail: String,
}

impl FieldError {
    /// An error that shows the offending value.
    pub fn invalid(
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind: FieldErrorKind::Invalid,
            path: path.into(),
            value: Some(value.into()),
            detail: detail.into(),
        }
    }

    /// A missing field.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: FieldErrorKind::Required,
            path: path.into(),
            value: None,
            detail: detail.into(),
        }
    }

    /// A field that may not be set or changed.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            kind: FieldErrorKind::Forbidden,
            path: path.into(),
            value: None,
            detail: detail.into(),
        }
    }

    /// A value that occurs twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self {
            kind: FieldErrorKind::Duplicate,
            path: path.into(),
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// A value outside an enumeration.
    pub fn not_supported(
        path: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        Self {
            kind: FieldErrorKind::NotSupported,
            path: path.into(),
            value: Some(value.into()),
            detail: format!("supported values: {}", list.join(", ")),
        }
    }

    /// A value of the wrong JSON type.
    pub fn type_invalid(
        path: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind: FieldErrorKind::TypeInvalid, ..Self::invalid(path, value, detail) }
    }

    /// More items than may be.
    pub fn too_many(path: impl Into<String>, actual: usize, most: usize) -> Self {
        let items = if most == 1 { "item" } else { "items" };
        Self {
            kind: FieldErrorKind::TooMany,
            ..Self::invalid(path, actual, format!("must have at most {most} {items}"))
        }
    }

    /// More bytes than may be.
    pub fn too_long(path: impl Into<String>, most: u64) -> Self {
        let bytes = if most == 1 { "byte" } else { "bytes" };
        Self {
            kind: FieldErrorKind::TooLong,
            value: None,
            ..Self::invalid(path, "", format!("may not be more than {most} {bytes}"))
        }
    }

    /// A value that refers to what is not there.
    pub fn not_found(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self { kind: FieldErrorKind::NotFound, ..Self::invalid(path, value, "") }
    }

    /// Title, value and detail without the path: the cause's message.
    pub fn body(&self) -> String {
        let mut text = self.kind.title().to_owned();
        match &self.value {
            Some(Value::String(s)) => text += &format!(": {s:?}"),
            Some(Value::Null) => text += ": null",
            Some(v @ (Value::Object(_) | Value::Array(_))) => text += &format!(": {v}"),
            Some(v) => text += &format!(": {v}"),
            None => {}
        }
        if !self.detail.is_empty() {
            text += &format!(": {}", self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_reads_as_upstream() {
        let e = FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0");
        let s = Status::invalid("apps", "Deployment", "web", vec![e]);
        assert_eq!(
            s.message,
            "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        let v = s.to_value();
        assert_eq!(v["details"]["causes"][0]["field"], "spec.replicas");
        assert_eq!(v["details"]["causes"][0]["reason"], "FieldValueInvalid");
        assert_eq!(v["code"], 422);
    }
}
