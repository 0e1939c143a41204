//! JSON in which every member stands once, read without a tree of it in memory.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::Error;
use crate::error::{excerpt, malformed};

/// Most values in a document: a resource of a statement has four.
const VALUES_MAX: usize = 1 << 20;

/// Reads `bytes` after making sure that no object in it, however deep, has two members of one name:
/// readers disagree about which of them counts.
pub(crate) fn read<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, Error> {
    let refused = |error: serde_json::Error| malformed(what, excerpt(&error.to_string()));
    let mut values_left = VALUES_MAX;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Single(&mut values_left).deserialize(&mut deserializer).map_err(refused)?;
    deserializer.end().map_err(refused)?;
    // Derived readers take a structure's members from an array too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(malformed(what, "not an object"));
    }
    serde_json::from_slice(bytes).map_err(refused)
}

struct Single<'a>(&'a mut usize);

impl<'de> DeserializeSeed<'de> for Single<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        *self.0 = self.0.checked_sub(1).ok_or_else(|| D::Error::custom("too many values"))?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Single<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Single(self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value_seed(Single(self.0))?;
            if !names.insert(name) {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_twice_is_refused_at_any_depth() {
        let read = |text: &str| read::<serde_json::Value>("text", text.as_bytes());
        assert!(read(r#"{"a":1,"b":[{"a":1}]}"#).is_ok());
        for text in
            [r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"\u0061":2}]}"#, "{} {}", "[]", "{", "", "1"]
        {
            assert!(read(text).is_err(), "{text}");
        }
        assert!(read(&"[".repeat(500)).is_err());
        assert!(read(&format!("{{\"a\":[{}0]}}", "0,".repeat(VALUES_MAX))).is_err());
    }
}
