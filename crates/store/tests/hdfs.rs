//! Against a stand-in for WebHDFS, written from Hadoop's published REST reference: a name node that
//! redirects to a data node, and a standby beside it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;

use bytes::Bytes;
use common::cluster::Cluster;
use common::{put, range};
use store::{Entry, Error, Location, Settings, Store};
use testkit::web::{Asked, Web, reply, reply_with};

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
}

#[tokio::test]
async fn a_file_has_its_name_when_it_is_whole() {
    let cluster = cluster();
    let store = open(&cluster, "hdfs://model", &[]).unwrap();
    let before = cluster.names();
    let mut writer = store.writer("new/config.json").await.unwrap();
    writer.write(Bytes::from(vec![7; 17 << 20])).await.unwrap();
    let begun = cluster.names();
    let own: Vec<_> = begun.iter().filter(|name| !before.contains(name)).collect();
    assert!(matches!(&own[..], [name] if name.starts_with("/base/model/new/.sealift-upload-")));
    assert_eq!(store.list(9).await.unwrap().len(), 2, "what is on its way is not there");
    writer.abort().await.unwrap();
    assert_eq!(cluster.names(), before);

    put(&store, "config.json", b"[]").await.unwrap();
    assert_eq!(cluster.content("/base/model/config.json"), b"[]");
    assert_eq!(cluster.names(), before);
}

/// Servers that do not do what they are asked for, and one that sends what it is given elsewhere.
#[tokio::test]
async fn a_file_that_may_not_be_whole_has_no_name() {
    let data = Web::start(|_| reply(201, b"")).unwrap();
    let cluster = cluster();
    for (bytes, renamed, headers) in
        [(1, "true", ""), (2, "false", ""), (2, "true", r#"{"x-gateway":"hunter2"}"#)]
    {
        let to = format!("Location: {}/x\r\n", data.url());
        let node = Web::start(move |asked| {
            let answer = match &Asked::form(&asked.query)["op"][..] {
                "CREATE" => return reply_with(307, &to, b""),
                "GETFILESTATUS" => format!(
                    r#"{{"FileStatus":{{"pathSuffix":"","type":"FILE","length":{bytes}}}}}"#
                ),
                "RENAME" => format!(r#"{{"boolean":{renamed}}}"#),
                _ => r#"{"boolean":true}"#.to_owned(),
            };
            reply(200, answer.as_bytes())
        })
        .unwrap();
        let config = format!(r#"{{"type":"hdfs","HDFS_NAMENODE":"{}"}}"#, node.url());
        let change = [("STORAGE_CONFIG", config.as_str()), ("file:HEADERS", headers)];
        let store = open(&cluster, "hdfs://model", &change).unwrap();
        let refused = put(&store, "x", b"ab").await.unwrap_err();
        assert!(!refused.is_transient(), "{bytes} {renamed} {headers}: {refused:?}");
        assert!(!format!("{refused:?}").contains("hunter2"));
    }
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
