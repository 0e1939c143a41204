//! Strict JSON: one meaning for each document, and for the sealed documents one spelling too.
//!
//! Parsers that disagree about duplicate members, escapes or number forms are how a signature comes
//! to cover something other than what is used. So duplicates are refused everywhere, and where the
//! format is ours the bytes must be exactly those that we would write ([`is_canonical`]).

use std::fmt;
use std::io;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Error;

/// Most values (objects, arrays, strings, …) in a document that is read into a tree: headers, keys
/// and tokens. It bounds memory, since a two-byte value costs 16 times its size.
pub(crate) const VALUES_MAX: usize = 16 * 1024;

/// Longest excerpt of foreign text in an error, in characters.
const EXCERPT_CHARS_MAX: usize = 96;

/// The beginning of `text`, for an error message: foreign text may be megabytes long.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// [`Error::Malformed`].
pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Error {
    Error::Malformed { what, why: why.into() }
}

/// A JSON error as [`Error::Malformed`]. Not for documents that hold keys: it quotes.
pub(crate) fn refused(what: &'static str, error: &serde_json::Error) -> Error {
    malformed(what, excerpt(&error.to_string()).escape_debug().to_string())
}

/// Whether `bytes` are exactly the compact JSON of `document`, without building that JSON.
pub(crate) fn is_canonical(document: &impl Serialize, bytes: &[u8]) -> bool {
    struct Expect<'a>(&'a [u8]);
    impl io::Write for Expect<'_> {
        fn write(&mut self, written: &[u8]) -> io::Result<usize> {
            self.0 = self.0.strip_prefix(written).ok_or(io::ErrorKind::InvalidData)?;
            Ok(written.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut rest = Expect(bytes);
    serde_json::to_writer(&mut rest, document).is_ok() && rest.0.is_empty()
}

/// A document as a tree, duplicates and trailing bytes refused, depth limited by `serde_json` (128).
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    let mut values_left = VALUES_MAX;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Tree(&mut values_left).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Tree<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        *self.0 = self.0.checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Tree(self.0))? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Tree(self.0))?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(object))
    }
}

/// What `format` a document names, whatever else it holds; `None` if it is not such a document.
pub(crate) fn format_of(bytes: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Probe {
        format: String,
    }
    // Derived readers take a structure's members from an array too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(bytes).ok().map(|probe: Probe| probe.format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_duplicates_at_any_depth_trailing_bytes_and_floods() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"\u0061":2}]}"#, "{} {}", "[1,]", "{", ""]
        {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        let flood = format!("[{}0]", "0,".repeat(VALUES_MAX));
        assert!(parse(flood.as_bytes()).is_err());
        assert!(parse("[".repeat(200).as_bytes()).is_err());
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text = r#"{"a":[1,-2,1.5,true,null,"é\n"],"b":{"a":{}}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn canonical_means_byte_for_byte() {
        let value: Value = serde_json::json!({"a": ["x", 1]});
        assert!(is_canonical(&value, br#"{"a":["x",1]}"#));
        for other in [r#"{"a":["x",1]} "#, r#"{"a":["\u0078",1]}"#, r#"{"a":["x",1]"#, ""] {
            assert!(!is_canonical(&value, other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn excerpts_are_short() {
        assert_eq!(excerpt("é"), "é");
        assert_eq!(excerpt(&"é".repeat(500)).chars().count(), EXCERPT_CHARS_MAX + 1);
    }
}
