//! What a request asks for: verb, kind and name.

use http::{Method, Request};

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
            || query(request)
                .iter()
                .any(|(k, v)| k == "watch" && !v.eq_ignore_ascii_case("false") && v != "0");
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

/// Host and port that the client has asked: the authority of HTTP/2, or `Host`.
pub fn authority<B>(request: &Request<B>) -> Option<&str> {
    let host = || request.headers().get(http::header::HOST)?.to_str().ok();
    request.uri().authority().map(http::uri::Authority::as_str).or_else(host)
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
}
