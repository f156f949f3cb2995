//! Requests that this server makes: to conversion webhooks and to aggregated API servers. Always TLS; the
//! other end is named by a URL, or by a Service whose endpoints are looked up here.

use crate::Server;
use bytes::Bytes;
use coracle_registry::Registry;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A webhook has this long to convert objects, as upstream.
const CONVERSION_TIMEOUT: Duration = Duration::from_secs(30);
/// Time to reach the other end.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer of a webhook.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Where systems keep the authorities that they trust.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where to connect, and what name the other end's certificate must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host or address, and port.
    pub(crate) authority: String,
    /// As in the certificate.
    pub(crate) name: String,
    /// Path of requests, for webhooks.
    pub(crate) path: String,
}

/// Whom to trust, and as whom to come.
pub(crate) struct Trust {
    /// Authorities as PEM; the system's when empty.
    pub(crate) ca_pem: Vec<u8>,
    /// Trust anybody.
    pub(crate) anybody: bool,
    /// Our certificate and its key, as PEM.
    pub(crate) client: Option<(String, String)>,
}

/// The target of a `clientConfig`.
pub(crate) fn target(registry: &Registry, config: &Value) -> Result<Target, String> {
    if let Some(url) = config["url"].as_str() {
        let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
        let host = uri.host().ok_or_else(|| format!("{url}: no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(443));
        let name = host.trim_matches(['[', ']']).to_owned();
        return Ok(Target { authority, name, path: clean(uri.path()) });
    }
    let service = &config["service"];
    let text = |f: &str| service[f].as_str().unwrap_or_default();
    let port = service["port"].as_i64().unwrap_or(443);
    let (namespace, name) = (text("namespace"), text("name"));
    let authority = endpoint(registry, namespace, name, port)?;
    Ok(Target { authority, name: format!("{name}.{namespace}.svc"), path: clean(text("path")) })
}

/// A path without doubled slashes and dots, as upstream sends it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for p in path.split('/') {
        match p {
            "" | "." => {}
            ".." => drop(parts.pop()),
            p => parts.push(p),
        }
    }
    format!("/{}", parts.join("/"))
}

/// An address of a Service: that of a ready endpoint, or of the name that it stands for.
pub(crate) fn endpoint(
    registry: &Registry,
    namespace: &str,
    name: &str,
    port: i64,
) -> Result<String, String> {
    let read = |resource: &str, name: &str| -> Option<Value> {
        let key = coracle_store::Key::new(&Arc::from(resource), namespace, name);
        serde_json::from_slice(&registry.store().get(&key)?.bytes).ok()
    };
    let service = read("/services", name).ok_or_else(|| format!("service {name:?} not found"))?;
    if service["spec"]["type"] == "ExternalName" {
        let host = service["spec"]["externalName"].as_str().unwrap_or_default();
        return Ok(format!("{host}:{port}"));
    }
    let port_of_service = service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["port"].as_i64() == Some(port))
        .ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    let port_name = port_of_service["name"].as_str().unwrap_or_default();
    let slices = registry.store().snapshot("discovery.k8s.io/endpointslices");
    for (_, object) in slices.iter(Some(namespace), None) {
        let Ok(slice) = serde_json::from_slice::<Value>(&object.bytes) else { continue };
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != name {
            continue;
        }
        let ports = slice["ports"].as_array().into_iter().flatten();
        let number = ports
            .filter(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .find_map(|p| p["port"].as_i64());
        let ready = slice["endpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|e| e["conditions"]["ready"] != false && e["addresses"][0].is_string());
        if let (Some(number), Some(e)) = (number, ready) {
            let address = e["addresses"][0].as_str().unwrap_or_default();
            let host = if address.contains(':') { format!("[{address}]") } else { address.into() };
            return Ok(format!("{host}:{number}"));
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}

impl Server {
    /// Gives the registry a way to call conversion webhooks.
    pub(crate) fn serve_conversion(self: &Arc<Self>) {
        let server = Arc::downgrade(self);
        let converter = coracle_registry::convert::Converter::new(move |webhook, review| {
            let server = server.upgrade().ok_or("the server is stopping")?;
            let call = convert(server, webhook.clone(), review.clone());
            // The registry waits: this thread lends its place to another meanwhile.
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(call))
        });
        self.registry.set_converter(converter);
    }
}

async fn convert(server: Arc<Server>, webhook: Value, review: Value) -> Result<Value, String> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let config = &webhook["clientConfig"];
    let target = target(&server.registry, config)?;
    let ca = config["caBundle"].as_str().unwrap_or_default();
    let ca_pem = STANDARD.decode(ca).map_err(|e| format!("caBundle: {e}"))?;
    let trust = Trust { ca_pem, anybody: false, client: None };
    let url = format!("https://{}{}?timeout=30s", target.authority, target.path);
    let request = Request::post(format!("{}?timeout=30s", target.path))
        .header(header::HOST, &target.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(review.to_string())))
        .map_err(|e| e.to_string())?;
    let call = async {
        let response = send(&target, &trust, request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        if status.is_server_error() {
            let text = String::from_utf8_lossy(&body);
            return Err(format!(
                "an error on the server ({:?}) has prevented the request from succeeding",
                text.trim()
            ));
        }
        if !status.is_success() {
            return Err("the server rejected our request for an unknown reason".into());
        }
        serde_json::from_slice(&body).map_err(|e| e.to_string())
    };
    match tokio::time::timeout(CONVERSION_TIMEOUT, call).await {
        Ok(answer) => answer.map_err(|e| format!("Post {url:?}: {e}")),
        Err(_) => Err(format!("Post {url:?}: context deadline exceeded")),
    }
}

/// Sends one request over a connection of its own.
pub(crate) async fn send(
    target: &Target,
    trust: &Trust,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let stream = connect(target, trust).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    // Ends with the response, or when either side goes away.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|e| e.to_string())
}

async fn connect(target: &Target, trust: &Trust) -> Result<TlsStream<TcpStream>, String> {
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&target.authority)).await;
    let tcp = match tcp {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err(format!("dial tcp {}: connect: connection refused", target.authority));
        }
        Ok(Err(e)) => return Err(format!("dial tcp {}: {e}", target.authority)),
        Err(_) => return Err(format!("dial tcp {}: i/o timeout", target.authority)),
    };
    let _ = tcp.set_nodelay(true);
    let name = ServerName::try_from(target.name.clone()).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::new(client_config(trust)?));
    connector.connect(name, tcp).await.map_err(|e| format!("tls: {e}"))
}

fn client_config(trust: &Trust) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(trust, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match &trust.client {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| e.to_string())?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
            builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())
        }
    }
}

/// The usual verification, but for two things that Go does: a certificate that is itself among the
/// trusted ones is good (envtest gives webhooks' own certificates as their `caBundle`), and an
/// APIService may ask not to verify at all.
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
    anybody: bool,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("anybody", &self.anybody).finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(trust: &Trust, provider: &Arc<rustls::crypto::CryptoProvider>) -> Result<Self, String> {
        let system;
        let pem: &[u8] = if trust.ca_pem.iter().all(u8::is_ascii_whitespace) {
            system = std::fs::read(SYSTEM_ROOTS).unwrap_or_default();
            &system
        } else {
            &trust.ca_pem
        };
        let trusted: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(trusted.iter().cloned());
        let inner = if roots.is_empty() {
            None
        } else {
            let built =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build();
            Some(built.map_err(|e| e.to_string())?)
        };
        Ok(Self { inner, trusted, anybody: trust.anybody, provider: provider.clone() })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.anybody {
            return Ok(ServerCertVerified::assertion());
        }
        if self.trusted.iter().any(|t| t.as_ref() == end_entity.as_ref()) {
            let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
            rustls::client::verify_server_name(&parsed, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.inner {
            Some(v) => {
                v.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(rustls::Error::General("no authority is trusted".into())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (given, want) in [("//validate-x", "/validate-x"), ("/a/./b/../c/", "/a/c"), ("", "/")]
        {
            assert_eq!(clean(given), want);
        }
    }
}
