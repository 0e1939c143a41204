//! ModelScope, as far as it is not like any other place: see the suite in `conformance`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::modelscope::{ModelScope, TOKEN};
use store::{Error, Store};
use testkit::web::{Web, reply, reply_with};

fn open(url: &str, uri: &str, env: &[(&str, &str)]) -> Result<Store, Error> {
    let own = [("MODELSCOPE_DOMAIN", url), ("MODELSCOPE_API_TOKEN", TOKEN)];
    common::open(uri, own.into_iter().chain(env.iter().copied()))
}

#[tokio::test]
async fn each_file_is_read_at_its_commit_and_has_a_digest() {
    let hub = ModelScope::start();
    hub.put("README.md", b"#".to_vec());
    hub.put("sub/w.bin", b"first".to_vec());
    let store = open(&hub.web.url(), "modelscope://org/model", &[]).unwrap();
    assert_eq!(store.list(9).await.unwrap().len(), 2);
    assert!(store.keeps("README.md") && store.keeps("configuration.json") && store.is_snapshot());
    hub.put("sub/w.bin", b"other, and longer".to_vec());
    assert_eq!(store.read("sub/w.bin", 9).await.unwrap(), b"first");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"first");
    assert_eq!(store.sha256("sub/w.bin").await.unwrap().unwrap(), digest.as_ref());
    let folder = open(&hub.web.url(), "modelscope://org/model/sub:master", &[]).unwrap();
    assert_eq!(folder.read("w.bin", 99).await.unwrap(), b"other, and longer");
}

#[tokio::test]
async fn refusals_are_told_apart_and_show_no_token() {
    let hub = ModelScope::start();
    let url = hub.web.url();
    let list = async |uri: &str, token: &str| {
        let store = open(&url, uri, &[("MODELSCOPE_API_TOKEN", token)]).unwrap();
        store.list(9).await.unwrap_err()
    };
    let wrong = list("modelscope://org/model", "ms-hunter2").await;
    assert!(matches!(wrong, Error::Denied { .. }), "{wrong:?}");
    let absent = list("modelscope://org/none", TOKEN).await;
    assert!(matches!(absent, Error::NotFound { bucket: true, .. }), "{absent:?}");
    assert!(!format!("{wrong:?}{absent:?}").contains("ms-"));
    let private = Web::start(|_| reply(404, b"{}")).unwrap();
    let nobody = common::open("modelscope://a/b", [("MODELSCOPE_DOMAIN", &private.url()[..])]);
    let nobody = nobody.unwrap().list(9).await.unwrap_err();
    assert!(matches!(&nobody, Error::Denied { reason, .. } if reason.contains("MODELSCOPE_API")));
    for (name, value) in [
        ("MODELSCOPE_DOMAIN", "http://hub.example"),
        ("MODELSCOPE_DOMAIN", "https://me:hunter2@hub.example"),
        ("MODELSCOPE_API_TOKEN", "hunter2; other=1"),
    ] {
        let refused = open(&url, "modelscope://org/model", &[(name, value)]).unwrap_err();
        assert!(matches!(refused, Error::Usage { .. }), "{refused:?}");
        assert!(!format!("{refused:?}").contains("hunter2"));
    }
}

/// Large files lie elsewhere, where neither the cookie nor the bearer's token goes.
#[tokio::test]
async fn the_token_goes_to_the_hub_and_nowhere_else() {
    let elsewhere = Web::start(|asked| {
        let known =
            asked.headers.contains_key("cookie") || asked.headers.contains_key("authorization");
        reply(if known { 400 } else { 200 }, b"weights")
    })
    .unwrap();
    let to = format!("Location: {}/blob\r\n", elsewhere.url().replace("127.0.0.1", "localhost"));
    let hub = Web::start(move |asked| match asked.path.ends_with("/files") {
        true => reply(200, listing(r#"{"Path":"w","Type":"blob","Size":7}"#).as_bytes()),
        false => reply_with(302, &to, b""),
    })
    .unwrap();
    let store = open(&hub.url(), "modelscope://org/model", &[]).unwrap();
    assert_eq!(store.read("w", 9).await.unwrap(), b"weights");
}

fn listing(files: &str) -> String {
    format!(r#"{{"Code":200,"Success":true,"Data":{{"Files":[{files}]}}}}"#)
}

#[tokio::test]
async fn answers_that_lie_are_refused() {
    let file = r#"{"Path":"x","Type":"blob","Size":1}"#;
    for lie in [
        "no json".to_owned(),
        "{}".to_owned(),
        r#"{"Success":false,"Data":{"Files":[]}}"#.to_owned(),
        listing(r#"{"Path":"x","Size":1}"#),
        listing(r#"{"Path":"x","Type":"link","Size":1}"#),
        listing(r#"{"Path":"x","Type":"blob"}"#),
        listing(r#"{"Path":"x","Type":"blob","Size":-1}"#),
        listing(r#"{"Type":"blob","Size":1}"#),
        listing(r#"{"Path":"x","Type":"blob","Size":1,"Sha256":"00"}"#),
        listing(r#"{"Path":"x","Type":"blob","Size":1,"Sha256":7}"#),
        listing(r#"{"Path":"../x","Type":"blob","Size":1}"#),
        listing(&format!("{file},{file}")),
    ] {
        let body = lie.clone();
        let liar = Web::start(move |_| reply(200, body.as_bytes())).unwrap();
        let store = open(&liar.url(), "modelscope://org/model", &[]).unwrap();
        let refused = store.list(9).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{lie}: {refused:?}");
    }
}
