//! Signed requests to the cloud's services, in the two protocols that they speak: the query protocol
//! (form in, XML out) and JSON. What was throttled or failed on the cloud's side is tried again, all
//! callers of a service holding back together; every request that is not idempotent by itself carries
//! a token that makes it so, or it must not be sent through here.

use crate::{
    Settings,
    web::{Commands, Files, Web},
};
use bytes::Bytes;
use coracle_clouds::CloudError;
use http::{Method, Request, header};
use parking_lot::Mutex;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner};
use reqsign_core::{Context, OsEnv, Signer};
use serde_json::Value;
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};
use tokio::time::Instant;

/// A request that fails on the cloud's side is sent this often.
const ATTEMPTS: u32 = 6;
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(20));
/// Codes of the cloud that mean: slower.
const THROTTLED: [&str; 7] = [
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "TooManyRequestsException",
    "EC2ThrottledException",
];

/// Our code for a cloud that did not answer as it should.
const NO_ANSWER: &str = "NoAnswer";

/// A service of the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    /// Machines and networks.
    Ec2,
    /// Instance profiles.
    Iam,
    /// On-demand prices.
    Pricing,
    /// Names of images.
    Ssm,
    /// Notices.
    Sqs,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Iam => "iam",
            Self::Pricing => "pricing",
            Self::Ssm => "ssm",
            Self::Sqs => "sqs",
        }
    }

    /// The region that requests are signed for.
    fn region(self, own: &str) -> &str {
        match self {
            Self::Iam if !own.starts_with("cn-") => "us-east-1",
            Self::Iam => "cn-north-1",
            Self::Pricing if own.starts_with("cn-") => "cn-northwest-1",
            Self::Pricing if own.starts_with("ap-") => "ap-south-1",
            Self::Pricing if own.starts_with("eu-") => "eu-central-1",
            Self::Pricing => "us-east-1",
            _ => own,
        }
    }

    fn endpoint(self, own: &str) -> String {
        let region = self.region(own);
        let domain = if own.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        match self {
            Self::Iam if !own.starts_with("cn-") => format!("https://iam.{domain}"),
            Self::Pricing => format!("https://api.pricing.{region}.{domain}"),
            _ => format!("https://{}.{region}.{domain}", self.name()),
        }
    }

    /// How JSON requests name an operation, and the version of the protocol.
    fn json(self) -> (&'static str, &'static str) {
        match self {
            Self::Pricing => ("AWSPriceListService", "1.1"),
            Self::Ssm => ("AmazonSSM", "1.1"),
            _ => ("AmazonSQS", "1.0"),
        }
    }

    /// Version of the query protocol.
    fn version(self) -> &'static str {
        match self {
            Self::Iam => "2010-05-08",
            _ => "2016-11-15",
        }
    }
}

/// How callers of a service hold back.
#[derive(Clone, Copy, Debug)]
struct Pace {
    until: Instant,
    wait: Duration,
}

/// Sends requests.
#[derive(Debug)]
pub(crate) struct Client {
    http: Web,
    signers: HashMap<Service, Signer<Credential>>,
    region: String,
    endpoint: Option<String>,
    paces: Mutex<HashMap<Service, Pace>>,
}

/// An answer that is no success.
#[derive(Debug)]
enum Failure {
    /// The service says no: its code and words.
    Refused(String, String),
    /// It did not answer as it should, and may have done what was asked.
    Lost(String),
}

impl Client {
    pub(crate) fn new(settings: &Settings) -> Result<Self, CloudError> {
        let http = Web::new().map_err(|e| error("opening a client", "NoRoots", &e))?;
        let context = Context::new()
            .with_http_send(http.clone())
            .with_file_read(Files)
            .with_command_execute(Commands)
            .with_env(OsEnv);
        let all = [Service::Ec2, Service::Iam, Service::Pricing, Service::Ssm, Service::Sqs];
        let signer = |s: Service| {
            let signs = RequestSigner::new(s.name(), s.region(&settings.region));
            (s, Signer::new(context.clone(), DefaultCredentialProvider::new(), signs))
        };
        Ok(Self {
            http,
            signers: all.into_iter().map(signer).collect(),
            region: settings.region.clone(),
            endpoint: settings.endpoint.clone(),
            paces: Mutex::default(),
        })
    }

    /// A request of the query protocol; returns the XML of the answer.
    pub(crate) async fn query(
        &self,
        service: Service,
        action: &str,
        params: &[(String, String)],
    ) -> Result<String, CloudError> {
        let mut form = format!("Action={action}&Version={}", service.version());
        for (k, v) in params {
            form.push('&');
            form.push_str(&escape(k));
            form.push('=');
            form.push_str(&escape(v));
        }
        let kind = "application/x-www-form-urlencoded; charset=utf-8";
        let body = self.send(service, action, &[("content-type", kind)], form.into()).await?;
        String::from_utf8(body.to_vec()).map_err(|e| error(action, "BadAnswer", &e.to_string()))
    }

    /// A request of the JSON protocol.
    pub(crate) async fn json(
        &self,
        service: Service,
        action: &str,
        input: &Value,
    ) -> Result<Value, CloudError> {
        let (prefix, version) = service.json();
        let kind = format!("application/x-amz-json-{version}");
        let target = format!("{prefix}.{action}");
        let headers = [("content-type", kind.as_str()), ("x-amz-target", &target)];
        let body = self.send(service, action, &headers, input.to_string().into()).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|e| error(action, "BadAnswer", &e.to_string()))
    }

    async fn send(
        &self,
        service: Service,
        action: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Bytes, CloudError> {
        let mut wait = BACKOFF.0;
        for attempt in 1.. {
            self.hold_back(service).await;
            let failure = match self.once(service, headers, body.clone()).await {
                Ok(answer) => {
                    self.paces.lock().entry(service).and_modify(|p| p.wait /= 2);
                    return Ok(answer);
                }
                Err(f) => f,
            };
            let (code, message, throttled) = match &failure {
                Failure::Refused(code, message) => {
                    (code.as_str(), message.as_str(), THROTTLED.contains(&code.as_str()))
                }
                Failure::Lost(message) => (NO_ANSWER, message.as_str(), false),
            };
            let again = throttled || matches!(failure, Failure::Lost(_));
            if !again || attempt == ATTEMPTS {
                return Err(error(action, code, message));
            }
            tracing::debug!(action, attempt, code, message, "is tried again");
            if throttled {
                self.slow_down(service);
            } else {
                tokio::time::sleep(jitter(wait)).await;
                wait = (wait * 2).min(BACKOFF.1);
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn hold_back(&self, service: Service) {
        let until = self.paces.lock().get(&service).map(|p| p.until);
        if let Some(until) = until {
            // Not all at once when the time has come.
            let now = Instant::now();
            if until > now {
                tokio::time::sleep(jitter(until - now) + (until - now) / 2).await;
            }
        }
    }

    fn slow_down(&self, service: Service) {
        let mut paces = self.paces.lock();
        let now = Instant::now();
        let pace = paces.entry(service).or_insert(Pace { until: now, wait: BACKOFF.0 });
        if pace.until <= now {
            pace.wait = (pace.wait * 2).clamp(BACKOFF.0, BACKOFF.1);
            pace.until = now + pace.wait;
        }
    }

    async fn once(
        &self,
        service: Service,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let bad = |e: &dyn std::fmt::Display| Failure::Refused("BadRequest".into(), e.to_string());
        let endpoint = self.endpoint.clone().unwrap_or_else(|| service.endpoint(&self.region));
        let mut request = Request::builder().method(Method::POST).uri(format!("{endpoint}/"));
        for (k, v) in headers {
            request = request.header(*k, *v);
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, &body);
        let request = request
            .header("x-amz-content-sha256", hex(digest.as_ref()))
            .header(header::CONTENT_LENGTH, body.len())
            .body(body)
            .map_err(|e| bad(&e))?;
        let (mut parts, body) = request.into_parts();
        let signer = self.signers.get(&service).ok_or_else(|| bad(&"no signer"))?;
        signer.sign(&mut parts, None).await.map_err(|e| {
            Failure::Refused("NoCredentials".into(), format!("requests cannot be signed: {e}"))
        })?;
        let answer = self.http.send(Request::from_parts(parts, body)).await;
        let answer = answer.map_err(Failure::Lost)?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        let (status, body) = (answer.status(), answer.into_body());
        let (code, message) = refusal(&String::from_utf8_lossy(&body));
        if status.is_server_error() && !THROTTLED.contains(&code.as_str()) {
            return Err(Failure::Lost(format!("{status}: {code}: {message}")));
        }
        let code = if code.is_empty() { status.as_str().to_owned() } else { code };
        Err(Failure::Refused(code, message))
    }
}

/// An error of the cloud.
pub(crate) fn error(doing: &str, code: &str, message: &str) -> CloudError {
    CloudError { doing: doing.into(), code: code.into(), message: message.into() }
}

/// Whether the cloud could not be asked, and may be later.
pub(crate) fn is_passing(e: &CloudError) -> bool {
    e.code == NO_ANSWER || THROTTLED.contains(&e.code.as_str())
}

/// Code and message of a refusal, in XML or JSON.
fn refusal(body: &str) -> (String, String) {
    if let Ok(v) = serde_json::from_str::<Value>(body) {
        let text = |k: &str| v[k].as_str().unwrap_or_default().to_owned();
        let code = text("__type");
        let code = code.rsplit(['#', '.']).next().unwrap_or_default().to_owned();
        let message = if v["message"].is_string() { text("message") } else { text("Message") };
        return (code, message);
    }
    let Ok(xml) = roxmltree::Document::parse(body) else {
        let first = body.lines().next().unwrap_or_default();
        return (String::new(), first.chars().take(100).collect());
    };
    let first = |name: &str| {
        let mut all = xml.descendants().filter(|n| n.tag_name().name() == name);
        all.find_map(|n| n.text()).unwrap_or_default().to_owned()
    };
    (first("Code"), first("Message"))
}

/// Percent-encoding of everything but unreserved characters, as signatures want it.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(b));
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// From half of a wait to all of it.
fn jitter(wait: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1000;
    wait.mul_f64(0.5 + random as f64 / 2000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_in_both_protocols() {
        let xml = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow</Message></Error></Errors></Response>";
        assert_eq!(refusal(xml), ("RequestLimitExceeded".into(), "slow".into()));
        let iam = r#"<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Code>NoSuchEntity</Code><Message>x</Message></Error></ErrorResponse>"#;
        assert_eq!(refusal(iam).0, "NoSuchEntity");
        let json = r#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"m"}"#;
        assert_eq!(refusal(json), ("QueueDoesNotExist".into(), "m".into()));
        assert_eq!(refusal("<html>"), (String::new(), "<html>".into()));
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(escape("a b/ü*~"), "a%20b%2F%C3%BC%2A~");
    }

    #[test]
    fn services_are_where_the_region_has_them() {
        assert_eq!(Service::Ec2.endpoint("eu-central-1"), "https://ec2.eu-central-1.amazonaws.com");
        assert_eq!(Service::Iam.endpoint("eu-central-1"), "https://iam.amazonaws.com");
        assert_eq!(Service::Iam.region("eu-central-1"), "us-east-1");
        assert_eq!(
            Service::Pricing.endpoint("eu-west-1"),
            "https://api.pricing.eu-central-1.amazonaws.com"
        );
        assert_eq!(Service::Sqs.endpoint("cn-north-1"), "https://sqs.cn-north-1.amazonaws.com.cn");
    }
}
