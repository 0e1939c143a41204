//! Against a stand-in for Hugging Face's hub, written from its published API: the snapshot, the
//! files at its commit, and the network of caches that it sends large files from.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;

use common::range;
use store::{Error, Location, Settings, Store};
use testkit::hostile::{Fault, Hostile};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const INFO: &str = "api/models/org/model/revision/main";

fn open(server: &Hostile, uri: &str) -> Store {
    let env = HashMap::from([("HF_ENDPOINT", server.endpoint()), ("HF_TOKEN", "hf_secret".into())]);
    let settings = Settings::from_env(&|name| env.get(name).cloned()).unwrap();
    Store::open(&Location::parse(uri).unwrap(), &settings).unwrap()
}

fn info(commit: &str, files: &[(&str, usize)]) -> String {
    let files: Vec<_> = files
        .iter()
        .map(|(name, size)| format!(r#"{{"rfilename":"{name}","size":{size},"blobId":"x"}}"#))
        .collect();
    format!(r#"{{"id":"org/model","sha":"{commit}","siblings":[{}]}}"#, files.join(","))
}

/// One file of seven bytes, kept by Git LFS, which says this digest.
fn lfs(sha256: &str) -> String {
    let file = format!(r#"{{"rfilename":"w","size":7,"lfs":{{"sha256":"{sha256}","size":7}}}}"#);
    format!(r#"{{"sha":"{COMMIT}","siblings":[{file}]}}"#)
}

/// A repository with a file at its root, one in a folder, and what the hub itself keeps.
fn repository() -> Hostile {
    let server = Hostile::start().unwrap();
    let files = [(".gitattributes", 1), ("config.json", 2), ("sub/weights.bin", 3_000_000)];
    server.put(INFO, info(COMMIT, &files));
    for (name, bytes) in [(".gitattributes", &b"#"[..]), ("config.json", b"{}")] {
        server.put(&format!("org/model/resolve/{COMMIT}/{name}"), bytes.to_vec());
    }
    server.put(&format!("org/model/resolve/{COMMIT}/sub/weights.bin"), vec![7; 3_000_000]);
    server
}

#[tokio::test]
async fn a_repository_is_read_at_one_commit() {
    let server = repository();
    let store = open(&server, "hf://org/model");
    let listed = store.list(10).await.unwrap();
    let names: Vec<_> = listed.iter().map(|entry| (entry.name.as_str(), entry.bytes)).collect();
    let expected = [(".gitattributes", 1), ("config.json", 2), ("sub/weights.bin", 3_000_000)];
    assert_eq!(names, expected);
    assert!(store.keeps(".gitattributes") && !store.keeps("config.json"));
    assert_eq!(
        range(&store, "sub/weights.bin", 1..2_000_001, None).await.unwrap(),
        vec![7; 2_000_000]
    );

    // The branch moves on; what was begun stays at its commit.
    server.put(INFO, info(&COMMIT.replace('0', "f"), &[("config.json", 9)]));
    assert_eq!(store.read("config.json", 2).await.unwrap(), b"{}");
    assert_eq!(server.requests(INFO), 1);
    assert!(
        server
            .log()
            .iter()
            .all(|it| { it.request.authorization.as_deref() == Some("Bearer hf_secret") })
    );

    let server = repository();
    let folder = open(&server, "hf://org/model/sub");
    assert_eq!(folder.list(10).await.unwrap().len(), 1);
    assert_eq!(folder.stat("weights.bin").await.unwrap().bytes, 3_000_000);
    assert!(matches!(folder.stat("config.json").await, Err(Error::NotFound { .. })));
    assert!(matches!(store.list(2).await, Err(Error::TooLarge { .. })));
    assert!(matches!(store.writer("x").await, Err(Error::Unsupported { .. })));
}

#[tokio::test]
async fn a_file_of_git_lfs_has_a_digest_and_others_have_none() {
    let server = repository();
    assert_eq!(open(&server, "hf://org/model").sha256("config.json").await.unwrap(), None);
    server.put(INFO, lfs(&"0a".repeat(32)));
    let store = open(&server, "hf://org/model");
    assert_eq!(store.sha256("w").await.unwrap(), Some([10; 32]));
    assert!(matches!(store.sha256("x").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_nowhere_else() {
    let (server, cache) = (repository(), Hostile::start().unwrap());
    cache.put("cache/blob", vec![9; 3_000_000]);
    let to = format!("{}/cache/blob", cache.endpoint());
    server.plan(move |seen| {
        seen.object.ends_with("weights.bin").then(|| Fault::Redirect { to: to.clone() })
    });
    let store = open(&server, "hf://org/model");
    assert_eq!(range(&store, "sub/weights.bin", 5..10, None).await.unwrap(), [9; 5]);
    assert_eq!(
        range(&store, "sub/weights.bin", 0..3_000_000, None).await.unwrap(),
        vec![9; 3_000_000]
    );
    let asked = cache.log();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|it| it.request.authorization.is_none()), "{asked:?}");
}

#[tokio::test]
async fn answers_that_lie_are_refused() {
    let lies = [
        "no json".to_owned(),
        "{}".to_owned(),
        r#"{"sha":"main","siblings":[]}"#.to_owned(),
        format!(r#"{{"sha":"{COMMIT}"}}"#),
        format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"x"}}]}}"#),
        format!(r#"{{"sha":"{COMMIT}","siblings":[{{"size":1}}]}}"#),
        info(COMMIT, &[("x", 1), ("x", 1)]),
        info(COMMIT, &[("../x", 1)]),
        lfs("00"),
        lfs(&"0A".repeat(32)),
    ];
    for lie in lies {
        let server = repository();
        server.put(INFO, lie.clone());
        let refused = open(&server, "hf://org/model").list(10).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{lie}: {refused:?}");
    }
    // A file of another length than the snapshot says: asked for whole, and by range.
    let server = repository();
    server.put(INFO, info(COMMIT, &[("config.json", 1), ("sub/weights.bin", 3_000_001)]));
    let store = open(&server, "hf://org/model");
    assert!(matches!(store.read("config.json", 10).await, Err(Error::Protocol { .. })));
    let beyond = range(&store, "sub/weights.bin", 2_999_999..3_000_001, None).await;
    assert!(beyond.is_err(), "{beyond:?}");
    server.plan(|_| Some(Fault::IgnoreRange));
    assert!(matches!(
        range(&store, "sub/weights.bin", 5..10, None).await,
        Err(Error::Protocol { .. })
    ));
}

#[tokio::test]
async fn refusals_say_what_to_do_or_to_wait() {
    for (status, transient) in [(401, false), (403, false), (404, false), (429, true), (503, true)]
    {
        let server = repository();
        server.plan(move |_| Some(Fault::Status { status, code: "" }));
        let error = open(&server, "hf://org/model").list(10).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{status}: {error}");
        assert!(!format!("{error:?}").contains("hf_secret"));
    }
    let env = HashMap::from([("HF_ENDPOINT", "http://hub.example"), ("HF_TOKEN", "hf_secret")]);
    let settings = Settings::from_env(&|name| env.get(name).map(|it| (*it).to_owned())).unwrap();
    let clear = Store::open(&Location::parse("hf://org/model").unwrap(), &settings);
    assert!(matches!(clear, Err(Error::Usage { .. })), "{clear:?}");
    // Nobody keeps a failure: the next question is asked again.
    let server = repository();
    server.plan(|seen| (seen.nth == 0).then_some(Fault::Status { status: 503, code: "" }));
    let store = open(&server, "hf://org/model");
    assert!(store.list(10).await.is_err());
    assert_eq!(store.list(10).await.unwrap().len(), 3);
}
