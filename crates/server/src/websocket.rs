//! A watch over WebSocket (RFC 6455): the same frames, one a message. Browsers and some libraries
//! watch this way. Upstream's `handlers.watch` and `wsstream` say what clients may expect.

use crate::{
    body::{self, Body},
    negotiate::Format,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Buf, Bytes, BytesMut};
use coracle_meta::Status;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

/// A subprotocol that is the caller's bearer token, as browsers cannot set headers.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
/// What a client of a watch may send us, which is read and forgotten.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// A client gets this long to take a message or to end the connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether a request asks for a WebSocket.
pub(crate) fn wanted(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        let texts = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        texts.flat_map(|t| t.split(',')).any(|t| t.trim().eq_ignore_ascii_case(word))
    };
    has(header::CONNECTION, "upgrade") && has(header::UPGRADE, "websocket")
}

/// The subprotocols that a client offers, in its order.
fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    texts.filter_map(|v| v.to_str().ok()).flat_map(|t| t.split(',')).map(str::trim)
}

/// The bearer token among the subprotocols. It must not be alone, as it is never the one that is
/// chosen, and no client would take an answer that chooses none.
///
/// # Errors
/// 401 for more than one, one that is alone, and one that cannot be read.
pub(crate) fn bearer_token(headers: &HeaderMap) -> Result<Option<String>, Status> {
    if !wanted(headers) {
        return Ok(None);
    }
    let tokens: Vec<&str> = offered(headers).filter_map(|p| p.strip_prefix(BEARER)).collect();
    match tokens[..] {
        [] => Ok(None),
        [token] if offered(headers).count() > 1 => {
            let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Status::unauthorized())?;
            String::from_utf8(bytes).map(Some).map_err(|_| Status::unauthorized())
        }
        _ => Err(Status::unauthorized()),
    }
}

/// Turns a watch's response into a WebSocket that carries its frames.
///
/// # Errors
/// 400 for a handshake that cannot be answered.
pub(crate) fn carry<B>(
    request: &Request<B>,
    watch: Response<Body>,
    format: Format,
) -> Result<Response<Body>, Status> {
    let headers = request.headers();
    let bad = |why: &str| Status::bad_request(format!("websocket: {why}"));
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        return Err(bad("Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("no Sec-WebSocket-Key"))?;
    let upgrade = request
        .extensions()
        .get::<OnUpgrade>()
        .cloned()
        .ok_or_else(|| bad("this connection cannot be upgraded: use HTTP/1.1"))?;
    let mut protocols = offered(headers).filter(|p| !p.starts_with(BEARER));
    let protocol = protocols.next();
    if protocols.next().is_some() {
        return Err(bad("a watch takes one subprotocol, or none"));
    }
    let mut response = Response::new(body::full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(key.as_bytes());
    let set = [
        (header::CONNECTION, Some("Upgrade")),
        (header::UPGRADE, Some("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, Some(&*accept)),
        (header::SEC_WEBSOCKET_PROTOCOL, protocol),
    ];
    for (name, value) in set {
        let Some(value) = value else { continue };
        let value = HeaderValue::from_str(value).map_err(|_| bad("unreadable subprotocol"))?;
        response.headers_mut().insert(name, value);
    }
    tokio::spawn(async move {
        if let Err(error) = pump(upgrade, watch.into_body(), format).await {
            tracing::debug!(%error, "a watch over WebSocket ended");
        }
    });
    Ok(response)
}

/// Sends frames until the watch ends, which it does when the server stops, or the client goes.
async fn pump(upgrade: OnUpgrade, mut watch: Body, format: Format) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let io = tokio::time::timeout(PATIENCE, upgrade).await.map_err(|e| text(&e))?;
    let io = TokioIo::new(io.map_err(|e| text(&e))?);
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut to, mut from) = socket.split();
    let mut pending = BytesMut::new();
    loop {
        tokio::select! {
            piece = watch.frame() => {
                let Some(Ok(piece)) = piece else { break };
                let Ok(data) = piece.into_data() else { continue };
                pending.extend_from_slice(&data);
                while let Some(message) = next_message(&mut pending, format) {
                    let sent = tokio::time::timeout(PATIENCE, to.send(message)).await;
                    sent.map_err(|e| text(&e))?.map_err(|e| text(&e))?;
                }
            }
            got = from.next() => match got {
                Some(Ok(Message::Close(_))) | None => break,
                Some(Ok(_)) => {}
                Some(Err(e)) => return Err(text(&e)),
            }
        }
    }
    let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let closed = tokio::time::timeout(PATIENCE, to.send(Message::Close(Some(normal)))).await;
    closed.map_err(|e| text(&e))?.map_err(|e| text(&e))
}

/// The first whole frame of what a watch has written: a line of JSON as text, or a message of
/// protobuf without the length that stands before it in a plain stream.
fn next_message(pending: &mut BytesMut, format: Format) -> Option<Message> {
    if format == Format::Protobuf {
        let length: [u8; 4] = pending.get(..4)?.try_into().ok()?;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        if pending.len() < 4 + length {
            return None;
        }
        pending.advance(4);
        return Some(Message::Binary(pending.split_to(length).freeze()));
    }
    let end = pending.iter().position(|b| *b == b'\n')?;
    let line: Bytes = pending.split_to(end + 1).freeze();
    // Frames are made from JSON that was parsed: they are UTF-8.
    Utf8Bytes::try_from(line).ok().map(Message::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_messages() {
        let mut pending = BytesMut::from("{\"a\":1}\n{\"b\":2}\n{\"c\"");
        let next = |p: &mut BytesMut| next_message(p, Format::Json);
        assert_eq!(next(&mut pending), Some(Message::text("{\"a\":1}\n")));
        assert_eq!(next(&mut pending), Some(Message::text("{\"b\":2}\n")));
        assert_eq!(next(&mut pending), None);
        let mut pending = BytesMut::from(&[0, 0, 0, 2, 7, 8, 0, 0][..]);
        let next = |p: &mut BytesMut| next_message(p, Format::Protobuf);
        assert_eq!(next(&mut pending), Some(Message::binary(vec![7, 8])));
        assert_eq!(next(&mut pending), None);
    }

    #[test]
    fn a_token_among_the_subprotocols() {
        let headers = |protocols: &str| {
            HeaderMap::from_iter([
                (header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade")),
                (header::UPGRADE, HeaderValue::from_static("WebSocket")),
                (header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols).unwrap()),
            ])
        };
        let token = format!("{BEARER}{}", URL_SAFE_NO_PAD.encode("secret"));
        assert_eq!(bearer_token(&headers("v1")), Ok(None));
        assert_eq!(bearer_token(&headers(&format!("{token}, v1"))), Ok(Some("secret".into())));
        assert!(bearer_token(&headers(&token)).is_err());
        assert!(bearer_token(&headers(&format!("{token}, {token}, v1"))).is_err());
        assert!(bearer_token(&headers(&format!("{BEARER}!, v1"))).is_err());
    }
}
