//! Azure Files, as far as it is not like any other place: see the suite in `conformance`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::share::{ACCOUNT, FileService, KEY, SAS};
use store::{Error, Store};
use testkit::web::{Web, reply};

fn open(endpoint: &str, below: &str, env: &[(&str, &str)]) -> Result<Store, Error> {
    let at = [("AZURE_STORAGE_FILE_ENDPOINT", endpoint)];
    let uri = format!("https://{ACCOUNT}.file.core.windows.net/{below}");
    common::open(&uri, at.into_iter().chain(env.iter().copied()))
}

#[tokio::test]
async fn a_signature_in_the_uri_reads_and_is_shown_nowhere() {
    let service = FileService::start();
    service.put("m/deep/er/est/than/five/levels/x", b"x".to_vec());
    let url = service.web.url();
    let store = open(&url, &format!("models/m?{SAS}"), &[]).unwrap();
    let listed = store.list(9).await.unwrap();
    assert_eq!(listed[0].name, "deep/er/est/than/five/levels/x");
    assert_eq!(store.read(&listed[0].name, 9).await.unwrap(), b"x");
    assert!(!format!("{store:?}").contains("hunter2"));

    let wrong = open(&url, "models/m?sv=2022-11-02&sig=hunter2", &[]).unwrap();
    let nobody = open(&url, "models/m", &[]).unwrap();
    let else_where = open(&url, "nothing/m", &[("AZURE_STORAGE_ACCESS_KEY", KEY)]).unwrap();
    for (store, denied) in [(wrong, true), (nobody, true), (else_where, false)] {
        let error = store.list(9).await.unwrap_err();
        let expected = match error {
            Error::Denied { .. } => denied,
            Error::NotFound { bucket: true, .. } => !denied,
            _ => false,
        };
        assert!(expected && !format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_sent() {
    let key = ("AZURE_STORAGE_ACCESS_KEY", KEY);
    for (endpoint, env) in [
        ("http://files.example", &[key][..]),
        ("https://files.example", &[("AZURE_CLIENT_ID", "me")]),
    ] {
        let refused = open(endpoint, "models/m", env);
        assert!(matches!(refused, Err(Error::Usage { .. })), "{endpoint}: {refused:?}");
    }
    let no_key = [("AZURE_STORAGE_ACCESS_KEY", "not base64: hunter2")];
    let refused = open("http://127.0.0.1:9", "models/m", &no_key).unwrap().stat("x").await;
    assert!(matches!(refused, Err(Error::Usage { .. })), "{refused:?}");
    assert!(!format!("{refused:?}").contains("hunter2"));
}

#[tokio::test]
async fn listings_that_lie_are_refused() {
    let file = |name: &str| {
        format!(
            "<File><Name>{name}</Name><Properties><Content-Length>1</Content-Length></Properties></File>"
        )
    };
    let listing = |entries: &str| {
        format!("<EnumerationResults><Entries>{entries}</Entries></EnumerationResults>")
    };
    let lies = [
        "no XML".to_owned(),
        "<EnumerationResults/>".to_owned(),
        listing("<File><Name>x</Name><Properties/></File>"),
        listing("<File><Properties><Content-Length>1</Content-Length></Properties></File>"),
        listing("<Link><Name>x</Name></Link>"),
        listing("<File><Name Encoded=\"true\">%FF</Name></File>"),
        listing(
            "<File><Name>x</Name><Properties><Content-Length>-1</Content-Length></Properties></File>",
        ),
        listing(&file("..")),
        listing(&file("a/../../b")),
        listing(&file("")),
        listing(&(file("x") + &file("x"))),
        // A directory that holds itself, for ever.
        listing("<Directory><Name>d</Name></Directory>"),
        listing(&file("x"))[..40].to_owned(),
    ];
    for lie in lies {
        let body = lie.clone();
        let liar = Web::start(move |_| reply(200, body.as_bytes())).unwrap();
        let refused = open(&liar.url(), "models/m", &[]).unwrap().list(1_000).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{lie}: {refused:?}");
    }
    // Pages without end.
    let more = "<EnumerationResults><Entries><File><Name>x</Name><Properties><Content-Length>1</Content-Length></Properties></File></Entries><NextMarker>more</NextMarker></EnumerationResults>";
    let liar = Web::start(move |_| reply(200, more.as_bytes())).unwrap();
    let refused = open(&liar.url(), "models/m", &[]).unwrap().list(100).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
}
