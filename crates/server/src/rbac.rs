//! Role-based access control: `system:masters` may do anything, everybody else what the roles
//! bound to them say. Rules are compiled when a role or binding changes, not on each request.

use crate::{authn::Identity, request::RequestInfo};
use arc_swap::ArcSwap;
use coracle_meta::{GroupResource, Status};
use coracle_registry::Registry;
use coracle_store::Snapshot;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

const RESOURCES: [&str; 4] = [
    "rbac.authorization.k8s.io/clusterroles",
    "rbac.authorization.k8s.io/clusterrolebindings",
    "rbac.authorization.k8s.io/roles",
    "rbac.authorization.k8s.io/rolebindings",
];

/// Decides what callers may do.
#[derive(Debug)]
pub struct Authorizer {
    registry: Arc<Registry>,
    compiled: ArcSwap<Option<Compiled>>,
}

#[derive(Debug)]
struct Compiled {
    snapshots: [Snapshot; 4],
    /// By subject (`u:NAME`, `g:NAME`): namespace (empty for all) and rules.
    grants: HashMap<String, Vec<(String, Arc<Vec<Rule>>)>>,
}

/// One `PolicyRule`.
#[derive(Debug, Default)]
struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    urls: Vec<String>,
}

fn texts(v: &Value) -> Vec<String> {
    v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(Into::into)).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|x| x == "*" || x == wanted)
}

impl Rule {
    fn read(v: &Value) -> Self {
        Self {
            verbs: texts(&v["verbs"]),
            groups: texts(&v["apiGroups"]),
            resources: texts(&v["resources"]),
            names: texts(&v["resourceNames"]),
            urls: texts(&v["nonResourceURLs"]),
        }
    }

    fn allows(&self, info: &RequestInfo) -> bool {
        if !has(&self.verbs, &info.verb) {
            return false;
        }
        if !info.is_resource() {
            let path = info.path.as_str();
            return self
                .urls
                .iter()
                .any(|u| u == path || u.strip_suffix('*').is_some_and(|p| path.starts_with(p)));
        }
        let whole = match info.subresource.as_str() {
            "" => info.resource.clone(),
            s => format!("{}/{s}", info.resource),
        };
        let any_sub = format!("*/{}", info.subresource);
        let resource = has(&self.resources, &whole)
            || (!info.subresource.is_empty() && self.resources.contains(&any_sub));
        let name =
            self.names.is_empty() || (!info.name.is_empty() && self.names.contains(&info.name));
        has(&self.groups, &info.group) && resource && name
    }

    fn to_value(&self) -> Value {
        if self.urls.is_empty() {
            let mut v =
                json!({"verbs": self.verbs, "apiGroups": self.groups, "resources": self.resources});
            if !self.names.is_empty() {
                v["resourceNames"] = json!(self.names);
            }
            return v;
        }
        json!({"verbs": self.verbs, "nonResourceURLs": self.urls})
    }
}

impl Authorizer {
    /// Over the roles and bindings of a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, compiled: ArcSwap::from_pointee(None) }
    }

    fn compiled(&self) -> Arc<Option<Compiled>> {
        let now = RESOURCES.map(|r| self.registry.store().snapshot(r));
        let have = self.compiled.load_full();
        let current = have
            .as_ref()
            .as_ref()
            .is_some_and(|c| c.snapshots.iter().zip(&now).all(|(a, b)| a.is_same(b)));
        if current {
            return have;
        }
        let new = Arc::new(Some(compile(now)));
        self.compiled.store(new.clone());
        new
    }

    /// Whether a caller may do something.
    pub fn allows(&self, identity: &Identity, info: &RequestInfo) -> bool {
        if identity.groups.iter().any(|g| g == "system:masters") {
            return true;
        }
        self.rules(identity, &info.namespace)
            .iter()
            .any(|rules| rules.iter().any(|r| r.allows(info)))
    }

    fn rules(&self, identity: &Identity, namespace: &str) -> Vec<Arc<Vec<Rule>>> {
        let compiled = self.compiled();
        let Some(compiled) = compiled.as_ref() else { return vec![] };
        let subjects = identity
            .groups
            .iter()
            .map(|g| format!("g:{g}"))
            .chain([format!("u:{}", identity.user)]);
        subjects
            .filter_map(|s| compiled.grants.get(&s))
            .flatten()
            .filter(|(ns, _)| ns.is_empty() || (!namespace.is_empty() && ns == namespace))
            .map(|(_, rules)| rules.clone())
            .collect()
    }

    /// Everything a caller may do in a namespace, as `SelfSubjectRulesReview` tells it.
    pub(crate) fn rules_review(
        &self,
        identity: &Identity,
        namespace: &str,
    ) -> (Vec<Value>, Vec<Value>) {
        let mut all: Vec<Value> = Vec::new();
        if identity.groups.iter().any(|g| g == "system:masters") {
            all.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            all.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        for rules in self.rules(identity, namespace) {
            all.extend(rules.iter().map(Rule::to_value));
        }
        all.into_iter().partition(|r| r["nonResourceURLs"].is_null())
    }

    /// # Errors
    /// 403, in upstream's words.
    pub fn authorize(&self, identity: &Identity, info: &RequestInfo) -> Result<(), Status> {
        if self.allows(identity, info) {
            return Ok(());
        }
        if !info.is_resource() {
            let why = format!(
                "forbidden: User {:?} cannot {} path {:?}",
                identity.user, info.verb, info.path
            );
            return Err(Status::new(403, "Forbidden", why));
        }
        let resource = match info.subresource.as_str() {
            "" => info.resource.clone(),
            s => format!("{}/{s}", info.resource),
        };
        let place = match info.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            ns => format!("in the namespace {ns:?}"),
        };
        let why = format!(
            "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
            identity.user, info.verb, info.group
        );
        Err(Status::forbidden(&GroupResource::new(&*info.group, &*info.resource), &info.name, &why))
    }
}

fn parsed(s: &Snapshot) -> Vec<(String, String, Value)> {
    s.iter(None, None)
        .filter_map(|(n, o)| {
            Some((
                n.namespace.to_string(),
                n.name.to_string(),
                serde_json::from_slice(&o.bytes).ok()?,
            ))
        })
        .collect()
}

fn compile(snapshots: [Snapshot; 4]) -> Compiled {
    let rules = |v: &Value| {
        Arc::new(v["rules"].as_array().into_iter().flatten().map(Rule::read).collect::<Vec<_>>())
    };
    let cluster_roles: BTreeMap<String, _> =
        parsed(&snapshots[0]).into_iter().map(|(_, n, v)| (n, rules(&v))).collect();
    let roles: BTreeMap<(String, String), _> =
        parsed(&snapshots[2]).into_iter().map(|(ns, n, v)| ((ns, n), rules(&v))).collect();
    let mut grants: HashMap<String, Vec<_>> = HashMap::new();
    for (namespace, _, binding) in parsed(&snapshots[1]).into_iter().chain(parsed(&snapshots[3])) {
        let name = binding["roleRef"]["name"].as_str().unwrap_or_default().to_owned();
        let role = match binding["roleRef"]["kind"].as_str() {
            Some("Role") => roles.get(&(namespace.clone(), name)),
            _ => cluster_roles.get(&name),
        };
        let Some(role) = role else { continue };
        for s in binding["subjects"].as_array().into_iter().flatten() {
            let name = s["name"].as_str().unwrap_or_default();
            let subject = match s["kind"].as_str() {
                Some("User") => format!("u:{name}"),
                Some("Group") => format!("g:{name}"),
                _ => {
                    let ns = s["namespace"].as_str().unwrap_or(&namespace);
                    format!("u:system:serviceaccount:{ns}:{name}")
                }
            };
            grants.entry(subject).or_default().push((namespace.clone(), role.clone()));
        }
    }
    Compiled { snapshots, grants }
}
