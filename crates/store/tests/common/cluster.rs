//! A stand-in for WebHDFS, written from Hadoop's published REST reference.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use testkit::web::{Asked, Web, reply, reply_with};

type Files = Arc<Mutex<BTreeMap<String, (u64, Vec<u8>)>>>;

pub(crate) fn exception(status: u16, name: &str) -> Vec<u8> {
    let body = format!(r#"{{"RemoteException":{{"exception":"{name}","message":"hunter2"}}}}"#);
    reply(status, body.as_bytes())
}

fn next_id(files: &BTreeMap<String, (u64, Vec<u8>)>) -> u64 {
    files.values().map(|(id, _)| id + 1).max().unwrap_or(1)
}

/// One that serves and takes contents as data nodes do.
fn data_node(files: &Files) -> Web {
    let files = Arc::clone(files);
    Web::start(move |asked| {
        let query = Asked::form(&asked.query);
        let path = Asked::unescaped(&asked.path);
        if asked.method != "GET" {
            let mut files = files.lock().unwrap();
            let id = next_id(&files);
            match asked.method.as_str() {
                "PUT" => drop(files.insert(path, (id, asked.body.clone()))),
                _ => files.get_mut(&path).unwrap().1.extend(&asked.body),
            }
            return reply(201, b"");
        }
        let number = |name: &str| query[name].parse::<usize>().unwrap();
        let content = files.lock().unwrap()[&Asked::unescaped(&asked.path)].1.clone();
        let start = number("offset").min(content.len());
        let end = (start + number("length")).min(content.len());
        reply(200, &content[start..end])
    })
    .unwrap()
}

fn name_node(files: &Files, data_node: String) -> Web {
    let files = Arc::clone(files);
    Web::start(move |asked| {
        let query = Asked::form(&asked.query);
        if query.get("user.name").map(String::as_str) != Some("me") {
            return exception(403, "AccessControlException");
        }
        let path = asked.path.strip_prefix("/webhdfs/v1").unwrap();
        let path = Asked::unescaped(path);
        let mut files = files.lock().unwrap();
        let to_data_node = || {
            let path = asked.path.strip_prefix("/webhdfs/v1").unwrap();
            let to = format!("Location: {data_node}{path}?{}\r\n", asked.query);
            reply_with(307, &to, b"")
        };
        match (asked.method.as_str(), query["op"].as_str()) {
            ("PUT", "CREATE") | ("POST", "APPEND") => return to_data_node(),
            ("PUT", "RENAME") => {
                let content = files.remove(&path).unwrap().1;
                let id = next_id(&files);
                files.insert(query["destination"].clone(), (id, content));
                return reply(200, b"");
            }
            ("DELETE", "DELETE") => {
                let removed = files.remove(&path).is_some();
                return reply(200, format!(r#"{{"boolean":{removed}}}"#).as_bytes());
            }
            (method, _) => assert_eq!(method, "GET"),
        }
        let status = |path: &str, name: &str| match files.get(path) {
            Some((id, content)) => Some(format!(
                r#"{{"pathSuffix":"{name}","type":"FILE","length":{},"fileId":{id},"modificationTime":1}}"#,
                content.len()
            )),
            None if files.keys().any(|file| file.starts_with(&format!("{path}/"))) => Some(format!(
                r#"{{"pathSuffix":"{name}","type":"DIRECTORY","length":0,"fileId":1,"modificationTime":1}}"#
            )),
            None => None,
        };
        let found = status(&path, "");
        match (query["op"].as_str(), found) {
            (_, None) => exception(404, "FileNotFoundException"),
            ("GETFILESTATUS", Some(found)) => {
                reply(200, format!(r#"{{"FileStatus":{found}}}"#).as_bytes())
            }
            ("LISTSTATUS", Some(_)) => {
                let below = format!("{path}/");
                let mut names: Vec<_> = files
                    .keys()
                    .filter_map(|file| file.strip_prefix(&below)?.split('/').next())
                    .collect();
                names.dedup();
                let listed: Vec<_> =
                    names.iter().map(|name| status(&format!("{below}{name}"), name).unwrap()).collect();
                let body = format!(r#"{{"FileStatuses":{{"FileStatus":[{}]}}}}"#, listed.join(","));
                reply(200, body.as_bytes())
            }
            ("OPEN", Some(_)) => to_data_node(),
            (other, _) => panic!("{other}"),
        }
    })
    .unwrap()
}

/// A file system for the user `me`; a standby and an active node.
pub(crate) struct Cluster {
    files: Files,
    _data: Web,
    pub(crate) active: Web,
    pub(crate) standby: Web,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        Self::start_behind(str::to_owned)
    }

    /// Its data node is reached at the URL that `front` makes of its own.
    pub(crate) fn start_behind(front: impl FnOnce(&str) -> String) -> Self {
        let files: Files = Arc::default();
        let data = data_node(&files);
        let active = name_node(&files, front(&data.url()));
        let standby = Web::start(|_| exception(403, "StandbyException")).unwrap();
        Self { files, _data: data, active, standby }
    }

    /// A new file, also in place of one of that name.
    pub(crate) fn put(&self, path: &str, content: Vec<u8>) {
        let mut files = self.files.lock().unwrap();
        let id = next_id(&files);
        files.insert(path.to_owned(), (id, content));
    }

    /// The names of all files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.files.lock().unwrap().keys().cloned().collect()
    }

    /// What is in a file.
    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        self.files.lock().unwrap()[path].1.clone()
    }
}
