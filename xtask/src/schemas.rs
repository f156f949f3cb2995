//! Distils the schema pack: which kinds, fields and verbs each Kubernetes minor has.
//!
//! Structure comes from PyPI `kubernetes-validate` (Apache-2.0), plurals, scopes, verbs and
//! subresources from PyPI `lightkube-models` (MIT), protobuf field numbers from crates.io `k8s-pb`
//! (Apache-2.0). Only facts are taken, no prose. What is served
//! is what upstream serves by default: the stable versions.

use crate::tags::{TAGS, Tags};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Where structure comes from: one release holds all minors.
const STRUCTURE: &str = "kubernetes-validate==1.37.0";
/// Where resources come from: one release a minor.
const RESOURCES: [(u32, &str); 4] = [
    (34, "lightkube-models==1.34.0.8"),
    (35, "lightkube-models==1.35.0.8"),
    (36, "lightkube-models==1.36.3.8"),
    (37, "lightkube-models==1.37.0.8"),
];
const PACK: &str = "crates/schema/pack/kubernetes.txt";

/// Writes the pack anew.
pub(crate) fn generate(root: &Path) -> Result<()> {
    let text = distil(root)?;
    std::fs::create_dir_all(root.join("crates/schema/pack"))?;
    std::fs::write(root.join(PACK), &text)?;
    println!("{PACK}: {} lines, {} KiB", text.lines().count(), text.len() / 1024);
    Ok(())
}

/// Fails when the pack in the repository is not what its sources give.
pub(crate) fn check(root: &Path) -> Result<()> {
    let (have, want) = (std::fs::read_to_string(root.join(PACK))?, distil(root)?);
    if have != want {
        let line = have.lines().zip(want.lines()).position(|(a, b)| a != b).unwrap_or(0) + 1;
        bail!("{PACK}:{line} differs from its sources; run `cargo xtask schemas`");
    }
    println!("{PACK} is what its sources give");
    Ok(())
}

fn distil(root: &Path) -> Result<String> {
    let structure = wheel(root, STRUCTURE)?;
    let tags = Tags::fetch(root)?;
    let mut resources: BTreeMap<Resource, BTreeSet<u32>> = BTreeMap::new();
    let mut definitions: BTreeMap<String, BTreeMap<String, BTreeSet<u32>>> = BTreeMap::new();
    for (minor, package) in RESOURCES {
        let listed = read_resources(&wheel(root, package)?.join("lightkube/resources"))?;
        let file = structure
            .join(format!("kubernetes_validate/kubernetes-json-schema/v1.{minor}.0-local"))
            .join("_definitions.json");
        let all: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let all = all["$defs"].as_object().context("no $defs")?;
        let mut wanted: Vec<String> = vec!["meta.v1.DeleteOptions".into(), "meta.v1.Status".into()];
        let by_gvk = kinds(all);
        for r in listed {
            let key = (r.group.clone(), r.version.clone(), r.kind.clone());
            let Some(def) = by_gvk.get(&key) else { bail!("{key:?} has no definition") };
            wanted.push(short(def));
            wanted.extend(r.subs.iter().filter_map(|s| {
                by_gvk.get(&(s.group.clone(), s.version.clone(), s.kind.clone())).map(|d| short(d))
            }));
            resources.entry(Resource { def: short(def), ..r }).or_default().insert(minor);
        }
        let by_short: BTreeMap<String, &Value> = all.iter().map(|(k, v)| (short(k), v)).collect();
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let def = by_short.get(&name).with_context(|| format!("no definition {name}"))?;
            let lines = definitions.entry(name.clone()).or_default();
            for line in fields(&name, def, &tags, &mut wanted) {
                lines.entry(line).or_default().insert(minor);
            }
        }
    }
    render(&resources, &definitions)
}

fn render(
    resources: &BTreeMap<Resource, BTreeSet<u32>>,
    definitions: &BTreeMap<String, BTreeMap<String, BTreeSet<u32>>>,
) -> Result<String> {
    let mut out = String::new();
    writeln!(
        out,
        "# Made by `cargo xtask schemas`; `cargo xtask schemas --check` proves it. Do not edit."
    )?;
    writeln!(out, "# Structure: PyPI {STRUCTURE}, Apache-2.0.")?;
    for (_, p) in RESOURCES {
        writeln!(out, "# Resources: PyPI {p}, MIT.")?;
    }
    writeln!(out, "# Field numbers (#): crates.io {TAGS}, Apache-2.0.")?;
    writeln!(
        out,
        "# @a-b: only in minors 1.a to 1.b. !: required. The reader is crates/schema/src/pack.rs."
    )?;
    for (r, minors) in resources {
        let scope = if r.namespaced { "namespaced" } else { "cluster" };
        let gv = if r.group.is_empty() {
            r.version.clone()
        } else {
            format!("{}/{}", r.group, r.version)
        };
        let verbs = r.verbs.join(",");
        writeln!(
            out,
            "resource {gv} {} {} {scope} {} {verbs}{}",
            r.kind,
            r.plural,
            r.def,
            at(minors)
        )?;
        for s in &r.subs {
            let gv = if s.group.is_empty() {
                s.version.clone()
            } else {
                format!("{}/{}", s.group, s.version)
            };
            writeln!(out, "  sub {} {gv} {} {}", s.name, s.kind, s.verbs.join(","))?;
        }
    }
    for (name, lines) in definitions {
        writeln!(out, "def {name}")?;
        for (line, minors) in lines {
            writeln!(out, "  {line}{}", at(minors))?;
        }
    }
    Ok(out)
}

fn at(minors: &BTreeSet<u32>) -> String {
    match (minors.first(), minors.last()) {
        (Some(34), Some(37)) => String::new(),
        (Some(a), Some(b)) => format!(" @{a}-{b}"),
        _ => String::new(),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Resource {
    group: String,
    version: String,
    kind: String,
    plural: String,
    namespaced: bool,
    def: String,
    verbs: Vec<String>,
    subs: Vec<Sub>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sub {
    name: String,
    group: String,
    version: String,
    kind: String,
    verbs: Vec<String>,
}

/// Downloads a wheel into target/schemas once and unpacks it.
fn wheel(root: &Path, package: &str) -> Result<PathBuf> {
    let dir = root.join("target/schemas").join(package.replace("==", "-"));
    if dir.join("ok").exists() {
        return Ok(dir);
    }
    std::fs::create_dir_all(&dir)?;
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--dest"];
    crate::run(Command::new("python3").args(pip).arg(&dir).arg(package))?;
    let file = std::fs::read_dir(&dir)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .context("pip downloaded no wheel")?;
    crate::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&file).arg(&dir))?;
    std::fs::write(dir.join("ok"), "")?;
    Ok(dir)
}

fn stable(version: &str) -> bool {
    !version.contains("alpha") && !version.contains("beta")
}

fn quoted(line: &str) -> Vec<String> {
    line.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Reads the class declarations of lightkube's resource modules.
fn read_resources(dir: &Path) -> Result<Vec<Resource>> {
    let mut resources: BTreeMap<(String, String, String), Resource> = BTreeMap::new();
    let mut subs: Vec<((String, String, String), Sub)> = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(dir)?.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "py")) {
        let text = std::fs::read_to_string(file)?;
        for class in text.split("\nclass ").skip(1) {
            let field = |name: &str| {
                class
                    .lines()
                    .find(|l| l.trim_start().starts_with(name))
                    .map(quoted)
                    .unwrap_or_default()
            };
            let (resource, parent) = (field("resource="), field("parent="));
            let [group, version, kind] = &resource[..] else { continue };
            let plural = field("plural=").first().cloned().unwrap_or_default();
            let verbs = verbs(&field("verbs="));
            let gvk = |v: &[String]| (v[0].clone(), v[1].clone(), v[2].clone());
            if parent.len() == 3 {
                let name = field("action=").first().cloned().unwrap_or_default();
                let (group, version, kind) = gvk(&resource);
                subs.push((gvk(&parent), Sub { name, group, version, kind, verbs }));
            } else if stable(version) {
                let namespaced = class.contains("(res.Namespaced");
                let (group, version, kind) = (group.clone(), version.clone(), kind.clone());
                let def = String::new();
                let r =
                    Resource { group, version, kind, plural, namespaced, def, verbs, subs: vec![] };
                resources.insert(gvk(&resource), r);
            }
        }
    }
    for (parent, sub) in subs {
        if let Some(r) = resources.get_mut(&parent) {
            r.subs.push(sub);
            r.subs.sort();
        }
    }
    Ok(resources.into_values().collect())
}

fn verbs(python: &[String]) -> Vec<String> {
    let mut verbs: Vec<String> = python
        .iter()
        .filter(|v| !v.starts_with("global_"))
        .map(|v| match v.as_str() {
            "post" => "create".into(),
            "put" => "update".into(),
            v => v.to_owned(),
        })
        .collect();
    verbs.sort();
    verbs
}

fn kinds(all: &serde_json::Map<String, Value>) -> BTreeMap<(String, String, String), String> {
    let mut map = BTreeMap::new();
    for (name, def) in all {
        let gvks = def["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
        for g in gvks {
            let text = |f: &str| g[f].as_str().unwrap_or_default().to_owned();
            map.insert((text("group"), text("version"), text("kind")), name.clone());
        }
    }
    map
}

fn short(name: &str) -> String {
    [
        ("io.k8s.apimachinery.pkg.apis.", ""),
        ("io.k8s.apiextensions-apiserver.pkg.apis.", ""),
        ("io.k8s.kube-aggregator.pkg.apis.", ""),
        ("io.k8s.apimachinery.pkg.", ""),
        ("io.k8s.api.", ""),
    ]
    .iter()
    .find_map(|(prefix, with)| name.strip_prefix(prefix).map(|rest| format!("{with}{rest}")))
    .unwrap_or_else(|| name.to_owned())
}

fn reference(name: &str) -> Result<&'static str, String> {
    let short = short(name);
    Ok(match short.as_str() {
        "api.resource.Quantity" => "quantity",
        "util.intstr.IntOrString" => "int-or-string",
        "meta.v1.Time" => "time",
        "meta.v1.MicroTime" => "microtime",
        "runtime.RawExtension" | "meta.v1.FieldsV1" | "meta.v1.Patch" => "any",
        s if s.starts_with("apiextensions.v1.JSON") && s != "apiextensions.v1.JSONSchemaProps" => {
            "any"
        }
        _ => return Err(short),
    })
}

/// The lines of a definition: one a field, and `.map atomic` for an atomic object.
fn fields(own: &str, def: &Value, tags: &Tags, wanted: &mut Vec<String>) -> Vec<String> {
    let mut lines = Vec::new();
    let required: Vec<&str> =
        def["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if def["x-kubernetes-map-type"] == "atomic" {
        lines.push(".atomic".into());
    }
    let properties = def["properties"].as_object().cloned().unwrap_or_default();
    let numbers = tags.of(own, &properties);
    for (name, p) in &properties {
        let mark = if required.contains(&name.as_str()) { "!" } else { "" };
        let mut line = format!("{name}{mark} {}", type_text(p, wanted));
        if let Some(number) = numbers.get(name) {
            line += &format!(" #{number}");
        }
        if let Some(kind) = p["x-kubernetes-list-type"].as_str() {
            let keys: Vec<&str> = p["x-kubernetes-list-map-keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            line += &format!(" list={kind}");
            if !keys.is_empty() {
                line += &format!(":{}", keys.join(","));
            }
        }
        if let Some(kind) = p["x-kubernetes-map-type"].as_str() {
            line += &format!(" map={kind}");
        }
        if let Some(strategy) = p["x-kubernetes-patch-strategy"].as_str() {
            line += &format!(" patch={strategy}");
            if let Some(key) = p["x-kubernetes-patch-merge-key"].as_str() {
                line += &format!(":{key}");
            }
        }
        if name != "apiVersion" && name != "kind" {
            if let Some(values) = p["enum"].as_array() {
                let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
                line += &format!(" enum={}", values.join("|"));
            }
        }
        lines.push(line);
    }
    lines
}

fn type_text(p: &Value, wanted: &mut Vec<String>) -> String {
    if let Some(r) = p["$ref"].as_str() {
        return match reference(r.trim_start_matches("#/$defs/")) {
            Ok(primitive) => primitive.into(),
            Err(def) => {
                wanted.push(def.clone());
                format!("@{def}")
            }
        };
    }
    let kind = match &p["type"] {
        Value::Array(a) => a.iter().filter_map(Value::as_str).find(|t| *t != "null"),
        t => t.as_str(),
    };
    match (kind, p["format"].as_str()) {
        (Some("array"), _) => format!("[]{}", type_text(&p["items"], wanted)),
        (Some("object"), _) if p["additionalProperties"].is_object() => {
            format!("{{}}{}", type_text(&p["additionalProperties"], wanted))
        }
        (Some("object"), _) => "any".into(),
        (Some("integer"), Some("int64")) => "int64".into(),
        (Some("integer"), _) => "int32".into(),
        (Some("number"), _) => "number".into(),
        (Some("boolean"), _) => "bool".into(),
        (Some("string"), Some("byte")) => "bytes".into(),
        (Some("string"), Some("date-time")) => "time".into(),
        (Some("string"), _) => "string".into(),
        _ => "any".into(),
    }
}
