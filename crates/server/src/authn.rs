//! Who is calling: client certificates, service account tokens, impersonation, nobody.

use crate::{Server, websocket};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use coracle_meta::{GroupResource, Status};
use coracle_store::Key;
use http::{HeaderMap, Request, header::AUTHORIZATION};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Issuer of service account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What comes before the point in the DER form of a public key on P-256 (RFC 5480).
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A user and the groups it is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User name.
    pub user: String,
    /// User id, if known.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Identity {
    /// An authenticated user.
    pub fn user(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).into()).collect();
        groups.push("system:authenticated".into());
        Self { user: name.into(), uid: String::new(), groups }
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let group = format!("system:serviceaccounts:{namespace}");
        Self::user(
            format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &group],
        )
    }

    /// Nobody known.
    pub fn anonymous() -> Self {
        Self {
            user: "system:anonymous".into(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".into()],
        }
    }

    /// The subject of a client certificate that TLS has verified: common name and organizations.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, cert) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = cert.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?;
        let groups: Vec<&str> =
            subject.iter_organization().filter_map(|o| o.as_str().ok()).collect();
        Some(Self::user(name, &groups))
    }

    /// `userInfo` of reviews.
    pub fn to_value(&self) -> Value {
        let mut v = json!({"username": self.user, "groups": self.groups});
        if !self.uid.is_empty() {
            v["uid"] = json!(self.uid);
        }
        v
    }
}

/// The key that signs and verifies service account tokens (ES256), and who they say issued them.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    issuer: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey")
    }
}

/// What a token is for.
#[derive(Clone, Debug)]
pub struct TokenClaims {
    /// Service account's namespace.
    pub namespace: String,
    /// Service account's name.
    pub name: String,
    /// Service account's UID.
    pub uid: String,
    /// Who may accept it; empty for the API server.
    pub audiences: Vec<String>,
    /// Issue and expiry, Unix seconds.
    pub issued: i64,
    /// Expiry, Unix seconds.
    pub expires: i64,
    /// The object that the token is bound to: kind, name, uid.
    pub bound: Option<(String, String, String)>,
}

impl TokenKey {
    /// A new key, as PKCS#8.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Vec<u8>, String> {
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map(|d| d.as_ref().to_vec())
            .map_err(|_| "cannot generate a key".into())
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When it is no ECDSA P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)
            .map_err(|e| format!("the service account key cannot be read: {e}"))?;
        Ok(Self { pair, random, issuer: ISSUER.into() })
    }

    /// The same key for another issuer.
    #[must_use]
    pub fn issued_by(mut self, issuer: &str) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// Who the tokens say issued them, which is also their usual audience.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The public key's name in tokens and in the key set: the hash of its usual encoding, as
    /// upstream names them.
    fn id(&self) -> String {
        let der = [&SPKI_P256[..], self.pair.public_key().as_ref()].concat();
        URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &der))
    }

    /// The key for who verifies tokens, as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        let coordinate = |range: std::ops::Range<usize>| {
            URL_SAFE_NO_PAD.encode(point.get(range).unwrap_or_default())
        };
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id(), "alg": "ES256",
            "crv": "P-256", "x": coordinate(1..33), "y": coordinate(33..65)}]})
    }

    /// Signs a token.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(&self, c: &TokenClaims) -> Result<String, Status> {
        let mut kubernetes =
            json!({"namespace": c.namespace, "serviceaccount": {"name": c.name, "uid": c.uid}});
        if let Some((kind, name, uid)) = &c.bound {
            kubernetes[kind.to_lowercase()] = json!({"name": name, "uid": uid});
        }
        let audiences =
            if c.audiences.is_empty() { vec![self.issuer.clone()] } else { c.audiences.clone() };
        let claims = json!({
            "iss": self.issuer, "sub": format!("system:serviceaccount:{}:{}", c.namespace, c.name), "aud": audiences,
            "iat": c.issued, "nbf": c.issued, "exp": c.expires, "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": kubernetes,
        });
        let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let text =
            format!("{}.{}", encode(&json!({"alg": "ES256", "kid": self.id()})), encode(&claims));
        let signature = self
            .pair
            .sign(&self.random, text.as_bytes())
            .map_err(|_| Status::internal("cannot sign a token"))?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key signed.
    pub fn verify(&self, token: &str) -> Option<Value> {
        let (text, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key());
        public.verify(text.as_bytes(), &signature).ok()?;
        let (header, claims) = text.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header["alg"] != "ES256" {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

/// The identity of a bearer token for an audience, if the token is good.
pub(crate) fn of_token(server: &Server, token: &str, audience: &str) -> Option<Identity> {
    let claims = server.tokens.verify(token)?;
    let now = server.registry.now().as_second();
    let audiences = claims["aud"].as_array()?;
    if claims["iss"] != server.tokens.issuer()
        || claims["exp"].as_i64()? <= now
        || !audiences.iter().any(|a| a == audience)
    {
        return None;
    }
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let info = &claims["kubernetes.io"];
    let (namespace, name, uid) = (
        text(&info["namespace"]),
        text(&info["serviceaccount"]["name"]),
        text(&info["serviceaccount"]["uid"]),
    );
    // A token dies with its account, and with what it is bound to.
    let alive = |resource: &str, name: &str, uid: &str| {
        let key = Key::new(&Arc::from(resource), &namespace, name);
        let object = server.registry.store().get(&key)?;
        let v: Value = serde_json::from_slice(&object.bytes).ok()?;
        (v["metadata"]["uid"] == uid).then_some(())
    };
    alive("/serviceaccounts", &name, &uid)?;
    for (kind, resource) in [("pod", "/pods"), ("secret", "/secrets")] {
        if info[kind].is_object() {
            alive(resource, &text(&info[kind]["name"]), &text(&info[kind]["uid"]))?;
        }
    }
    Some(Identity { uid, ..Identity::service_account(&namespace, &name) })
}

/// The caller of a request that came over the network.
///
/// # Errors
/// 401 for a bearer token that is not good.
pub fn authenticate(
    server: &Server,
    certificate: Option<&Identity>,
    headers: &HeaderMap,
) -> Result<Identity, Status> {
    if let Some(identity) = certificate {
        return Ok(identity.clone());
    }
    let token = match headers.get(AUTHORIZATION) {
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let token = text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("bearer "));
            token.ok_or_else(Status::unauthorized)?.trim().to_owned()
        }
        None => match websocket::bearer_token(headers)? {
            Some(token) => token,
            None => return Ok(Identity::anonymous()),
        },
    };
    of_token(server, &token, server.tokens.issuer()).ok_or_else(Status::unauthorized)
}

/// The identity that a caller asks to act as, if it may.
///
/// # Errors
/// 403 when it may not.
pub(crate) fn impersonate<B>(
    server: &Server,
    caller: &Identity,
    request: &Request<B>,
) -> Result<Identity, Status> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    let Some(user) = header("impersonate-user") else {
        let stray = ["impersonate-group", "impersonate-uid"]
            .iter()
            .any(|h| request.headers().contains_key(*h));
        return if stray {
            Err(Status::bad_request("requested impersonation without a user"))
        } else {
            Ok(caller.clone())
        };
    };
    let check = |resource: &str, namespace: &str, name: &str| {
        let info = crate::request::RequestInfo {
            verb: "impersonate".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            version: "v1".into(),
            ..Default::default()
        };
        server.rbac.authorize(caller, &info)
    };
    let groups: Vec<&str> = request
        .headers()
        .get_all("impersonate-group")
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect();
    let mut identity =
        match user.strip_prefix("system:serviceaccount:").and_then(|s| s.split_once(':')) {
            Some((ns, name)) => {
                check("serviceaccounts", ns, name)?;
                Identity::service_account(ns, name)
            }
            None => {
                check("users", "", user)?;
                Identity::user(user, &[])
            }
        };
    for g in groups {
        check("groups", "", g)?;
        identity.groups.push(g.into());
    }
    Ok(identity)
}

/// Creates a token for a service account: the `token` subresource.
///
/// # Errors
/// 404 for an unknown account, 422 for a duration below ten minutes.
pub(crate) fn create_token(
    server: &Server,
    namespace: &str,
    name: &str,
    request: &Value,
) -> Result<Value, Status> {
    let kind = server
        .registry
        .kinds()
        .get("", "v1", "serviceaccounts")
        .cloned()
        .ok_or_else(Status::no_such_resource)?;
    let account: Value = serde_json::from_slice(&server.registry.get(&kind, namespace, name)?)
        .map_err(Status::internal)?;
    let spec = &request["spec"];
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
    if seconds < 600 {
        let e = coracle_meta::status::FieldError::invalid(
            "spec.expirationSeconds",
            seconds,
            "may not specify a duration less than 10 minutes",
        );
        return Err(Status::invalid("authentication.k8s.io", "TokenRequest", name, vec![e]));
    }
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let bound = match &spec["boundObjectRef"] {
        Value::Null => None,
        r => {
            let resource = match text(&r["kind"]).as_str() {
                "Pod" => "/pods",
                "Secret" => "/secrets",
                k => {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount to an object of type {k}"
                    )));
                }
            };
            let key = Key::new(&Arc::from(resource), namespace, &text(&r["name"]));
            let object = server.registry.store().get(&key).ok_or_else(|| {
                Status::not_found(
                    &GroupResource::new("", resource.trim_start_matches('/')),
                    &text(&r["name"]),
                )
            })?;
            let v: Value = serde_json::from_slice(&object.bytes).map_err(Status::internal)?;
            Some((text(&r["kind"]), text(&r["name"]), text(&v["metadata"]["uid"])))
        }
    };
    let now = server.registry.now();
    let claims = TokenClaims {
        namespace: namespace.into(),
        name: name.into(),
        uid: text(&account["metadata"]["uid"]),
        audiences: spec["audiences"].as_array().into_iter().flatten().map(text).collect(),
        issued: now.as_second(),
        expires: now.as_second() + seconds,
        bound,
    };
    let token = server.tokens.sign(&claims)?;
    let expires = jiff::Timestamp::from_second(claims.expires).unwrap_or(now);
    let audiences = if claims.audiences.is_empty() {
        vec![server.tokens.issuer().to_owned()]
    } else {
        claims.audiences
    };
    Ok(json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": coracle_meta::time::rfc3339(now)},
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": spec["boundObjectRef"]},
        "status": {"token": token, "expirationTimestamp": coracle_meta::time::rfc3339(expires)},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_verify_only_with_their_key_and_unchanged() {
        let key = TokenKey::from_pkcs8(&TokenKey::generate().unwrap()).unwrap();
        let other = TokenKey::from_pkcs8(&TokenKey::generate().unwrap()).unwrap();
        let claims = TokenClaims {
            namespace: "a".into(),
            name: "b".into(),
            uid: "u".into(),
            audiences: vec![],
            issued: 0,
            expires: 10,
            bound: None,
        };
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token).unwrap()["sub"], "system:serviceaccount:a:b");
        assert!(other.verify(&token).is_none());
        let mut parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        parts[0] = &none;
        assert!(key.verify(&parts.join(".")).is_none());
        assert!(key.verify("garbage").is_none());
    }
}
