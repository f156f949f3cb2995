//! Keys and certificates: one authority a cluster, kept in its data directory, and what it signs.

use crate::authn::TokenKey;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{io::Write, net::IpAddr, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

/// Why keys could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// Read or write.
        what: &'static str,
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate could not be made or read.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A key is not what it should be.
    #[error("{0}")]
    Key(String),
    /// TLS refused the keys.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// The authority of a cluster.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    token_key: Vec<u8>,
}

/// A client certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// Certificate.
    pub certificate_pem: String,
    /// Private key.
    pub key_pem: String,
}

fn years(params: &mut CertificateParams, n: i32) {
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2026 + n, 1, 1);
}

impl Pki {
    /// A new authority that is kept nowhere.
    ///
    /// # Errors
    /// When keys cannot be generated.
    pub fn generate() -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![])?;
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        years(&mut params, 20);
        let certificate = params.self_signed(&key)?;
        let (ca_pem, ca_der) = (certificate.pem(), certificate.der().clone());
        let token_key = TokenKey::generate().map_err(PkiError::Key)?;
        Ok(Self { issuer: Issuer::new(params, key), ca_pem, ca_der, token_key })
    }

    /// The authority of a directory, made when it is not there yet.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        let file = |name: &str| directory.join(name);
        if !file("ca.crt").exists() {
            let pki = Self::generate()?;
            let made = std::fs::create_dir_all(directory);
            made.map_err(|source| PkiError::File {
                what: "create",
                path: directory.display().to_string(),
                source,
            })?;
            write_private(&file("sa.key"), &pki.token_key)?;
            write_private(&file("ca.key"), pki.issuer.key().serialize_pem().as_bytes())?;
            write_private(&file("ca.crt"), pki.ca_pem.as_bytes())?;
            return Ok(pki);
        }
        let read = |name: &str| {
            let path = file(name);
            std::fs::read(&path).map_err(|source| PkiError::File {
                what: "read",
                path: path.display().to_string(),
                source,
            })
        };
        let text =
            |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|e| PkiError::Key(e.to_string()));
        let (ca_pem, key_pem, token_key) =
            (text(read("ca.crt")?)?, text(read("ca.key")?)?, read("sa.key")?);
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, KeyPair::from_pem(&key_pem)?)?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes())
            .map_err(|e| PkiError::Key(format!("ca.crt: {e}")))?;
        let ca_der = CertificateDer::from(pem.contents);
        Ok(Self { issuer, ca_pem, ca_der, token_key })
    }

    /// The authority's certificate, as PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The key of service account tokens.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn token_key(&self) -> Result<TokenKey, PkiError> {
        TokenKey::from_pkcs8(&self.token_key).map_err(PkiError::Key)
    }

    /// A certificate for a user and its groups.
    ///
    /// # Errors
    /// When keys cannot be generated.
    pub fn client(&self, user: &str, group: &str) -> Result<ClientCertificate, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![])?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        years(&mut params, 10);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// A certificate for a server that answers at the given addresses, with its key.
    ///
    /// # Errors
    /// When keys cannot be generated.
    pub fn server_certificate(&self, addresses: &[IpAddr]) -> Result<ClientCertificate, PkiError> {
        let key = KeyPair::generate()?;
        let certificate = self.server_parameters(addresses)?.signed_by(&key, &self.issuer)?;
        let certificate_pem = format!("{}{}", certificate.pem(), self.ca_pem);
        Ok(ClientCertificate { certificate_pem, key_pem: key.serialize_pem() })
    }

    /// TLS for a server that answers at the given addresses, asking clients for certificates.
    ///
    /// # Errors
    /// When keys cannot be generated.
    pub fn server_config(&self, addresses: &[IpAddr]) -> Result<ServerConfig, PkiError> {
        let key = KeyPair::generate()?;
        let params = self.server_parameters(addresses)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = vec![certificate.der().clone(), self.ca_der.clone()];
        tls_config(chain, private, vec![self.ca_der.clone()])
    }

    fn server_parameters(&self, addresses: &[IpAddr]) -> Result<CertificateParams, PkiError> {
        let names = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let mut params = CertificateParams::new(names.map(String::from).to_vec())?;
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        years(&mut params, 10);
        Ok(params)
    }
}

/// TLS with certificates that somebody else made: a chain and its key, and the authorities whose
/// clients are known.
///
/// # Errors
/// When a text is no PEM, or holds no certificate or key of use.
pub fn server_config_of(
    chain_pem: &str,
    key_pem: &str,
    client_ca_pem: &str,
) -> Result<ServerConfig, PkiError> {
    use rustls_pki_types::pem::PemObject;
    let bad = |e: rustls_pki_types::pem::Error| PkiError::Key(e.to_string());
    let certificates = |pem: &str| {
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(bad)
    };
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(bad)?;
    tls_config(certificates(chain_pem)?, key, certificates(client_ca_pem)?)
}

fn tls_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    client_authorities: Vec<CertificateDer<'static>>,
) -> Result<ServerConfig, PkiError> {
    let tls = |e: &dyn std::fmt::Display| PkiError::Tls(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in client_authorities {
        roots.add(authority).map_err(|e| tls(&e))?;
    }
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| tls(&e))?;
    let builder = if roots.is_empty() {
        builder.with_no_client_auth()
    } else {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|e| tls(&e))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| tls(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Writes a file that only its owner can read, all of it or nothing.
///
/// # Errors
/// When the file system refuses.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    let fail = |source| PkiError::File { what: "write", path: path.display().to_string(), source };
    let temporary = path.with_extension("tmp");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)?;
    std::fs::rename(&temporary, path).map_err(fail)
}
