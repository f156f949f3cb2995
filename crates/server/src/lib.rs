//! The API server: HTTP and everything between a socket and the registry.
//!
//! A request passes [`authn`], the limits on requests in flight, [`rbac`] and then one handler a
//! verb ([`handlers`]). Parts of this process use the same chain without a socket ([`inprocess`]):
//! their identity is given, their rights are checked like anybody's. [`pki`] makes the keys,
//! [`bootstrap`] the objects that every cluster starts with, [`discovery`] and [`openapi`] tell
//! clients what there is.
//!
//! It has no code for single kinds besides review kinds that are answers, not objects. Start with
//! [`Server`], then [`handlers`].
//!
//! Tested through the binary by kubectl, Python and kube-rs; parsers have tests of their own.
#![warn(missing_docs)]

pub mod aggregation;
pub mod authn;
mod binary;
pub mod body;
pub mod bootstrap;
mod compress;
pub mod discovery;
pub mod handlers;
pub mod inprocess;
pub mod listen;
pub mod metrics;
mod negotiate;
pub mod openapi;
pub mod options;
mod outbound;
pub mod payload;
pub mod pki;
pub mod rbac;
pub mod request;
pub mod respond;
pub mod review;
mod roots;
mod shapes;
mod watching;
mod websocket;

use authn::{Identity, TokenKey};
use body::Body;
use bytes::Bytes;
use coracle_meta::Status;
use coracle_registry::Registry;
use http::{Request, Response};
use request::RequestInfo;
use std::{sync::Arc, time::Instant};
use tokio::sync::{Semaphore, watch};

/// Short requests that are handled at once; more are told to come back. Upstream's default is 400
/// reads and 200 writes.
const MAX_IN_FLIGHT: usize = 600;
/// Largest request body, as upstream.
pub const MAX_BODY_BYTES: usize = 3 << 20;

/// One cluster's API server.
#[derive(Debug)]
pub struct Server {
    pub(crate) registry: Arc<Registry>,
    pub(crate) tokens: TokenKey,
    pub(crate) rbac: rbac::Authorizer,
    pub(crate) metrics: metrics::Metrics,
    pub(crate) openapi: openapi::Cache,
    pub(crate) aggregation: aggregation::Aggregation,
    in_flight: Semaphore,
    stopping: watch::Sender<bool>,
}

impl Server {
    /// A server over a registry, with the key that signs service account tokens.
    pub fn new(registry: Arc<Registry>, tokens: TokenKey) -> Arc<Self> {
        let server = Arc::new(Self {
            rbac: rbac::Authorizer::new(registry.clone()),
            registry,
            tokens,
            metrics: metrics::Metrics::default(),
            openapi: openapi::Cache::default(),
            aggregation: aggregation::Aggregation::default(),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
            stopping: watch::Sender::new(false),
        });
        server.serve_conversion();
        server
    }

    /// The registry below.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Ends watches and makes `/readyz` fail.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Answers a request of an authenticated (or anonymous) caller.
    pub async fn handle(
        self: &Arc<Self>,
        identity: &Identity,
        request: Request<Bytes>,
    ) -> Response<Body> {
        let started = Instant::now();
        let info = RequestInfo::of(&request);
        let _underway = self.metrics.begin(&info);
        let response = match self.answer(identity, &info, &request).await {
            Ok(response) => response,
            Err(status) => respond::status(&status, request.headers()),
        };
        self.metrics.observe(&info, response.status().as_u16(), started.elapsed());
        compress::large(request.headers(), response).await
    }

    async fn answer(
        self: &Arc<Self>,
        identity: &Identity,
        info: &RequestInfo,
        request: &Request<Bytes>,
    ) -> Result<Response<Body>, Status> {
        let _permit = if info.is_watch() {
            None
        } else {
            let busy =
                || Status::too_many_requests("Too many requests, please try again later.", 1);
            Some(self.in_flight.try_acquire().map_err(|_| busy())?)
        };
        let identity = authn::impersonate(self, identity, request)?;
        self.rbac.authorize(&identity, info)?;
        if let Some((group, version)) = aggregation::of_path(info) {
            if self.registry.kinds().of(&group, &version).is_none() {
                if let Some(service) = aggregation::remote(self, &group, &version) {
                    return Ok(aggregation::proxy(self, &identity, &service, request).await);
                }
            }
        }
        handlers::handle(self, &identity, info, request).await
    }
}
