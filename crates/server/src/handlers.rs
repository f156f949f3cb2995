//! One handler a verb, for every kind.

use crate::{
    Server, authn,
    authn::Identity,
    body::Body,
    negotiate::{self, Accept},
    options::{Query, invalid_options},
    payload::{content_type, decode_text, read_body, read_patch},
    request::RequestInfo,
    respond, review, roots, watching, websocket,
};
use bytes::Bytes;
use coracle_meta::{Status, json as strict, status::FieldError};
use coracle_registry::{
    delete::{DeleteOptions, Deleted},
    write::{FieldWriter, WriteOptions, Written},
};
use coracle_schema::Kind;
use http::{Request, Response, StatusCode, header::USER_AGENT};
use serde_json::{Value, json};
use std::sync::Arc;

/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";

type Reply = Result<Response<Body>, Status>;

/// Answers an authorized request.
pub(crate) async fn handle(
    server: &Arc<Server>,
    identity: &Identity,
    info: &RequestInfo,
    request: &Request<Bytes>,
) -> Reply {
    if !info.is_resource() {
        return roots::answer(server, info, request);
    }
    let kinds = server.registry.kinds();
    let Some(kind) = kinds.get(&info.group, &info.version, &info.resource).cloned() else {
        // Custom groups are not routed by upstream but looked up, and fall through.
        let routed = kinds.is_built_in(&info.group);
        return if routed { Err(Status::no_such_resource()) } else { Ok(roots::not_found()) };
    };
    if info.verb.is_empty() {
        return Err(not_allowed());
    }
    check_name(&info.name)?;
    if kind.namespaced() && info.namespace.is_empty() && !is_review(&kind) {
        match info.verb.as_str() {
            "list" | "watch" => {}
            _ if kind.custom => return Ok(roots::not_found()),
            "create" | "deletecollection" => return Err(not_allowed()),
            _ => return Err(Status::no_such_resource()),
        }
    }
    if !kind.namespaced() && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Err(Status::no_such_resource());
    }
    let query = Query::of(request);
    if !info.is_watch() {
        query.check_timeout()?;
    }
    let mut accept = Accept::of(request.headers(), !kind.custom)?;
    accept.include = match query.get("includeObject") {
        None | Some("Metadata") => negotiate::Include::Metadata,
        Some("Object") => negotiate::Include::Object,
        Some("None") => negotiate::Include::None,
        Some(o) => {
            let why = "must be 'Metadata', 'Object', 'None', or empty";
            let error = FieldError::invalid("includeObject", o, why);
            let text = format!("Unable to convert to Table as requested: {error}");
            return Err(Status::bad_request(text));
        }
    };
    let warning = kind.warning.clone();
    let call = Call { server, identity, info, kind, query, accept, request };
    let reply =
        if info.subresource.is_empty() { call.main().await } else { call.subresource().await };
    reply.map(|mut response| {
        respond::warn(&mut response, warning.as_slice());
        response
    })
}

pub(crate) fn not_allowed() -> Status {
    Status::method_not_allowed("the server does not allow this method on the requested resource")
}

/// Names that no object can have, as they would be more than one segment of a path.
fn check_name(name: &str) -> Result<(), Status> {
    if name.contains('/') {
        return Err(Status::no_such_resource());
    }
    if name.contains('%') {
        let text = format!("Name parameter invalid: {name:?}: may not contain '%'");
        return Err(Status::bad_request(text));
    }
    Ok(())
}

fn is_review(kind: &Kind) -> bool {
    !kind.stored()
}

/// One request for a resource.
struct Call<'a> {
    server: &'a Arc<Server>,
    identity: &'a Identity,
    info: &'a RequestInfo,
    kind: Arc<Kind>,
    query: Query,
    accept: Accept,
    request: &'a Request<Bytes>,
}

impl Call<'_> {
    async fn main(self) -> Reply {
        let verb = self.info.verb.as_str();
        let review = verb == "create" && is_review(&self.kind);
        let served = review || self.kind.verbs.iter().any(|v| v == verb);
        if !served {
            return Err(not_allowed());
        }
        // Objects are created in their collection, and changed by their name.
        let named = !self.info.name.is_empty();
        if (!named && ["update", "patch"].contains(&verb)) || (named && verb == "create") {
            let custom = self.kind.custom && !named;
            let unnamed = || Status::bad_request("name must be provided");
            return Err(if custom { unnamed() } else { not_allowed() });
        }
        match verb {
            "get" => self.get(),
            "list" => self.list(),
            "watch" => self.watch(),
            "create" => self.create().await,
            "update" => self.update("").await,
            "patch" => self.patch("").await,
            "delete" => self.delete().await,
            "deletecollection" => self.delete_collection().await,
            _ => Err(not_allowed()),
        }
    }

    fn namespace(&self) -> Option<&str> {
        (self.kind.namespaced() && !self.info.namespace.is_empty())
            .then_some(self.info.namespace.as_str())
    }

    /// The namespace part of an object's key.
    fn place(&self) -> &str {
        if self.kind.namespaced() { &self.info.namespace } else { "" }
    }

    fn get(&self) -> Reply {
        if self.query.flag("export") {
            let why = "the export parameter, deprecated since v1.14, is no longer supported";
            return Err(Status::bad_request(why));
        }
        if let Some(wanted) = self.query.revision()? {
            let newest = self.server.registry.store().revision();
            if wanted > newest {
                return Err(Status::future_revision(wanted, newest));
            }
        }
        let bytes = self.server.registry.get(&self.kind, self.place(), &self.info.name)?;
        self.respond(StatusCode::OK, &bytes, &[])
    }

    fn respond(&self, code: StatusCode, object: &Bytes, warnings: &[String]) -> Reply {
        let now = self.server.registry.now();
        let mut response = respond::object(&self.kind, &self.accept, code, object, now)?;
        respond::warn(&mut response, warnings);
        Ok(response)
    }

    /// A whole object that is not stored.
    fn value(&self, code: StatusCode, v: &Value) -> Reply {
        respond::encode(code, self.accept.format, v)
    }

    fn written(&self, w: &Written) -> Reply {
        self.respond(
            if w.created { StatusCode::CREATED } else { StatusCode::OK },
            &w.bytes,
            &w.warnings,
        )
    }

    fn list(&self) -> Reply {
        let options = self.query.list_options(false)?;
        let list = self.server.registry.list(&self.kind, self.namespace(), &options)?;
        respond::list(&self.server.registry, &self.kind, &self.accept, &list)
    }

    fn watch(&self) -> Reply {
        let mut options = self.query.list_options(true)?;
        if !self.info.name.is_empty() {
            let other =
                options.fields.required("metadata.name").is_some_and(|n| n != self.info.name);
            if other {
                let why = "fieldSelector metadata.name doesn't match requested name";
                return Err(Status::bad_request(why));
            }
            let term = coracle_meta::field_selector::Term {
                field: "metadata.name".into(),
                equal: true,
                value: self.info.name.clone(),
            };
            options.fields.terms.push(term);
        }
        let response = watching::start(
            self.server,
            &self.kind,
            self.namespace(),
            &self.query,
            &options,
            &self.accept,
        )?;
        if websocket::wanted(self.request.headers()) {
            return websocket::carry(self.request, response, self.accept.format);
        }
        Ok(response)
    }

    async fn create(&self) -> Reply {
        let mut input = read_body(self.server, self.request)?;
        if is_review(&self.kind) {
            let registry = &self.server.registry;
            if self.kind.kind == "Binding" {
                let name = strict::text(&input.value, "metadata.name").to_owned();
                return self.bind(&name, &input.value).await;
            }
            let faults = registry.review_faults(&self.kind, &input.value);
            if !faults.is_empty() {
                return Err(Status::invalid(&self.kind.group, &self.kind.kind, "", faults));
            }
            let answer = review::answer(self.server, self.identity, self.info, &input.value)
                .unwrap_or_else(|| Err(not_allowed()))?;
            let bytes = Bytes::from(answer.to_string());
            return respond::object(
                &self.kind,
                &self.accept,
                StatusCode::CREATED,
                &bytes,
                registry.now(),
            );
        }
        if self.kind.namespaced() && self.info.namespace.is_empty() {
            return Err(Status::no_such_resource());
        }
        let o = self.write_options()?;
        self.stamp_requester(&mut input.value, true);
        let w = self.server.registry.create(&self.kind, self.place(), None, input, &o).await?;
        self.written(&w)
    }

    /// Who asks for a certificate is who sends the request, whatever the request says. One that is
    /// there keeps who asked for it: the claim is dropped, so that it counts for nothing either if
    /// the object goes meanwhile and is created after all.
    fn stamp_requester(&self, v: &mut Value, creates: bool) {
        let request = ("certificates.k8s.io", "certificatesigningrequests");
        if (self.kind.group.as_str(), self.kind.plural.as_str()) != request {
            return;
        }
        let Some(spec) = v.get_mut("spec").and_then(Value::as_object_mut) else { return };
        for field in ["username", "groups", "uid", "extra"] {
            spec.remove(field);
        }
        if !creates {
            return;
        }
        spec.insert("username".into(), json!(self.identity.user));
        spec.insert("groups".into(), json!(self.identity.groups));
        if !self.identity.uid.is_empty() {
            spec.insert("uid".into(), json!(self.identity.uid));
        }
    }

    async fn update(&self, subresource: &str) -> Reply {
        let (input, o) = (read_body(self.server, self.request)?, self.write_options()?);
        let w = self
            .server
            .registry
            .update(&self.kind, self.place(), &self.info.name, subresource, input, &o)
            .await?;
        self.written(&w)
    }

    async fn patch(&self, subresource: &str) -> Reply {
        if content_type(self.request.headers()) == APPLY {
            return self.apply().await;
        }
        if self.query.flag("force") {
            let error = FieldError::forbidden("force", "may not be specified for non-apply patch");
            return Err(invalid_options("PatchOptions", error));
        }
        let (patch, duplicates) = read_patch(&self.kind, self.request)?;
        let o = self.write_options()?;
        let w = self
            .server
            .registry
            .patch(&self.kind, self.place(), &self.info.name, subresource, &patch, &duplicates, &o)
            .await?;
        self.written(&w)
    }

    /// Server-side apply, which may create.
    async fn apply(&self) -> Reply {
        if self.query.get("fieldManager").is_none_or(str::is_empty) {
            let error = FieldError::required("fieldManager", "is required for apply patch");
            return Err(invalid_options("PatchOptions", error));
        }
        let registry = &self.server.registry;
        let mut input = decode_text(self.request.body(), true)?;
        let o = self.write_options()?;
        let (place, name) = (self.place(), self.info.name.as_str());
        let creates = registry.get(&self.kind, place, name).is_err();
        if self.info.subresource.is_empty() && creates {
            let create = RequestInfo { verb: "create".into(), ..self.info.clone() };
            self.server.rbac.authorize(self.identity, &create)?;
        }
        self.stamp_requester(&mut input.value, creates);
        let force = self.query.flag("force");
        let w = registry.apply(&self.kind, place, name, input, force, &o).await?;
        self.written(&w)
    }

    /// The name of the options that a write has.
    fn options(&self) -> &'static str {
        match self.info.verb.as_str() {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "delete" | "deletecollection" => "DeleteOptions",
            _ => "PatchOptions",
        }
    }

    /// Options of a write, with whose fields it writes: the manager that was named, or the program
    /// of the user agent.
    fn write_options(&self) -> Result<WriteOptions, Status> {
        const LONGEST: usize = 128;
        let given = self.query.get("fieldManager").unwrap_or_default();
        let printable = |c: char| !c.is_control();
        if given.len() > LONGEST {
            let error = FieldError::too_long("fieldManager", LONGEST as u64);
            return Err(invalid_options(self.options(), error));
        }
        if let Some((at, c)) = given.chars().enumerate().find(|(_, c)| !printable(*c)) {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            let error = FieldError::invalid("fieldManager", given, why);
            return Err(invalid_options(self.options(), error));
        }
        let agent = self.request.headers().get(USER_AGENT).and_then(|v| v.to_str().ok());
        let program = agent.and_then(|a| a.split('/').next()).unwrap_or_default();
        let manager = if given.is_empty() {
            program.chars().filter(|c| printable(*c)).take(LONGEST).collect()
        } else {
            given.to_owned()
        };
        let manager = if manager.is_empty() { "unknown".into() } else { manager };
        let writer = Some(FieldWriter { manager, subresource: self.info.subresource.clone() });
        Ok(WriteOptions { writer, ..self.query.write_options(self.options())? })
    }

    fn delete_options(&self) -> Result<DeleteOptions, Status> {
        let empty = self.request.body().is_empty();
        let body = if empty { None } else { Some(read_body(self.server, self.request)?.value) };
        self.query.delete_options(body, self.info.name.is_empty())
    }

    async fn delete(&self) -> Reply {
        let o = self.delete_options()?;
        match self.server.registry.delete(&self.kind, self.place(), &self.info.name, &o).await? {
            Deleted::Waiting(bytes) => self.respond(StatusCode::OK, &bytes, &[]),
            Deleted::Gone(last) if self.kind.returns_deleted => {
                self.respond(StatusCode::OK, &last, &[])
            }
            Deleted::Gone(last) => {
                let last: Value = serde_json::from_slice(&last).map_err(Status::internal)?;
                let uid = &last["metadata"]["uid"];
                let mut details =
                    json!({"name": self.info.name, "kind": self.kind.plural, "uid": uid});
                if !self.kind.group.is_empty() {
                    details["group"] = json!(self.kind.group);
                }
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
                self.value(StatusCode::OK, &status)
            }
        }
    }

    async fn delete_collection(&self) -> Reply {
        let (o, options) = (self.delete_options()?, self.query.list_options(false)?);
        let items = self
            .server
            .registry
            .delete_collection(&self.kind, self.namespace(), &options, &o)
            .await?;
        let revision = self.server.registry.store().revision();
        respond::raw_list(&self.kind, self.accept.format, &items, revision)
    }

    async fn subresource(self) -> Reply {
        let (name, verb) = (self.info.subresource.as_str(), self.info.verb.as_str());
        let declared = self.kind.subresource(name).ok_or_else(|| match self.kind.custom {
            true => Status::not_found(&self.kind.group_resource(), &self.info.name),
            false => Status::no_such_resource(),
        })?;
        if !declared.verbs.iter().any(|v| v == verb) {
            return Err(not_allowed());
        }
        let registry = &self.server.registry;
        let (place, object) = (self.place(), self.info.name.as_str());
        match (name, verb) {
            ("status" | "ephemeralcontainers" | "resize", "get") => self.get(),
            ("status", "update") => self.update("status").await,
            ("status", "patch") => self.patch("status").await,
            ("scale", "get") => {
                self.value(StatusCode::OK, &registry.get_scale(&self.kind, place, object)?)
            }
            ("scale", "update") => {
                let (input, o) = (read_body(self.server, self.request)?, self.write_options()?);
                let w = registry.update_scale(&self.kind, place, object, &input.value, &o).await?;
                self.value(
                    StatusCode::OK,
                    &serde_json::from_slice(&w.bytes).map_err(Status::internal)?,
                )
            }
            ("scale", "patch") => {
                let o = self.write_options()?;
                let w = registry
                    .patch_scale(
                        &self.kind,
                        place,
                        object,
                        &read_patch(&self.kind, self.request)?.0,
                        &o,
                    )
                    .await?;
                self.value(
                    StatusCode::OK,
                    &serde_json::from_slice(&w.bytes).map_err(Status::internal)?,
                )
            }
            ("binding", "create") => {
                self.bind(object, &read_body(self.server, self.request)?.value).await
            }
            ("eviction", "create") => {
                let eviction = read_body(self.server, self.request)?.value;
                let named = eviction["metadata"]["name"].as_str().unwrap_or_default();
                if !named.is_empty() && named != object {
                    let why = "name in URL does not match name in Eviction object";
                    return Err(Status::bad_request(why));
                }
                let given = &eviction["deleteOptions"];
                let o = DeleteOptions {
                    grace_period_seconds: given["gracePeriodSeconds"].as_i64(),
                    uid: given["preconditions"]["uid"].as_str().map(Into::into),
                    dry_run: self.query.dry_run(self.options())?,
                    ..DeleteOptions::default()
                };
                registry.evict(&self.kind, place, object, &o).await?;
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
                self.value(StatusCode::CREATED, &status)
            }
            ("token", "create") => {
                let request = read_body(self.server, self.request)?.value;
                self.value(
                    StatusCode::CREATED,
                    &authn::create_token(self.server, place, object, &request)?,
                )
            }
            (_, "update") => {
                let (input, o) = (read_body(self.server, self.request)?, self.write_options()?);
                self.written(
                    &registry.update_part(&self.kind, place, object, name, input, &o).await?,
                )
            }
            (_, "patch") => {
                let o = self.write_options()?;
                self.written(
                    &registry
                        .patch_part(
                            &self.kind,
                            place,
                            object,
                            name,
                            &read_patch(&self.kind, self.request)?.0,
                            &o,
                        )
                        .await?,
                )
            }
            _ => {
                registry.get(&self.kind, place, object)?;
                Err(Status::bad_request(format!(
                    "{object} runs on a simulated node: it has no containers to {name}"
                )))
            }
        }
    }

    async fn bind(&self, pod: &str, binding: &Value) -> Reply {
        let kinds = self.server.registry.kinds();
        let pods = kinds.get("", "v1", "pods").ok_or_else(Status::no_such_resource)?;
        let o = self.query.write_options("PatchOptions")?;
        self.server.registry.bind(pods, &self.info.namespace, pod, binding, &o).await?;
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        self.value(StatusCode::CREATED, &status)
    }
}
