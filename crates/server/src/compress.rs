//! Large responses are sent with gzip to clients that take it, as upstream does.

use crate::body::{self, Body};
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue, Response,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, VARY},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use std::io::Write;

/// Smaller responses are not worth it (upstream's threshold).
const THRESHOLD: u64 = 128 << 10;
/// Upstream's level: a fifth of the time of the usual one for nearly the same size.
const LEVEL: u32 = 4;

/// Whether the client takes gzip: named, and not with a quality of 0.
fn accepts(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    texts.flat_map(|t| t.split(',')).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        parts.next() == Some("gzip")
            && parts.all(|p| p.strip_prefix("q=").is_none_or(|q| q.parse() != Ok(0.0f32)))
    })
}

/// Compresses a whole response that is large enough. Streams have no size and pass as they are.
pub(crate) async fn large(headers: &HeaderMap, response: Response<Body>) -> Response<Body> {
    let size = response.body().size_hint().exact().unwrap_or(0);
    if size < THRESHOLD || !accepts(headers) {
        return response;
    }
    let (mut parts, whole) = response.into_parts();
    // A body whose size is known is in memory already.
    let Ok(plain) = whole.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Response::from_parts(parts, body::full(""));
    };
    let copy = plain.clone();
    let packed = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
        encoder.write_all(&copy)?;
        encoder.finish()
    });
    match packed.await {
        Ok(Ok(packed)) => {
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            Response::from_parts(parts, body::full(packed))
        }
        _ => Response::from_parts(parts, body::full(plain)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_large_for_who_takes_it() {
        let answer = |n: usize| Response::new(body::full("a".repeat(n)));
        let takes = |v: &'static str| {
            HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(v))])
        };
        for (headers, size, gzip) in [
            (takes("gzip"), 200_000, true),
            (takes("br, gzip;q=0.5"), 200_000, true),
            (takes("gzip;q=0"), 200_000, false),
            (takes("br"), 200_000, false),
            (HeaderMap::new(), 200_000, false),
            (takes("gzip"), 1000, false),
        ] {
            let r = large(&headers, answer(size)).await;
            assert_eq!(r.headers().contains_key(CONTENT_ENCODING), gzip, "{headers:?} {size}");
            let body = r.into_body().collect().await.unwrap().to_bytes();
            let mut text = String::new();
            if gzip {
                let mut decoder = flate2::read::GzDecoder::new(&*body);
                std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
            } else {
                text = String::from_utf8(body.to_vec()).unwrap();
            }
            assert_eq!(text.len(), size);
        }
    }
}
