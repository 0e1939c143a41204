//! What an HTTP answer must look like before a byte of it is used.
//!
//! Both kinds of HTTP store go through here. opendal accepts a 200 for a ranged request, another
//! range than the one asked for, and reads error bodies and listings of any length; so our
//! transport checks before opendal sees them.

use std::ops::Range;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, RETRY_AFTER};
use http::{HeaderMap, HeaderName, StatusCode};

use crate::{Error, ObjectMeta};

/// A server that wants to be left alone for longer is asked again all the same: hubs give a window
/// of five minutes, and who waits has a deadline of his own.
const AFTER_MAX: Duration = Duration::from_secs(300);

/// What a GET asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked<'a> {
    /// The bytes, or the whole object.
    pub(crate) range: Option<Range<u64>>,
    /// The version, if it matters.
    pub(crate) etag: Option<&'a str>,
}

/// Refuses a successful answer that is not an answer to what was asked.
pub(crate) fn check(
    asked: &Asked<'_>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), Error> {
    match text(headers, &CONTENT_ENCODING) {
        // Some services keep this upload detail as metadata; the body is plain.
        None | Some("" | "identity" | "aws-chunked") => {}
        Some(_) => {
            return Err(Error::protocol("the server encoded the content, which was not asked for"));
        }
    }
    if let (Some(asked), Some(sent)) = (asked.etag, text(headers, &ETAG))
        && asked != sent
    {
        return Err(Error::Changed { object: String::new() });
    }
    let Some(range) = &asked.range else {
        return match status {
            StatusCode::OK => Ok(()),
            _ => Err(Error::protocol(format!(
                "the server answered {} to a plain request",
                status.as_u16()
            ))),
        };
    };
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(Error::protocol(format!(
            "the server answered {} to a request for a range: it does not support ranges",
            status.as_u16()
        )));
    }
    let sent = text(headers, &CONTENT_RANGE).and_then(content_range);
    if sent.as_ref() != Some(range) {
        let sent = sent
            .map_or("an unknown range".to_owned(), |r| format!("bytes {}-{}", r.start, r.end - 1));
        return Err(Error::protocol(format!(
            "the server sent {sent} instead of bytes {}-{}",
            range.start,
            range.end - 1
        )));
    }
    match text(headers, &CONTENT_LENGTH).map(str::parse::<u64>) {
        None => Ok(()),
        Some(Ok(length)) if length == range.end - range.start => Ok(()),
        Some(_) => Err(Error::protocol("Content-Length contradicts Content-Range")),
    }
}

/// What a refusal means. `body` is the beginning of an S3 error document, or anything.
pub(crate) fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    let object = String::new();
    let code = element(body, "Code").unwrap_or_default();
    match (status.as_u16(), code) {
        (_, "NoSuchBucket") => Error::NotFound { object, bucket: true },
        (404 | 410, _) => Error::NotFound { object, bucket: false },
        (301 | 307 | 308, _)
        | (_, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            Error::usage(wrong_region(headers, body))
        }
        (412, _) => Error::Changed { object },
        (408 | 425 | 429, _) | (_, "SlowDown" | "RequestTimeout" | "OperationAborted") => {
            Error::Unavailable { object, status: status.as_u16(), after: after(headers) }
        }
        (401 | 403 | 407, _) | (_, "ExpiredToken" | "InvalidToken" | "InvalidAccessKeyId") => {
            let code =
                if code.is_empty() { format!("HTTP {}", status.as_u16()) } else { code.to_owned() };
            Error::Denied { object, reason: code }
        }
        (405 | 501, _) => {
            Error::Unsupported { object, what: "the server does not support this request" }
        }
        (416, _) => Error::protocol("the object ends before the range that was asked for"),
        (500..=599, _) => {
            Error::Unavailable { object, status: status.as_u16(), after: after(headers) }
        }
        (status, "") => Error::protocol(format!("the server answered HTTP {status}")),
        (status, code) => Error::protocol(format!("the server answered HTTP {status} {code}")),
    }
}

/// `Retry-After` in seconds (RFC 9110, 10.2.3), at most [`AFTER_MAX`]; not as a date, which would
/// need two clocks to agree.
pub(crate) fn after(headers: &HeaderMap) -> Duration {
    let seconds = text(headers, &RETRY_AFTER).and_then(|seconds| seconds.parse::<u32>().ok());
    Duration::from_secs(seconds.unwrap_or_default().into()).min(AFTER_MAX)
}

fn wrong_region(headers: &HeaderMap, body: &[u8]) -> String {
    let named = text(headers, &HeaderName::from_static("x-amz-bucket-region"))
        .filter(|region| is_word(region))
        .or_else(|| element(body, "Region"));
    match named {
        Some(region) => {
            format!("the bucket is in region {region}: set AWS_DEFAULT_REGION or AWS_ENDPOINT_URL")
        }
        None => "the server sent the request elsewhere: check the endpoint and AWS_DEFAULT_REGION"
            .to_owned(),
    }
}

/// The first element of that name in an S3 error document, if its text is a plain word; no other
/// text from a server gets into a message.
fn element<'a>(body: &'a [u8], name: &str) -> Option<&'a str> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once("</")?;
    is_word(text).then_some(text)
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// `bytes a-b/total`, as a half-open range.
fn content_range(value: &str) -> Option<Range<u64>> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, end) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
    let fits = total == "*" || total.parse::<u64>().ok()? >= end;
    (first < end && fits).then_some(first..end)
}

/// `bytes=a-b`, as a half-open range.
pub(crate) fn asked_range(value: &str) -> Option<Range<u64>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
}

/// How long the body is, or would be.
pub(crate) fn length(headers: &HeaderMap) -> Result<u64, Error> {
    text(headers, &CONTENT_LENGTH)
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| Error::protocol("the server does not say how long the object is"))
}

/// What the answer to a HEAD says of an object.
pub(crate) fn meta(headers: &HeaderMap) -> Result<ObjectMeta, Error> {
    Ok(ObjectMeta { bytes: length(headers)?, etag: text(headers, &ETAG).map(str::to_owned) })
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn accepts_exactly_the_range_that_was_asked_for() {
        let asked = Asked { range: Some(10..20), etag: Some("\"a\"") };
        let good =
            [("content-range", "bytes 10-19/100"), ("content-length", "10"), ("etag", "\"a\"")];
        assert!(check(&asked, StatusCode::PARTIAL_CONTENT, &headers(&good)).is_ok());
        assert!(
            check(
                &asked,
                StatusCode::PARTIAL_CONTENT,
                &headers(&[("content-range", "bytes 10-19/*")])
            )
            .is_ok()
        );
        assert!(check(&asked, StatusCode::OK, &headers(&good)).is_err());
        for lie in [
            vec![],
            vec![("content-range", "bytes 10-18/100")],
            vec![("content-range", "bytes 9-19/100")],
            vec![("content-range", "bytes 10-19/19")],
            vec![("content-range", "bytes 10-18446744073709551615/*")],
            vec![("content-range", "bytes */100")],
            vec![("content-range", "bytes 10-19/100"), ("content-length", "11")],
            vec![("content-range", "bytes 10-19/100"), ("content-length", "x")],
            vec![("content-range", "bytes 10-19/100"), ("content-encoding", "gzip")],
        ] {
            let result = check(&asked, StatusCode::PARTIAL_CONTENT, &headers(&lie));
            assert!(matches!(result, Err(Error::Protocol { .. })), "{lie:?}: {result:?}");
        }
        let replaced = headers(&[("content-range", "bytes 10-19/100"), ("etag", "\"b\"")]);
        assert!(matches!(
            check(&asked, StatusCode::PARTIAL_CONTENT, &replaced),
            Err(Error::Changed { .. })
        ));
    }

    #[test]
    fn refusals_are_mapped_as_documented() {
        let refused = |status: u16, body: &str| {
            refusal(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
        };
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(refused(status, "").is_transient(), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 405, 409, 412, 416, 501] {
            assert!(!refused(status, "").is_transient(), "{status}");
        }
        assert!(refused(400, "<Error><Code>RequestTimeout</Code></Error>").is_transient());
        assert!(refused(409, "<Error><Code>OperationAborted</Code></Error>").is_transient());
        assert!(matches!(
            refused(404, "<Code>NoSuchBucket</Code>"),
            Error::NotFound { bucket: true, .. }
        ));
        assert!(matches!(
            refused(404, "<Code>NoSuchKey</Code>"),
            Error::NotFound { bucket: false, .. }
        ));
        assert!(matches!(refused(400, "<Code>ExpiredToken</Code>"), Error::Denied { .. }));
        let region =
            refused(400, "<Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region>");
        assert!(matches!(&region, Error::Usage { what } if what.contains("eu-west-1")), "{region}");
    }

    #[test]
    fn the_wish_to_be_left_alone_is_kept_within_reason() {
        for (wish, seconds) in
            [("7", 7), ("0", 0), ("4294967295", 300), ("4294967296", 0), ("-1", 0), ("", 0)]
        {
            let error =
                refusal(StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", wish)]), b"");
            assert_eq!(error.overload(), Some(Duration::from_secs(seconds)), "{wish}");
        }
        let date = headers(&[("retry-after", "Fri, 31 Dec 1999 23:59:59 GMT")]);
        let error = refusal(StatusCode::SERVICE_UNAVAILABLE, &date, b"");
        assert_eq!(error.overload(), Some(Duration::ZERO));
        let error = refusal(StatusCode::FORBIDDEN, &headers(&[("retry-after", "7")]), b"");
        assert_eq!(error.overload(), None);
    }

    #[test]
    fn only_plain_words_of_a_server_get_into_messages() {
        let error = refusal(StatusCode::FORBIDDEN, &HeaderMap::new(), b"<Code>\x1b[2J gone</Code>");
        assert_eq!(error.at("s3://b/x").to_string(), "s3://b/x: access denied (HTTP 403)");
    }
}
