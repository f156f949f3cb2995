//! Functions that only the table's conditions have.

use super::{checkers, parse::Native};
use coracle_cel::{
    Args, EvalError, Function, Library, Output,
    value::{List, Val},
};
use coracle_meta::{LabelSelector, Quantity, status::FieldError};
use serde_json::Value;
use std::sync::LazyLock;

const SIGNATURES: &str = "\
texts(string, string) list(string)
seg(string) list(string)
canon(dyn) string
cmp(dyn, dyn) int
milli(dyn) int
bytes(map(A, B)) int
blen(dyn) int
quote(string) string
gojson(A) dyn
headless(dyn) bool
selOK(dyn) bool
selMatches(dyn, dyn) bool
iop(dyn) int
pct(dyn) int
isNative(string) bool
isExtended(string) bool
isHuge(string) bool
isInteger(string) bool
overcommit(string) bool
hugeOK(string, dyn) bool
isIPv6(string) bool
dualStack(dyn) bool
cidrIsV6(string) bool
lower(string) string
subPath(string) string
idxErr(string, int) string
idxCount(string) int
subKey(string) string
sysctlNs(string) string
limitKeys(dyn) list(string)
decimals6(double) string
";

pub(super) static LIBRARY: LazyLock<Library> =
    LazyLock::new(|| Library::new(SIGNATURES, FUNCTIONS));

fn failed<T>() -> Result<T, EvalError> {
    Err(EvalError::Failed("no such overload".into()))
}

fn int<'a>(n: usize) -> Val<'a> {
    Val::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn bool_of<'a>(args: Args<'_, 'a>, f: fn(&str) -> bool) -> Output<'a> {
    match args {
        [Val::String(s)] => Ok(Val::Bool(f(s))),
        _ => failed(),
    }
}

/// A quantity, from its text or a number.
fn quantity(v: &Val<'_>) -> Result<Quantity, EvalError> {
    match v {
        Val::String(s) if s.is_empty() => Ok(Quantity::from_units(0)),
        Val::String(s) => s.parse().map_err(|_| EvalError::Failed("not a quantity".into())),
        Val::Int(i) => Ok(Quantity::from_units(*i)),
        Val::Null => Ok(Quantity::from_units(0)),
        Val::Opaque(coracle_cel::Opaque::Quantity(q)) => Ok(*q),
        _ => failed(),
    }
}

fn texts<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::String(checker), Val::String(s)] => {
            Ok(Val::list(checkers::texts(checker, s).into_iter().map(Val::text).collect()))
        }
        _ => failed(),
    }
}

fn byte_length(v: &Val<'_>) -> usize {
    match v {
        Val::String(s) => s.len(),
        Val::Bytes(b) => b.len(),
        Val::List(l) => l.len(),
        Val::Map(m) => m.len(),
        _ => 0,
    }
}

fn bytes<'a>(args: Args<'_, 'a>) -> Output<'a> {
    match args {
        [Val::Map(m)] => {
            let sizes = m.entries().into_iter().map(|(k, v)| k.to_string().len() + byte_length(&v));
            Ok(int(sizes.sum()))
        }
        _ => failed(),
    }
}

fn headless<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::Map(service)] = args else { return failed() };
    let none = match service.field("spec") {
        Some(Val::Map(spec)) => match spec.field("clusterIPs") {
            Some(Val::List(l)) => {
                l.len() == 1 && matches!(l.get(0), Some(Val::String(s)) if s == "None")
            }
            _ => false,
        },
        _ => false,
    };
    Ok(Val::Bool(none))
}

/// A label selector all of whose keys, operators and values are what they must be.
fn selector(v: &Val<'_>) -> Option<LabelSelector> {
    let v = v.to_json();
    let labels = checkers::structured("labels", &v["matchLabels"], "");
    let odd = v["matchExpressions"].as_array().into_iter().flatten().any(|e| {
        let text = |f: &str| e[f].as_str().unwrap_or_default().to_owned();
        let values: Vec<&str> =
            e["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let counted = match text("operator").as_str() {
            "In" | "NotIn" => !values.is_empty(),
            "Exists" | "DoesNotExist" => values.is_empty(),
            _ => false,
        };
        let bad = |v: &&str| !checkers::texts("label-value", v).is_empty();
        !counted || !checkers::texts("label-key", &text("key")).is_empty() || values.iter().any(bad)
    });
    if odd || !labels.is_empty() { None } else { LabelSelector::from_object(&v).ok() }
}

fn is_absent(v: &Val<'_>) -> bool {
    matches!(v, Val::Null) || matches!(v, Val::Map(m) if m.is_absent())
}

fn selects<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [s, labels] = args else { return failed() };
    if is_absent(s) {
        return Ok(Val::Bool(false));
    }
    let labels = labels.to_json();
    Ok(Val::Bool(selector(s).is_some_and(|s| s.matches(labels.as_object()))))
}

/// A number, the number of a percentage, or 0.
fn number<'a>(args: Args<'_, 'a>, percent_only: bool) -> Output<'a> {
    Ok(match args {
        [Val::Int(_)] if percent_only => Val::Int(0),
        [Val::Int(i)] => Val::Int(*i),
        [Val::String(s)] => {
            let digits = s.strip_suffix('%');
            let text = if percent_only { digits } else { digits.or(Some(s.as_ref())) };
            Val::Int(text.and_then(|t| t.parse().ok()).unwrap_or(0))
        }
        _ => Val::Int(0),
    })
}

fn is_integer(s: &str) -> bool {
    const COUNTED: [&str; 9] = [
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    checkers::is_extended(s) || COUNTED.contains(&s)
}

fn huge_ok<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::String(resource), amount] = args else { return failed() };
    let page = resource.strip_prefix("hugepages-").and_then(|p| p.parse::<Quantity>().ok());
    let amount = quantity(amount)?;
    Ok(Val::Bool(page.is_some_and(|p| {
        p.nanos() > 0 && p.nanos() % 1_000_000_000 == 0 && amount.nanos() % p.nanos() == 0
    })))
}

fn dual_stack<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::List(l)] = args else { return failed() };
    let six = |v: &Val<'_>| matches!(v, Val::String(s) if s.contains(':'));
    let items = List::items(l);
    Ok(Val::Bool(items.iter().any(six) && items.iter().any(|v| !six(v))))
}

/// `metadata.labels['app']` is the path `metadata.labels` with the key `app`; a path without a key has
/// neither.
fn subscript<'a>(args: Args<'_, 'a>, path: bool) -> Output<'a> {
    let [Val::String(s)] = args else { return failed() };
    let parts = s.strip_suffix("']").and_then(|s| s.split_once("['"));
    let (head, key) = parts.unwrap_or(("", ""));
    Ok(Val::text(if path { head } else { key }.to_owned()))
}

/// How many indexes a list such as `0,2-4` names, all of them below a number.
fn indexes(list: &str, completions: i64) -> Result<i64, String> {
    let number = |s: &str| -> Result<i64, String> {
        s.parse::<i64>()
            .ok()
            .filter(|n| *n >= 0 && !s.starts_with('+'))
            .ok_or_else(|| format!("cannot convert string to integer for index: {s:?}"))
    };
    let (mut count, mut previous): (i64, Option<i64>) = (0, None);
    for part in list.split(',').filter(|_| !list.is_empty()) {
        let bounds: Vec<&str> = part.split('-').collect();
        let (first, last) = match bounds[..] {
            [one] => (number(one)?, number(one)?),
            [a, b] => (number(a)?, number(b)?),
            _ => {
                return Err(format!(
                    "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
        };
        for (n, text) in [(first, bounds[0]), (last, bounds[bounds.len() - 1])] {
            if n >= completions {
                return Err(format!("too large index: {text:?}"));
            }
        }
        if let Some(p) = previous.filter(|p| *p >= first) {
            return Err(format!("non-increasing order, previous: {p}, current: {first}"));
        }
        if bounds.len() == 2 && first >= last {
            return Err(format!("non-increasing order, previous: {first}, current: {last}"));
        }
        count += last - first + 1;
        previous = Some(last);
    }
    Ok(count)
}

/// The namespace of the kernel that a parameter belongs to.
fn sysctl_namespace(s: &str) -> &'static str {
    const IPC: [&str; 3] = ["kernel.sem", "kernel/sem", "fs.mqueue."];
    match s.replace('/', ".") {
        s if IPC.iter().any(|p| s.starts_with(p)) => "IPC",
        s if ["kernel.shm", "kernel.msg"].iter().any(|p| s.starts_with(p)) => "IPC",
        s if s.starts_with("net.") => "Net",
        _ => "",
    }
}

/// The resources that an item of a LimitRange names, in order.
fn limit_keys<'a>(args: Args<'_, 'a>) -> Output<'a> {
    let [Val::Map(item)] = args else { return failed() };
    let mut keys = std::collections::BTreeSet::new();
    for f in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if let Some(Val::Map(m)) = item.field(f) {
            keys.extend(m.keys().into_iter().map(|k| k.to_string()));
        }
    }
    Ok(Val::list(keys.into_iter().map(Val::text).collect()))
}

const FUNCTIONS: &[(&str, Function)] = &[
    ("texts", texts),
    ("seg", |a| match a {
        [Val::String(s)] => Ok(Val::list(s.split('/').map(|p| Val::text(p.to_owned())).collect())),
        _ => failed(),
    }),
    ("canon", |a| match a {
        [v] => Ok(Val::text(quantity(v)?.to_string())),
        _ => failed(),
    }),
    ("cmp", |a| match a {
        [a, b] => Ok(Val::Int(quantity(a)?.cmp(&quantity(b)?) as i64)),
        _ => failed(),
    }),
    ("milli", |a| match a {
        [v] => Ok(Val::Int(quantity(v)?.millis_ceil())),
        _ => failed(),
    }),
    ("bytes", bytes),
    ("blen", |a| match a {
        [v] => Ok(int(byte_length(v))),
        _ => failed(),
    }),
    ("quote", |a| match a {
        [Val::String(s)] => Ok(Val::text(format!("{s:?}"))),
        _ => failed(),
    }),
    ("gojson", |a| match a {
        [v] => Ok(v.clone()),
        _ => failed(),
    }),
    ("headless", headless),
    ("selOK", |a| match a {
        [v] => Ok(Val::Bool(is_absent(v) || selector(v).is_some())),
        _ => failed(),
    }),
    ("selMatches", selects),
    ("iop", |a| number(a, false)),
    ("pct", |a| number(a, true)),
    ("isNative", |a| bool_of(a, checkers::is_native)),
    ("isExtended", |a| bool_of(a, checkers::is_extended)),
    ("isHuge", |a| bool_of(a, |s| s.starts_with("hugepages-"))),
    ("isInteger", |a| bool_of(a, is_integer)),
    ("overcommit", |a| bool_of(a, |s| checkers::is_native(s) && !s.starts_with("hugepages-"))),
    ("hugeOK", huge_ok),
    ("isIPv6", |a| bool_of(a, |s| s.parse::<std::net::Ipv6Addr>().is_ok())),
    ("cidrIsV6", |a| bool_of(a, |s| s.contains(':'))),
    ("dualStack", dual_stack),
    ("idxErr", |a| match a {
        [Val::String(s), Val::Int(n)] => Ok(Val::text(indexes(s, *n).err().unwrap_or_default())),
        _ => failed(),
    }),
    ("idxCount", |a| match a {
        [Val::String(s)] => Ok(Val::Int(indexes(s, i64::MAX).unwrap_or(0))),
        _ => failed(),
    }),
    ("subPath", |a| subscript(a, true)),
    ("subKey", |a| subscript(a, false)),
    ("sysctlNs", |a| match a {
        [Val::String(s)] => Ok(Val::text(sysctl_namespace(s))),
        _ => failed(),
    }),
    ("limitKeys", limit_keys),
    ("decimals6", |args| match args {
        [Val::Double(d)] => Ok(Val::text(format!("{d:.6}"))),
        _ => failed(),
    }),
    ("lower", |a| match a {
        [Val::String(s)] => Ok(Val::text(s.to_lowercase())),
        _ => failed(),
    }),
];

/// Checks that are no conditions, by name.
pub(super) fn native(name: &str) -> Option<Native> {
    let all: &[(&str, Native)] = &[
        ("host-ports", |v, _, path| host_ports(v, path)),
        ("csr-request", |v, _, path| csr_request(v, path)),
        ("ip-name", |v, _, _| ip_name(v)),
        ("path-segments", |v, _, path| path_segments(v, path)),
        ("signer-name", |v, _, path| signer_name(v, path)),
        ("docker-config", |v, _, _| docker_config(v)),
        ("host-process", |v, _, path| host_process(v, path)),
        ("pod-requests", |v, _, path| pod_requests(v, path)),
        ("time-zone", |v, _, path| time_zone(v, path)),
    ];
    all.iter().find(|(n, _)| *n == name).map(|(_, f)| *f)
}

/// Two containers of a pod cannot have one port of its host.
fn host_ports(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut seen = std::collections::HashSet::new();
    let mut errors = Vec::new();
    for (i, c) in spec["containers"].as_array().into_iter().flatten().enumerate() {
        for (j, p) in c["ports"].as_array().into_iter().flatten().enumerate() {
            let port = p["hostPort"].as_i64().unwrap_or(0);
            let text = |f: &str| p[f].as_str().unwrap_or_default();
            let key = format!("{}/{}/{port}", text("protocol"), text("hostIP"));
            if port != 0 && !seen.insert(key.clone()) {
                let at = format!("{path}.containers[{i}].ports[{j}].hostPort");
                errors.push(FieldError::duplicate(at, key));
            }
        }
    }
    errors
}

fn below(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

/// A certificate is asked for in PEM.
fn csr_request(csr: &Value, path: &str) -> Vec<FieldError> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let given = &csr["spec"]["request"];
    let bytes = BASE64_STANDARD.decode(given.as_str().unwrap_or_default()).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    if text.contains("-----BEGIN CERTIFICATE REQUEST-----")
        || text.contains("-----BEGIN NEW CERTIFICATE REQUEST-----")
    {
        return vec![];
    }
    let why = "PEM block type must be CERTIFICATE REQUEST";
    vec![FieldError::invalid(below(path, "spec.request"), given.clone(), why)]
}

/// `domain/path`: a domain of two segments at least, a path of labels.
fn signer_name(csr: &Value, path: &str) -> Vec<FieldError> {
    let name = csr["spec"]["signerName"].as_str().unwrap_or_default();
    let at = below(path, "spec.signerName");
    if name.is_empty() {
        return vec![];
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts[..] else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(at, name, why)];
    };
    let mut errors = Vec::new();
    let labels: Vec<&str> = domain.split('.').collect();
    if labels.len() < 2 {
        let why = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(&*at, domain, why));
    }
    for label in labels {
        for why in checkers::texts("dns-label", label) {
            let why = format!("validating label {label:?}: {why}");
            errors.push(FieldError::invalid(&*at, domain, why));
        }
    }
    for label in rest.split('.') {
        for why in checkers::texts("dns-subdomain", label) {
            let why = format!("validating label {label:?}: {why}");
            errors.push(FieldError::invalid(&*at, rest, why));
        }
    }
    errors
}

/// The name of an IPAddress is the address, as addresses are printed.
fn ip_name(o: &Value) -> Vec<FieldError> {
    let name = o["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return vec![];
    }
    let said = |why: String| vec![FieldError::invalid("metadata.name", name, why)];
    let octets: Vec<&str> = name.split('.').collect();
    let zeros = octets.len() == 4
        && octets.iter().all(|o| o.parse::<u8>().is_ok())
        && octets.iter().any(|o| o.len() > 1 && o.starts_with('0'));
    if zeros {
        return said("must not have leading 0s".into());
    }
    match name.parse::<std::net::IpAddr>() {
        Err(_) => said("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()),
        Ok(std::net::IpAddr::V6(a)) if a.to_ipv4_mapped().is_some() => {
            said("must not be an IPv4-mapped IPv6 address".into())
        }
        Ok(a) if a.to_string() != name => {
            said(format!("must be in canonical form ({:?})", a.to_string()))
        }
        Ok(_) => vec![],
    }
}

/// The parts of the path of a webhook's service.
fn path_segments(service: &Value, path: &str) -> Vec<FieldError> {
    let given = service["path"].as_str().unwrap_or_default();
    let at = below(path, "path");
    if given.is_empty() || given == "/" || given == "//" {
        return vec![];
    }
    let parts: Vec<&str> = given.split('/').collect();
    // The last may be empty: a path may end with a slash.
    let last = parts.len() - 1;
    let mut errors = Vec::new();
    for (i, part) in parts.iter().enumerate().skip(1) {
        if part.is_empty() {
            if i != last {
                let why = format!("segment[{}] may not be empty", i - 1);
                errors.push(FieldError::invalid(&*at, given, why));
            }
            continue;
        }
        for why in checkers::texts("dns-subdomain", part) {
            let why = format!("segment[{}]: {why}", i - 1);
            errors.push(FieldError::invalid(&*at, given, why));
        }
    }
    errors
}

/// The credentials of an image registry are a JSON object.
fn docker_config(secret: &Value) -> Vec<FieldError> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let kinds = [
        ("kubernetes.io/dockercfg", ".dockercfg"),
        ("kubernetes.io/dockerconfigjson", ".dockerconfigjson"),
    ];
    let Some((_, key)) = kinds.iter().find(|(t, _)| secret["type"] == *t) else { return vec![] };
    let Some(text) = secret["data"][key].as_str() else { return vec![] };
    let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
    let why = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(_) | Value::Null) => return vec![],
        Ok(other) => crate::decode::mismatch(&other, "value of type map[string]interface {}"),
        Err(e) if e.is_eof() => "unexpected end of JSON input".to_owned(),
        Err(e) => e.to_string(),
    };
    vec![FieldError::invalid(format!("data[{key}]"), "<secret contents redacted>", why)]
}

/// Windows containers are processes of the host all or none, and then on its network.
fn host_process(spec: &Value, path: &str) -> Vec<FieldError> {
    let of = |v: &Value| v["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let whole = of(spec);
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    let all = lists.iter().flat_map(|l| spec[l].as_array().into_iter().flatten());
    let each: Vec<bool> = all.map(|c| of(c).or(whole).unwrap_or(false)).collect();
    if !each.contains(&true) {
        return vec![];
    }
    let mut errors = Vec::new();
    if each.contains(&false) {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.push(FieldError::invalid(path, "", why));
    }
    if spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(format!("{path}.hostNetwork"), false, why));
    }
    errors
}

/// What a pod requests as a whole is no less than what its containers do (KEP-2837).
fn pod_requests(spec: &Value, path: &str) -> Vec<FieldError> {
    let own = spec["resources"]["requests"].as_object().into_iter().flatten();
    let mut errors = Vec::new();
    for (name, q) in own {
        let (Some(q), Some(sum)) = (amount(q), container_requests(spec, name)) else { continue };
        if q < sum {
            let why =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            let at = format!("{path}.resources.requests[{name}]");
            errors.push(FieldError::invalid(at, q.to_string(), why));
        }
    }
    errors
}

fn amount(v: &Value) -> Option<Quantity> {
    v.as_str()?.parse().ok()
}

/// What the containers of a pod request of a resource at once: all containers and sidecars, or the
/// largest moment of the init containers (KEP-753).
pub fn container_requests(spec: &Value, resource: &str) -> Option<Quantity> {
    let request = |c: &Value| amount(&c["resources"]["requests"][resource]);
    let list = |l: &str| spec[l].as_array().into_iter().flatten();
    let any = list("containers").chain(list("initContainers")).find_map(request)?;
    let nanos = |c: &Value| request(c).map_or(0, |q| q.nanos());
    let mut total: i128 = list("containers").map(nanos).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for c in list("initContainers") {
        if c["restartPolicy"] == "Always" {
            total += nanos(c);
            sidecars += nanos(c);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + nanos(c));
        }
    }
    Some(any.with_nanos(total.max(peak)))
}

/// A time zone must be one of the database, spelled as there.
fn time_zone(spec: &Value, path: &str) -> Vec<FieldError> {
    let Some(zone) = spec["timeZone"].as_str().filter(|z| !z.is_empty()) else { return vec![] };
    let known = jiff::tz::TimeZone::get(zone).is_ok_and(|t| t.iana_name() == Some(zone));
    if known {
        return vec![];
    }
    let why = format!("unknown time zone {zone}");
    vec![FieldError::invalid(format!("{path}.timeZone"), zone, why)]
}
