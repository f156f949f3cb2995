//! HTTP, files and programs, as requests and credentials need them.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client as Http, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use reqsign_core::CommandOutput;
use std::time::Duration;

/// A request takes this long at most; waiting for messages is the longest.
const TIMEOUT: Duration = Duration::from_secs(40);
/// An answer is this large at most.
const LARGEST: usize = 64 << 20;
/// HTTP with a limit on time and size.
#[derive(Clone, Debug)]
pub(crate) struct Web(Http<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Web {
    /// A client that trusts the system's authorities.
    pub(crate) fn new() -> Result<Self, String> {
        let tls = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|e| format!("the system's certificate authorities cannot be read: {e}"))?
            .https_or_http()
            .enable_http1()
            .build();
        let mut client = Http::builder(TokioExecutor::new());
        client.pool_idle_timeout(Duration::from_secs(20)).pool_timer(TokioTimer::new());
        Ok(Self(client.build(tls)))
    }

    /// Sends a request; an error says why there is no answer.
    pub(crate) async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        let whole = async {
            let answer = self.0.request(request.map(Full::new)).await;
            let (parts, body) = answer.map_err(|e| e.to_string())?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await.map_err(|e| e.to_string())?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        match tokio::time::timeout(TIMEOUT, whole).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}

impl reqsign_core::HttpSend for Web {
    async fn http_send(&self, request: Request<Bytes>) -> reqsign_core::Result<Response<Bytes>> {
        self.send(request).await.map_err(reqsign_core::Error::unexpected)
    }
}

/// Files of credentials.
#[derive(Debug)]
pub(crate) struct Files;

impl reqsign_core::FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        tokio::fs::read(path).await.map_err(|e| reqsign_core::Error::unexpected(e.to_string()))
    }
}

/// Programs that give credentials (`credential_process`).
#[derive(Debug)]
pub(crate) struct Commands;

impl reqsign_core::CommandExecute for Commands {
    async fn command_execute<'a>(
        &'a self,
        program: &'a str,
        args: &'a [&'a str],
    ) -> reqsign_core::Result<CommandOutput> {
        let out = tokio::process::Command::new(program).args(args).output().await;
        let out = out.map_err(|e| reqsign_core::Error::unexpected(e.to_string()))?;
        Ok(CommandOutput {
            status: out.status.code().unwrap_or(-1),
            stdout: out.stdout,
            stderr: out.stderr,
        })
    }
}
