//! One handler a verb, for every kind.

use crate::{
    Server, authn,
    authn::Identity,
    body::Body,
    discovery,
    negotiate::{self, Accept},
    openapi,
    payload::{content_type, decode_text, read_body, read_patch},
    request::{Query, RequestInfo, invalid_options},
    respond, review, watching,
};
use bytes::Bytes;
use coracle_meta::{Status, json as strict, status::FieldError};
use coracle_registry::{
    delete::{DeleteOptions, Deleted, Propagation},
    write::{FieldWriter, WriteOptions, Written},
};
use coracle_schema::Kind;
use http::{Method, Request, Response, StatusCode, header::USER_AGENT};
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
        return plain(server, info, request);
    }
    let kinds = server.registry.kinds();
    let kind = kinds
        .get(&info.group, &info.version, &info.resource)
        .cloned()
        .ok_or_else(Status::no_such_resource)?;
    if info.verb.is_empty() {
        return Err(not_allowed());
    }
    let no_namespace = kind.namespaced() && info.namespace.is_empty() && !is_review(&kind);
    match info.verb.as_str() {
        "create" if no_namespace => return Err(not_allowed()),
        "list" | "watch" | "deletecollection" => {}
        _ if no_namespace => return Err(Status::no_such_resource()),
        _ => {}
    }
    if !kind.namespaced() && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Err(Status::no_such_resource());
    }
    let query = Query::of(request);
    let mut accept = Accept::of(request.headers(), !kind.custom)?;
    accept.include = match query.get("includeObject") {
        None | Some("Metadata") => negotiate::Include::Metadata,
        Some("Object") => negotiate::Include::Object,
        Some("None") => negotiate::Include::None,
        Some(o) => {
            return Err(Status::bad_request(format!("unrecognized includeObject value: {o:?}")));
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

fn not_allowed() -> Status {
    Status::method_not_allowed("the server does not allow this method on the requested resource")
}

fn is_review(kind: &Kind) -> bool {
    !kind.stored()
}

/// Paths that are no resources.
fn plain(server: &Arc<Server>, info: &RequestInfo, request: &Request<Bytes>) -> Reply {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return Err(not_allowed());
    }
    let path = info.path.trim_end_matches('/');
    let text = |s: String| Ok(respond::with(StatusCode::OK, "text/plain; charset=utf-8", s));
    let health = |name: &str| {
        let rest = path.strip_prefix(name)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(())
    };
    if health("/healthz").or(health("/livez")).or(health("/readyz")).is_some() {
        if health("/readyz").is_some() && *server.stopping().borrow() {
            return Ok(respond::with(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                "shutting down",
            ));
        }
        let verbose = crate::request::query(request).iter().any(|(k, _)| k == "verbose");
        let long =
            format!("[+]ping ok\n[+]store ok\n{} check passed\n", path.trim_start_matches('/'));
        return text(if verbose { long } else { "ok".into() });
    }
    match path {
        "/version" => Ok(respond::json(StatusCode::OK, &discovery::version(&server.registry))),
        "/metrics" => {
            let store = server.registry.store();
            let counts: Vec<(String, usize)> = store
                .resources()
                .iter()
                .map(|r| (r.to_string(), store.snapshot(r).len()))
                .collect();
            let text = server.metrics.render(server.registry.minor(), &counts);
            Ok(respond::with(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
        }
        "/openapi/v2" => openapi::document_v2(server),
        "/openapi/v3" => Ok(respond::json(StatusCode::OK, &openapi::index(server))),
        p if p.starts_with("/openapi/v3/") => openapi::document(server, &p["/openapi/v3/".len()..])
            .ok_or_else(Status::no_such_resource),
        p => discovery::answer(server, p, request.headers()).ok_or_else(Status::no_such_resource),
    }
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
            return Err(not_allowed());
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
        let options = self.query.list_options()?;
        if self.query.flag("sendInitialEvents") {
            return Err(Status::new(
                422,
                "Invalid",
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
            ));
        }
        let list = self.server.registry.list(&self.kind, self.namespace(), &options)?;
        respond::list(&self.server.registry, &self.kind, &self.accept, &list)
    }

    fn watch(&self) -> Reply {
        let mut options = self.query.list_options()?;
        if !self.info.name.is_empty() {
            let term = coracle_meta::field_selector::Term {
                field: "metadata.name".into(),
                equal: true,
                value: self.info.name.clone(),
            };
            options.fields.terms.push(term);
        }
        watching::start(
            self.server,
            &self.kind,
            self.namespace(),
            &self.query,
            &options,
            &self.accept,
        )
    }

    async fn create(&self) -> Reply {
        let mut input = read_body(self.server, self.request)?;
        if is_review(&self.kind) {
            let registry = &self.server.registry;
            if self.kind.kind == "Binding" {
                let name = strict::text(&input.value, "metadata.name").to_owned();
                return self.bind(&name, &input.value).await;
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
        let (patch, duplicates) = read_patch(self.request)?;
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
        let given = if self.request.body().is_empty() {
            json!({})
        } else {
            read_body(self.server, self.request)?.value
        };
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let number = |v: &Value| v.as_i64();
        let orphan = given["orphanDependents"]
            .as_bool()
            .or(self.query.get("orphanDependents").map(|v| v == "true"));
        let propagation = text(&given["propagationPolicy"])
            .or(self.query.get("propagationPolicy").map(Into::into));
        if let (Some(_), Some(p)) = (orphan, &propagation) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let error = FieldError::invalid("propagationPolicy", p.as_str(), why);
            return Err(invalid_options("DeleteOptions", error));
        }
        let propagation = match propagation.as_deref() {
            None => orphan.map(|o| if o { Propagation::Orphan } else { Propagation::Background }),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(o) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                let error = FieldError::not_supported("propagationPolicy", o, &known);
                return Err(invalid_options("DeleteOptions", error));
            }
        };
        let grace =
            match self.query.get("gracePeriodSeconds") {
                Some(t) => Some(t.parse().map_err(|_| {
                    Status::bad_request(format!("invalid gracePeriodSeconds {t:?}"))
                })?),
                None => None,
            };
        let dry_body = given["dryRun"].as_array().is_some_and(|d| d.iter().any(|x| x == "All"));
        Ok(DeleteOptions {
            grace_period_seconds: number(&given["gracePeriodSeconds"]).or(grace),
            uid: text(&given["preconditions"]["uid"]),
            resource_version: text(&given["preconditions"]["resourceVersion"]),
            propagation,
            dry_run: self.query.dry_run(self.options())? || dry_body,
        })
    }

    async fn delete(&self) -> Reply {
        let o = self.delete_options()?;
        match self.server.registry.delete(&self.kind, self.place(), &self.info.name, &o).await? {
            Deleted::Waiting(bytes) => self.respond(StatusCode::OK, &bytes, &[]),
            Deleted::Gone(uid) => {
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
        let (o, options) = (self.delete_options()?, self.query.list_options()?);
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
        let declared = self.kind.subresource(name).ok_or_else(Status::no_such_resource)?;
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
                    .patch_scale(&self.kind, place, object, &read_patch(self.request)?.0, &o)
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
                            &read_patch(self.request)?.0,
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
