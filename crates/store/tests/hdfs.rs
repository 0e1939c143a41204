//! Against a stand-in for WebHDFS, written from Hadoop's published REST reference: a name node that
//! redirects to a data node, and a standby beside it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;

use common::cluster::Cluster;
use common::range;
use store::{Entry, Error, Location, Settings, Store};
use testkit::web::{Web, reply};

/// Two files below `/base/model`, one beside it.
fn cluster() -> Cluster {
    let cluster = Cluster::start();
    let content = (0..3_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    cluster.put("/base/model/sub/weights.bin", content);
    cluster.put("/base/model/config.json", b"{}".to_vec());
    cluster.put("/base/model-evil/x", b"no".to_vec());
    cluster
}

fn open(cluster: &Cluster, uri: &str, change: &[(&str, &str)]) -> Result<Store, Error> {
    let secret = tempfile::tempdir().unwrap();
    let nodes = format!("{};{}\n", cluster.standby.url(), cluster.active.url());
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

#[tokio::test]
async fn a_directory_is_listed_and_read_by_ranges() {
    let cluster = cluster();
    let store = open(&cluster, "hdfs://model", &[]).unwrap();
    let listed = store.list(10).await.unwrap();
    let named: Vec<_> =
        listed.iter().map(|Entry { name, bytes, .. }| (&name[..], *bytes)).collect();
    assert_eq!(named, [("config.json", 2), ("sub/weights.bin", 3_000_000)]);
    assert!(matches!(store.list(2).await, Err(Error::TooLarge { .. })));
    assert_eq!(store.read("config.json", 2).await.unwrap(), b"{}");
    let content = cluster.content("/base/model/sub/weights.bin");
    let etag = listed[1].etag.as_deref();
    for (start, end) in [(0, 3_000_000), (1, 2_000_000), (2_999_999, 3_000_000)] {
        let got = range(&store, "sub/weights.bin", start as u64..end as u64, etag).await.unwrap();
        assert!(got == content[start..end], "{start}..{end}");
    }
    let beyond = range(&store, "config.json", 1..3, None).await;
    assert!(matches!(beyond, Err(Error::Protocol { .. })), "{beyond:?}");

    // Another file in its place.
    cluster.put("/base/model/sub/weights.bin", content);
    let changed = range(&store, "sub/weights.bin", 0..1, etag).await;
    assert!(matches!(changed, Err(Error::Changed { .. })), "{changed:?}");

    let none = open(&cluster, "webhdfs:///none", &[]).unwrap();
    assert_eq!(none.list(10).await.unwrap(), []);
    assert!(matches!(none.stat("x").await, Err(Error::NotFound { .. })));
    assert!(matches!(store.stat("sub").await, Err(Error::NotFound { .. })), "a directory");
    assert!(matches!(store.writer("x").await, Err(Error::Unsupported { .. })));
}

#[tokio::test]
async fn refusals_are_told_apart_and_repeat_nothing() {
    let cluster = cluster();
    let denied = open(&cluster, "hdfs://model", &[("HADOOP_USER_NAME", "you")]).unwrap();
    let denied = denied.list(10).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
    assert!(!format!("{denied:?}").contains("hunter2"));

    let standby = format!(r#"{{"type":"hdfs","HDFS_NAMENODE":"{}"}}"#, cluster.standby.url());
    let alone = open(&cluster, "hdfs://model", &[("STORAGE_CONFIG", &standby)]).unwrap();
    let waiting = alone.list(10).await.unwrap_err();
    assert!(waiting.is_transient(), "{waiting:?}");
    for change in [
        ("file:KERBEROS_PRINCIPAL", "me@REALM"),
        ("file:HDFS_NAMENODE", "ftp://host"),
        ("file:HDFS_NAMENODE", ""),
        ("file:HEADERS", "hunter2"),
        ("file:TLS_SKIP_VERIFY", "perhaps"),
    ] {
        let refused = open(&cluster, "hdfs://model", &[change]);
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
        let cluster = cluster();
        let liar = Web::start(move |_| reply(200, lie.as_bytes())).unwrap();
        let config = format!(r#"{{"type":"webhdfs","HDFS_NAMENODE":"{}"}}"#, liar.url());
        let store = open(&cluster, "hdfs://model", &[("STORAGE_CONFIG", &config)]).unwrap();
        let refused = store.list(1_000).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{lie}: {refused:?}");
    }
}
