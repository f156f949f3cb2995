//! What a request asks for: verb, kind and name from the path, options from the query.

use coracle_meta::{FieldSelector, LabelSelector, Status, status::FieldError};
use coracle_registry::{
    read::{ListOptions, Match},
    write::{FieldValidation, WriteOptions},
};
use http::{Method, Request};
use serde_json::json;

/// The parts of a request's path, as authorization sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or the
    /// lower-case HTTP method for paths that are no resources.
    pub verb: String,
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Plural, or empty for paths that are no resources.
    pub resource: String,
    /// Name, or empty.
    pub name: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// The whole path.
    pub path: String,
}

impl RequestInfo {
    /// Reads method, path and query.
    pub fn of<B>(request: &Request<B>) -> Self {
        let path = request.uri().path().to_owned();
        let mut info = Self {
            verb: request.method().as_str().to_lowercase(),
            path: path.clone(),
            ..Self::default()
        };
        let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        let group = match parts.first() {
            Some(&"api") if parts.len() >= 3 => "",
            Some(&"apis") if parts.len() >= 4 => parts.remove(1),
            _ => return info,
        };
        let (version, mut rest) = (parts[1], &parts[2..]);
        // The old form /watch/… of a watch.
        let old_watch = rest.first() == Some(&"watch");
        if old_watch {
            rest = &rest[1..];
        }
        let mut namespace = "";
        if let ["namespaces", ns, resource, ..] = rest {
            let of_namespace = ["status", "finalize"].contains(resource);
            if !of_namespace {
                namespace = ns;
                rest = &rest[2..];
            }
        }
        let decode = |s: &&str| percent_decode(s);
        info.group = group.into();
        info.version = version.into();
        info.namespace = percent_decode(namespace);
        info.resource = rest.first().map(decode).unwrap_or_default();
        info.name = rest.get(1).map(decode).unwrap_or_default();
        info.subresource = rest.get(2..).map(|r| r.join("/")).unwrap_or_default();
        if info.resource == "namespaces" && info.group.is_empty() {
            info.namespace.clone_from(&info.name);
        }
        let named = !info.name.is_empty();
        let watches = old_watch
            || query(request).iter().any(|(k, v)| k == "watch" && v != "false" && v != "0");
        info.verb = match *request.method() {
            Method::GET | Method::HEAD if watches && (!named || old_watch) => "watch",
            Method::GET | Method::HEAD if named => "get",
            Method::GET | Method::HEAD => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE if named => "delete",
            Method::DELETE => "deletecollection",
            _ => "",
        }
        .into();
        info
    }

    /// Whether the path names a resource.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// Whether the answer is a stream without an end.
    pub fn is_watch(&self) -> bool {
        self.verb == "watch"
    }
}

/// The query's pairs, decoded.
pub fn query<B>(request: &Request<B>) -> Vec<(String, String)> {
    let text = request.uri().query().unwrap_or_default();
    let pair = |p: &str| {
        let (k, v) = p.split_once('=').unwrap_or((p, ""));
        (percent_decode(&k.replace('+', " ")), percent_decode(&v.replace('+', " ")))
    };
    text.split('&').filter(|p| !p.is_empty()).map(pair).collect()
}

fn percent_decode(s: &str) -> String {
    if !s.contains('%') {
        return s.to_owned();
    }
    let (mut out, bytes, mut i) = (Vec::with_capacity(s.len()), s.as_bytes(), 0);
    while i < bytes.len() {
        let hex = bytes
            .get(i + 1..i + 3)
            .and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(b)) => {
                out.push(b);
                i += 3;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The query, by name.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a request's query.
    pub fn of<B>(request: &Request<B>) -> Self {
        Self(query(request))
    }

    /// A parameter that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// Every value of a parameter.
    fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect()
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Status> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let bad = || {
            Status::bad_request(format!(
                "invalid value {text:?} for parameter {name}: it must be a non-negative integer"
            ))
        };
        text.parse().map(Some).map_err(|_| bad())
    }

    /// A yes or no; absent is no.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| v != "false" && v != "0")
    }

    /// Seconds until a watch ends; a day at most.
    pub fn timeout_seconds(&self) -> Result<Option<u64>, Status> {
        const LONGEST: u64 = 24 * 3600;
        Ok(self.number("timeoutSeconds")?.map(|s: u64| s.min(LONGEST)))
    }

    /// Options of list and watch.
    pub fn list_options(&self) -> Result<ListOptions, Status> {
        let labels = match self.get("labelSelector") {
            Some(t) => LabelSelector::parse(t).map_err(|e| {
                Status::bad_request(
                    format!("unable to parse requirement: {e}")
                        .replace("unable to parse requirement: unable", "unable"),
                )
            })?,
            None => LabelSelector::default(),
        };
        let fields = match self.get("fieldSelector") {
            Some(t) => FieldSelector::parse(t).map_err(Status::bad_request)?,
            None => FieldSelector::default(),
        };
        let revision = match self.get("resourceVersion") {
            None => None,
            Some(t) => Some(t.parse().map_err(|_| {
                Status::bad_request(format!("resourceVersion: Invalid value: {t:?}: strconv.ParseUint: parsing {t:?}: invalid syntax"))
            })?),
        };
        let revision_match = self.revision_match()?;
        let continue_token = self.get("continue").map(str::to_owned);
        Ok(ListOptions {
            labels,
            fields,
            limit: self.number("limit")?,
            continue_token,
            revision,
            revision_match,
        })
    }

    /// `resourceVersionMatch`, which goes with other options only in some ways.
    fn revision_match(&self) -> Result<Option<Match>, Status> {
        const FIELD: &str = "resourceVersionMatch";
        let refuse = |error| Err(invalid_options("ListOptions", error));
        let forbid = |why: &str| refuse(FieldError::forbidden(FIELD, why));
        let (given, initial) = (self.get(FIELD), self.get("sendInitialEvents").is_some());
        if self.flag("watch") {
            return match given {
                Some("NotOlderThan") if initial => Ok(Some(Match::NotOlderThan)),
                _ if initial => forbid(
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ),
                Some(_) => forbid(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
                None => Ok(None),
            };
        }
        if initial {
            let why = "sendInitialEvents is forbidden for list";
            return refuse(FieldError::forbidden("sendInitialEvents", why));
        }
        let Some(given) = given else { return Ok(None) };
        let revision = self.get("resourceVersion").unwrap_or_default();
        if self.get("continue").is_some() {
            return forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if revision.is_empty() {
            return forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        match given {
            "Exact" if revision == "0" => {
                forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")
            }
            "Exact" => Ok(Some(Match::Exact)),
            "NotOlderThan" => Ok(Some(Match::NotOlderThan)),
            other => {
                let known = ["Exact", "NotOlderThan", ""];
                refuse(FieldError::not_supported(FIELD, other, &known))
            }
        }
    }

    /// Options of writes.
    ///
    /// # Errors
    /// What is wrong with which, of options of this name.
    pub fn write_options(&self, options: &str) -> Result<WriteOptions, Status> {
        let field_validation = match self.get("fieldValidation") {
            None | Some("" | "Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(o) => {
                let known = ["", "Ignore", "Strict", "Warn"];
                let error = FieldError::not_supported("fieldValidation", o, &known);
                return Err(invalid_options(options, error));
            }
        };
        Ok(WriteOptions { dry_run: self.dry_run(options)?, field_validation, writer: None })
    }

    /// Whether nothing shall be stored.
    ///
    /// # Errors
    /// What is wrong with it, in options of this name.
    pub fn dry_run(&self, options: &str) -> Result<bool, Status> {
        let all = self.all("dryRun");
        if all.iter().any(|o| *o != "All") {
            let error = FieldError::not_supported("dryRun", json!(all), &["All"]);
            return Err(invalid_options(options, error));
        }
        Ok(!all.is_empty())
    }
}

/// Options of a request are an object too: `CreateOptions`.
pub(crate) fn invalid_options(options: &str, error: FieldError) -> Status {
    Status::invalid("meta.k8s.io", options, "", vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, uri: &str) -> [String; 6] {
        let r = Request::builder().method(method).uri(uri).body(()).unwrap();
        let i = RequestInfo::of(&r);
        [i.verb, i.group, i.namespace, i.resource, i.name, i.subresource]
    }

    #[test]
    fn paths() {
        assert_eq!(
            info("GET", "/api/v1/namespaces/a/pods/b/log"),
            ["get", "", "a", "pods", "b", "log"]
        );
        assert_eq!(
            info("GET", "/apis/apps/v1/deployments?watch=true"),
            ["watch", "apps", "", "deployments", "", ""]
        );
        assert_eq!(
            info("PUT", "/api/v1/namespaces/a/finalize"),
            ["update", "", "a", "namespaces", "a", "finalize"]
        );
        assert_eq!(info("GET", "/api/v1/namespaces/a"), ["get", "", "a", "namespaces", "a", ""]);
        assert_eq!(
            info("DELETE", "/api/v1/namespaces/a/pods"),
            ["deletecollection", "", "a", "pods", "", ""]
        );
        assert_eq!(
            info("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode")[4],
            "system:node"
        );
        assert_eq!(info("GET", "/healthz")[0], "get");
        assert_eq!(info("GET", "/api/v1/watch/pods")[0], "watch");
    }

    #[test]
    fn bad_options_are_refused() {
        for q in [
            "limit=x",
            "labelSelector=a%20b",
            "fieldSelector=a",
            "resourceVersion=-1",
            "resourceVersionMatch=Maybe",
        ] {
            let r = Request::builder().uri(format!("/x?{q}")).body(()).unwrap();
            assert!(Query::of(&r).list_options().is_err(), "{q}");
        }
        let r = Request::builder().uri("/x?dryRun=Some").body(()).unwrap();
        assert!(Query::of(&r).write_options("CreateOptions").is_err());
    }
}
