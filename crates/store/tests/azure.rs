//! Azure Blob Storage, as far as it is not like any other place: see the suite in `conformance`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use bytes::Bytes;
use common::put;
use store::Error;
use testkit::clouds::Azurite;

#[tokio::test]
async fn each_way_to_say_who_we_are_is_checked() {
    let Some(server) = Azurite::start().unwrap() else { return };
    server.create_container("models").unwrap();
    let endpoint = server.endpoint();
    let open = |below: &str, env: &[(&str, &str)]| {
        let uri = format!("https://{}.blob.core.windows.net/{below}", Azurite::ACCOUNT);
        let at = [("AZURE_STORAGE_SERVICE_ENDPOINT", endpoint.as_str())];
        common::open(&uri, at.into_iter().chain(env.iter().copied())).unwrap()
    };
    let key = [("AZURE_STORAGE_ACCESS_KEY", Azurite::KEY)];
    put(&open("models/x", &key), "o", b"o").await.unwrap();
    let anonymous = [key[0], ("awsAnonymousCredential", "true")];
    let nobody = open("models/x", &anonymous).stat("o").await;
    assert!(matches!(nobody, Err(Error::Denied { .. } | Error::NotFound { .. })), "{nobody:?}");

    // A signature in the URI reads, and does no more; a changed one does nothing.
    let sas = Azurite::read_only_sas();
    let store = open(&format!("models/x?{sas}"), &[]);
    assert_eq!(store.read("o", 1).await.unwrap(), b"o");
    assert_eq!(store.list(10).await.unwrap().len(), 1);
    assert!(!format!("{store:?}").contains("sig="));
    let mut writer = store.writer("p").await.unwrap();
    let written = match writer.write(Bytes::from_static(b"p")).await {
        Ok(()) => writer.finish().await,
        refused => refused,
    };
    assert!(matches!(written, Err(Error::Denied { .. })), "{written:?}");
    let changed = format!("models/x?{}", sas.replace("sp=rl", "sp=rw"));
    let changed = open(&changed, &[]).stat("o").await;
    assert!(matches!(changed, Err(Error::Denied { .. })), "{changed:?}");

    let absent = open("nothing/x", &key).list(10).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");
}
