//! Definitions: the structure that both built-in kinds and custom resources have.

use regex::Regex;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// Index of a definition in its [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DefId(pub u32);

/// All definitions that a set of kinds needs. Definitions may refer to each other in cycles.
#[derive(Debug, Default)]
pub struct Arena {
    pub(crate) defs: Vec<Def>,
    pub(crate) by_name: BTreeMap<String, DefId>,
    /// Whether any place has rules in CEL.
    pub(crate) has_rules: bool,
}

impl Arena {
    /// The definition with an id of this arena.
    pub fn def(&self, id: DefId) -> &Def {
        &self.defs[id.0 as usize]
    }

    /// Whether any place has rules in CEL.
    pub fn has_rules(&self) -> bool {
        self.has_rules
    }

    /// The definition with a name such as `core.v1.PodSpec`.
    pub fn find(&self, name: &str) -> Option<DefId> {
        self.by_name.get(name).copied()
    }

    /// The name of a definition, if it has one.
    pub fn name(&self, id: DefId) -> Option<&str> {
        self.named().find(|(_, other)| *other == id).map(|(name, _)| name)
    }

    /// Named definitions, in order of their names.
    pub fn named(&self) -> impl Iterator<Item = (&str, DefId)> {
        self.by_name.iter().map(|(n, id)| (n.as_str(), *id))
    }

    pub(crate) fn add(&mut self, name: &str, def: Def) -> DefId {
        let id = DefId(u32::try_from(self.defs.len()).unwrap_or(u32::MAX));
        self.defs.push(def);
        if !name.is_empty() {
            self.by_name.insert(name.into(), id);
        }
        id
    }

    /// The field that a map key names below a type, if the type is an object with such a field.
    pub fn field<'a>(&'a self, ty: &'a Type, name: &str) -> Option<&'a Slot> {
        match ty {
            Type::Object(id) => {
                let def = self.def(*id);
                def.fields.get(name).or(def.additional.as_deref())
            }
            Type::Map(value) => Some(value),
            _ => None,
        }
    }
}

/// An object with known fields.
#[derive(Debug, Default)]
pub struct Def {
    /// Known fields.
    pub fields: BTreeMap<Box<str>, Slot>,
    /// Values of fields beside the known ones, if any are allowed.
    pub additional: Option<Box<Slot>>,
    /// Owned and replaced as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
    /// Unknown fields are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// A whole object with `apiVersion`, `kind` and `metadata` (`x-kubernetes-embedded-resource`).
    pub embedded: bool,
    /// What absent fields become, in this order.
    pub defaults: Vec<crate::defaults::Rule>,
}

/// What a value may be.
#[derive(Clone, Debug)]
pub enum Type {
    /// Text.
    String,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Any number.
    Number,
    /// True or false.
    Bool,
    /// Base64 text.
    Bytes,
    /// RFC 3339 time.
    Time,
    /// RFC 3339 time with microseconds.
    MicroTime,
    /// `resource.Quantity`: kept in canonical form.
    Quantity,
    /// Integer or text.
    IntOrString,
    /// Anything, kept as it is.
    Any,
    /// List of values.
    List(Box<Slot>),
    /// Object with free keys.
    Map(Box<Slot>),
    /// Object with known fields.
    Object(DefId),
}

/// How server-side apply and uniqueness treat a list (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// Unique scalars.
    Set,
    /// Items identified by these keys.
    Map(Vec<Box<str>>),
}

/// How strategic merge patch treats a field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists merge: by the key for objects, as a set for scalars.
    pub merge: bool,
    /// Key of merged objects.
    pub merge_key: Option<Box<str>>,
    /// Keys that a patch does not name go away.
    pub retain_keys: bool,
}

/// A place for a value: its type, and what else must hold there.
#[derive(Clone, Debug)]
pub struct Slot {
    /// What the value may be.
    pub ty: Type,
    /// Whether the field must be present.
    pub required: bool,
    /// Whether `null` is a value of its own. Elsewhere null means absent.
    pub nullable: bool,
    /// How lists behave.
    pub list: ListType,
    /// A map or object that is owned and replaced as a whole (`x-kubernetes-map-type: atomic`),
    /// besides those whose definition says so.
    pub atomic: bool,
    /// How strategic merge patch behaves.
    pub patch: PatchStrategy,
    /// The only allowed values, if not empty.
    pub allowed: Vec<Value>,
    /// Further limits of custom resources.
    pub limits: Option<Box<Limits>>,
    /// The only JSON type, for validations inside junctors.
    pub json_type: Option<Box<str>>,
    /// What an absent item of a list or value of a map becomes.
    pub default: Option<Box<Value>>,
    /// Rules in CEL of custom resources.
    pub rules: Option<Arc<crate::crd::rules::Rules>>,
    /// Protobuf field number; several for the fields of embedded structs, outermost first.
    pub tag: Box<[u32]>,
    /// Explanation for `kubectl explain`.
    pub description: Box<str>,
}

impl Slot {
    /// An optional place for a type without further conditions.
    pub fn of(ty: Type) -> Self {
        Self {
            ty,
            required: false,
            nullable: false,
            list: ListType::Atomic,
            atomic: false,
            patch: PatchStrategy::default(),
            allowed: vec![],
            limits: None,
            json_type: None,
            default: None,
            rules: None,
            tag: Box::default(),
            description: "".into(),
        }
    }
}

/// Value validations of OpenAPI v3.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Smallest number.
    pub minimum: Option<f64>,
    /// Whether the smallest number itself is out.
    pub exclusive_minimum: bool,
    /// Largest number.
    pub maximum: Option<f64>,
    /// Whether the largest number itself is out.
    pub exclusive_maximum: bool,
    /// The number must be a multiple of this.
    pub multiple_of: Option<f64>,
    /// Fewest characters.
    pub min_length: Option<u64>,
    /// Most characters.
    pub max_length: Option<u64>,
    /// Fewest items.
    pub min_items: Option<u64>,
    /// Most items.
    pub max_items: Option<u64>,
    /// Items must differ.
    pub unique_items: bool,
    /// Fewest keys.
    pub min_properties: Option<u64>,
    /// Most keys.
    pub max_properties: Option<u64>,
    /// Regular expression that the text must contain a match of.
    pub pattern: Option<Regex>,
    /// Format name, such as `date-time`.
    pub format: Option<Box<str>>,
    /// Nested value validations; structure lives outside of them.
    pub all_of: Vec<Slot>,
    /// At least one must hold.
    pub any_of: Vec<Slot>,
    /// Exactly one must hold.
    pub one_of: Vec<Slot>,
    /// Must not hold.
    pub not: Option<Slot>,
    /// Only the presence of fields is meant (nested validations of objects).
    pub required_fields: Vec<Box<str>>,
    /// Validations of fields (nested validations of objects).
    pub properties: BTreeMap<Box<str>, Slot>,
}
