//! The query of a request as options: of lists and watches, of writes, of deletions. They are
//! decoded and checked as upstream does: what cannot be read is 400, what contradicts itself is 422
//! with a cause for each fault (`ValidateListOptions`, `ValidateDeleteOptions`).

use crate::request::query;
use coracle_meta::{FieldSelector, LabelSelector, Status, status::FieldError, time};
use coracle_registry::{
    delete::{DeleteOptions, Propagation},
    read::{ListOptions, Match},
    write::{FieldValidation, WriteOptions},
};
use coracle_schema::{
    Minor,
    decode::{self, Form},
    pack,
    types::Type,
};
use http::Request;
use serde_json::{Value, json};

/// The query, by name.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a request's query.
    pub fn of<B>(request: &Request<B>) -> Self {
        Self(query(request))
    }

    /// A parameter that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given(name).filter(|v| !v.is_empty())
    }

    /// A parameter, empty or not.
    fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Every value of a parameter.
    fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == name).map(|(_, v)| v.as_str()).collect()
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.given(name) else { return Ok(None) };
        let why = |e: std::num::ParseIntError| {
            let far = matches!(
                e.kind(),
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow
            );
            let why = if far { "value out of range" } else { "invalid syntax" };
            Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
        };
        text.parse().map(Some).map_err(why)
    }

    /// A yes or no, if it is given: anything but `false` and `0` is yes.
    fn given_flag(&self, name: &str) -> Option<bool> {
        self.given(name).map(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }

    /// A yes or no; absent is no.
    pub fn flag(&self, name: &str) -> bool {
        self.given_flag(name).unwrap_or(false)
    }

    /// Whether a watch that starts anew shall begin with the objects of now; `None` if the client
    /// leaves that to the revision.
    pub fn send_initial_events(&self) -> Option<bool> {
        self.given_flag("sendInitialEvents")
    }

    /// Seconds until a watch ends; a day at most. Absent for what is not positive.
    ///
    /// # Errors
    /// 400 for what is no integer.
    pub fn timeout_seconds(&self) -> Result<Option<u64>, Status> {
        const LONGEST: u64 = 24 * 3600;
        let seconds = self.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok());
        Ok(seconds.filter(|s| *s > 0).map(|s| s.min(LONGEST)))
    }

    /// Checks `timeout`, the time that a client gives a short request. Answers are not so slow that
    /// it matters, but what is no duration is refused.
    ///
    /// # Errors
    /// 400 for what Go's `time.ParseDuration` refuses.
    pub fn check_timeout(&self) -> Result<(), Status> {
        let Some(text) = self.get("timeout") else { return Ok(()) };
        if time::parse_go_duration(text).is_some() {
            return Ok(());
        }
        let why = time::go_duration_fault(text);
        Err(Status::bad_request(format!("invalid timeout specified in the request URL - {why}")))
    }

    /// Options of list and watch.
    ///
    /// # Errors
    /// 400 for what cannot be read, 422 for options that do not go together.
    pub fn list_options(&self, watch: bool) -> Result<ListOptions, Status> {
        let limit = self.integer("limit")?.and_then(|l| usize::try_from(l).ok());
        self.integer("timeoutSeconds")?;
        let labels = match self.get("labelSelector") {
            Some(t) => LabelSelector::parse(t).map_err(|e| Status::bad_request(e.to_string()))?,
            None => LabelSelector::default(),
        };
        let fields = match self.get("fieldSelector") {
            Some(t) => FieldSelector::parse(t).map_err(Status::bad_request)?,
            None => FieldSelector::default(),
        };
        let errors = if watch { self.watch_errors() } else { self.list_errors() };
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", errors));
        }
        let revision = self.revision().map_err(|mut s| {
            if !watch {
                s = Status::bad_request(format!("invalid resource version: {}", s.message));
            }
            s
        })?;
        let revision_match = self.get(MATCH).map(|m| match m {
            "Exact" => Match::Exact,
            _ => Match::NotOlderThan,
        });
        let continue_token = self.get("continue").map(str::to_owned);
        Ok(ListOptions { labels, fields, limit, continue_token, revision, revision_match })
    }

    /// `resourceVersion`, as the storage reads it: what is no revision is an error without a
    /// reason, which upstream makes a 500.
    ///
    /// # Errors
    /// For what is no unsigned integer.
    pub fn revision(&self) -> Result<Option<u64>, Status> {
        let Some(text) = self.get("resourceVersion") else { return Ok(None) };
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        let why = if digits { "value out of range" } else { "invalid syntax" };
        let bad = || {
            let why = format!("strconv.ParseUint: parsing {text:?}: {why}");
            Status::new(500, "", FieldError::invalid("resourceVersion", text, why).to_string())
        };
        if digits { text.parse().map(Some).map_err(|_| bad()) } else { Err(bad()) }
    }

    fn list_errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let revision = self.get("resourceVersion").unwrap_or_default();
        if let Some(given) = self.get(MATCH) {
            let mut forbid = |why: &str| errors.push(FieldError::forbidden(MATCH, why));
            if revision.is_empty() {
                forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if self.get("continue").is_some() {
                forbid("resourceVersionMatch is forbidden when continue is provided");
            }
            match given {
                "Exact" if revision == "0" => {
                    forbid("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
                }
                "Exact" | "NotOlderThan" => {}
                other => {
                    let known = ["Exact", "NotOlderThan", ""];
                    errors.push(FieldError::not_supported(MATCH, other, &known));
                }
            }
        }
        if self.send_initial_events().is_some() {
            let why = "sendInitialEvents is forbidden for list";
            errors.push(FieldError::forbidden("sendInitialEvents", why));
        }
        errors
    }

    fn watch_errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (given, initial) = (self.get(MATCH), self.send_initial_events().is_some());
        if initial && given != Some("NotOlderThan") {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        let Some(given) = given else { return errors };
        if !initial {
            let why =
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        if given != "NotOlderThan" {
            errors.push(FieldError::not_supported(MATCH, given, &["NotOlderThan"]));
        }
        if self.get("continue").is_some() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(MATCH, why));
        }
        errors
    }

    /// Options of writes.
    ///
    /// # Errors
    /// What is wrong with which, of options of this name.
    pub fn write_options(&self, options: &str) -> Result<WriteOptions, Status> {
        let field_validation = match self.get("fieldValidation") {
            None | Some("" | "Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(o) => {
                let known = ["", "Ignore", "Strict", "Warn"];
                let error = FieldError::not_supported("fieldValidation", o, &known);
                return Err(invalid_options(options, error));
            }
        };
        Ok(WriteOptions { dry_run: self.dry_run(options)?, field_validation, writer: None })
    }

    /// Whether nothing shall be stored.
    ///
    /// # Errors
    /// What is wrong with it, in options of this name.
    pub fn dry_run(&self, options: &str) -> Result<bool, Status> {
        check_dry_run(options, &self.all("dryRun"))
    }

    /// Options of a deletion: those of the body if there is one, or of the query. A dry run that
    /// the query asks for is one whatever the body says.
    ///
    /// # Errors
    /// 400 for what cannot be read, 422 for options that do not go together.
    pub fn delete_options(
        &self,
        body: Option<Value>,
        collection: bool,
    ) -> Result<DeleteOptions, Status> {
        let given = match body {
            Some(body) => read_delete_options(body)?,
            None => self.delete_query()?,
        };
        let refuse = |error| Err(invalid_options(DELETE, error));
        let orphan = given["orphanDependents"].as_bool();
        let policy = given["propagationPolicy"].as_str();
        if let (Some(_), Some(p)) = (orphan, policy) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            return refuse(FieldError::invalid("propagationPolicy", p, why));
        }
        let propagation = match policy {
            None => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(o) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                return refuse(FieldError::not_supported("propagationPolicy", o, &known));
            }
        };
        if collection && given[UNREADABLE] == true {
            let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
            return refuse(FieldError::invalid(UNREADABLE, true, why));
        }
        let dry = given["dryRun"].as_array().into_iter().flatten();
        let dry: Vec<&str> = dry.filter_map(Value::as_str).collect();
        let text = |v: &Value| v.as_str().map(str::to_owned);
        Ok(DeleteOptions {
            grace_period_seconds: given["gracePeriodSeconds"].as_i64(),
            uid: text(&given["preconditions"]["uid"]),
            resource_version: text(&given["preconditions"]["resourceVersion"]),
            propagation,
            dry_run: check_dry_run(DELETE, &dry)? | self.dry_run(DELETE)?,
            unreadable: given[UNREADABLE] == true,
        })
    }

    fn delete_query(&self) -> Result<Value, Status> {
        Ok(json!({
            "gracePeriodSeconds": self.integer("gracePeriodSeconds")?,
            "orphanDependents": self.given_flag("orphanDependents"),
            "propagationPolicy": self.given("propagationPolicy"),
            UNREADABLE: self.given_flag(UNREADABLE),
            "dryRun": self.all("dryRun"),
        }))
    }
}

const MATCH: &str = "resourceVersionMatch";
const DELETE: &str = "DeleteOptions";
/// For objects that the storage cannot decode any more (KEP-3926); there are none here.
const UNREADABLE: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

fn check_dry_run(options: &str, all: &[&str]) -> Result<bool, Status> {
    if all.iter().any(|o| *o != "All") {
        let error = FieldError::not_supported("dryRun", json!(all), &["All"]);
        return Err(invalid_options(options, error));
    }
    Ok(!all.is_empty())
}

/// The body of a deletion, as the type that it must be.
fn read_delete_options(mut body: Value) -> Result<Value, Status> {
    let found = decode::json_type(&body);
    if found != "object" {
        return Err(Status::bad_request(format!(
            "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
        )));
    }
    let kind = body["kind"].as_str().unwrap_or_default();
    if !kind.is_empty() && kind != DELETE {
        return Err(Status::bad_request(format!(
            "no kind {kind:?} is registered for version {} in scheme \"pkg/runtime/scheme.go:111\"",
            json!(body["apiVersion"].as_str().unwrap_or_default())
        )));
    }
    let arena = &pack::of(Minor::LATEST).arena;
    let Some(id) = arena.find("meta.v1.DeleteOptions") else {
        return Err(Status::internal("DeleteOptions are not defined"));
    };
    let slot = coracle_schema::Slot::of(Type::Object(id));
    let report = decode::decode(arena, &slot, &mut body, Form::BuiltIn, false);
    match report.errors.first() {
        Some(e) => Err(Status::bad_request(decode::go_message(e))),
        None => Ok(body),
    }
}

/// Options of a request are an object too: `CreateOptions`.
pub(crate) fn invalid_options(options: &str, error: FieldError) -> Status {
    Status::invalid("meta.k8s.io", options, "", vec![error])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::of(&Request::builder().uri(format!("/x?{text}")).body(()).unwrap())
    }

    #[test]
    fn bad_options_are_refused() {
        for (q, watch, code) in [
            ("limit=x", false, 400),
            ("limit=", false, 400),
            ("labelSelector=a%20b", false, 400),
            ("fieldSelector=a", false, 400),
            ("resourceVersion=-1", false, 400),
            ("resourceVersion=%2B1", true, 500),
            ("resourceVersionMatch=Maybe", false, 422),
            ("sendInitialEvents=", true, 422),
            ("sendInitialEvents=0", false, 422),
        ] {
            assert_eq!(query(q).list_options(watch).unwrap_err().code, code, "{q}");
        }
        assert_eq!(query("limit=-1").list_options(false).unwrap().limit, None);
        assert!(query("dryRun=Some").write_options("CreateOptions").is_err());
        assert!(query("timeout=5").check_timeout().is_err());
        assert!(query("timeout=5s").check_timeout().is_ok());
    }

    #[test]
    fn options_of_deletions() {
        let refused = |q: &str, body: Option<Value>| {
            query(q)
                .delete_options(body, false)
                .map(|_| String::new())
                .unwrap_or_else(|s| s.message)
        };
        assert_eq!(refused("gracePeriodSeconds=5&propagationPolicy=Orphan", None), "");
        assert!(refused("propagationPolicy=", None).contains("Unsupported value: \"\""));
        assert!(refused("", Some(json!({"kind": "Pod"}))).contains("no kind \"Pod\""));
        assert!(refused("", Some(json!([]))).contains("cannot unmarshal array"));
        assert_eq!(
            refused("", Some(json!({"gracePeriodSeconds": "x"}))),
            "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64"
        );
        // The body counts, but a dry run is never lost.
        let o = query("dryRun=All&gracePeriodSeconds=3");
        let o = o.delete_options(Some(json!({"gracePeriodSeconds": 7})), false).unwrap();
        assert_eq!((o.dry_run, o.grace_period_seconds), (true, Some(7)));
    }
}
