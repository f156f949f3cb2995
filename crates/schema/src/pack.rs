//! Reads the schema pack of built-in kinds and the tables of ours beside it.
//!
//! `pack/kubernetes.txt` is made by `cargo xtask schemas`; `pack/defaults.txt`, `pack/enums.txt`, `pack/tags.txt`,
//! `pack/kinds.txt` and `pack/columns.txt` hold what the sources of the pack lack, written by hand. A line's form is
//! described at the head of its file. A malformed line is a mistake of this crate, found by its
//! tests, so it panics.

use crate::{
    defaults,
    kinds::{Kind, Scope, Subresource},
    minor::Minor,
    types::{Arena, Def, ListType, PatchStrategy, Slot, Type},
};
use coracle_meta::{gvk::split_api_version, name::NameRule};
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock, OnceLock},
};

const STRUCTURE: &str = include_str!("../pack/kubernetes.txt");
const DEFAULTS: &str = include_str!("../pack/defaults.txt");
const ENUMS: &str = include_str!("../pack/enums.txt");
const TAGS: &str = include_str!("../pack/tags.txt");
const KINDS: &str = include_str!("../pack/kinds.txt");

/// Everything about the built-in kinds of a minor.
#[derive(Debug)]
pub struct Pack {
    /// The minor.
    pub minor: Minor,
    /// Definitions of all kinds.
    pub arena: Arc<Arena>,
    /// The metadata of whole objects, custom resources' too.
    pub object_meta: Slot,
    /// Kinds, in the order of group, version and plural.
    pub kinds: Vec<Arc<Kind>>,
    /// What is checked of objects beyond their structure.
    pub(crate) rules: crate::rules::Rules,
}

/// The pack of a minor, read once.
pub fn of(minor: Minor) -> &'static Pack {
    static PACKS: [OnceLock<Pack>; 4] = [const { OnceLock::new() }; 4];
    let index = Minor::ALL.iter().position(|m| *m == minor).unwrap_or(Minor::ALL.len() - 1);
    PACKS[index].get_or_init(|| read(minor))
}

fn read(minor: Minor) -> Pack {
    let blocks = blocks(STRUCTURE, minor);
    let mut arena = Arena::default();
    for block in &blocks {
        if let Some(name) = block.head.strip_prefix("def ") {
            arena.add(name, Def::default());
        }
    }
    for block in &blocks {
        let Some(id) = block.head.strip_prefix("def ").and_then(|n| arena.find(n)) else {
            continue;
        };
        let mut def = Def::default();
        for line in &block.lines {
            if *line == ".atomic" {
                def.atomic = true;
                continue;
            }
            let (name, slot) = field(&arena, line);
            def.fields.insert(name, slot);
        }
        arena.defs[id.0 as usize] = def;
    }
    defaults::attach(&mut arena, DEFAULTS);
    for line in ENUMS.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let Some(id) = arena.find(words[0]) else { continue };
        if let Some(slot) = words.get(1).and_then(|f| arena.defs[id.0 as usize].fields.get_mut(*f))
        {
            slot.allowed = words[2..].iter().map(|v| (*v).into()).collect();
        }
    }
    for line in TAGS.lines().filter(|l| !l.starts_with('#')) {
        let [def, field, number] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("tags.txt: bad line {line:?}");
        };
        let Some(id) = arena.find(def) else { continue };
        if let Some(slot) = arena.defs[id.0 as usize].fields.get_mut(field) {
            slot.tag = number.parse().into_iter().collect();
        }
    }
    let arena = Arc::new(arena);
    let traits = traits();
    let kinds = blocks
        .iter()
        .filter_map(|b| {
            Some(Arc::new(kind(&arena, b.head.strip_prefix("resource ")?, &b.lines, &traits)))
        })
        .collect();
    let meta = arena.find("meta.v1.ObjectMeta").map_or(Type::Any, Type::Object);
    let rules = crate::rules::Rules::new();
    Pack { minor, arena, object_meta: Slot::of(meta), kinds, rules }
}

struct Block<'t> {
    head: &'t str,
    lines: Vec<&'t str>,
}

/// Groups indented lines under their head, leaving out what the minor does not have.
fn blocks(text: &'static str, minor: Minor) -> Vec<Block<'static>> {
    let mut blocks: Vec<Block<'static>> = Vec::new();
    let mut skip = false;
    for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (content, here) = match line.rsplit_once(" @") {
            Some((content, range)) if range.starts_with(|c: char| c.is_ascii_digit()) => {
                let (a, b) = range.split_once('-').unwrap_or((range, range));
                let number = |s: &str| s.parse::<u32>().unwrap_or(0);
                (content, (number(a)..=number(b)).contains(&minor.number()))
            }
            _ => (line, true),
        };
        match content.strip_prefix("  ") {
            Some(inner) if here && !skip => {
                if let Some(b) = blocks.last_mut() {
                    b.lines.push(inner);
                }
            }
            Some(_) => {}
            None => {
                skip = !here;
                if here {
                    blocks.push(Block { head: content, lines: vec![] });
                }
            }
        }
    }
    // A definition whose every field belongs to other minors does not exist in this one.
    blocks
}

fn field(arena: &Arena, line: &str) -> (Box<str>, Slot) {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let required = name.ends_with('!');
    let mut slot = Slot::of(type_of(arena, words.next().unwrap_or("any")));
    slot.required = required;
    for word in words {
        if let Some(number) = word.strip_prefix('#') {
            slot.tag = number.split('.').filter_map(|n| n.parse().ok()).collect();
            continue;
        }
        match word.split_once('=') {
            Some(("list", "set")) => slot.list = ListType::Set,
            Some(("list", "atomic")) => slot.list = ListType::Atomic,
            Some(("list", keys)) => {
                let keys = keys.strip_prefix("map:").unwrap_or_default();
                slot.list = ListType::Map(keys.split(',').map(Into::into).collect());
            }
            Some(("patch", strategy)) => slot.patch = patch_strategy(strategy),
            Some(("enum", values)) => slot.allowed = values.split('|').map(Into::into).collect(),
            Some(("map", kind)) => slot.atomic = kind == "atomic",
            _ => panic!("schema pack: unknown attribute {word:?} in {line:?}"),
        }
    }
    (name.trim_end_matches('!').into(), slot)
}

fn patch_strategy(text: &str) -> PatchStrategy {
    let (strategies, key) = match text.split_once(':') {
        Some((s, k)) => (s, Some(k)),
        None => (text, None),
    };
    PatchStrategy {
        merge: strategies.split(',').any(|s| s == "merge"),
        retain_keys: strategies.split(',').any(|s| s == "retainKeys"),
        merge_key: key.map(Into::into),
    }
}

fn type_of(arena: &Arena, text: &str) -> Type {
    if let Some(item) = text.strip_prefix("[]") {
        return Type::List(Box::new(Slot::of(type_of(arena, item))));
    }
    if let Some(value) = text.strip_prefix("{}") {
        return Type::Map(Box::new(Slot::of(type_of(arena, value))));
    }
    if let Some(def) = text.strip_prefix('@') {
        let id = arena.find(def).unwrap_or_else(|| panic!("schema pack: no definition {def}"));
        return Type::Object(id);
    }
    match text {
        "string" => Type::String,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "number" => Type::Number,
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "time" => Type::Time,
        "microtime" => Type::MicroTime,
        "quantity" => Type::Quantity,
        "int-or-string" => Type::IntOrString,
        "any" => Type::Any,
        _ => panic!("schema pack: unknown type {text:?}"),
    }
}

/// What `kinds.txt` says of a `group/plural`.
#[derive(Default)]
struct Traits {
    short: Vec<String>,
    categories: Vec<String>,
    fields: Vec<String>,
    names: Option<NameRule>,
    ttl_seconds: Option<u32>,
    no_generation: bool,
    returns_deleted: bool,
    orphan_default: bool,
    streams: Vec<String>,
    deprecated: Option<&'static str>,
}

fn traits() -> BTreeMap<&'static str, Traits> {
    let mut all = BTreeMap::new();
    for line in KINDS.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let resource = words.next().unwrap_or_default();
        let mut t = Traits::default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let list = || value.split(',').map(str::to_owned).collect();
            match key {
                "short" => t.short = list(),
                "categories" => t.categories = list(),
                "fields" => t.fields = list(),
                "streams" => t.streams = list(),
                "ttl" => t.ttl_seconds = value.parse().ok(),
                "deprecated" => t.deprecated = Some(value),
                "no-generation" => t.no_generation = true,
                "returns-deleted" => t.returns_deleted = true,
                "orphan-default" => t.orphan_default = true,
                "names" => {
                    t.names = Some(match value {
                        "label" => NameRule::Label,
                        "label-1035" => NameRule::Label1035,
                        "path-segment" => NameRule::PathSegment,
                        _ => panic!("kinds.txt: unknown name rule in {line:?}"),
                    });
                }
                _ => panic!("kinds.txt: unknown word {word:?}"),
            }
        }
        all.insert(resource, t);
    }
    all
}

fn kind(arena: &Arc<Arena>, head: &str, lines: &[&str], traits: &BTreeMap<&str, Traits>) -> Kind {
    let [gv, kind, plural, scope, def, verbs] = head.split(' ').collect::<Vec<_>>()[..] else {
        panic!("schema pack: bad resource {head:?}");
    };
    let (group, version) = split_api_version(gv);
    let mut subresources: Vec<Subresource> = lines
        .iter()
        .filter_map(|l| match l.strip_prefix("sub ")?.split(' ').collect::<Vec<_>>()[..] {
            [name, gv, kind, verbs] => {
                let (group, version) = split_api_version(gv);
                Some(Subresource {
                    name: name.into(),
                    group: group.into(),
                    version: version.into(),
                    kind: kind.into(),
                    verbs: verbs.split(',').map(Into::into).collect(),
                })
            }
            _ => None,
        })
        .collect();
    let none = Traits::default();
    let key = format!("{}/{plural}", if group.is_empty() { "core" } else { group });
    let t = traits.get(key.as_str()).unwrap_or(&none);
    for name in &t.streams {
        subresources.push(Subresource {
            name: name.clone(),
            group: String::new(),
            version: String::new(),
            kind: format!("{kind}{}Options", title(name)),
            // Any request can be proxied; the others are upgrades of a GET or a POST.
            verbs: match name.as_str() {
                "proxy" => &["create", "delete", "get", "patch", "update"][..],
                _ => &["create", "get"],
            }
            .iter()
            .map(ToString::to_string)
            .collect(),
        });
    }
    let id = arena.find(def).unwrap_or_else(|| panic!("schema pack: no definition {def}"));
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        scope: if scope == "namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: verbs.split(',').map(Into::into).collect(),
        short_names: t.short.clone(),
        categories: t.categories.clone(),
        selectable_fields: t.fields.clone(),
        subresources,
        name_rule: t.names.unwrap_or(NameRule::Subdomain),
        ttl_seconds: t.ttl_seconds,
        generation: !t.no_generation,
        returns_deleted: t.returns_deleted,
        orphan_default: t.orphan_default,
        scale: None,
        columns: crate::columns::built_in(&key[..key.len() - plural.len() - 1], kind),
        structure: {
            let made = (arena.clone(), Slot::of(Type::Object(id)));
            LazyLock::new(Box::new(move || made))
        },
        custom: false,
        published: None,
        definition: None,
        warning: t.deprecated.map(|d| {
            format!("{version} {kind} is deprecated in {}", d.replace(';', "; ").replace(':', " "))
        }),
    }
}

fn title(s: &str) -> String {
    let mut c = s.chars();
    match s {
        "portforward" => "PortForward".into(),
        _ => {
            c.next().map(|f| f.to_uppercase().collect::<String>() + c.as_str()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_minor_reads() {
        let counts: Vec<usize> = Minor::ALL.iter().map(|m| of(*m).kinds.len()).collect();
        assert!(counts.windows(2).all(|w| w[0] <= w[1]), "{counts:?}");
        assert!(counts[0] > 60, "{counts:?}");
    }

    #[test]
    fn a_field_is_there_only_in_its_minors() {
        let has = |minor: usize, plural: &str| {
            of(Minor::ALL[minor]).kinds.iter().any(|k| k.plural == plural)
        };
        assert!(!has(0, "mutatingadmissionpolicies") && has(3, "mutatingadmissionpolicies"));
    }

    #[test]
    fn every_line_of_enums_txt_names_a_field() {
        let arena = &of(Minor::LATEST).arena;
        for line in ENUMS.lines().filter(|l| !l.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(
                arena.def(arena.find(words[0]).unwrap()).fields.contains_key(words[1]),
                "{line}"
            );
        }
    }

    #[test]
    fn every_line_of_kinds_txt_names_a_kind() {
        let pack = of(Minor::LATEST);
        for key in traits().keys() {
            let (group, plural) = key.split_once('/').unwrap();
            let group = if group == "core" { "" } else { group };
            assert!(pack.kinds.iter().any(|k| k.group == group && k.plural == plural), "{key}");
        }
    }
}
