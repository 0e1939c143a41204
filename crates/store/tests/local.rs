//! Directories: what is read is what was named, and what is written appears whole.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bytes::Bytes;
use common::{names, put};
use store::{Error, Location, Settings, Store};

fn open(dir: &Path) -> Store {
    let uri = format!("file://{}", dir.display());
    Store::open(&Location::parse(&uri).unwrap(), &Settings::default()).unwrap()
}

async fn fetch(
    store: &Store,
    range: std::ops::Range<u64>,
    etag: Option<&str>,
) -> Result<Vec<u8>, Error> {
    common::range(store, "x", range, etag).await
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("new/bundle"));
    let content: Vec<u8> =
        (0..3_000_000_u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[2]).collect();
    put(&store, "x", &content).await.unwrap();
    put(&store, "sub/dir/y", b"").await.unwrap();
    assert_eq!(store.stat("x").await.unwrap().bytes, 3_000_000);
    assert!(store.read("x", 3_000_000).await.unwrap() == content);
    assert!(fetch(&store, 1..2_999_999, None).await.unwrap() == content[1..2_999_999]);
    assert!(matches!(store.read("x", 2_999_999).await, Err(Error::TooLarge { .. })));
    assert!(matches!(fetch(&store, 0..3_000_001, None).await, Err(Error::Protocol { .. })));
    assert_eq!(store.local_file("x").unwrap().unwrap().metadata().unwrap().len(), 3_000_000);
    let entry = |name: &str, bytes| (name.to_owned(), bytes);
    assert_eq!(
        names(store.list(10).await.unwrap()),
        [entry("sub/dir/y", 0), entry("x", 3_000_000)]
    );
    assert!(matches!(store.list(3).await, Err(Error::TooLarge { .. })));
}

#[tokio::test]
async fn nothing_is_visible_before_finish_and_nothing_stays_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "x", b"old").await.unwrap();
    for abort in [true, false] {
        let mut writer = store.writer("x").await.unwrap();
        writer.write(Bytes::from_static(b"new")).await.unwrap();
        assert_eq!(store.read("x", 10).await.unwrap(), b"old");
        assert_eq!(store.list(10).await.unwrap().len(), 1, "temporary files are not listed");
        match abort {
            true => writer.abort().await.unwrap(),
            false => drop(writer),
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
    put(&store, "x", b"new").await.unwrap();
    assert_eq!(store.read("x", 10).await.unwrap(), b"new");
}

#[tokio::test]
async fn a_file_that_was_replaced_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "x", b"first").await.unwrap();
    let etag = store.stat("x").await.unwrap().etag;
    assert_eq!(fetch(&store, 0..5, etag.as_deref()).await.unwrap(), b"first");
    put(&store, "x", b"other").await.unwrap();
    assert!(matches!(fetch(&store, 0..5, etag.as_deref()).await, Err(Error::Changed { .. })));
}

#[tokio::test]
async fn no_link_is_followed_below_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    let inside = dir.path().join("inside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(&inside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(outside.join("secret"), inside.join("file")).unwrap();
    symlink(&outside, inside.join("sub")).unwrap();
    let store = open(&inside);
    for object in ["file", "sub/secret"] {
        assert!(matches!(store.read(object, 10).await, Err(Error::Protocol { .. })), "{object}");
        assert!(matches!(store.stat(object).await, Err(Error::Protocol { .. })), "{object}");
        assert!(store.local_file(object).unwrap().is_err(), "{object}");
    }
    assert!(store.writer("sub/new").await.is_err());
    put(&store, "file", b"mine").await.unwrap();
    assert_eq!(
        fs::read(outside.join("secret")).unwrap(),
        b"secret",
        "a link is replaced, not followed"
    );
    assert!(matches!(store.list(10).await, Err(Error::Protocol { .. })));

    // But whoever names the directory may name a link to it.
    symlink(&inside, dir.path().join("link")).unwrap();
    assert_eq!(open(&dir.path().join("link")).read("file", 10).await.unwrap(), b"mine");
}

#[tokio::test]
async fn what_is_not_a_file_is_refused_without_hanging() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    let store = open(dir.path());
    assert!(matches!(store.read("x", 10).await, Err(Error::Protocol { .. })));
    fs::remove_dir(dir.path().join("x")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("x"), rustix::fs::Mode::RWXU).unwrap();
    assert!(matches!(store.read("x", 10).await, Err(Error::Protocol { .. })));
    assert!(matches!(store.list(10).await, Err(Error::Protocol { .. })));
    let socket = dir.path().join("y");
    let _socket = std::os::unix::net::UnixListener::bind(socket).unwrap();
    assert!(store.read("y", 10).await.is_err());
}

#[tokio::test]
async fn absence_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("absent"));
    assert!(matches!(store.read("x", 10).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.list(10).await, Err(Error::NotFound { .. })));
    assert!(store.local_file("../x").unwrap().is_err());
}
