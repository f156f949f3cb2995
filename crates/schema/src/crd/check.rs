//! Whether a CustomResourceDefinition may be stored: names, versions, conversion, subresources,
//! columns, selectable fields. Paths, words and order are upstream's.
//!
//! Upstream looks at a form of its own where what all versions share stands at the top; its paths
//! say so (`spec.validation.openAPIV3Schema`), and so do ours.

use super::{
    structural::{self, Legacy},
    text, texts, versions,
};
use coracle_meta::{name, status::FieldError};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The annotation that definitions of protected groups must have.
pub const APPROVED: &str = "api-approved.kubernetes.io";

/// Checks a definition about to be created, or updated from an old one.
pub fn check(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut c = Checker { crd, old, errors: vec![] };
    c.spec();
    if let Some(old) = old {
        c.fixed(old);
    }
    c.stored_versions();
    c.approval();
    if crd["spec"]["preserveUnknownFields"] == true
        && old.is_none_or(|o| o["spec"]["preserveUnknownFields"] != true)
    {
        c.errors.push(FieldError::invalid(
            "spec.preserveUnknownFields",
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ));
    }
    c.errors
}

struct Checker<'c> {
    crd: &'c Value,
    old: Option<&'c Value>,
    errors: Vec<FieldError>,
}

/// A part of versions: at the top when all share it.
fn shared<'c>(crd: &'c Value, field: &str) -> Option<&'c Value> {
    let all = versions(crd);
    let first = all.first()?;
    all.iter().all(|v| v[field] == first[field]).then(|| &first[field])
}

fn joined(errors: Vec<String>) -> String {
    errors.join(",")
}

impl Checker<'_> {
    fn invalid(&mut self, path: impl Into<String>, v: impl Into<Value>, why: impl Into<String>) {
        self.errors.push(FieldError::invalid(path, v, why));
    }

    fn spec(&mut self) {
        let spec = &self.crd["spec"];
        let group = text(spec, "group");
        if group.is_empty() {
            self.errors.push(FieldError::required("spec.group", ""));
        } else {
            let faults = name::check_subdomain(group);
            if !faults.is_empty() {
                self.invalid("spec.group", group, joined(faults));
            } else if !group.contains('.') {
                self.invalid("spec.group", group, "should be a domain with at least one dot");
            }
        }
        let wanted = format!("{}.{group}", text(&spec["names"], "plural"));
        let own = text(&self.crd["metadata"], "name");
        if own != wanted {
            let why = "must be spec.names.plural+\".\"+spec.group";
            self.errors.insert(0, FieldError::invalid("metadata.name", own, why));
        }
        match text(spec, "scope") {
            "" => self.errors.push(FieldError::required("spec.scope", "")),
            "Cluster" | "Namespaced" => {}
            other => self.errors.push(FieldError::not_supported(
                "spec.scope",
                other,
                &["Cluster", "Namespaced"],
            )),
        }
        let shared_schema = shared(self.crd, "schema");
        for (i, v) in versions(self.crd).iter().enumerate() {
            if !v["schema"]["openAPIV3Schema"].is_object() {
                let at = format!("spec.versions[{i}].schema.openAPIV3Schema");
                self.errors.push(FieldError::required(at, ""));
            }
        }
        for (i, v) in versions(self.crd).iter().enumerate() {
            let at = format!("spec.versions[{i}]");
            let faults = name::check_label_1035(text(v, "name"));
            if !faults.is_empty() {
                self.invalid(format!("{at}.name"), text(v, "name"), joined(faults));
            }
            self.deprecation(v, &at);
            if shared_schema.is_none() {
                self.schema(v, &format!("{at}.schema"));
            }
            if shared(self.crd, "subresources").is_none() {
                self.subresources(&v["subresources"], &format!("{at}.subresources"));
            }
            if shared(self.crd, "additionalPrinterColumns").is_none() {
                self.columns(&v["additionalPrinterColumns"], &at);
            }
            if shared(self.crd, "selectableFields").is_none() {
                self.selectable(&v["selectableFields"], v, &format!("{at}.selectableFields"));
            }
        }
        self.version_list();
        self.names(&spec["names"]);
        let first = versions(self.crd).first().cloned().unwrap_or_default();
        if shared_schema.is_some() {
            self.schema(&first, "spec.validation");
        }
        if let Some(s) = shared(self.crd, "subresources") {
            self.subresources(s, "spec.subresources");
        }
        if let Some(s) = shared(self.crd, "additionalPrinterColumns") {
            self.columns(s, "spec");
        }
        if let Some(s) = shared(self.crd, "selectableFields") {
            self.selectable(s, &first, "spec.selectableFields");
        }
        self.conversion();
    }

    fn deprecation(&mut self, v: &Value, at: &str) {
        let at = format!("{at}.deprecationWarning");
        let Some(warning) = v["deprecationWarning"].as_str() else { return };
        if v["deprecated"] != true {
            self.invalid(at, warning, "can only be set for deprecated versions");
            return;
        }
        if warning.len() > 256 {
            self.invalid(&at, warning, "must be <= 256 characters long");
        }
        if warning.is_empty() {
            self.invalid(&at, warning, "must not be an empty string");
        }
        if let Some((i, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
            let why = format!(
                "must only contain printable UTF-8 characters; non-printable character found at index {i}"
            );
            self.invalid(&at, warning, why);
        }
    }

    fn version_list(&mut self) {
        let list = self.crd["spec"]["versions"].clone();
        let all = versions(self.crd);
        let names: BTreeSet<&str> = all.iter().map(|v| text(v, "name")).collect();
        if names.len() < all.len() {
            self.invalid("spec.versions", list.clone(), "must contain unique version names");
        }
        if all.iter().filter(|v| v["storage"] == true).count() != 1 {
            let why = "must have exactly one version marked as storage version";
            self.invalid("spec.versions", list, why);
        }
    }

    fn names(&mut self, names: &Value) {
        for f in ["plural", "singular", "kind", "listKind"] {
            if text(names, f).is_empty() {
                self.errors.push(FieldError::required(format!("spec.names.{f}"), ""));
            }
        }
        let label = |c: &mut Self, at: String, v: &str| {
            let faults = name::check_label_1035(v);
            if !faults.is_empty() && !v.is_empty() {
                c.invalid(at, v, joined(faults));
            }
        };
        label(self, "spec.names.plural".into(), text(names, "plural"));
        label(self, "spec.names.singular".into(), text(names, "singular"));
        for f in ["kind", "listKind"] {
            let v = text(names, f);
            let faults = name::check_label_1035(&v.to_lowercase());
            if !v.is_empty() && !faults.is_empty() {
                let why =
                    format!("may have mixed case, but should otherwise match: {}", joined(faults));
                self.invalid(format!("spec.names.{f}"), v, why);
            }
        }
        for (i, s) in texts(&names["shortNames"]).iter().enumerate() {
            label(self, format!("spec.names.shortNames[{i}]"), s);
        }
        let list_kind = text(names, "listKind");
        if !list_kind.is_empty() && text(names, "kind") == list_kind {
            self.invalid("spec.names.listKind", list_kind, "kind and listKind may not be the same");
        }
        for (i, s) in texts(&names["categories"]).iter().enumerate() {
            label(self, format!("spec.names.categories[{i}]"), s);
        }
    }

    /// One schema, at `spec.validation` or in its version.
    fn schema(&mut self, version: &Value, at: &str) {
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            return;
        }
        let status = versions(self.crd).iter().any(|v| v["subresources"]["status"].is_object());
        let old = self.old.map(|o| Legacy {
            schemas: versions(o).iter().map(|v| v["schema"]["openAPIV3Schema"].clone()).collect(),
        });
        let at = format!("{at}.openAPIV3Schema");
        self.errors.extend(structural::check(schema, &at, status, old.as_ref()));
    }

    fn subresources(&mut self, s: &Value, at: &str) {
        let Some(scale) = s["scale"].as_object() else { return };
        let fields = [
            ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
            ("statusReplicasPath", &[".status."], "should be a json path under .status"),
            (
                "labelSelectorPath",
                &[".spec.", ".status."],
                "should be a json path under either .spec or .status",
            ),
        ];
        for (field, roots, why) in fields {
            let path = format!("{at}.scale.{field}");
            let given = scale.get(field).and_then(Value::as_str).unwrap_or_default();
            if given.is_empty() {
                if field != "labelSelectorPath" {
                    self.errors.push(FieldError::required(path, ""));
                }
                continue;
            }
            if !given.starts_with('.') {
                self.invalid(&path, given, "must be a simple json path starting with .");
            } else if !roots.iter().any(|r| given.starts_with(r)) {
                self.invalid(path, given, why);
            }
        }
    }

    fn columns(&mut self, columns: &Value, at: &str) {
        const TYPES: &str = "must be one of boolean,date,integer,number,string";
        const FORMATS: [&str; 8] =
            ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
        for (i, c) in columns.as_array().into_iter().flatten().enumerate() {
            let at = format!("{at}.additionalPrinterColumns[{i}]");
            if text(c, "name").is_empty() {
                self.errors.push(FieldError::required(format!("{at}.name"), ""));
            }
            match text(c, "type") {
                "" => self.errors.push(FieldError::required(format!("{at}.type"), TYPES)),
                "boolean" | "date" | "integer" | "number" | "string" => {}
                other => self.invalid(format!("{at}.type"), other, TYPES),
            }
            let format = text(c, "format");
            if !format.is_empty() && !FORMATS.contains(&format) {
                let why = format!("must be one of {}", FORMATS.join(","));
                self.invalid(format!("{at}.format"), format, why);
            }
            match text(c, "jsonPath") {
                "" => self.errors.push(FieldError::required(format!("{at}.JSONPath"), "")),
                p if !p.starts_with('.') => {
                    let why = "must be a simple json path starting with .";
                    self.invalid(format!("{at}.JSONPath"), p, why);
                }
                _ => {}
            }
        }
    }

    fn selectable(&mut self, fields: &Value, version: &Value, at: &str) {
        const MOST: usize = 8;
        let Some(fields) = fields.as_array().filter(|f| !f.is_empty()) else { return };
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            self.invalid(at, "", "may only be set when validations.schema is included");
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, f) in fields.iter().enumerate() {
            let (path, given) = (format!("{at}[{i}].jsonPath"), text(f, "jsonPath"));
            if given.is_empty() {
                self.errors.push(FieldError::required(path, ""));
                continue;
            }
            match selected(schema, given) {
                Err(why) => {
                    self.invalid(path, given, format!("is an invalid path: {why}"));
                    continue;
                }
                Ok((first, _)) if first == "metadata" => {
                    self.invalid(&path, given, "must not point to fields in metadata");
                }
                Ok((_, ty)) if !["string", "boolean", "integer"].contains(&ty.as_str()) => {
                    self.invalid(&path, given, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
                }
                Ok(_) => {}
            }
            if !seen.insert(given) {
                self.errors.push(FieldError::duplicate(path, given));
            }
        }
        if seen.len() > MOST {
            self.errors.push(FieldError::too_many(at, seen.len(), MOST));
        }
    }

    fn conversion(&mut self) {
        let c = &self.crd["spec"]["conversion"];
        let strategy = text(c, "strategy");
        match strategy {
            "None" | "Webhook" => {}
            "" => self.errors.push(FieldError::required("spec.conversion.strategy", "")),
            other => self.errors.push(FieldError::not_supported(
                "spec.conversion.strategy",
                other,
                &["None", "Webhook"],
            )),
        }
        let (config, reviews) =
            (&c["webhook"]["clientConfig"], &c["webhook"]["conversionReviewVersions"]);
        let at = "spec.conversion.webhookClientConfig";
        if strategy == "None" {
            let why = "should not be set when strategy is not set to Webhook";
            if config.is_object() {
                self.errors.push(FieldError::forbidden(at, why));
            }
            if reviews.as_array().is_some_and(|r| !r.is_empty()) {
                let at = "spec.conversion.conversionReviewVersions";
                self.errors.push(FieldError::forbidden(at, why));
            }
        }
        if strategy != "Webhook" {
            return;
        }
        match (config.is_object(), config["url"].is_string(), config["service"].is_object()) {
            (false, ..) => self
                .errors
                .push(FieldError::required(at, "required when strategy is set to Webhook")),
            (true, true, true) | (true, false, false) => {
                let why = "exactly one of url or service is required";
                self.errors.push(FieldError::required(at, why));
            }
            (true, true, false) => {
                self.errors.extend(webhook_url(text(config, "url"), &format!("{at}.url")));
            }
            (true, false, true) => self.service(&config["service"], &format!("{at}.service")),
        }
        self.review_versions(reviews);
    }

    fn service(&mut self, service: &Value, at: &str) {
        for f in ["name", "namespace"] {
            if text(service, f).is_empty() {
                let why = format!("service {f} is required");
                self.errors.push(FieldError::required(format!("{at}.{f}"), why));
            }
        }
        if service["port"].as_i64().is_some_and(|p| !(1..=65535).contains(&p)) {
            let why = "port is not valid: must be between 1 and 65535, inclusive";
            self.invalid(format!("{at}.port"), service["port"].clone(), why);
        }
        let path = text(service, "path");
        if !path.is_empty() && !path.starts_with('/') {
            self.invalid(format!("{at}.path"), path, "must start with a '/'");
        }
    }

    fn review_versions(&mut self, reviews: &Value) {
        let at = "spec.conversion.conversionReviewVersions";
        let list = texts(reviews);
        if list.is_empty() {
            self.errors.push(FieldError::required(at, ""));
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, v) in list.iter().enumerate() {
            if !seen.insert(v) {
                self.invalid(format!("{at}[{i}]"), v.as_str(), "duplicate version");
                continue;
            }
            for e in name::check_label_1035(v) {
                self.invalid(format!("{at}[{i}]"), v.as_str(), e);
            }
        }
        if !list.iter().any(|v| v == "v1" || v == "v1beta1") {
            self.invalid(at, json!(list), "must include at least one of v1, v1beta1");
        }
    }

    fn stored_versions(&mut self) {
        let stored = &self.crd["status"]["storedVersions"];
        let list = texts(stored);
        let all = versions(self.crd);
        if list.is_empty() {
            let why = "must have at least one stored version";
            self.invalid("status.storedVersions", stored.clone(), why);
            return;
        }
        let storage = all.iter().find(|v| v["storage"] == true).map(|v| text(v, "name"));
        if let Some(name) = storage.filter(|n| !list.iter().any(|l| l == n)) {
            let why = format!("must have the storage version {name}");
            self.invalid("status.storedVersions", stored.clone(), why);
        }
        for (i, v) in list.iter().enumerate() {
            if !all.iter().any(|x| text(x, "name") == v) {
                let why = format!(
                    "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
                );
                self.invalid(format!("status.storedVersions[{i}]"), v.as_str(), why);
            }
        }
    }

    fn approval(&mut self) {
        let state = approval(self.crd);
        if self
            .old
            .is_some_and(|o| std::mem::discriminant(&approval(o)) == std::mem::discriminant(&state))
        {
            return;
        }
        let at = format!("metadata.annotations[{APPROVED}]");
        let required = format!("protected groups must have approval annotation {APPROVED:?}");
        let see = "see https://github.com/kubernetes/enhancements/pull/1111";
        match state {
            Approval::Missing => {
                self.errors.push(FieldError::required(at, format!("{required}, {see}")));
            }
            Approval::Malformed(v) => {
                let why = format!(
                    "{required} with either a URL or a reason starting with \"unapproved\", {see}"
                );
                self.invalid(at, v, why);
            }
            _ => {}
        }
    }

    /// What may not change.
    fn fixed(&mut self, old: &Value) {
        let established = old["status"]["conditions"]
            .as_array()
            .is_some_and(|c| c.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
        let at = |v: &Value, path: &str| coracle_meta::json::get(v, path).cloned();
        for (path, only_established) in [
            ("spec.scope", true),
            ("spec.names.kind", true),
            ("spec.group", false),
            ("spec.names.plural", false),
        ] {
            if (established || !only_established) && at(self.crd, path) != at(old, path) {
                let v = at(self.crd, path).unwrap_or_default();
                self.invalid(path, v, "field is immutable");
            }
        }
    }
}

/// What a protected group's definition says of its approval.
#[derive(Debug)]
pub enum Approval {
    /// The group is nobody's but its users'.
    NotNeeded,
    /// There is no annotation.
    Missing,
    /// It says where it was approved.
    Approved(String),
    /// It says that it was not.
    Bypassed(String),
    /// It says neither.
    Malformed(String),
}

/// Whether a definition of a protected group was approved.
pub fn approval(crd: &Value) -> Approval {
    let group = text(&crd["spec"], "group");
    let of = |domain: &str| group == domain || group.ends_with(&format!(".{domain}"));
    if !of("k8s.io") && !of("kubernetes.io") {
        return Approval::NotNeeded;
    }
    let v = text(&crd["metadata"]["annotations"], APPROVED).to_owned();
    let url = v.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/')
    });
    match v.as_str() {
        "" => Approval::Missing,
        _ if v.starts_with("unapproved") => Approval::Bypassed(v),
        _ if url => Approval::Approved(v),
        _ => Approval::Malformed(v),
    }
}

/// The first name of a path of selected fields, and the type that it ends at.
fn selected(schema: &Value, path: &str) -> Result<(String, String), String> {
    if path.contains('[') {
        return Err("array notation is not allowed".into());
    }
    let Some(rest) = path.strip_prefix('.') else {
        return Err(format!("expected [ or . but got: {path}"));
    };
    let mut at = schema;
    for name in rest.split('.') {
        if name.is_empty() {
            return Err("unexpected end of JSON path".into());
        }
        at = match (&at["properties"][name], &at["additionalProperties"]) {
            (p, _) if p.is_object() => p,
            (_, a) if a.is_object() => a,
            _ if name == "metadata" || std::ptr::eq(at, &schema["properties"]["metadata"]) => {
                return Ok(("metadata".into(), "string".into()));
            }
            _ => return Err("does not refer to a valid field".into()),
        };
    }
    let first = rest.split('.').next().unwrap_or_default();
    Ok((first.to_owned(), text(at, "type").to_owned()))
}

/// What is wrong with the address of a webhook.
pub fn webhook_url(url: &str, at: &str) -> Vec<FieldError> {
    const FORM: &str = "desired format: https://host[/path]";
    let Some((scheme, rest)) = url.split_once("://") else {
        let scheme = url.split_once(':').map_or("", |(s, _)| s);
        let mut errors = vec![FieldError::invalid(
            at,
            scheme,
            format!("'https' is the only allowed URL scheme; {FORM}"),
        )];
        errors.push(FieldError::invalid(at, "", format!("host must be specified; {FORM}")));
        return errors;
    };
    let mut errors = Vec::new();
    if scheme != "https" {
        let why = format!("'https' is the only allowed URL scheme; {FORM}");
        errors.push(FieldError::invalid(at, scheme, why));
    }
    let (before_fragment, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (before_query, query) = before_fragment.split_once('?').unwrap_or((before_fragment, ""));
    let authority = before_query.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.push(FieldError::invalid(at, "", format!("host must be specified; {FORM}")));
    }
    if !user.is_empty() {
        errors.push(FieldError::invalid(at, user, "user information is not permitted in the URL"));
    }
    if !fragment.is_empty() {
        errors.push(FieldError::invalid(at, fragment, "fragments are not permitted in the URL"));
    }
    if !query.is_empty() {
        let why = "query parameters are not permitted in the URL";
        errors.push(FieldError::invalid(at, query, why));
    }
    errors
}
