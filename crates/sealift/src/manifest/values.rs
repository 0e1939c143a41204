//! The chart's values: YAML into JSON, and theirs over ours.

use std::path::Path;

use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::kubernetes::yaml::{self, Node, Scalar};

/// Reads values from a file.
pub(super) fn read(path: &Path) -> Result<Value, Failure> {
    let length = std::fs::metadata(path).map(|meta| meta.len());
    let length = length.map_err(|error| Failure::usage(error.to_string()))?;
    if length > yaml::BYTES_MAX as u64 {
        return Err(Failure::usage(format!("longer than {} bytes", yaml::BYTES_MAX)));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Failure::usage(error.to_string()))?;
    parse(&text)
}

/// Reads a YAML document.
pub(super) fn parse(text: &str) -> Result<Value, Failure> {
    Ok(json(&yaml::read(&format!("{text}\n"))?))
}

fn json(node: &Node) -> Value {
    match node {
        Node::Scalar(text) => scalar(text),
        Node::List(nodes) => nodes.iter().map(json).collect(),
        Node::Map(entries) => {
            Value::Object(entries.iter().map(|(name, node)| (name.clone(), json(node))).collect())
        }
    }
}

fn scalar(scalar: &Scalar) -> Value {
    let text = scalar.text.as_str();
    if !scalar.is_plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => true.into(),
        "false" => false.into(),
        _ => match serde_json::from_str(text) {
            Ok(Value::Number(number)) => Value::Number(number),
            _ => text.into(),
        },
    }
}

/// Puts `theirs` over `ours`: maps member by member, everything else as a whole. Where ours is an
/// empty map, theirs may have any member; elsewhere only those that are there.
pub(super) fn merge(ours: &mut Value, theirs: Value, place: &str) -> Result<(), Failure> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) if !ours.is_empty() && !free(place) => {
            for (name, value) in theirs {
                let below = match place {
                    "" => name.clone(),
                    place => format!("{place}.{name}"),
                };
                let Some(ours) = ours.get_mut(&name) else {
                    return Err(Failure::usage(format!("there is no value {below}")).hint(
                        format!(
                            "{} has: {}",
                            if place.is_empty() { "The chart" } else { place },
                            ours.keys().cloned().collect::<Vec<_>>().join(", ")
                        ),
                    ));
                };
                merge(ours, value, &below)?;
            }
            Ok(())
        }
        // As Helm has it: what is given is added, and null takes away.
        (Value::Object(ours), Value::Object(theirs)) => {
            overlay(ours, theirs);
            Ok(())
        }
        (ours, theirs) if same_kind(ours, &theirs) => {
            *ours = theirs;
            Ok(())
        }
        (ours, theirs) => Err(Failure::usage(format!(
            "{} is {}, not {}",
            if place.is_empty() { "the document" } else { place },
            kind(ours),
            kind(&theirs)
        ))),
    }
}

fn overlay(ours: &mut Map<String, Value>, theirs: Map<String, Value>) {
    for (name, value) in theirs {
        match (ours.get_mut(&name), value) {
            (_, Value::Null) => drop(ours.remove(&name)),
            (Some(Value::Object(ours)), Value::Object(theirs)) => overlay(ours, theirs),
            (_, value) => drop(ours.insert(name, value)),
        }
    }
}

/// Maps of Kubernetes' own, whose members are not ours to know.
fn free(place: &str) -> bool {
    let last = place.rsplit('.').next().unwrap_or_default();
    ["resources", "podSecurityContext", "nodeSelector", "podDisruptionBudget"].contains(&last)
}

/// `NAME=VALUE`, the value in YAML.
pub(super) fn set(ours: &mut Value, assignment: &str) -> Result<(), Failure> {
    let (name, text) = assignment
        .split_once('=')
        .ok_or_else(|| Failure::usage(format!("{assignment:?} is not NAME=VALUE")))?;
    let value = if text.is_empty() { Value::String(String::new()) } else { parse(text)? };
    let nested = name
        .rsplit('.')
        .fold(value, |value, name| Value::Object(Map::from_iter([(name.to_owned(), value)])));
    merge(ours, nested, "")
}

fn same_kind(ours: &Value, theirs: &Value) -> bool {
    // A tag or a size may look like a number, and where a number stands another text is an error.
    let text = |value: &Value| value.is_string() || value.is_number();
    text(ours) && (text(theirs) && (ours.is_string() || theirs.is_number()))
        || kind(ours) == kind(theirs)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(theirs: &str) -> Result<Value, Failure> {
        let mut ours = parse(
            "a: {b: x, count: 1}\nlist: [1]\nopen: {}\nresources: {limits: {cpu: '4', memory: 1Gi}}\n",
        )?;
        merge(&mut ours, parse(theirs)?, "")?;
        Ok(ours)
    }

    #[test]
    fn maps_are_merged_lists_are_replaced() {
        let values = merged("a: {b: z}\nlist: [2, 3]\nopen: {x.y/z: 'true'}\n").unwrap();
        assert_eq!(values["a"], json!({"b": "z", "count": 1}));
        assert_eq!(values["list"], json!([2, 3]));
        assert_eq!(values["open"], json!({"x.y/z": "true"}));
        let values = merged("resources: {limits: {cpu: null, memory: 2Gi}, claims: []}\n").unwrap();
        assert_eq!(values["resources"], json!({"limits": {"memory": "2Gi"}, "claims": []}));
    }

    #[test]
    fn unknown_names_and_other_kinds_are_refused() {
        let words = |theirs: &str| merged(theirs).unwrap_err().what().to_owned();
        assert_eq!(words("a: {c: 1}\n"), "there is no value a.c");
        assert_eq!(words("z: 1\n"), "there is no value z");
        assert_eq!(words("list: x\n"), "list is a list, not a text");
        assert_eq!(words("a: {count: x}\n"), "a.count is a number, not a text");
        assert_eq!(words("a: [1]\n"), "a is a map, not a list");
        assert_eq!(words("- 1\n"), "the document is a map, not a list");
    }

    #[test]
    fn assignments_are_yaml() {
        let mut values = parse("a: {b: x, flag: false}\nlist: []\n").unwrap();
        for text in ["a.b=https://host:8443/x", "a.flag=true", "list=[{key: gpu}]"] {
            set(&mut values, text).unwrap();
        }
        let expected =
            json!({"a": {"b": "https://host:8443/x", "flag": true}, "list": [{"key": "gpu"}]});
        assert_eq!(values, expected);
        set(&mut values, "a.b=").unwrap();
        assert_eq!(values["a"]["b"], "");
        assert!(set(&mut values, "a.b").is_err());
        assert!(set(&mut values, "a.b=[1").is_err());
    }
}
