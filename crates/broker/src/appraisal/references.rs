//! [`References`]: the values that measurements are compared with.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use crate::error::Error;
use crate::files;

/// Largest file, in bytes.
const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Most names, and most values of a name.
const COUNT_MAX: usize = 1000;
/// Longest name or text, in bytes: a SHA-512 in hex has 128.
const TEXT_BYTES_MAX: usize = 1024;

/// Values by name.
#[derive(Debug, Default)]
pub(super) struct References(BTreeMap<String, regorus::Value>);

impl References {
    /// Reads `{"<name>": [<text, number or boolean>, …]}`. A single value stands for itself, for
    /// policies that compare with `==`.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let bytes =
            files::read(path, FILE_BYTES_MAX).map_err(|source| Error::file(path, source))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::ReferenceValues {
            path: path.to_owned(),
            why: error.to_string(),
        })
    }

    /// What is known under a name; null if nothing is.
    pub(super) fn get(&self, name: &str) -> regorus::Value {
        self.0.get(name).cloned().unwrap_or(regorus::Value::Null)
    }
}

impl<'de> Deserialize<'de> for References {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Strict)
    }
}

struct Strict;

impl<'de> Visitor<'de> for Strict {
    type Value = References;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of lists")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<References, A::Error> {
        let mut references = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if references.len() >= COUNT_MAX {
                return Err(A::Error::custom(format!("more than {COUNT_MAX} names")));
            }
            let fine = match &value {
                Value::Array(values) => values.len() <= COUNT_MAX && values.iter().all(is_plain),
                single => is_plain(single),
            };
            if !fine || name.is_empty() || name.len() > TEXT_BYTES_MAX {
                return Err(A::Error::custom(format!(
                    "{name:.100?} is not a list of at most {COUNT_MAX} texts, numbers or booleans"
                )));
            }
            // JSON would let the last one win.
            if references.insert(name.clone(), value.into()).is_some() {
                return Err(A::Error::custom(format!("{name:.100?} is there twice")));
            }
        }
        Ok(References(references))
    }
}

fn is_plain(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= TEXT_BYTES_MAX,
        Value::Number(_) | Value::Bool(_) => true,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}
