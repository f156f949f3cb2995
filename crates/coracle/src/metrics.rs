//! The provisioner's metrics at an address of their own, as Karpenter's are: plain HTTP, for Prometheus.

use anyhow::{Context, Result};
use coracle_control::provisioner::Provisioner;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Bytes, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore, sync::watch, task::JoinSet};

/// Who scrapes does not keep connections open for longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections at a time.
const MOST: usize = 64;

/// Serves metrics until `stop` becomes true.
///
/// # Errors
/// When the address is taken.
pub(crate) async fn serve(
    address: SocketAddr,
    of: Provisioner,
    mut stop: watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen at {address} for metrics"))?;
    let address = listener.local_addr()?;
    tasks.spawn(async move {
        let room = Arc::new(Semaphore::new(MOST));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|s| *s) => return,
                accepted = listener.accept() => accepted,
            };
            let (Ok((socket, _)), Ok(place)) = (accepted, room.clone().try_acquire_owned()) else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            while connections.try_join_next().is_some() {}
            let of = of.clone();
            connections.spawn(async move {
                let service = service_fn(move |r: Request<hyper::body::Incoming>| {
                    let answer = answer(r.uri().path(), &of);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service);
                let _ = tokio::time::timeout(PATIENCE, connection).await;
                drop(place);
            });
        }
    });
    Ok(address)
}

fn answer(path: &str, of: &Provisioner) -> Response<Full<Bytes>> {
    let (status, text) = match path {
        "/metrics" => (StatusCode::OK, of.metrics()),
        "/healthz" | "/readyz" => (StatusCode::OK, "ok".to_owned()),
        _ => (StatusCode::NOT_FOUND, "there is /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
    response
}
