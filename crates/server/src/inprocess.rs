//! The same API for parts of this process: a tower service straight into [`Server::handle`], with
//! a given identity and the same authorization, but no socket.

use crate::{
    MAX_BODY_BYTES, Server,
    authn::Identity,
    body::{Body, BodyError},
    respond,
};
use coracle_meta::Status;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// A caller inside this process.
#[derive(Clone, Debug)]
pub struct InProcess {
    server: Arc<Server>,
    identity: Arc<Identity>,
}

impl InProcess {
    /// Calls as the given identity.
    pub fn new(server: Arc<Server>, identity: Identity) -> Self {
        Self { server, identity: Arc::new(identity) }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BodyError>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (server, identity) = (self.server.clone(), self.identity.clone());
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            Ok(match Limited::new(body, MAX_BODY_BYTES).collect().await {
                Ok(whole) => {
                    server.handle(&identity, Request::from_parts(parts, whole.to_bytes())).await
                }
                Err(e) => {
                    let why = format!("cannot read the request body: {e}");
                    respond::status(&Status::bad_request(why), &parts.headers)
                }
            })
        })
    }
}
