//! A cloud for a test: moto's server, and before it [`super::emulator`], which adds what moto lacks and the
//! faults of a real cloud.

use super::emulator::{forward, serve};
use crate::cluster::root;
use http::HeaderMap;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// Keys that requests are signed with.
pub(crate) const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "AKIDTEST"), ("AWS_SECRET_ACCESS_KEY", "secret")];
pub(crate) const REGION: &str = "us-east-1";

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Of so many requests one is refused as too many.
    pub(crate) throttle_every: usize,
    /// Of so many requests that change something one is carried out and not answered.
    pub(crate) lose_every: usize,
    /// What was launched is not seen for this long.
    pub(crate) invisible_for: Duration,
    /// Types (by the beginning of their names) and capacity types that are not to be had.
    pub(crate) no_capacity: Vec<(&'static str, &'static str)>,
    /// Whether the price list is out of reach.
    pub(crate) no_prices: bool,
}

pub(super) type Forms = BTreeMap<String, String>;

pub(super) struct State {
    pub(super) moto: u16,
    pub(super) http: Client<HttpConnector, Full<Bytes>>,
    pub(super) faults: Mutex<Faults>,
    /// Launches by token: what was asked, and the answer.
    pub(super) tokens: Mutex<HashMap<String, (Forms, Bytes)>>,
    pub(super) launched: Mutex<HashMap<String, Instant>>,
    /// Offerings that were refused, and how often they were asked for again after that.
    pub(super) refused: Mutex<HashMap<(String, String, String), Instant>>,
    /// How often which action was asked for.
    pub(super) asked: Mutex<HashMap<String, usize>>,
    pub(super) images: Mutex<BTreeMap<&'static str, String>>,
    pub(super) unsigned: Mutex<Vec<String>>,
}

pub(crate) struct Aws {
    moto: Child,
    state: Arc<State>,
    runtime: Runtime,
    pub(crate) port: u16,
}

impl Aws {
    pub(crate) fn start() -> Self {
        let server: PathBuf = root().join("target/moto/bin/moto_server");
        assert!(server.exists(), "{} is missing: `cargo xtask test` makes it", server.display());
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = free();
        let mut moto = Command::new(server);
        moto.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let moto = moto.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let state = Arc::new(State {
            moto: port,
            http: Client::builder(TokioExecutor::new()).build_http(),
            faults: Mutex::default(),
            tokens: Mutex::default(),
            launched: Mutex::default(),
            refused: Mutex::default(),
            asked: Mutex::default(),
            images: Mutex::default(),
            unsigned: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let own = runtime.block_on(serve(state.clone()));
        let aws = Self { moto, state, runtime, port: own };
        aws.wait();
        aws.furnish();
        aws
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", self.state.moto)).is_err() {
            assert!(Instant::now() < end, "moto's server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A network with three subnets, a role and a queue.
    fn furnish(&self) {
        for (i, id) in self.ids("DescribeSubnets", "subnetId").iter().take(3).enumerate() {
            self.tag(id, &[("karpenter.sh/discovery", "test"), ("n", &i.to_string())]);
        }
        self.call(
            "iam",
            "Action=CreateRole&Version=2010-05-08&RoleName=nodes&AssumeRolePolicyDocument=%7B%7D",
        );
        self.call("sqs", "Action=CreateQueue&Version=2012-11-05&QueueName=notices");
        let images = self.call("ec2", "Action=DescribeImages&Version=2016-11-15&Owner.1=amazon");
        let xml = roxmltree::Document::parse(&images).unwrap();
        let of = |arch: &str| {
            let all = xml.descendants().filter(|n| n.tag_name().name() == "item");
            let has = |n: &roxmltree::Node<'_, '_>, k: &str, v: &str| {
                n.children().any(|c| c.tag_name().name() == k && c.text() == Some(v))
            };
            let mut fit = all.filter(|n| has(n, "architecture", arch));
            let image = fit.next().unwrap();
            let id = image.children().find(|c| c.tag_name().name() == "imageId");
            id.unwrap().text().unwrap().to_owned()
        };
        *self.state.images.lock() = [("x86_64", of("x86_64")), ("arm64", of("arm64"))].into();
    }

    pub(crate) fn tag(&self, id: &str, tags: &[(&str, &str)]) {
        let mut form = format!("Action=CreateTags&Version=2016-11-15&ResourceId.1={id}");
        for (i, (k, v)) in tags.iter().enumerate() {
            form.push_str(&format!("&Tag.{0}.Key={k}&Tag.{0}.Value={v}", i + 1));
        }
        self.call("ec2", &form);
    }

    /// A new image for a way of naming one.
    pub(crate) fn set_image(&self, arch: &'static str, id: &str) {
        self.state.images.lock().insert(arch, id.to_owned());
    }

    pub(crate) fn image(&self, arch: &str) -> String {
        self.state.images.lock()[arch].clone()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.state.faults.lock() = faults;
    }

    pub(crate) fn asked(&self, action: &str) -> usize {
        self.state.asked.lock().get(action).copied().unwrap_or(0)
    }

    /// Requests whose signatures were wrong.
    pub(crate) fn unsigned(&self) -> Vec<String> {
        self.state.unsigned.lock().clone()
    }

    /// Asks moto itself.
    pub(crate) fn call(&self, service: &str, form: &str) -> String {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=x"
        );
        let mut headers = HeaderMap::new();
        headers.insert("authorization", scope.parse().unwrap());
        headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
        let answer = self.runtime.block_on(forward(&self.state, &headers, form.to_owned().into()));
        let (code, body) = answer;
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(code == 200, "{form}: {body}");
        body
    }

    /// The texts of all elements of a name in an answer.
    pub(crate) fn ids(&self, action: &str, element: &str) -> Vec<String> {
        let body = self.call("ec2", &format!("Action={action}&Version=2016-11-15"));
        texts(&body, element)
    }

    /// Ids of the machines that run, with their zones as nodes name them.
    pub(crate) fn running(&self) -> Vec<String> {
        let filter =
            "Filter.1.Name=instance-state-name&Filter.1.Value.1=running&Filter.1.Value.2=pending";
        let form = format!("Action=DescribeInstances&Version=2016-11-15&MaxResults=1000&{filter}");
        let body = self.call("ec2", &form);
        let zones = texts(&body, "availabilityZone");
        let ids = texts(&body, "instanceId");
        assert_eq!(zones.len(), ids.len());
        let mut all: Vec<String> =
            zones.iter().zip(&ids).map(|(z, i)| format!("aws:///{z}/{i}")).collect();
        all.sort();
        all
    }

    /// Tells of an event as the cloud's bus does.
    pub(crate) fn notify(&self, kind: &str, detail: &Value) {
        let body =
            json!({"version": "0", "source": "aws.ec2", "detail-type": kind, "detail": detail});
        let url = format!("http://127.0.0.1:{}/123456789012/notices", self.state.moto);
        let form = format!(
            "Action=SendMessage&Version=2012-11-05&QueueUrl={}&MessageBody={}",
            escape(&url),
            escape(&body.to_string())
        );
        self.call("sqs", &form);
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        let _ = self.moto.kill();
        let _ = self.moto.wait();
    }
}

pub(super) fn texts(body: &str, element: &str) -> Vec<String> {
    let xml = roxmltree::Document::parse(body).unwrap();
    let all = xml.descendants().filter(|n| n.tag_name().name() == element);
    all.filter_map(|n| n.text().map(str::to_owned)).collect()
}

pub(super) fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}
