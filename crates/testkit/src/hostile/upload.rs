//! Uploads: a plain `PUT`, or the four requests of a multipart upload.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::answer::{Answer, Body, nothing, parameter, refusal};
use super::{Seen, Shared, lock};

/// The parts that have arrived, by number.
pub(super) type Parts = BTreeMap<u32, Bytes>;

pub(super) fn answer(shared: &Shared, seen: &Seen, body: Bytes) -> Answer {
    let upload = parameter(&seen.query, "uploadId");
    match (seen.method.as_str(), upload) {
        ("PUT", None) => {
            shared.put_bytes(&seen.object, body);
            done(200, "")
        }
        ("PUT", Some(upload)) => {
            let number =
                parameter(&seen.query, "partNumber").and_then(|number| number.parse().ok());
            match (lock(&shared.uploads).get_mut(&upload), number) {
                (Some(parts), Some(number)) => {
                    parts.insert(number, body);
                    done(200, "")
                }
                _ => refusal(404, "NoSuchUpload"),
            }
        }
        ("POST", None) if parameter(&seen.query, "uploads").is_some() => {
            let upload = format!("upload-{}", shared.next_version());
            lock(&shared.uploads).insert(upload.clone(), Parts::new());
            let id = format!("<UploadId>{upload}</UploadId>");
            done(
                200,
                &format!("<InitiateMultipartUploadResult>{id}</InitiateMultipartUploadResult>"),
            )
        }
        ("POST", Some(upload)) => match lock(&shared.uploads).remove(&upload) {
            Some(parts) => {
                let whole: BytesMut = parts.values().flat_map(|part| part.iter()).collect();
                shared.put_bytes(&seen.object, whole.freeze());
                let etag = "<ETag>\"whole\"</ETag>";
                done(
                    200,
                    &format!(
                        "<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>"
                    ),
                )
            }
            None => refusal(404, "NoSuchUpload"),
        },
        ("DELETE", Some(upload)) => match lock(&shared.uploads).remove(&upload) {
            Some(_) => done(204, ""),
            None => refusal(404, "NoSuchUpload"),
        },
        _ => refusal(405, "MethodNotAllowed"),
    }
}

fn done(status: u16, document: &str) -> Answer {
    let body =
        if document.is_empty() { nothing() } else { Body::Bytes(document.to_owned().into()) };
    Answer { status, headers: vec![("ETag", "\"part\"".to_owned())], body }
}
