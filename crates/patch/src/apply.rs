//! Server-side apply and the ownership of fields (KEP-555).
//!
//! Every write says who it is by; what it changed is that manager's from then on ([`update`]). An
//! apply states a configuration: it is merged into the object, what the same manager stated before
//! and does not any more goes away unless somebody else owns it, and what others own can only be
//! changed by force ([`apply`]).
//!
//! Sets are kept at the version that they were written at: [`Versions`] shows an object at any of
//! them. Pure functions; the time of a change is given.

pub mod field_set;
mod last_applied;
pub mod managed;
pub mod typed;

use crate::PatchError;
pub use field_set::FieldSet;
pub use last_applied::LAST_APPLIED;
pub use managed::{Managed, Manager, Operation, Owned};
use serde_json::Value;
use std::{collections::BTreeMap, sync::LazyLock};
pub use typed::{Comparison, Typed};

/// An object at a version, with its type.
pub type View<'a> = (Value, Typed<'a>);

/// How an object looks at other versions of its kind.
pub struct Versions<'a> {
    /// The version of the request.
    pub current: &'a str,
    /// Its type.
    pub typed: Typed<'a>,
    /// Converts an object of the current version; `None` for a version that is not served any more.
    pub convert: &'a dyn Fn(&Value, &str) -> Option<View<'a>>,
    /// Converts one of another version to the current one.
    pub convert_back: &'a dyn Fn(&Value, &str) -> Option<Value>,
}

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// Fields that this writer cannot set: what it says of them is not its own.
    pub reset: &'a FieldSet,
    /// Now, RFC 3339 in seconds.
    pub now: &'a str,
}

/// Fields of others that an apply would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Whose.
    pub manager: Manager,
    /// Which.
    pub fields: FieldSet,
}

/// Why an apply did not happen.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Others own what it would change.
    #[error("{}", message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration, or the object, is not of its kind's structure.
    #[error(transparent)]
    Malformed(#[from] PatchError),
}

/// One cause a field and manager, as (message, path).
pub fn causes(conflicts: &[Conflict]) -> Vec<(String, String)> {
    let cause = |c: &Conflict| {
        let message = format!("conflict with {}", c.manager);
        c.fields.paths().into_iter().map(move |p| (message.clone(), p)).collect::<Vec<_>>()
    };
    conflicts.iter().flat_map(cause).collect()
}

fn message(conflicts: &[Conflict]) -> String {
    let all: Vec<(String, String)> = conflicts
        .iter()
        .flat_map(|c| c.fields.paths().into_iter().map(|p| (c.manager.to_string(), p)))
        .collect();
    if let [(manager, path)] = all.as_slice() {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (manager, path) in &all {
        by_manager.entry(manager).or_default().push(path);
    }
    let mut lines = Vec::new();
    for (manager, paths) in by_manager {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(paths.iter().map(|p| format!("- {p}")));
    }
    format!("Apply failed with {} conflicts: {}", all.len(), lines.join("\n"))
}

/// Fields that nobody owns: the server's, and what identifies the object.
static UNOWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    FieldSet::of_fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.clusterName",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// Takes `managedFields` out of an object.
pub fn take_managed(v: &mut Value) -> Value {
    v["metadata"].as_object_mut().and_then(|m| m.remove("managedFields")).unwrap_or_default()
}

/// Who owns what after an update from `live` to `new`. Neither has `managedFields` in it.
///
/// # Errors
/// When an object is not of its kind's structure.
pub fn update(
    versions: &Versions<'_>,
    live: &Value,
    new: &Value,
    mut managed: Managed,
    writer: &Writer<'_>,
) -> Result<Managed, PatchError> {
    reconcile(versions, live, &mut managed);
    let (compared, _) = settle(versions, live, new, &mut managed, None, true)?;
    let taken = compared.added.union(&compared.modified).outside(writer.reset).difference(&UNOWNED);
    if !taken.is_empty() {
        let me =
            Manager::new(Operation::Update, writer.manager, versions.current, writer.subresource);
        let mine = managed.0.entry(me).or_default();
        mine.fields = std::mem::take(&mut mine.fields).union(&taken);
        mine.api_version = versions.current.to_owned();
        mine.time = Some(writer.now.to_owned());
    }
    managed.cap();
    Ok(managed)
}

/// Applies a configuration to `live`. Neither has `managedFields` in it. Returns the object and who
/// owns what; an apply that changes neither returns both as they were.
///
/// # Errors
/// Conflicts, unless forced; a configuration that is not of the kind's structure.
pub fn apply(
    versions: &Versions<'_>,
    live: &Value,
    config: &Value,
    managed: &Managed,
    writer: &Writer<'_>,
    force: bool,
) -> Result<(Value, Managed), ApplyError> {
    match versions.typed.repeated(config)?.as_slice() {
        [] => {}
        [one] => return Err(PatchError::Malformed(one.clone()).into()),
        many => {
            let all = format!("errors:\n  {}", many.join("\n  "));
            return Err(PatchError::Malformed(all).into());
        }
    }
    let result = match apply_once(versions, live, config, managed.clone(), writer, force) {
        Err(ApplyError::Conflicts(conflicts))
            if last_applied::excuses(versions, live, writer, &conflicts) =>
        {
            apply_once(versions, live, config, managed.clone(), writer, true)
        }
        other => other,
    };
    let (mut object, managed) = result?;
    last_applied::refresh(&mut object, config, writer);
    Ok((object, managed))
}

fn apply_once(
    versions: &Versions<'_>,
    live: &Value,
    config: &Value,
    mut managed: Managed,
    writer: &Writer<'_>,
    force: bool,
) -> Result<(Value, Managed), ApplyError> {
    let before = managed.clone();
    reconcile(versions, live, &mut managed);
    let me = Manager::new(Operation::Apply, writer.manager, versions.current, writer.subresource);
    let merged = versions.typed.merge(live, config)?;
    let stated = versions.typed.fields(config)?.outside(writer.reset);
    let last = managed.0.remove(&me);
    // Until the end with its name, so that metadata is not pruned away.
    let owned = Owned {
        fields: stated,
        api_version: versions.current.to_owned(),
        time: last.as_ref().and_then(|l| l.time.clone()),
    };
    managed.0.insert(me.clone(), owned);
    // What states at least what it stated last time takes nothing away: the usual apply.
    let grows = |last: &Owned| {
        last.api_version == versions.current
            && managed.0.get(&me).is_some_and(|new| last.fields.difference(&new.fields).is_empty())
    };
    let merged = match &last {
        Some(last) if grows(last) => merged,
        // Merged anew: what is stated empty may have gone with what was in it.
        Some(last) => versions.typed.merge(&prune(versions, merged, &managed, last)?, config)?,
        None => merged,
    };
    let (_, conflicts) = settle(versions, live, &merged, &mut managed, Some(&me), force)?;
    if !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    if let Some(mine) = managed.0.get_mut(&me) {
        mine.fields = mine.fields.difference(&UNOWNED);
    }
    managed.0.retain(|_, o| !o.fields.is_empty());
    let changed = merged != *live || managed != before;
    if let Some(mine) = managed.0.get_mut(&me).filter(|_| changed) {
        mine.time = Some(writer.now.to_owned());
    }
    managed.cap();
    Ok((merged, managed))
}

/// Takes what changed from `live` to `new` from everybody but `me`. Without force, what others own
/// and would lose is returned and nothing is taken.
fn settle(
    versions: &Versions<'_>,
    live: &Value,
    new: &Value,
    managed: &mut Managed,
    me: Option<&Manager>,
    force: bool,
) -> Result<(Comparison, Vec<Conflict>), PatchError> {
    let compared = versions.typed.compare(live, new)?;
    if managed.0.keys().all(|m| me == Some(m)) {
        return Ok((compared, vec![])); // Nobody else: most creates.
    }
    let mut at: BTreeMap<String, Option<Comparison>> = BTreeMap::new();
    at.insert(versions.current.to_owned(), Some(compared.clone()));
    let mut conflicts = Vec::new();
    for (manager, owned) in &mut managed.0 {
        if me == Some(manager) {
            continue;
        }
        if !at.contains_key(&owned.api_version) {
            let v = &owned.api_version;
            let there = match ((versions.convert)(live, v), (versions.convert)(new, v)) {
                (Some((a, typed)), Some((b, _))) => Some(typed.compare(&a, &b)?),
                _ => None,
            };
            at.insert(v.clone(), there);
        }
        let Some(Some(c)) = at.get(&owned.api_version) else {
            // A version that is gone takes its entries with it.
            owned.fields = FieldSet::default();
            continue;
        };
        let lost = owned.fields.intersection(&c.modified.clone().union(&c.added));
        if !lost.is_empty() && !force {
            conflicts.push(Conflict { manager: manager.clone(), fields: lost });
            continue;
        }
        owned.fields = owned.fields.difference(&lost).difference(&c.removed);
    }
    if conflicts.is_empty() {
        managed.0.retain(|m, o| me == Some(m) || !o.fields.is_empty());
    }
    Ok((compared, conflicts))
}

/// Removes what the manager stated last time and neither it nor anybody else states now.
fn prune(
    versions: &Versions<'_>,
    merged: Value,
    managed: &Managed,
    last: &Owned,
) -> Result<Value, PatchError> {
    let Some((there, typed)) = view(versions, &merged, &last.api_version) else {
        return Ok(merged);
    };
    let last_named = typed.with_named(&last.fields);
    let mut kept = typed.without(&there, &last_named)?.unwrap_or_default();
    // What anybody owns, at whatever version, comes back.
    let mut by_version: BTreeMap<&str, FieldSet> = BTreeMap::new();
    for owned in managed.0.values() {
        let all = by_version.entry(&owned.api_version).or_default();
        *all = std::mem::take(all).union(&owned.fields);
    }
    let mut current = last.api_version.as_str();
    // The pruned version first: a conversion may need what was pruned too much.
    let first = by_version.remove_entry(current);
    for (version, owned) in first.into_iter().chain(by_version) {
        let whole = view(versions, &merged, version);
        let part = back(versions, &kept, current).and_then(|v| view(versions, &v, version));
        let (Some((whole, typed)), Some((part, _))) = (whole, part) else { continue };
        let (all, left) = (typed.fields(&whole)?, typed.fields(&part)?);
        let stays = typed.with_named(&left).union(&typed.with_named(&owned));
        let gone = typed.with_named(&all).difference(&stays);
        kept = typed.without(&whole, &gone)?.unwrap_or_default();
        current = version;
    }
    // What nobody owns and the manager did not state last time stays too.
    let part = back(versions, &kept, current).and_then(|v| view(versions, &v, &last.api_version));
    let Some((part, typed)) = part else { return Ok(merged) };
    let left = typed.with_named(&typed.fields(&part)?);
    let gone = typed.with_named(&typed.fields(&there)?).difference(&left).intersection(&last_named);
    let pruned = typed.without(&there, &gone)?.unwrap_or_default();
    Ok(back(versions, &pruned, &last.api_version).unwrap_or(merged))
}

fn view<'a>(versions: &Versions<'a>, v: &Value, version: &str) -> Option<View<'a>> {
    if version == versions.current {
        return Some((v.clone(), versions.typed));
    }
    (versions.convert)(v, version)
}

fn back(versions: &Versions<'_>, v: &Value, version: &str) -> Option<Value> {
    if version == versions.current {
        return Some(v.clone());
    }
    (versions.convert_back)(v, version)
}

/// Brings all sets to what the schemas are now.
fn reconcile(versions: &Versions<'_>, live: &Value, managed: &mut Managed) {
    for owned in managed.0.values_mut() {
        if let Some((v, typed)) = view(versions, live, &owned.api_version) {
            owned.fields = typed.reconcile(&v, &owned.fields);
        }
    }
}

#[cfg(test)]
mod tests;
