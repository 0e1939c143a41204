//! What every place that can be written has in common, against a real server of each.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::{MIB, names, pattern, put, range};
use store::{Error, Location, Settings, Store};
use testkit::clouds::{Azurite, GcsEmulator};
use testkit::s3::S3Server;

/// A place, and how to reach it.
struct Place {
    /// Without a slash at its end.
    uri: String,
    env: Vec<(&'static str, String)>,
    /// Whether the server keeps to `If-Match`, and takes objects in parts.
    whole: bool,
}

impl Place {
    fn open(&self, below: &str) -> Store {
        self.open_with(below, &[])
    }

    fn open_with(&self, below: &str, change: &[(&str, &str)]) -> Store {
        let env = |name: &str| {
            let changed = change.iter().find(|(changed, _)| *changed == name);
            let set = self.env.iter().find(|(set, _)| *set == name);
            changed.map(|it| it.1.to_owned()).or_else(|| set.map(|it| it.1.clone()))
        };
        let settings = Settings::from_env(&env).unwrap();
        Store::open(&Location::parse(&format!("{}/{below}", self.uri)).unwrap(), &settings).unwrap()
    }
}

/// Everything that a caller relies on, whatever the place.
async fn conform(place: &Place) {
    let store = place.open("llama/8b");
    // Objects of no bytes, of less than a part and of several.
    let long = pattern(if place.whole { 20 * MIB + 3 } else { 7 * MIB + 3 });
    put(&store, "long.bin", &long).await.unwrap();
    put(&store, "a b/ü+100%.json", b"{}").await.unwrap();
    put(&store, "empty", b"").await.unwrap();
    assert_eq!(store.read("long.bin", u64::MAX).await.unwrap(), long);
    assert_eq!(store.read("a b/ü+100%.json", 2).await.unwrap(), b"{}");
    assert_eq!(store.read("empty", 0).await.unwrap(), b"");

    // Exact ranges, also of other lengths than the whole.
    let meta = store.stat("long.bin").await.unwrap();
    assert_eq!(meta.bytes, long.len() as u64);
    let etag = meta.etag.as_deref();
    assert!(etag.is_some(), "{}: no version", place.uri);
    for (start, end) in [(0, 1), (MIB - 1, 6 * MIB + 1), (long.len() - 1, long.len())] {
        let got = range(&store, "long.bin", start as u64..end as u64, etag).await.unwrap();
        assert_eq!(got, &long[start..end], "{start}..{end}");
    }
    let beyond = range(&store, "empty", 0..1, None).await.unwrap_err();
    assert!(!beyond.is_transient(), "{beyond}");

    // Neighbours of the prefix are not below it.
    put(&place.open("llama/8b-evil"), "x", b"x").await.unwrap();
    let listed = names(store.list(100).await.unwrap());
    let expected = [("a b/ü+100%.json", 2), ("empty", 0), ("long.bin", long.len() as u64)];
    assert_eq!(listed, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    assert!(matches!(store.list(2).await, Err(Error::TooLarge { .. })));
    assert_eq!(place.open("llama/none").list(10).await.unwrap(), []);

    // Absence, and replacement while it is read.
    assert!(matches!(store.stat("none").await, Err(Error::NotFound { .. })));
    assert!(matches!(store.read("none", 10).await, Err(Error::NotFound { .. })));
    put(&store, "long.bin", b"replaced").await.unwrap();
    if place.whole {
        let changed = range(&store, "long.bin", 0..4, etag).await.unwrap_err();
        assert!(matches!(changed, Error::Changed { .. }), "{changed:?}");
    }

    // What is given up leaves nothing.
    if !place.whole {
        return;
    }
    let mut writer = store.writer("half").await.unwrap();
    writer.write(Bytes::from(pattern(9 * MIB))).await.unwrap();
    writer.abort().await.unwrap();
    assert!(matches!(store.stat("half").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn s3_conforms() {
    let Some(server) = S3Server::start().unwrap() else { return };
    let place =
        Place { uri: format!("s3://{}", S3Server::BUCKET), env: server.env().into(), whole: true };
    conform(&place).await;
}

#[tokio::test]
async fn azure_blobs_conform() {
    let Some(server) = Azurite::start().unwrap() else { return };
    let place = azure(&server).await;
    conform(&place).await;

    // A wrong key, nobody, and a container that is not there.
    put(&place.open("x"), "o", b"o").await.unwrap();
    let wrong = base64_of(b"not the key");
    let denied = place.open_with("x", &[("AZURE_STORAGE_ACCESS_KEY", &wrong)]).stat("o").await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    let nobody = place.open_with("x", &[("awsAnonymousCredential", "true")]).stat("o").await;
    assert!(matches!(nobody, Err(Error::Denied { .. } | Error::NotFound { .. })), "{nobody:?}");

    // A signature in the URI reads, and does no more; a changed one does nothing.
    let signed = Place { uri: place.uri.clone(), env: vec![place.env[0].clone()], whole: true };
    let sas = Azurite::read_only_sas();
    let store = signed.open(&format!("x?{sas}"));
    assert_eq!(store.read("o", 1).await.unwrap(), b"o");
    assert_eq!(store.list(10).await.unwrap().len(), 1);
    assert!(!format!("{store:?}").contains("sig="));
    let mut writer = store.writer("p").await.unwrap();
    let written = match writer.write(Bytes::from_static(b"p")).await {
        Ok(()) => writer.finish().await,
        refused => refused,
    };
    assert!(matches!(written, Err(Error::Denied { .. })), "{written:?}");
    let changed = signed.open(&format!("x?{}", sas.replace("sp=rl", "sp=rw"))).stat("o").await;
    assert!(matches!(changed, Err(Error::Denied { .. })), "{changed:?}");

    let elsewhere = Place { uri: place.uri.replace("/models", "/nothing"), ..place };
    let absent = elsewhere.open("x").list(10).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");
}

#[tokio::test]
async fn google_cloud_storage_conforms() {
    let Some(server) = GcsEmulator::start().unwrap() else { return };
    let place = Place {
        uri: format!("gs://{}", GcsEmulator::BUCKET),
        env: server.env().into(),
        whole: false,
    };
    conform(&place).await;
}

/// A container in the emulator. Sealift makes none, so the test asks by itself, with a signature
/// for the account.
async fn azure(server: &Azurite) -> Place {
    let place = Place {
        uri: format!("https://{}.blob.core.windows.net/models", Azurite::ACCOUNT),
        env: server.env().into(),
        whole: true,
    };
    server.create_container("models").unwrap();
    place
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
