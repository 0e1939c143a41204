//! Against a real S3 server: round trips, versions, absence, refusal.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;

use bytes::Bytes;
use common::{MIB, names, pattern, put, range};
use store::{Error, Location, Settings, Store};
use testkit::s3::S3Server;

fn open(server: &S3Server, prefix: &str, change: &[(&'static str, &str)]) -> Store {
    let env = server.env();
    let env = env.iter().map(|(name, value)| (*name, value.as_str()));
    let uri = format!("s3://{}/{prefix}", S3Server::BUCKET);
    common::open(&uri, env.chain(change.iter().copied())).unwrap()
}

/// The server and a store in it, or an early return where there is no server.
macro_rules! server {
    () => {
        match S3Server::start().unwrap() {
            Some(server) => server,
            None => return,
        }
    };
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_written() {
    let server = server!();
    let store = open(&server, "llama/8b", &[]);
    for length in [0, 1, MIB, 8 * MIB, 8 * MIB + 1, 20 * MIB + 5] {
        let content = pattern(length);
        put(&store, "dir/a b+ü%41.sealed", &content).await.unwrap();
        let meta = store.stat("dir/a b+ü%41.sealed").await.unwrap();
        assert_eq!(meta.bytes, length as u64);
        assert!(
            store.read("dir/a b+ü%41.sealed", 32 * MIB as u64).await.unwrap() == content,
            "{length}"
        );
    }
    assert!(server.bucket_dir().join("llama/8b/dir/a b+ü%41.sealed").is_file());
}

#[tokio::test]
async fn absence_is_told_apart() {
    let server = server!();
    let store = open(&server, "m", &[]);
    let error = store.read("absent", 10).await.unwrap_err();
    assert_eq!(error.to_string(), "s3://models/m/absent: no such object");
    assert!(matches!(store.stat("absent").await, Err(Error::NotFound { .. })));

    let mut env: HashMap<&str, String> = server.env().into();
    env.insert("AWS_DEFAULT_REGION", "eu-west-1".to_owned());
    let settings = Settings::from_env(&|name| env.get(name).cloned()).unwrap();
    let other = Store::open(&Location::parse("s3://no-such-bucket/m").unwrap(), &settings).unwrap();
    let error = other.read("sealift.json", 10).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_not_repeated_in_the_error() {
    let server = server!();
    for change in [
        [("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")].as_slice(),
        [("AWS_ACCESS_KEY_ID", "hunter2-hunter2")].as_slice(),
        [("awsAnonymousCredential", "true")].as_slice(),
    ] {
        let store = open(&server, "m", change);
        for error in [
            store.read("x", 10).await.unwrap_err(),
            store.stat("x").await.unwrap_err(),
            store.list(10).await.unwrap_err(),
            range(&store, "x", 0..1, None).await.unwrap_err(),
        ] {
            assert!(matches!(error, Error::Denied { .. }), "{change:?}: {error:?}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_listing_has_the_folder_and_nothing_beside_it() {
    let server = server!();
    put(&open(&server, "model", &[]), "sealift.json", b"{}").await.unwrap();
    put(&open(&server, "model", &[]), "sub/w.sealed", b"abc").await.unwrap();
    put(&open(&server, "model-evil", &[]), "x", b"no").await.unwrap();
    let listed = open(&server, "model", &[]).list(100).await.unwrap();
    let entry = |name: &str, bytes| (name.to_owned(), bytes);
    assert_eq!(names(listed), [entry("sealift.json", 2), entry("sub/w.sealed", 3)]);
    assert_eq!(open(&server, "", &[]).list(100).await.unwrap().len(), 3);
    assert!(matches!(open(&server, "model", &[]).list(1).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn nothing_is_visible_of_an_upload_that_was_not_finished() {
    let server = server!();
    let store = open(&server, "m", &[]);
    for abort in [true, false] {
        let mut writer = store.writer("x").await.unwrap();
        for _ in 0..3 {
            writer.write(Bytes::from(vec![1; 8 * MIB])).await.unwrap();
        }
        match abort {
            true => writer.abort().await.unwrap(),
            false => drop(writer),
        }
        assert!(matches!(store.stat("x").await, Err(Error::NotFound { .. })));
    }
}

#[tokio::test]
async fn a_dead_endpoint_is_transient() {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let settings = Settings::from_env(&|name| match name {
        "AWS_ENDPOINT_URL" => Some(endpoint.clone()),
        "awsAnonymousCredential" => Some("true".to_owned()),
        _ => None,
    })
    .unwrap();
    let store = Store::open(&Location::parse("s3://models/m").unwrap(), &settings).unwrap();
    let error = store.read("x", 10).await.unwrap_err();
    assert!(matches!(error, Error::Network { .. }) && error.is_transient(), "{error:?}");
}
