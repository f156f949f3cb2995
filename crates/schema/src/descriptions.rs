//! Sentences for `kubectl explain` about built-in kinds, from `pack/descriptions.txt`. They are
//! looked up when an OpenAPI document is rendered and take no room in the definitions.

use std::{collections::HashMap, sync::OnceLock};

const TEXT: &str = include_str!("../pack/descriptions.txt");

/// Sentences by definition and field; the field is empty for the definition itself.
fn all() -> &'static HashMap<(&'static str, &'static str), &'static str> {
    static ALL: OnceLock<HashMap<(&'static str, &'static str), &'static str>> = OnceLock::new();
    ALL.get_or_init(|| {
        let (mut map, mut def) = (HashMap::new(), "");
        for line in TEXT.lines().filter(|l| !l.starts_with('#')) {
            let field = line.strip_prefix("  ");
            let (name, sentence) = field.unwrap_or(line).split_once(' ').unwrap_or((line, ""));
            if field.is_none() {
                def = name;
            }
            let at = if field.is_some() { name } else { "" };
            if !sentence.is_empty() {
                map.insert((def, at), sentence);
            }
        }
        map
    })
}

/// What a definition is, by its short name (`apps.v1.Deployment`).
pub fn of_def(def: &str) -> Option<&'static str> {
    all().get(&(def, "")).copied()
}

/// What a field of a definition is. `is_kind` for definitions of whole objects.
pub fn of_field(def: &str, field: &str, is_kind: bool) -> Option<&'static str> {
    let own = all().get(&(def, field)).copied();
    own.or_else(|| is_kind.then(|| all().get(&("*", field)).copied()).flatten())
}

#[cfg(test)]
mod tests {
    use crate::{minor::Minor, pack, types::Type};

    #[test]
    fn names_are_the_packs_and_every_kind_is_described() {
        let arena = &pack::of(Minor::LATEST).arena;
        for (def, field) in super::all().keys().filter(|(def, _)| *def != "*") {
            let id = arena.find(def).unwrap_or_else(|| panic!("{def} is not in the pack"));
            assert!(
                field.is_empty() || arena.def(id).fields.contains_key(*field),
                "{def} has no {field}"
            );
        }
        for kind in &pack::of(Minor::LATEST).kinds {
            let Type::Object(id) = kind.root().ty else { continue };
            let name = arena.named().find(|(_, other)| *other == id).unwrap().0;
            assert!(super::of_def(name).is_some(), "{name} has no description");
        }
    }
}
