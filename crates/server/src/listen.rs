//! The socket: TLS, HTTP/1.1 and HTTP/2, one task a connection.

use crate::{
    MAX_BODY_BYTES, Server,
    authn::{self, Identity},
    body::Body,
    respond,
};
use bytes::{Bytes, BytesMut};
use coracle_meta::Status;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;

/// A client has this long to finish the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Open connections get this long to end when the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Serves until `stop` becomes true, then lets running requests end.
pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    tls: rustls::ServerConfig,
    mut stop: watch::Receiver<bool>,
) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let graceful = GracefulShutdown::new();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1000).keep_alive_interval(None);
    let builder = Arc::new(builder);
    loop {
        let socket = tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to be closed.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let _ = socket.set_nodelay(true);
        let (server, acceptor, builder) = (server.clone(), acceptor.clone(), builder.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await
            else {
                return;
            };
            let certificate = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|c| c.first())
                .and_then(|c| Identity::of_certificate(c))
                .map(Arc::new);
            let service = service_fn(move |request| {
                let (server, certificate) = (server.clone(), certificate.clone());
                async move {
                    Ok::<_, std::convert::Infallible>(
                        answer(&server, certificate.as_deref(), request).await,
                    )
                }
            });
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    drop(listener);
    server.stop();
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|s| *s).await;
}

async fn answer(
    server: &Arc<Server>,
    certificate: Option<&Identity>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let identity = match authn::authenticate(server, certificate, &parts.headers) {
        Ok(identity) => identity,
        Err(s) => return respond::status(&s, &parts.headers),
    };
    let bytes = match read(body).await {
        Ok(bytes) => bytes,
        Err(s) => return respond::status(&s, &parts.headers),
    };
    // A task of its own: a client that goes away does not end a write half-way, and a panic is an
    // answer to one request, not the end of its connection.
    let server = server.clone();
    let request = Request::from_parts(parts, bytes);
    let handled = tokio::spawn(async move { server.handle(&identity, request).await });
    handled.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request was not answered");
        let status = Status::internal("the request could not be handled");
        respond::status(&status, &http::HeaderMap::new())
    })
}

/// A whole body. One that is too large is read to its end (within reason) and refused: a client
/// that is still sending would not hear the answer.
async fn read(mut body: Incoming) -> Result<Bytes, Status> {
    let mut all = BytesMut::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Status::bad_request(format!("cannot read the request body: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        size += data.len();
        if size <= MAX_BODY_BYTES {
            all.extend_from_slice(&data);
        } else if size > 8 * MAX_BODY_BYTES {
            break;
        }
    }
    if size > MAX_BODY_BYTES {
        let message = format!("Request entity too large: limit is {MAX_BODY_BYTES}");
        return Err(Status::new(413, "RequestEntityTooLarge", message));
    }
    Ok(all.freeze())
}
