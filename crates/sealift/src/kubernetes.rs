//! [`Manifest`]: a Kubernetes `Secret` in YAML, some of whose values are exchanged by others.
//!
//! Values are exchanged where they stand, and the result is read again and compared, so that it
//! differs from what was given in those values and in nothing else.

pub(crate) mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use zeroize::Zeroizing;

use self::yaml::{Node, Scalar, is_text, quoted, read};
use crate::code::Code;
use crate::failure::Failure;

pub(crate) use self::yaml::BYTES_MAX;

/// Longest sum of values that the API server takes.
const VALUES_BYTES_MAX: usize = 1 << 20;
/// Longest name of a key.
const KEY_BYTES_MAX: usize = 253;
/// Shortest value that is looked for elsewhere in the document: shorter ones occur by chance.
const TRACE_BYTES_MIN: usize = 6;
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where a value is in the Secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    /// In base64.
    Data,
    /// As text.
    StringData,
}

/// A value, and where it stands.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) section: Section,
    pub(crate) value: Zeroizing<Vec<u8>>,
    place: Range<usize>,
}

/// A Kubernetes Secret.
pub(crate) struct Manifest {
    text: Zeroizing<String>,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) kind: String,
    pub(crate) entries: Vec<Entry>,
}

impl Manifest {
    /// Reads one that has values.
    pub(crate) fn parse(bytes: Zeroizing<Vec<u8>>) -> Result<Self, Failure> {
        let text = str::from_utf8(&bytes).map_err(|_| Failure::usage("it is not UTF-8"))?;
        let text = Zeroizing::new(text.to_owned());
        let root = read(&text)?;
        let word = |name| root.get(name).and_then(Node::text);
        match (word("apiVersion"), word("kind")) {
            (Some("v1"), Some("Secret")) => {}
            (_, Some("List" | "SecretList")) => {
                return Err(Failure::usage("it is a list: give Secrets one by one"));
            }
            _ => return Err(Failure::usage("it is no Secret of apiVersion v1")),
        }
        let metadata = |name| root.get("metadata").and_then(|node| node.get(name));
        if metadata("annotations").is_some_and(|all| all.get(LAST_APPLIED).is_some()) {
            return Err(Failure::usage(format!(
                "the annotation {LAST_APPLIED} repeats the values"
            ))
            .hint("Remove it, or seal the file that was applied"));
        }
        let owned = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
        let mut entries = Vec::new();
        for (name, section) in [("data", Section::Data), ("stringData", Section::StringData)] {
            match root.get(name) {
                None => {}
                Some(Node::Map(values)) => {
                    for (key, node) in values {
                        let entry = Entry::read(key, section, node);
                        entries.push(entry.map_err(|failure| failure.at(format!("{name}.{key}")))?);
                    }
                }
                Some(Node::Scalar(scalar)) if scalar.is_plain && !is_text(&scalar.text) => {}
                Some(_) => return Err(Failure::usage(format!("{name} is no map"))),
            }
        }
        let mut keys = BTreeSet::new();
        if let Some(entry) = entries.iter().find(|entry| !keys.insert(&*entry.key)) {
            let what = format!("{} is in data and in stringData", entry.key);
            return Err(Failure::usage(what).hint("Leave one of them out"));
        }
        if entries.is_empty() {
            return Err(Failure::usage("it has no values"));
        }
        let name = owned(metadata("name")).ok_or_else(|| Failure::usage("it has no name"))?;
        let (namespace, kind) = (owned(metadata("namespace")), owned(root.get("type")));
        Ok(Self { text, name, namespace, kind: kind.unwrap_or_else(|| "Opaque".into()), entries })
    }

    /// The document with other values at these keys, in the sections where they were.
    pub(crate) fn with(
        &self,
        values: &BTreeMap<&str, Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<String>, Failure> {
        let mut written = Vec::new();
        for entry in &self.entries {
            if let Some(value) = values.get(&*entry.key) {
                written.push((entry, entry.section.write(value).map_err(|f| f.at(&entry.key))?));
            }
        }
        written.sort_by_key(|(entry, _)| entry.place.start);
        let mut text = Zeroizing::new(String::with_capacity(BYTES_MAX));
        let mut from = 0;
        for (entry, value) in written {
            let old = &self.text[entry.place.clone()];
            text.push_str(&self.text[from..entry.place.start]);
            text.push_str(&value);
            // A block ends with its last line's break, which belongs to the document.
            text.push_str(&old[old.trim_end_matches(['\n', '\r', ' ']).len()..]);
            from = entry.place.end;
        }
        text.push_str(&self.text[from..]);
        self.compare(&text, values)?;
        Ok(text)
    }

    /// That `text` is this Secret but for these values.
    fn compare(
        &self,
        text: &str,
        values: &BTreeMap<&str, Zeroizing<Vec<u8>>>,
    ) -> Result<(), Failure> {
        let differs = || Failure::new(Code::Bug, "the values cannot be exchanged where they stand");
        let without = |text: &str| {
            let mut root = read(text)?;
            if let Node::Map(members) = &mut root {
                for (name, node) in members {
                    if let (true, Node::Map(entries)) =
                        (matches!(&**name, "data" | "stringData"), node)
                    {
                        for (key, node) in entries {
                            if values.contains_key(&**key) {
                                *node = Node::List(Vec::new());
                            }
                        }
                    }
                }
            }
            Ok::<_, Failure>(root)
        };
        let after = Self::parse(Zeroizing::new(text.as_bytes().to_vec())).map_err(|_| differs())?;
        let same = self.entries.len() == after.entries.len()
            && self.entries.iter().zip(&after.entries).all(|(before, after)| {
                let expected = values.get(&*before.key).unwrap_or(&before.value);
                (&before.key, before.section, expected) == (&after.key, after.section, &after.value)
            });
        if !same || without(&self.text)? != without(text).map_err(|_| differs())? {
            return Err(differs());
        }
        let bytes: usize = after.entries.iter().map(|entry| entry.value.len()).sum();
        if bytes > VALUES_BYTES_MAX {
            let what =
                format!("{bytes} bytes of values, more than Kubernetes takes ({VALUES_BYTES_MAX})");
            return Err(Failure::usage(what));
        }
        Ok(())
    }

    /// The line in `text` that still tells a value of these keys: a comment, an annotation.
    pub(crate) fn trace(&self, keys: &BTreeSet<&str>, text: &str) -> Option<(usize, &str)> {
        self.entries.iter().filter(|entry| keys.contains(&*entry.key)).find_map(|entry| {
            if entry.value.len() < TRACE_BYTES_MIN {
                return None;
            }
            let plain = str::from_utf8(&entry.value).ok().map(str::trim);
            let base64 = Zeroizing::new(STANDARD_NO_PAD.encode(&*entry.value));
            let at = |what: &str| text.find(what).filter(|_| what.len() >= TRACE_BYTES_MIN);
            let at = plain.and_then(at).or_else(|| at(&base64))?;
            Some((text[..at].matches('\n').count() + 1, &*entry.key))
        })
    }

    /// What the API server or its friends say to sealed values of this type of Secret.
    pub(crate) fn objections(&self, keys: &BTreeSet<&str>) -> Option<String> {
        let kind = &self.kind;
        let json = match &**kind {
            "kubernetes.io/dockerconfigjson" => ".dockerconfigjson",
            "kubernetes.io/dockercfg" => ".dockercfg",
            "kubernetes.io/service-account-token" | "bootstrap.kubernetes.io/token" => {
                return Some(format!("the control plane itself reads a {kind}"));
            }
            _ => return None,
        };
        keys.contains(json)
            .then(|| format!("the API server refuses a {kind} whose {json} is no JSON"))
    }
}

impl Section {
    fn write(self, value: &[u8]) -> Result<Zeroizing<String>, Failure> {
        Ok(Zeroizing::new(match self {
            Self::Data if value.is_empty() => quoted(""),
            Self::Data => {
                let base64 = STANDARD.encode(value);
                if is_text(&base64) { base64 } else { quoted(&base64) }
            }
            Self::StringData => {
                let text = str::from_utf8(value)
                    .map_err(|_| Failure::usage("it is no text, and stands in stringData"))?;
                quoted(text)
            }
        }))
    }
}

impl Entry {
    fn read(key: &str, section: Section, node: &Node) -> Result<Self, Failure> {
        let clean = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if key.is_empty()
            || key.len() > KEY_BYTES_MAX
            || !key.bytes().all(clean)
            || key.starts_with("..")
        {
            return Err(Failure::usage("no key of a Secret"));
        }
        let Node::Scalar(Scalar { text, is_plain, place, line }) = node else {
            return Err(Failure::usage("its value is no text"));
        };
        if *is_plain && !is_text(text) {
            return Err(Failure::usage(format!("line {line}: a value that is no text: quote it")));
        }
        let value = match section {
            Section::StringData => text.as_bytes().to_vec(),
            Section::Data => {
                // As the API server: breaks within are of no importance.
                let base64: Zeroizing<String> =
                    Zeroizing::new(text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect());
                STANDARD.decode(&*base64).map_err(|_| {
                    Failure::usage(format!("line {line}: it is no base64"))
                        .hint("Text belongs into stringData")
                })?
            }
        };
        Ok(Self { key: key.into(), section, value: Zeroizing::new(value), place: place.clone() })
    }
}

#[cfg(test)]
mod tests;
