//! Protobuf field numbers, lifted from crates.io `k8s-pb` (Apache-2.0), whose types are generated
//! from upstream's `.proto` files. It lags the newest minors: fields that it does not have get no
//! number, and clients that send them must send JSON.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Where field numbers come from.
pub(crate) const TAGS: &str = "k8s-pb 0.9.0";

/// Fields of a message in order: name without underscores, number, message type if it is one.
type Message = Vec<(String, u32, Option<String>)>;

/// Field numbers of all messages, by the short names of definitions.
pub(crate) struct Tags(BTreeMap<String, Message>);

impl Tags {
    /// Fetches the crate's source and reads it.
    pub(crate) fn fetch(root: &Path) -> Result<Self> {
        let source = source(root)?.join("src");
        let mut all = BTreeMap::new();
        for (dir, prefix) in [
            ("api", ""),
            ("apimachinery/pkg/apis", ""),
            ("apimachinery/pkg/runtime", "runtime"),
            ("apiextensions_apiserver/pkg/apis", ""),
            ("kube_aggregator/pkg/apis", ""),
        ] {
            read_dir(&source.join(dir), prefix, &mut all)?;
        }
        Ok(Self(all))
    }

    /// Path of numbers for each JSON property of a definition. Embedded structs have no property
    /// of their own: their fields are reached through the number of the struct.
    pub(crate) fn of(
        &self,
        definition: &str,
        properties: &serde_json::Map<String, Value>,
    ) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        self.collect(definition, properties, "", &mut found);
        found
    }

    fn collect(
        &self,
        definition: &str,
        properties: &serde_json::Map<String, Value>,
        prefix: &str,
        found: &mut BTreeMap<String, String>,
    ) {
        let module = definition.rsplit_once('.').map_or("", |(m, _)| m);
        for (name, tag, message) in self.0.get(&definition.to_lowercase()).into_iter().flatten() {
            let property = properties.keys().find(|p| p.to_lowercase() == *name);
            match (property, message) {
                (Some(p), _) => {
                    found.entry(p.clone()).or_insert_with(|| format!("{prefix}{tag}"));
                }
                (None, Some(m)) if prefix.len() < 8 => {
                    self.collect(
                        &format!("{module}.{m}"),
                        properties,
                        &format!("{prefix}{tag}."),
                        found,
                    );
                }
                _ => {}
            }
        }
    }
}

fn source(root: &Path) -> Result<PathBuf> {
    let dir = root.join("target/schemas/k8s-pb");
    std::fs::create_dir_all(dir.join("src"))?;
    let (name, version) = TAGS.split_once(' ').context("TAGS names a crate and a version")?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n[dependencies]\n{name} = \"={version}\"\n"
    );
    std::fs::write(dir.join("Cargo.toml"), manifest)?;
    std::fs::write(dir.join("src/lib.rs"), "")?;
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1"])
        .current_dir(&dir)
        .output()?;
    let v: Value = serde_json::from_slice(&output.stdout).context("cargo metadata failed")?;
    let packages = v["packages"].as_array().context("no packages")?;
    let found = packages.iter().find(|p| p["name"] == name).context("the crate was not fetched")?;
    let manifest = found["manifest_path"].as_str().context("no path")?;
    Ok(Path::new(manifest).parent().context("no parent")?.to_owned())
}

fn read_dir(dir: &Path, module: &str, all: &mut BTreeMap<String, Message>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let inner = if module.is_empty() { name } else { format!("{module}.{name}") };
            read_dir(&path, &inner, all)?;
        } else if name == "mod.rs" {
            read_file(&std::fs::read_to_string(&path)?, module, all);
        }
    }
    Ok(())
}

fn read_file(text: &str, module: &str, all: &mut BTreeMap<String, Message>) {
    let (mut current, mut tag, mut is_message) = (String::new(), None, false);
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("pub struct ") {
            let name = rest.trim_end_matches([' ', '{', '}']);
            // The crate spells HTTPGetAction as HttpGetAction.
            current = format!("{module}.{name}").to_lowercase();
            all.insert(current.clone(), vec![]);
        } else if line.starts_with("#[prost(") {
            tag = line.split("tag = \"").nth(1).and_then(|t| t.split('"').next()?.parse().ok());
            is_message = line.starts_with("#[prost(message") && !line.contains("repeated");
        } else if let (Some(t), Some(rest)) = (tag, line.strip_prefix("pub ")) {
            let (name, ty) = rest.split_once(':').unwrap_or((rest, ""));
            let name = name.trim_start_matches("r#").replace('_', "").to_lowercase();
            let message = is_message.then(|| {
                ty.rsplit("::").next().unwrap_or("").trim_end_matches(['>', ',', ' ']).to_owned()
            });
            let message = message.map(|m| m.rsplit('<').next().unwrap_or("").to_owned());
            if let Some(fields) = all.get_mut(&current) {
                fields.push((name, t, message));
            }
            tag = None;
        }
    }
}
