//! Writing a file: to a name of our own, piece by piece, which takes the file's name at the end.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::LOCATION;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::Hdfs;
use crate::client::{self, within};
use crate::local::TEMPORARY_PREFIX;
use crate::stream::RATE_MIN;
use crate::{Error, answer};

/// Bytes that are sent at once: each piece is a request to a name node, and one to a data node.
const PIECE_BYTES: usize = 16 * 1024 * 1024;
/// The answer to a request that changes something is a word, or nothing.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// One file on its way. Nothing of it is sent again: a data node that got a piece and whose answer was
/// lost would have it twice.
pub(crate) struct Upload {
    hdfs: Hdfs,
    object: String,
    /// The name until the end.
    temporary: String,
    buffer: BytesMut,
    sent: u64,
    begun: bool,
}

impl Upload {
    pub(super) fn new(hdfs: &Hdfs, object: &str) -> Self {
        let (directory, base) = object.rsplit_once('/').unwrap_or(("", object));
        let temporary = format!("{TEMPORARY_PREFIX}{:016x}", RandomState::new().hash_one(base));
        Self {
            hdfs: hdfs.clone(),
            object: object.to_owned(),
            temporary: crate::location::joined(directory, &temporary),
            buffer: BytesMut::new(),
            sent: 0,
            begun: false,
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= PIECE_BYTES {
            let piece = self.buffer.split_to(PIECE_BYTES).freeze();
            self.send(piece).await?;
        }
        Ok(())
    }

    async fn send(&mut self, piece: Bytes) -> Result<(), Error> {
        let (method, operation) = match self.begun {
            false => (Method::PUT, "op=CREATE&overwrite=true"),
            true => (Method::POST, "op=APPEND"),
        };
        // What fails half-way may be there.
        self.begun = true;
        self.sent += piece.len() as u64;
        let to = self.hdfs.data_node(&method, &self.temporary, operation).await?;
        self.hdfs.hand_over(method, to, piece).await
    }

    /// Gives the file its name, in place of one of that name.
    pub(crate) async fn finish(&mut self) -> Result<(), Error> {
        if !self.begun || !self.buffer.is_empty() {
            let rest = self.buffer.split().freeze();
            self.send(rest).await?;
        }
        let arrived = self.hdfs.stat(&self.temporary).await?.bytes;
        if arrived != self.sent {
            let sent = self.sent;
            return Err(Error::protocol(format!(
                "of {sent} bytes that were sent, {arrived} are there"
            )));
        }
        let to = [("destination", self.hdfs.path_of(&self.object))];
        let to = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(to).finish();
        let query = format!("op=RENAME&{to}&renameoptions=OVERWRITE");
        self.hdfs.change(Method::PUT, &self.temporary, &query).await
    }

    /// Removes what was sent so far.
    pub(crate) async fn abort(&mut self) -> Result<(), Error> {
        match std::mem::take(&mut self.begun) {
            true => self.hdfs.change(Method::DELETE, &self.temporary, "op=DELETE").await,
            false => Ok(()),
        }
    }
}

impl Hdfs {
    /// The path that the name nodes know an object by.
    fn path_of(&self, object: &str) -> String {
        format!("/{}", crate::location::joined(&self.directory, object))
    }

    /// A change that the name node makes by itself. Some servers say "no" with success.
    async fn change(&self, method: Method, object: &str, query: &str) -> Result<(), Error> {
        let response = self.ask(&self.direct, method, object, query).await?;
        let body = client::body(response, ANSWER_BYTES_MAX);
        let body = within(self.limits.answer, body).await??;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        match answer["boolean"].as_bool() {
            Some(false) => Err(Error::Unsupported {
                object: String::new(),
                what: "the file system did not rename or remove a file: this server may replace none",
            }),
            _ => Ok(()),
        }
    }

    /// Where the name node sends a piece of a file to.
    async fn data_node(&self, method: &Method, object: &str, query: &str) -> Result<Url, Error> {
        let response = self.ask(&self.direct, method.clone(), object, query).await?;
        let asked = response.url();
        let to = Some(&response)
            .filter(|response| response.status() == StatusCode::TEMPORARY_REDIRECT)
            .and_then(|response| answer::text(response.headers(), &LOCATION))
            .and_then(|location| asked.join(location).ok())
            .ok_or_else(|| Error::protocol("the name node names no data node"))?;
        match (asked.scheme(), to.scheme()) {
            (_, "https") | ("http", "http") => {}
            _ => {
                return Err(Error::protocol(
                    "the name node sends what it got by TLS elsewhere without",
                ));
            }
        }
        // Headers are for the gateway that is named.
        match self.headers.is_empty() || asked.origin() == to.origin() {
            true => Ok(to),
            false => {
                Err(Error::protocol("redirect to another host, which must not see these headers"))
            }
        }
    }

    async fn hand_over(&self, method: Method, to: Url, piece: Bytes) -> Result<(), Error> {
        let sending = Duration::from_secs(piece.len() as u64 / RATE_MIN);
        let time_max = self.limits.answer.saturating_add(sending);
        let headers: HeaderMap = self.headers.clone();
        let request = self
            .direct
            .request(method, to)
            .headers(headers)
            .header("content-type", "application/octet-stream")
            .body(piece);
        let response =
            within(time_max, request.send()).await?.map_err(|error| client::failure(&error))?;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(self.refusal(response).await),
        }
    }
}
