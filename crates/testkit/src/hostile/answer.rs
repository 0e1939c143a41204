//! The answer to a request: what an honest server would say, bent by the fault.

use std::fmt::Write;
use std::ops::Range;

use bytes::Bytes;

use super::{Fault, Object, Seen, Shared, lock, upload};

/// Keys on one page of a listing.
const PAGE_KEYS: usize = 1_000;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

pub(super) enum Body {
    Bytes(Bytes),
    Object(Object, Range<u64>),
}

impl Body {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Object(_, range) => range.end - range.start,
        }
    }
}

pub(super) fn answer(shared: &Shared, seen: &Seen, body: Bytes, fault: Option<&Fault>) -> Answer {
    match fault {
        Some(Fault::Status { status, code }) => return refusal(*status, code),
        Some(Fault::Busy { after }) => {
            let headers = vec![("Retry-After", after.to_string())];
            return Answer { headers, ..refusal(503, "SlowDown") };
        }
        Some(Fault::Redirect { to }) => {
            return Answer {
                status: 302,
                headers: vec![("Location", to.clone())],
                body: nothing(),
            };
        }
        Some(Fault::Body { bytes }) => {
            return Answer { status: 200, headers: Vec::new(), body: Body::Bytes(bytes.clone()) };
        }
        _ => {}
    }
    if !matches!(seen.method.as_str(), "GET" | "HEAD") {
        return upload::answer(shared, seen, body);
    }
    // Older clients list without a type; they read pages of this form as well.
    if parameter(&seen.query, "list-type").is_some() || parameter(&seen.query, "prefix").is_some() {
        return listing(shared, seen);
    }
    let Some(object) = lock(&shared.objects).get(&seen.object).cloned() else {
        return refusal(404, "NoSuchKey");
    };
    let more = object.headers.clone();
    let etag = match fault {
        Some(Fault::ClaimEtag { value }) => value.clone(),
        _ => object.etag.clone(),
    };
    // A server that lies about the version does not check it either.
    if !matches!(fault, Some(Fault::ClaimEtag { .. }))
        && seen.if_match.as_ref().is_some_and(|asked| *asked != etag)
    {
        return refusal(412, "PreconditionFailed");
    }
    let mut answer = match (seen.range.clone(), fault) {
        (None, _) | (_, Some(Fault::IgnoreRange)) => {
            let whole = 0..object.bytes;
            Answer { status: 200, headers: Vec::new(), body: Body::Object(object, whole) }
        }
        (Some(asked), _) => ranged(object, &asked, fault),
    };
    answer.headers.extend(more);
    answer.headers.push(("ETag", etag));
    answer.headers.push(("Accept-Ranges", "bytes".to_owned()));
    match fault {
        Some(Fault::ClaimEncoding { value }) => {
            answer.headers.push(("Content-Encoding", (*value).to_owned()))
        }
        Some(Fault::HugeHeader { bytes }) => answer.headers.push(("X-Huge", "x".repeat(*bytes))),
        _ => {}
    }
    answer
}

fn ranged(object: Object, asked: &Range<u64>, fault: Option<&Fault>) -> Answer {
    let by = if let Some(Fault::ShiftRange { by }) = fault { *by } else { 0 };
    let sent = asked.start.saturating_add(by)..asked.end.saturating_add(by).min(object.bytes);
    if sent.is_empty() {
        return refusal(416, "InvalidRange");
    }
    let value = match fault {
        Some(Fault::ClaimRange { value }) => value.clone(),
        _ => format!("bytes {}-{}/{}", sent.start, sent.end - 1, object.bytes),
    };
    Answer {
        status: 206,
        headers: vec![("Content-Range", value)],
        body: Body::Object(object, sent),
    }
}

pub(super) fn refusal(status: u16, code: &str) -> Answer {
    let document = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>planned</Message></Error>"
    );
    let body = if code.is_empty() { nothing() } else { Body::Bytes(document.into()) };
    Answer { status, headers: Vec::new(), body }
}

pub(super) fn nothing() -> Body {
    Body::Bytes(Bytes::new())
}

/// `ListObjectsV2` without delimiters. The continuation token is the last key of the page.
fn listing(shared: &Shared, seen: &Seen) -> Answer {
    let bucket = seen.object.trim_end_matches('/');
    let prefix = parameter(&seen.query, "prefix").unwrap_or_default();
    let after = parameter(&seen.query, "continuation-token").unwrap_or_default();
    let objects = lock(&shared.objects);
    let mut matching = objects
        .iter()
        .filter_map(|(name, object)| Some((name.strip_prefix(bucket)?.strip_prefix('/')?, object)))
        .filter(|(key, _)| key.starts_with(&prefix) && *key > after.as_str())
        .peekable();
    let mut keys = String::new();
    let mut last = "";
    for (key, object) in matching.by_ref().take(PAGE_KEYS) {
        last = key;
        let _ = write!(
            keys,
            "<Contents><Key>{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>{}</ETag>\
             <Size>{}</Size></Contents>",
            escaped(key),
            escaped(&object.etag),
            object.bytes
        );
    }
    let more = matching.peek().is_some();
    let token = if more {
        format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(last))
    } else {
        String::new()
    };
    let page = format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{more}</IsTruncated>{token}{keys}</ListBucketResult>"
    );
    Answer { status: 200, headers: Vec::new(), body: Body::Bytes(page.into()) }
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '"' | '\'' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// A parameter of a query, decoded.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| decoded(value))
    })
}

/// Percent-decoding; what is not UTF-8 after it is replaced.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digit = |i: usize| {
            tail.get(i).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
        };
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(high << 4 | low);
                rest = &tail[2..];
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
