//! `STORAGE_CONFIG` and `STORAGE_OVERRIDE_CONFIG`: KServe's storage spec, as JSON.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::Error;

/// The largest JSON text that is read, in bytes.
const BYTES_MAX: usize = 64 * 1024;

/// Members of type `s3` and the variable that each stands for. `type` and `bucket` are used
/// elsewhere: KServe has put the bucket into the URI already.
const MEMBERS: [(&str, &str); 8] = [
    ("endpoint_url", "AWS_ENDPOINT_URL"),
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("region", "AWS_DEFAULT_REGION"),
    ("ca_bundle", "AWS_CA_BUNDLE"),
    ("verify_ssl", "S3_VERIFY_SSL"),
    ("anonymous", "awsAnonymousCredential"),
    ("cabundle_configmap", "CA_BUNDLE_CONFIGMAP_NAME"),
];

/// The variables that the storage spec sets, by name; empty for another type of storage.
pub(super) fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<HashMap<String, String>, Error> {
    let mut config = object(env, "STORAGE_CONFIG")?;
    config.extend(object(env, "STORAGE_OVERRIDE_CONFIG")?);
    let mut variables = HashMap::new();
    if config.get("type").and_then(Value::as_str) != Some("s3") {
        return Ok(variables);
    }
    for (member, variable) in MEMBERS {
        let value = match config.get(member) {
            None | Some(Value::Null) => continue,
            Some(Value::String(text)) => text.clone(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(_) => {
                return Err(Error::usage(format!("STORAGE_CONFIG: `{member}` is not a string")));
            }
        };
        variables.insert(variable.to_owned(), value);
    }
    Ok(variables)
}

/// The members of a storage spec of type `hdfs` or `webhdfs` that are texts; empty for another.
pub(super) fn hdfs(env: &dyn Fn(&str) -> Option<String>) -> Result<HashMap<String, String>, Error> {
    let mut config = object(env, "STORAGE_CONFIG")?;
    config.extend(object(env, "STORAGE_OVERRIDE_CONFIG")?);
    if !matches!(config.get("type").and_then(Value::as_str), Some("hdfs" | "webhdfs")) {
        return Ok(HashMap::new());
    }
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Some((name, text)),
        _ => None,
    };
    Ok(config.into_iter().filter_map(text).collect())
}

/// The JSON object in a variable. Errors do not quote it: it holds the secret key.
fn object(env: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<Map<String, Value>, Error> {
    let text = env(name).unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    if text.len() > BYTES_MAX {
        return Err(Error::usage(format!("{name} is longer than {BYTES_MAX} bytes")));
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Error::usage(format!("{name} is not a JSON object"))),
        Err(error) => Err(Error::usage(format!(
            "{name} is not JSON (line {}, column {})",
            error.line(),
            error.column()
        ))),
    }
}
