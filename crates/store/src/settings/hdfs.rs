//! HDFS as KServe's Secrets describe it: files in a directory, or members of `STORAGE_CONFIG`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use http::HeaderMap;

use super::{boolean, header_map};
use crate::Error;

/// Where KServe mounts the Secret.
const DIRECTORY: &str = "/var/secrets/kserve-hdfscreds";
/// The longest value, in bytes.
const VALUE_BYTES_MAX: u64 = 64 * 1024;

/// How to reach a file system.
#[derive(Clone)]
pub(crate) struct Hdfs {
    /// URLs of name nodes, with `;` between them.
    pub(crate) nodes: String,
    /// The directory that paths begin at.
    pub(crate) root: Option<String>,
    /// `doas=…` or `user.name=…`.
    pub(crate) user: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) verify_tls: bool,
}

impl Hdfs {
    /// | name | meaning |
    /// | --- | --- |
    /// | `HDFS_NAMENODE` | URLs of name nodes |
    /// | `HDFS_ROOTPATH` | the directory that paths begin at |
    /// | `USER_PROXY` | the user to act for; else `HADOOP_USER_NAME` says who we are |
    /// | `HEADERS` | a JSON object of headers |
    /// | `TLS_CA`, `TLS_SKIP_VERIFY` | trusted authorities, or none needed |
    pub(super) fn read(
        members: &HashMap<String, String>,
        ambient: &HashMap<String, String>,
    ) -> Result<Self, Error> {
        let directory = ambient.get("HDFS_SECRET_DIR").map_or(DIRECTORY, String::as_str);
        let directory = Path::new(directory);
        let get = |name: &str| -> Result<Option<String>, Error> {
            let value = match members.get(name) {
                Some(value) => Some(value.clone()),
                None => file(&directory.join(name), name)?,
            };
            Ok(value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty()))
        };
        for name in ["KERBEROS_PRINCIPAL", "TLS_CERT"] {
            if get(name)?.is_some() {
                return Err(Error::usage(format!(
                    "{name}: neither Kerberos nor client certificates are supported for HDFS"
                )));
            }
        }
        let nodes = get("HDFS_NAMENODE")?.ok_or_else(|| {
            Error::usage(format!("HDFS_NAMENODE is neither in STORAGE_CONFIG nor in {directory:?}"))
        })?;
        let query = |name: &str, user: &str| {
            let pairs = [(name, user)];
            url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
        };
        let user = match (get("USER_PROXY")?, ambient.get("HADOOP_USER_NAME")) {
            (Some(user), _) => Some(query("doas", &user)),
            (None, Some(user)) => Some(query("user.name", user)),
            (None, None) => None,
        };
        let headers = match get("HEADERS")? {
            Some(json) => header_map(&json)
                .ok_or_else(|| Error::usage("HEADERS (HDFS) is no JSON object of headers"))?,
            None => HeaderMap::new(),
        };
        let ca = match members.contains_key("TLS_CA") {
            true => {
                return Err(Error::usage(
                    "TLS_CA in STORAGE_CONFIG: name the file with AWS_CA_BUNDLE instead",
                ));
            }
            false => Some(directory.join("TLS_CA")).filter(|path| path.exists()),
        };
        let verify_tls = match get("TLS_SKIP_VERIFY")? {
            Some(skip) => !boolean("TLS_SKIP_VERIFY", &skip)?,
            None => true,
        };
        Ok(Self { nodes, root: get("HDFS_ROOTPATH")?, user, headers, ca, verify_tls })
    }
}

fn file(path: &Path, name: &str) -> Result<Option<String>, Error> {
    let unreadable = || Error::usage(format!("{name} cannot be read"));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(_) => return Err(unreadable()),
    };
    let mut value = String::new();
    let read = file.take(VALUE_BYTES_MAX + 1).read_to_string(&mut value);
    match read.map_err(|_| unreadable())? as u64 > VALUE_BYTES_MAX {
        true => Err(unreadable()),
        false => Ok(Some(value)),
    }
}
