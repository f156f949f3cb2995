//! What stands between the process and moto: faults, tokens, prices, the choice among offerings, signatures.

use super::aws::{Faults, Forms, REGION, State, escape};
use coracle_clouds::families::listed;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        if bytes[i] == b'%' {
            out.push(u8::from_str_radix(&text[i + 1..i + 3], 16).unwrap());
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

pub(super) async fn serve(state: Arc<State>) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let state = state.clone();
            tokio::spawn(async move {
                let service = service_fn(move |r| answer(r, state.clone()));
                let io = TokioIo::new(stream);
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
            });
        }
    });
    port
}

pub(super) async fn forward(state: &State, headers: &HeaderMap, body: Bytes) -> (u16, Bytes) {
    let mut request = Request::post(format!("http://127.0.0.1:{}/", state.moto));
    for (k, v) in headers.iter().filter(|(k, _)| !["host", "content-length"].contains(&k.as_str()))
    {
        request = request.header(k, v);
    }
    let answer = state.http.request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    (code, answer.into_body().collect().await.unwrap().to_bytes())
}

fn refusal(code: &str, message: &str) -> Bytes {
    let xml = format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>x</RequestID></Response>"
    );
    xml.into()
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let (code, bytes) = reply(&state, &head.headers, body).await;
    Ok(Response::builder().status(code).body(Full::new(bytes)).unwrap())
}

async fn reply(state: &State, headers: &HeaderMap, body: Bytes) -> (u16, Bytes) {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let target = headers.get("x-amz-target").map(|t| t.to_str().unwrap().to_owned());
    let form: Forms = match &target {
        Some(_) => Forms::new(),
        None => text
            .split('&')
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (unescape(k), unescape(v)))
            .collect(),
    };
    let action = match &target {
        Some(t) => t.rsplit('.').next().unwrap().to_owned(),
        None => form.get("Action").cloned().unwrap_or_default(),
    };
    if !is_signed(headers, &body) {
        state.unsigned.lock().push(action);
        return (403, refusal("SignatureDoesNotMatch", "the signature is wrong"));
    }
    let n = {
        let mut asked = state.asked.lock();
        *asked.entry("*".into()).or_default() += 1;
        let own = asked.entry(action.clone()).or_default();
        *own += 1;
        asked["*"]
    };
    let faults = state.faults.lock().clone();
    if faults.throttle_every > 0 && n.is_multiple_of(faults.throttle_every) && target.is_none() {
        return (503, refusal("RequestLimitExceeded", "Request limit exceeded."));
    }
    let (code, bytes) = match action.as_str() {
        "CreateFleet" => fleet(state, headers, &form, &faults).await,
        "DescribeSpotPriceHistory" => (200, spot_prices()),
        "GetProducts" if faults.no_prices => (500, Bytes::new()),
        "GetProducts" => (200, products(&text)),
        "GetParameter" if text.contains("/aws/service/") => parameter(state, &text),
        "TerminateInstances" if form.values().any(|v| is_young(state, v, &faults)) => {
            (400, refusal("InvalidInstanceID.NotFound", "The instance does not exist"))
        }
        "DescribeInstances" => {
            let (code, body) = forward(state, headers, body).await;
            (code, without_young(state, &body, &faults))
        }
        _ => forward(state, headers, body).await,
    };
    let changes = ["CreateFleet", "TerminateInstances", "CreateLaunchTemplate"];
    if faults.lose_every > 0 && changes.contains(&action.as_str()) {
        let mut asked = state.asked.lock();
        let own = asked.entry("changes".into()).or_default();
        *own += 1;
        if own.is_multiple_of(faults.lose_every) {
            return (500, Bytes::new());
        }
    }
    (code, bytes)
}

fn is_young(state: &State, id: &str, faults: &Faults) -> bool {
    state.launched.lock().get(id).is_some_and(|t| t.elapsed() < faults.invisible_for)
}

/// A listing without what was launched a moment ago.
fn without_young(state: &State, body: &Bytes, faults: &Faults) -> Bytes {
    let mut text = String::from_utf8(body.to_vec()).unwrap();
    let Ok(xml) = roxmltree::Document::parse(&text) else { return body.clone() };
    let list = xml.descendants().find(|n| n.tag_name().name() == "reservationSet");
    let items = list.into_iter().flat_map(|l| l.children().filter(|c| c.is_element()));
    let hidden = items.filter(|i| {
        let ids = i.descendants().filter(|n| n.tag_name().name() == "instanceId");
        ids.filter_map(|n| n.text()).any(|id| is_young(state, id, faults))
    });
    let ranges: Vec<_> = hidden.map(|i| i.range()).collect();
    drop(xml);
    for r in ranges.into_iter().rev() {
        text.replace_range(r, "");
    }
    text.into()
}

/// Chooses as the cloud does: by price for spot, by priority otherwise; refuses what is not to be had; and
/// answers the same token with the same machine.
async fn fleet(state: &State, headers: &HeaderMap, form: &Forms, faults: &Faults) -> (u16, Bytes) {
    let token = form["ClientToken"].clone();
    if let Some((asked, answer)) = state.tokens.lock().get(&token) {
        return match asked == form {
            true => (200, answer.clone()),
            false => (400, refusal("IdempotentParameterMismatch", "other parameters, same token")),
        };
    }
    let kind = form["TargetCapacitySpecification.DefaultTargetCapacityType"].clone();
    let mut offers: Vec<(f64, String, String, String)> = Vec::new();
    for (k, t) in form.iter().filter(|(k, _)| k.ends_with(".InstanceType")) {
        let at = k.trim_end_matches(".InstanceType");
        let of = |f: &str| form.get(&format!("{at}.{f}")).cloned().unwrap_or_default();
        let rank = match kind.as_str() {
            "spot" => spot_price(t, &of("AvailabilityZone")).unwrap_or(f64::MAX),
            _ => of("Priority").parse().unwrap_or(f64::MAX),
        };
        offers.push((rank, t.clone(), of("SubnetId"), at.to_owned()));
    }
    offers.sort_by(|a, b| a.0.total_cmp(&b.0));
    let scarce = |t: &str| {
        faults
            .no_capacity
            .iter()
            .any(|(prefix, c)| t.starts_with(prefix) && (*c == kind || c.is_empty()))
    };
    let chosen = offers.iter().position(|(_, t, _, _)| !scarce(t));
    {
        let (mut refused, mut asked) = (state.refused.lock(), state.asked.lock());
        for (_, t, subnet, _) in &offers {
            let key = (t.clone(), subnet.clone(), kind.clone());
            // What is asked for at the same time knows nothing of it.
            if refused.get(&key).is_some_and(|at| at.elapsed() > Duration::from_secs(1)) {
                *asked.entry("refused before".into()).or_default() += 1;
            }
        }
        for (_, t, subnet, _) in &offers[..chosen.unwrap_or(offers.len())] {
            refused.insert((t.clone(), subnet.clone(), kind.clone()), Instant::now());
        }
    }
    let mut errors = String::new();
    for (_, t, subnet, _) in &offers[..chosen.unwrap_or(offers.len())] {
        errors.push_str(&format!("<item><launchTemplateAndOverrides><overrides><instanceType>{t}</instanceType><subnetId>{subnet}</subnetId></overrides></launchTemplateAndOverrides><lifecycle>{kind}</lifecycle><errorCode>InsufficientInstanceCapacity</errorCode><errorMessage>no capacity</errorMessage></item>"));
    }
    let mut answer: Bytes = format!("<CreateFleetResponse><fleetId>fleet-none</fleetId><errorSet>{errors}</errorSet><fleetInstanceSet/></CreateFleetResponse>").into();
    if let Some(i) = chosen {
        let at = &offers[i].3;
        let config = at.split(".Overrides.").next().unwrap();
        let one = |(k, v): (&String, &String)| {
            let own = match k.strip_prefix(&format!("{at}.")) {
                Some(f) => format!("LaunchTemplateConfigs.1.Overrides.1.{f}"),
                None if k.starts_with(&format!("{config}.LaunchTemplateSpecification")) => {
                    k.replacen(config, "LaunchTemplateConfigs.1", 1)
                }
                None if k.starts_with("LaunchTemplateConfigs.") => return None,
                None => k.clone(),
            };
            Some(format!("{}={}", escape(&own), escape(v)))
        };
        let body: Vec<String> = form.iter().filter_map(one).collect();
        let (code, body) = forward(state, headers, body.join("&").into()).await;
        if code != 200 {
            return (code, body);
        }
        let text = String::from_utf8(body.to_vec()).unwrap();
        let ids: Vec<String> = {
            let xml = roxmltree::Document::parse(&text).unwrap();
            let lists = xml.descendants().filter(|n| n.tag_name().name() == "instanceIds");
            lists
                .flat_map(|l| l.descendants())
                .filter_map(|n| n.text().map(|t| t.trim().to_owned()))
                .filter(|t| t.starts_with("i-"))
                .collect()
        };
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1, "{text}");
        state.launched.lock().insert(ids[0].clone(), Instant::now());
        answer = text
            .replacen(
                "<fleetInstanceSet>",
                &format!("<errorSet>{errors}</errorSet><fleetInstanceSet>"),
                1,
            )
            .into();
    }
    state.tokens.lock().insert(token, (form.clone(), answer.clone()));
    (200, answer)
}

fn on_demand(t: &str) -> Option<f64> {
    listed().iter().find(|l| l.name == t).map(|l| l.usd_per_hour)
}

/// What spot costs: less in zones of later letters.
fn spot_price(t: &str, zone: &str) -> Option<f64> {
    let letter = f64::from(zone.bytes().last()? - b'a');
    Some(on_demand(t)? * (0.40 - 0.02 * letter))
}

fn spot_prices() -> Bytes {
    let mut items = String::new();
    for t in listed().iter().filter(|t| t.spot) {
        for zone in ["a", "b", "c", "d", "e", "f"].map(|z| format!("{REGION}{z}")) {
            let usd = spot_price(&t.name, &zone).unwrap();
            items.push_str(&format!("<item><instanceType>{}</instanceType><availabilityZone>{zone}</availabilityZone><productDescription>Linux/UNIX</productDescription><spotPrice>{usd:.6}</spotPrice><timestamp>2026-01-01T00:00:00.000Z</timestamp></item>", t.name));
        }
    }
    format!("<r><spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken/></r>").into()
}

/// A page of the price list.
fn products(input: &str) -> Bytes {
    let input: Value = serde_json::from_str(input).unwrap();
    let from: usize = input["NextToken"].as_str().map_or(0, |t| t.parse().unwrap());
    let one = |t: &coracle_clouds::families::Listed| {
        let usd = json!({"pricePerUnit": {"USD": t.usd_per_hour.to_string()}, "unit": "Hrs"});
        let product = json!({"product": {"attributes": {"instanceType": t.name}},
            "terms": {"OnDemand": {"A": {"priceDimensions": {"B": usd}}}}});
        json!(product.to_string())
    };
    let page: Vec<Value> = listed().iter().skip(from).take(100).map(one).collect();
    let mut out = json!({"PriceList": page});
    if from + 100 < listed().len() {
        out["NextToken"] = json!((from + 100).to_string());
    }
    out.to_string().into()
}

/// Public parameters that moto does not have: ids of images.
fn parameter(state: &State, input: &str) -> (u16, Bytes) {
    let known = ["/standard/", "aws-k8s-1.37/"].iter().any(|k| input.contains(k));
    let arch = if input.contains("arm64") { "arm64" } else { "x86_64" };
    if !known {
        let none = json!({"__type": "ParameterNotFound", "message": "no such parameter"});
        return (400, none.to_string().into());
    }
    let id = state.images.lock()[arch].clone();
    (200, json!({"Parameter": {"Value": id}}).to_string().into())
}

/// Whether a request is signed as the cloud's documentation says (Signature Version 4).
fn is_signed(headers: &HeaderMap, body: &Bytes) -> bool {
    let get = |k: &str| headers.get(k).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let sha256 = |data: &[u8]| hex(ring::digest::digest(&ring::digest::SHA256, data).as_ref());
    let sign = |key: &[u8], data: &str| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        ring::hmac::sign(&key, data.as_bytes()).as_ref().to_vec()
    };
    let part = |name: &str| {
        let from = get("authorization").split_once(&format!("{name}=")).map_or("", |(_, r)| r);
        from.split(',').next().unwrap_or_default().trim().to_owned()
    };
    let (credential, signed) = (part("Credential"), part("SignedHeaders"));
    let Some((_, scope)) = credential.split_once('/') else { return false };
    let lines: String = signed.split(';').map(|h| format!("{h}:{}\n", get(h).trim())).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{signed}\n{}", sha256(body));
    let date = get("x-amz-date");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let mut key = b"AWS4secret".to_vec();
    for p in scope.split('/') {
        key = sign(&key, p);
    }
    part("Signature") == hex(&sign(&key, &text)) && signed.split(';').any(|h| h == "host")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
