//! Against a stand-in for WebHDFS, written from Hadoop's published REST reference: a name node that
//! redirects to a data node, and a standby beside it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use common::range;
use store::{Entry, Error, Location, Settings, Store};
use testkit::web::{Asked, Web};

type Files = Arc<Mutex<BTreeMap<String, (u64, Vec<u8>)>>>;

fn answer(status: u16, more: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn exception(status: u16, name: &str) -> Vec<u8> {
    let body = format!(r#"{{"RemoteException":{{"exception":"{name}","message":"hunter2"}}}}"#);
    answer(status, "", body.as_bytes())
}

/// One that serves contents as data nodes do.
fn data_node(files: &Files) -> Web {
    let files = Arc::clone(files);
    Web::start(move |asked| {
        let query = Asked::form(&asked.query);
        let number = |name: &str| query[name].parse::<usize>().unwrap();
        let content = files.lock().unwrap()[&asked.path].1.clone();
        let start = number("offset").min(content.len());
        let end = (start + number("length")).min(content.len());
        answer(200, "", &content[start..end])
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
        let path = asked.path.strip_prefix("/webhdfs/v1").unwrap().to_owned();
        let files = files.lock().unwrap();
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
                answer(200, "", format!(r#"{{"FileStatus":{found}}}"#).as_bytes())
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
                answer(200, "", body.as_bytes())
            }
            ("OPEN", Some(_)) => {
                let (offset, length) = (&query["offset"], &query["length"]);
                let to = format!("Location: {data_node}{path}?offset={offset}&length={length}\r\n");
                answer(307, &to, b"")
            }
            (other, _) => panic!("{other}"),
        }
    })
    .unwrap()
}

/// Two files below `/base/model`, one beside it; a standby and an active node.
struct Cluster {
    files: Files,
    _data: Web,
    active: Web,
    standby: Web,
}

impl Cluster {
    fn start() -> Self {
        let files: Files = Arc::default();
        let content: Vec<u8> = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
        for (id, (path, content)) in [
            ("/base/model/sub/weights.bin", content),
            ("/base/model/config.json", b"{}".to_vec()),
            ("/base/model-evil/x", b"no".to_vec()),
        ]
        .into_iter()
        .enumerate()
        {
            files.lock().unwrap().insert(path.to_owned(), (id as u64, content));
        }
        let data = data_node(&files);
        let active = name_node(&files, data.url());
        let standby = Web::start(|_| exception(403, "StandbyException")).unwrap();
        Self { files, _data: data, active, standby }
    }

    fn open(&self, uri: &str, change: &[(&str, &str)]) -> Result<Store, Error> {
        let secret = tempfile::tempdir().unwrap();
        let nodes = format!("{};{}\n", self.standby.url(), self.active.url());
        std::fs::write(secret.path().join("HDFS_NAMENODE"), nodes).unwrap();
        std::fs::write(secret.path().join("HDFS_ROOTPATH"), "/base").unwrap();
        let directory = secret.path().to_str().unwrap();
        let mut env = HashMap::from([("HDFS_SECRET_DIR", directory), ("HADOOP_USER_NAME", "me")]);
        for (name, value) in change {
            match std::fs::exists(secret.path()).unwrap() && name.starts_with("file:") {
                true => std::fs::write(secret.path().join(&name[5..]), value).unwrap(),
                false => drop(env.insert(name, value)),
            }
        }
        let settings = Settings::from_env(&|name| env.get(name).map(|it| (*it).to_owned()))?;
        Store::open(&Location::parse(uri)?, &settings)
    }
}

#[tokio::test]
async fn a_directory_is_listed_and_read_by_ranges() {
    let cluster = Cluster::start();
    let store = cluster.open("hdfs://model", &[]).unwrap();
    let listed = store.list(10).await.unwrap();
    let named: Vec<_> =
        listed.iter().map(|Entry { name, bytes, .. }| (&name[..], *bytes)).collect();
    assert_eq!(named, [("config.json", 2), ("sub/weights.bin", 3_000_000)]);
    assert!(matches!(store.list(2).await, Err(Error::TooLarge { .. })));
    assert_eq!(store.read("config.json", 2).await.unwrap(), b"{}");
    let content = cluster.files.lock().unwrap()["/base/model/sub/weights.bin"].1.clone();
    let etag = listed[1].etag.as_deref();
    for (start, end) in [(0, 3_000_000), (1, 2_000_000), (2_999_999, 3_000_000)] {
        let got = range(&store, "sub/weights.bin", start as u64..end as u64, etag).await.unwrap();
        assert!(got == content[start..end], "{start}..{end}");
    }
    let beyond = range(&store, "config.json", 1..3, None).await;
    assert!(matches!(beyond, Err(Error::Protocol { .. })), "{beyond:?}");

    // Another file in its place.
    let replaced = ("/base/model/sub/weights.bin".to_owned(), (77, content));
    cluster.files.lock().unwrap().extend([replaced]);
    let changed = range(&store, "sub/weights.bin", 0..1, etag).await;
    assert!(matches!(changed, Err(Error::Changed { .. })), "{changed:?}");

    let none = cluster.open("webhdfs:///none", &[]).unwrap();
    assert_eq!(none.list(10).await.unwrap(), []);
    assert!(matches!(none.stat("x").await, Err(Error::NotFound { .. })));
    assert!(matches!(store.stat("sub").await, Err(Error::NotFound { .. })), "a directory");
    assert!(matches!(store.writer("x").await, Err(Error::Unsupported { .. })));
}

#[tokio::test]
async fn refusals_are_told_apart_and_repeat_nothing() {
    let cluster = Cluster::start();
    let denied = cluster.open("hdfs://model", &[("HADOOP_USER_NAME", "you")]).unwrap();
    let denied = denied.list(10).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
    assert!(!format!("{denied:?}").contains("hunter2"));

    let standby = format!(r#"{{"type":"hdfs","HDFS_NAMENODE":"{}"}}"#, cluster.standby.url());
    let alone = cluster.open("hdfs://model", &[("STORAGE_CONFIG", &standby)]).unwrap();
    let waiting = alone.list(10).await.unwrap_err();
    assert!(waiting.is_transient(), "{waiting:?}");
    for change in [
        ("file:KERBEROS_PRINCIPAL", "me@REALM"),
        ("file:HDFS_NAMENODE", "ftp://host"),
        ("file:HDFS_NAMENODE", ""),
        ("file:HEADERS", "hunter2"),
        ("file:TLS_SKIP_VERIFY", "perhaps"),
    ] {
        let refused = cluster.open("hdfs://model", &[change]);
        assert!(matches!(refused, Err(Error::Usage { .. })), "{change:?}");
    }
}

#[tokio::test]
async fn listings_that_lie_are_refused() {
    for lie in [
        "no json",
        "{}",
        r#"{"FileStatuses":{"FileStatus":[{}]}}"#,
        r#"{"FileStatuses":{"FileStatus":[{"pathSuffix":"../x","type":"FILE","length":1}]}}"#,
        r#"{"FileStatuses":{"FileStatus":[{"pathSuffix":"x","type":"SYMLINK","length":1}]}}"#,
        r#"{"FileStatuses":{"FileStatus":[{"pathSuffix":"d","type":"DIRECTORY","length":0}]}}"#,
    ] {
        let cluster = Cluster::start();
        let liar = Web::start(move |_| answer(200, "", lie.as_bytes())).unwrap();
        let config = format!(r#"{{"type":"webhdfs","HDFS_NAMENODE":"{}"}}"#, liar.url());
        let store = cluster.open("hdfs://model", &[("STORAGE_CONFIG", &config)]).unwrap();
        let refused = store.list(1_000).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{lie}: {refused:?}");
    }
}
