//! A record as a line of text.

use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;
use crate::event::Event;
use crate::verify::Why;

/// Longest line, with its newline.
pub const LINE_BYTES_MAX: usize = 16 * 1024;
/// Longest text in an event, as it stands in JSON. A longer one is cut and ends in `…`: a peer that
/// can provoke a long message must not be able to prevent the record of it.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Longest receipt of a broker in an event: as long as its resource's name makes it, never cut.
pub const RECEIPT_BYTES_MAX: usize = 4 * 1024;
/// Most texts in a list. What a longer one loses is said in its last place.
const LIST_MAX: usize = 32;

const HASH_BEGIN: &str = ",\"hash\":\"";
const HASH_END: &str = "\"}";
const HASH_HEX: usize = 64;

/// Where a chain stands, after a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the last record; 0 before the first.
    pub seq: u64,
    /// Its hash, hex.
    pub hash: String,
}

/// `<seq>:<hash>`.
impl FromStr for Head {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "expected a record's number, a colon, and its hash";
        let (seq, hash) = text.split_once(':').ok_or(expected)?;
        let is_hash = hash.len() == HASH_HEX
            && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        match seq.parse() {
            Ok(seq) if is_hash => Ok(Self { seq, hash: hash.to_owned() }),
            _ => Err(expected),
        }
    }
}

impl Head {
    /// Before the first record.
    pub(crate) fn start() -> Self {
        Self { seq: 0, hash: "0".repeat(HASH_HEX) }
    }

    /// Number of the next record. A log that claims to be at the end of the numbers cannot go on,
    /// since the number after it is found wrong.
    pub(crate) fn next(&self) -> u64 {
        self.seq.saturating_add(1)
    }

    /// The next records, each as a line with its newline, and the head after each.
    pub(crate) fn append_all(
        &self,
        entries: &[(Timestamp, Event)],
    ) -> Result<(String, Vec<Self>), Error> {
        let (mut lines, mut heads) = (String::new(), Vec::with_capacity(entries.len()));
        for (time, event) in entries {
            let (line, next) = heads.last().unwrap_or(self).append(*time, event)?;
            lines += &line;
            heads.push(next);
        }
        Ok((lines, heads))
    }

    fn append(&self, time: Timestamp, event: &Event) -> Result<(String, Self), Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            seq: u64,
            time: String,
            prev: &'a str,
            event: Event,
        }
        let (seq, event) = (self.next(), shortened(event));
        let body = Body { seq, time: format!("{time:.6}"), prev: &self.hash, event };
        let mut line = serde_json::to_string(&body).expect("strings and numbers serialise");
        let hash = hash(line.as_bytes());
        line.truncate(line.len() - 1);
        line = line + HASH_BEGIN + &hash + HASH_END + "\n";
        match line.len() <= LINE_BYTES_MAX {
            true => Ok((line, Self { seq, hash })),
            false => Err(Error::TooLong { bytes: line.len() }),
        }
    }
}

/// What is in a line, whose hash was found right.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) seq: u64,
    pub(crate) time: String,
    pub(crate) prev: String,
    /// Not an [`Event`]: a log may hold events that a later version knows.
    pub(crate) event: Map<String, Value>,
    pub(crate) hash: String,
}

impl Record {
    /// Reads a line without its newline.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, Why> {
        let tail = HASH_BEGIN.len() + HASH_HEX + HASH_END.len();
        let start = line.len().checked_sub(tail).ok_or(Why::NotARecord)?;
        let (before, after) = line.split_at(start);
        if !after.starts_with(HASH_BEGIN.as_bytes()) || !after.ends_with(HASH_END.as_bytes()) {
            return Err(Why::NotARecord);
        }
        let record: Self = serde_json::from_slice(line).map_err(|_| Why::NotARecord)?;
        match hash(&[before, b"}"].concat()) == record.hash {
            true => Ok(record),
            false => Err(Why::WrongHash),
        }
    }

    pub(crate) fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

/// The event with every text cut to [`TEXT_BYTES_MAX`] and every list to [`LIST_MAX`].
fn shortened(event: &Event) -> Event {
    let mut value = serde_json::to_value(event).expect("an event is texts, lists and numbers");
    shorten(&mut value);
    serde_json::from_value(value).expect("shorter texts and lists make the same event")
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) => shorten_text(text),
        Value::Array(list) => {
            if list.len() > LIST_MAX {
                let lost = list.len() - (LIST_MAX - 1);
                list.truncate(LIST_MAX - 1);
                list.push(format!("… and {lost} more").into());
            }
            list.iter_mut().for_each(shorten);
        }
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    // A part of a receipt is none.
                    Value::String(text) if name == "receipt" && text.len() <= RECEIPT_BYTES_MAX => {
                    }
                    value => shorten(value),
                }
            }
        }
        _ => {}
    }
}

fn shorten_text(text: &mut String) {
    // As serde_json escapes: quote, backslash and control characters.
    let escaped = |c: char| match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    };
    let mut bytes = 0;
    let mut fits = 0;
    for (index, c) in text.char_indices() {
        bytes += escaped(c);
        if bytes <= TEXT_BYTES_MAX - '…'.len_utf8() {
            fits = index + c.len_utf8();
        }
    }
    if bytes > TEXT_BYTES_MAX {
        text.truncate(fits);
        text.push('…');
    }
}
