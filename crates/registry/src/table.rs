//! The kinds that a cluster serves, built in and custom, and how to find one.

use coracle_meta::groups;
use coracle_schema::Kind;
use coracle_store::Header;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// All served kinds. Replaced as a whole when a definition changes.
#[derive(Debug, Default)]
pub struct KindTable {
    /// Differs from every other table's: what was derived from it can be told apart.
    pub id: u64,
    by_resource: HashMap<(String, String, String), Arc<Kind>>,
    /// Versions of custom kinds that are stored but not served.
    unserved: HashMap<(String, String, String), Arc<Kind>>,
    /// Group, then version, then kinds by plural: the order of discovery.
    groups: BTreeMap<String, BTreeMap<String, Vec<Arc<Kind>>>>,
}

impl KindTable {
    /// Built-in kinds win over custom ones of the same name.
    pub fn new(built_in: &[Arc<Kind>], custom: Vec<Arc<Kind>>) -> Self {
        let (id, _) = uuid::Uuid::new_v4().as_u64_pair();
        let mut table = Self { id, ..Self::default() };
        for kind in built_in.iter().cloned().chain(custom) {
            let key = (kind.group.clone(), kind.version.clone(), kind.plural.clone());
            if table.by_resource.contains_key(&key) {
                continue;
            }
            if kind.definition.as_ref().is_some_and(|d| !d.served) {
                table.unserved.insert(key, kind);
                continue;
            }
            let versions = table.groups.entry(kind.group.clone()).or_default();
            versions.entry(kind.version.clone()).or_default().push(kind.clone());
            table.by_resource.insert(key, kind);
        }
        for kinds in table.groups.values_mut().flat_map(BTreeMap::values_mut) {
            kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
        }
        table
    }

    /// The kind at a path's group, version and plural.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        self.by_resource.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// The kind at a group, version and plural, whether requests for it are answered or not.
    pub fn known(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Kind>> {
        let key = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.by_resource.get(&key).or_else(|| self.unserved.get(&key))
    }

    /// Groups with their versions, the most preferred of each first.
    pub fn groups(&self) -> impl Iterator<Item = (&str, Vec<(&str, &[Arc<Kind>])>)> {
        let mut all: Vec<_> = self.groups.iter().collect();
        // Stable: groups of one priority stay in the order of their names.
        all.sort_by_key(|(group, _)| std::cmp::Reverse(groups::priority(group)));
        all.into_iter().map(|(group, versions)| {
            let mut list: Vec<_> =
                versions.iter().map(|(v, k)| (v.as_str(), k.as_slice())).collect();
            list.sort_by_key(|(v, _)| std::cmp::Reverse(version_rank(v)));
            (group.as_str(), list)
        })
    }

    /// Whether a group has built-in kinds.
    pub fn is_built_in(&self, group: &str) -> bool {
        let kinds = self.groups.get(group).into_iter().flat_map(BTreeMap::values).flatten();
        kinds.into_iter().any(|k| !k.custom)
    }

    /// The kinds of a group and version.
    pub fn of(&self, group: &str, version: &str) -> Option<&[Arc<Kind>]> {
        Some(self.groups.get(group)?.get(version)?)
    }

    /// Every stored kind once, at its preferred version.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<Kind>> {
        self.groups()
            .flat_map(|(_, versions)| versions)
            .flat_map(|(_, kinds)| kinds)
            .filter(|k| k.stored())
    }
}

/// Orders versions as upstream does: stable before beta before alpha, then by number.
fn version_rank(v: &str) -> (u8, u32, u32) {
    let rest = v.strip_prefix('v').unwrap_or("");
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>();
    let major = digits(rest);
    let Ok(major_number) = major.parse::<u32>() else { return (0, 0, 0) };
    let tail = &rest[major.len()..];
    let minor = |p: &str| tail.strip_prefix(p).and_then(|t| t.parse().ok()).unwrap_or(0);
    match tail {
        "" => (3, major_number, 0),
        t if t.starts_with("beta") => (2, major_number, minor("beta")),
        t if t.starts_with("alpha") => (1, major_number, minor("alpha")),
        _ => (0, 0, 0),
    }
}

/// Where a kind's objects are stored: all versions of a resource together, and both groups of
/// events together.
pub fn storage_resource(kind: &Kind) -> Arc<str> {
    match (kind.group.as_str(), kind.plural.as_str()) {
        ("events.k8s.io", "events") => "/events".into(),
        (group, plural) => format!("{group}/{plural}").into(),
    }
}

/// What selectors look at.
pub fn header(kind: &Kind, object: &Value) -> Header {
    let labels = object["metadata"]["labels"].as_object();
    let pair =
        |(k, v): (&String, &Value)| (k.as_str().into(), v.as_str().unwrap_or_default().into());
    let field = |path: &String| (path.as_str().into(), field_text(object, path).into());
    Header {
        labels: labels.into_iter().flatten().map(pair).collect(),
        fields: kind.selectable_fields.iter().map(field).collect(),
    }
}

/// A selectable field as text. Absent booleans compare as `false`, absent numbers as `0`.
fn field_text(object: &Value, path: &str) -> String {
    let path = match path {
        "status.successful" => "status.succeeded",
        "status.podIPs" => "status.podIP",
        p => p,
    };
    if path == "source" {
        let component = object["source"]["component"]
            .as_str()
            .or(object["deprecatedSource"]["component"].as_str());
        return component.or(object["reportingComponent"].as_str()).unwrap_or_default().into();
    }
    match coracle_meta::json::get(object, path) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None => match path {
            "spec.unschedulable" | "spec.hostNetwork" => "false".into(),
            "status.succeeded" | "status.replicas" => "0".into(),
            _ => String::new(),
        },
        Some(v) => v.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_order_as_upstream() {
        let mut v = vec!["v1alpha1", "v1", "v2beta1", "v2", "v1beta2", "foo", "v10"];
        v.sort_by_key(|v| std::cmp::Reverse(super::version_rank(v)));
        assert_eq!(v, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo"]);
    }
}
