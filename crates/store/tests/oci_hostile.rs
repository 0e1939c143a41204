//! Registries that lie: about what a digest names, about where to go, and about who should see the
//! credentials.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use store::{Error, Location, Rest, Settings, Store};
use testkit::hostile::{Fault, Hostile};
use testkit::web::Web;

const TAGGED: &str = "v2/team/m/manifests/v1";

fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn settings(config: Option<&Path>) -> Settings {
    let env = config.map(|path| ("KSERVE_OCI_DOCKER_CONFIG", path.to_str().unwrap().to_owned()));
    let env: HashMap<_, _> = env.into_iter().collect();
    let mut settings = Settings::from_env(&|name| env.get(name).cloned()).unwrap();
    settings.read_timeout = Duration::from_secs(2);
    settings
}

fn open_at(host: &str, version: &str, config: Option<&Path>) -> Store {
    let uri = format!("oci://{host}/team/m{version}");
    Store::open(&Location::parse(&uri).unwrap(), &settings(config)).unwrap()
}

fn open(server: &Hostile) -> Store {
    open_at(server.endpoint().strip_prefix("http://").unwrap(), ":v1", None)
}

fn weights() -> Vec<u8> {
    (0..300_000_u32).map(|i| i.to_le_bytes()[0] ^ 9).collect()
}

fn manifest(bytes: u64) -> String {
    format!(
        r#"{{"schemaVersion":2,"layers":[{{"mediaType":"x/y","digest":"{}","size":{bytes},"annotations":{{"org.opencontainers.image.title":"w"}}}}]}}"#,
        digest(&weights())
    )
}

fn index(child: &str, bytes: usize) -> String {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!(
        r#"{{"manifests":[{{"digest":"sha256:{}","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}},{{"digest":"{child}","size":{bytes},"platform":{{"os":"linux","architecture":"{architecture}"}}}}]}}"#,
        "00".repeat(32)
    )
}

/// An honest artifact of one file.
fn artifact() -> Hostile {
    let server = Hostile::start().unwrap();
    server.put(TAGGED, manifest(300_000));
    server.put(&format!("v2/team/m/blobs/{}", digest(&weights())), weights());
    server
}

async fn fetch(store: &Store, range: std::ops::Range<u64>) -> Result<Vec<u8>, Error> {
    common::range(store, "w", range, None).await
}

#[tokio::test]
async fn a_tag_is_asked_for_once() {
    let server = artifact();
    let store = open(&server);
    assert_eq!(store.list(9).await.unwrap().len(), 1);
    server.put(TAGGED, manifest(1));
    assert!(fetch(&store, 0..300_000).await.unwrap() == weights());
    assert!(fetch(&store, 5..200_000).await.unwrap() == weights()[5..200_000]);
    assert_eq!(server.requests(TAGGED), 1);
    // A failure is no answer: the next question is asked again.
    server.plan(|seen| (seen.nth == 1).then_some(Fault::Status { status: 503, code: "" }));
    let store = open(&server);
    assert!(store.list(9).await.unwrap_err().is_transient());
    assert_eq!(store.list(9).await.unwrap()[0].bytes, 1);
}

#[tokio::test]
async fn a_manifest_is_held_against_its_digest() {
    let server = artifact();
    let host = server.endpoint();
    let host = host.strip_prefix("http://").unwrap();
    let right = manifest(300_000);
    let pinned = format!("@{}", digest(right.as_bytes()));
    let object = format!("v2/team/m/manifests/{}", digest(right.as_bytes()));
    server.put(&object, right.clone());
    assert_eq!(open_at(host, &pinned, None).list(9).await.unwrap().len(), 1);
    for lie in [manifest(300_001), right.clone() + " ", right[..right.len() - 1].to_owned()] {
        server.put(&object, lie.clone());
        let refused = open_at(host, &pinned, None).list(9).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{lie}: {refused:?}");
    }
    // What the server says of it itself.
    let said = format!("Docker-Content-Digest: {}\r\n", digest(b"another"));
    let body = right.clone();
    let server = Web::start(move |_| {
        let length = body.len();
        format!("HTTP/1.1 200 x\r\n{said}Content-Length: {length}\r\n\r\n{body}").into_bytes()
    })
    .unwrap();
    let refused = open_at(&server.host(), ":v1", None).list(9).await;
    assert!(matches!(refused, Err(Error::Protocol { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_index_leads_to_one_manifest_and_no_further() {
    let child = manifest(300_000);
    let at = |json: &str| format!("v2/team/m/manifests/{}", digest(json.as_bytes()));
    let server = artifact();
    let listing = index(&digest(child.as_bytes()), child.len());
    server.put(TAGGED, listing.clone());
    server.put(&at(&child), child.clone());
    assert!(fetch(&open(&server), 0..300_000).await.unwrap() == weights());

    server.put(&at(&child), manifest(300_001));
    let swapped = open(&server).list(9).await;
    assert!(matches!(swapped, Err(Error::Protocol { .. })), "{swapped:?}");
    server.put(&at(&child), child.clone());
    server.put(TAGGED, index(&digest(child.as_bytes()), child.len() + 1));
    let resized = open(&server).list(9).await;
    assert!(matches!(resized, Err(Error::Protocol { .. })), "{resized:?}");
    server.put(TAGGED, index(&digest(listing.as_bytes()), listing.len()));
    server.put(&at(&listing), listing.clone());
    server.clear_log();
    let nested = open(&server).list(9).await;
    assert!(matches!(nested, Err(Error::Protocol { .. })), "{nested:?}");
    assert_eq!(server.log().len(), 2);
}

#[tokio::test]
async fn an_endless_manifest_ends() {
    let server = artifact();
    server.put_made(TAGGED, 5 << 20, |_, room| Bytes::from(vec![b' '; room]));
    assert!(matches!(open(&server).list(9).await, Err(Error::Protocol { .. })));
    server.plan(|_| Some(Fault::Endless));
    assert!(matches!(open(&server).list(9).await, Err(Error::Protocol { .. })));
    assert!(server.bytes(TAGGED) < 64 << 20);
}

#[tokio::test]
async fn lies_about_a_blob_are_refused_and_broken_connections_are_transient() {
    let server = artifact();
    let blob = |seen: &testkit::hostile::Seen| seen.object.contains("/blobs/");
    for (fault, transient) in [
        (Fault::ClaimLength { off_by: 1 }, false),
        (Fault::ClaimLength { off_by: -1 }, false),
        (Fault::Longer { by: 1 }, false),
        (Fault::ClaimEncoding { value: "gzip" }, false),
        (Fault::Status { status: 404, code: "" }, false),
        (Fault::Status { status: 403, code: "" }, false),
        (Fault::Status { status: 401, code: "" }, false),
        (Fault::Status { status: 429, code: "" }, true),
        (Fault::Status { status: 500, code: "" }, true),
        (Fault::Cut { after: 1_000 }, true),
        (Fault::Stall { after: 1_000 }, true),
    ] {
        let planned = fault.clone();
        server.plan(move |seen| blob(seen).then(|| planned.clone()));
        for range in [0..300_000, 5..200_000] {
            let refused = fetch(&open(&server), range).await.unwrap_err();
            assert_eq!(refused.is_transient(), transient, "{fault:?}: {refused:?}");
        }
    }
    // A registry without ranges still gives whole blobs.
    server.plan(move |seen| blob(seen).then_some(Fault::IgnoreRange));
    assert!(fetch(&open(&server), 0..300_000).await.unwrap() == weights());
    let part = fetch(&open(&server), 5..9).await;
    assert!(matches!(part, Err(Error::Protocol { .. })), "{part:?}");
    // The file is longer or shorter than its manifest says.
    for bytes in [299_999, 300_001] {
        let server = artifact();
        server.put(TAGGED, manifest(bytes));
        let refused = fetch(&open(&server), 0..bytes).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{refused:?}");
    }
}

/// A registry that wants credentials, and what everybody was told.
struct Door {
    web: Web,
    seen: Arc<Mutex<Vec<(String, String)>>>,
    _directory: tempfile::TempDir,
    config: std::path::PathBuf,
}

impl Door {
    /// Sends this challenge until it sees `authorized`, then what `answer` makes of the path.
    fn start(
        challenge: impl Fn(&str) -> String + Send + 'static,
        authorized: &'static str,
        answer: impl Fn(&str) -> String + Send + 'static,
    ) -> Self {
        let seen = Arc::<Mutex<Vec<(String, String)>>>::default();
        let log = Arc::clone(&seen);
        let web = Web::start(move |asked| {
            let authorization = asked.header("authorization").to_owned();
            let ours = format!("http://{}", asked.header("host"));
            log.lock().unwrap().push((asked.path.clone(), authorization.clone()));
            let answer = match authorization == authorized || asked.path == "/token" {
                true => answer(&asked.path),
                false => {
                    format!("HTTP/1.1 401 x\r\nWWW-Authenticate: {}\r\n", challenge(&ours))
                        + "Content-Length: 0\r\n\r\n"
                }
            };
            answer.replacen("\r\n", "\r\nConnection: close\r\n", 1).into_bytes()
        })
        .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("config.json");
        let auths = format!(r#"{{"auths":{{"{}":{{"auth":"aHVudGVyMg=="}}}}}}"#, web.host());
        std::fs::write(&config, auths).unwrap();
        Self { web, seen, _directory: directory, config }
    }

    fn open(&self) -> Store {
        open_at(&self.web.host(), ":v1", Some(&self.config))
    }

    fn seen(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().clone()
    }
}

const SECRET: &str = "Basic aHVudGVyMg==";

fn found(body: &str) -> String {
    format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn token_or_manifest(path: &str) -> String {
    match path {
        "/token" => found(r#"{"access_token":"t0k"}"#),
        _ => found(&manifest(300_000)),
    }
}

#[tokio::test]
async fn credentials_go_to_the_token_server_and_its_token_to_the_registry() {
    let bearer = |ours: &str| format!("Bearer realm=\"{ours}/token\",service=\"s\"");
    let door = Door::start(bearer, "Bearer t0k", token_or_manifest);
    assert_eq!(door.open().list(9).await.unwrap().len(), 1);
    let authorizations: Vec<_> = door.seen().into_iter().map(|(_, value)| value).collect();
    assert_eq!(authorizations, ["", SECRET, "Bearer t0k"]);
}

#[tokio::test]
async fn a_challenge_that_never_ends_is_answered_once() {
    let bearer = |ours: &str| format!("Bearer realm=\"{ours}/token\",service=\"s\"");
    for (challenge, requests) in [(bearer as fn(&str) -> String, 3), (|_| "Basic".to_owned(), 2)] {
        let door = Door::start(challenge, "never", token_or_manifest);
        let refused = door.open().list(9).await;
        assert!(matches!(refused, Err(Error::Denied { .. })), "{refused:?}");
        assert_eq!(door.seen().len(), requests);
    }
    for challenge in ["Negotiate", "Bearer", "Bearer service=\"s\""] {
        let door = Door::start(move |_| challenge.to_owned(), "never", token_or_manifest);
        let refused = door.open().list(9).await;
        assert!(matches!(refused, Err(Error::Denied { .. })), "{challenge}: {refused:?}");
        assert_eq!(door.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_realm_without_tls_elsewhere_never_sees_the_credentials() {
    for realm in ["http://192.0.2.1/token", "http://tokens.example/token", "ftp://x/", "x", ""] {
        let challenge = move |_: &str| format!("Bearer realm=\"{realm}\",service=\"s\"");
        let door = Door::start(challenge, "never", token_or_manifest);
        let refused = door.open().list(9).await.unwrap_err();
        assert!(matches!(refused, Error::Protocol { .. }), "{realm}: {refused:?}");
        assert!(!format!("{refused:?}").contains("aHVudGVyMg"));
    }
    // Nor where the token server sends them.
    let elsewhere = Hostile::start().unwrap();
    let to = elsewhere.endpoint();
    let door = Door::start(
        |ours| format!("Bearer realm=\"{ours}/token\""),
        "never",
        move |_| format!("HTTP/1.1 307 x\r\nLocation: {to}/token\r\nContent-Length: 0\r\n\r\n"),
    );
    assert!(matches!(door.open().list(9).await, Err(Error::Protocol { .. })));
    assert!(elsewhere.log().is_empty());
    for answer in ["", "{}", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":7}"#] {
        let bearer = |ours: &str| format!("Bearer realm=\"{ours}/token\"");
        let door = Door::start(bearer, "never", move |_| found(answer));
        let refused = door.open().list(9).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{answer}: {refused:?}");
    }
}

#[tokio::test]
async fn a_redirect_takes_no_credentials_along() {
    let elsewhere = Hostile::start().unwrap();
    elsewhere.put("cache", weights());
    let to = elsewhere.endpoint();
    let door = Door::start(
        |_| "Basic".to_owned(),
        SECRET,
        move |path| match path.contains("/blobs/") {
            true => format!("HTTP/1.1 307 x\r\nLocation: {to}/cache\r\nContent-Length: 0\r\n\r\n"),
            false => found(&manifest(300_000)),
        },
    );
    assert!(fetch(&door.open(), 0..300_000).await.unwrap() == weights());
    assert!(fetch(&door.open(), 5..9).await.unwrap() == weights()[5..9]);
    assert!(elsewhere.log().iter().all(|it| it.request.authorization.is_none()));
    assert_eq!(elsewhere.log().len(), 2);
    // A challenge from there is not answered with this registry's credentials.
    let bearer = |ours: &str| format!("Bearer realm=\"{ours}/token\"");
    let thief = Door::start(bearer, "never", token_or_manifest);
    let to = thief.web.url();
    let door = Door::start(
        |_| "Basic".to_owned(),
        "",
        move |_| format!("HTTP/1.1 307 x\r\nLocation: {to}/\r\nContent-Length: 0\r\n\r\n"),
    );
    assert!(matches!(door.open().list(9).await, Err(Error::Denied { .. })));
    assert_eq!(thief.seen(), [("/".to_owned(), String::new())]);
}

#[tokio::test]
async fn an_upload_goes_to_its_registry_and_nowhere_else() {
    let elsewhere = Hostile::start().unwrap();
    for (status, to) in [(202, format!("{}/x", elsewhere.endpoint())), (307, "/x".into())] {
        let to = to.clone();
        let door = Door::start(
            |_| "Basic".to_owned(),
            SECRET,
            move |_| format!("HTTP/1.1 {status} x\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"),
        );
        let store = door.open();
        let mut writer = store.writer("w").await.unwrap();
        writer.write(Bytes::from_static(b"weights")).await.unwrap();
        let refused = writer.finish().await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{status}: {refused:?}");
        // Nothing was written, so there is nothing to show.
        let before = door.seen().len();
        store.commit(Rest::Gone).await.unwrap();
        assert_eq!(door.seen().len(), before);
    }
    assert!(elsewhere.log().is_empty());
}

#[tokio::test]
async fn an_upload_goes_on_when_its_registry_was_busy() {
    let seen = Arc::<Mutex<Vec<(String, String, usize)>>>::default();
    let log = Arc::clone(&seen);
    let server = Web::start(move |asked| {
        let mut log = log.lock().unwrap();
        let size = asked.header("content-range").to_owned();
        log.push((asked.method.clone(), size, asked.body.len()));
        // Every other request is too much.
        let status = match log.len() % 2 {
            1 => 503,
            _ => 202,
        };
        let head = "Connection: close\r\nLocation: /next?state=1\r\nContent-Length: 0";
        format!("HTTP/1.1 {status} x\r\n{head}\r\n\r\n").into_bytes()
    })
    .unwrap();
    let store = open_at(&server.host(), ":v1", None);
    let mut writer = store.writer("w").await.unwrap();
    writer.write(Bytes::from_static(b"weights")).await.unwrap();
    writer.finish().await.unwrap();
    let seen: Vec<_> = seen.lock().unwrap().clone();
    let sent = |method: &str, bytes| (method.to_owned(), String::new(), bytes);
    assert_eq!(seen, [sent("POST", 0), sent("POST", 0), sent("PUT", 7), sent("PUT", 7)]);
}
