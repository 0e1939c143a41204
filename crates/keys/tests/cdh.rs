//! The data hub's client against a hub that misbehaves.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use std::time::{Duration, Instant};

use keys::{Cdh, Error, HttpSettings, KeySource};
use seal::name::ResourceUri;
use secret::Secret;
use testkit::kbs::{FakeKbs, Fault, Step};

const PATH: &str = "default/key/one";
const KEY: &[u8] = b"thirty-two bytes of key material";

fn resource() -> ResourceUri {
    ResourceUri::from_path(PATH).unwrap()
}

fn settings() -> HttpSettings {
    HttpSettings { timeout: Duration::from_millis(300), ..HttpSettings::default() }
}

async fn hub() -> FakeKbs {
    let hub = FakeKbs::start().await.unwrap();
    hub.put(PATH, KEY);
    hub
}

async fn ask(hub: &FakeKbs) -> Result<Secret, Error> {
    Cdh::new(&hub.url(), &settings()).unwrap().release(&resource()).await
}

/// The error when the hub's next answer goes wrong in this way.
async fn error_of(fault: Fault) -> Error {
    let hub = hub().await;
    hub.fail_next(Step::Cdh, fault);
    let error = ask(&hub).await.unwrap_err();
    assert_eq!(ask(&hub).await.unwrap().expose(), KEY, "the next request is served");
    error
}

#[tokio::test]
async fn an_opaque_failure_says_that_the_hub_does_not_say() {
    let hub = hub().await;
    hub.deny(PATH);
    let error = ask(&hub).await.unwrap_err();
    assert!(matches!(error, Error::Opaque { .. }), "{error:?}");
    let text = error.to_string();
    for hint in ["kbs:///default/key/one", "does not say why", "policy", "unreachable", "log"] {
        assert!(text.contains(hint), "{hint:?} is missing: {text}");
    }
}

#[tokio::test]
async fn a_hub_that_does_say_is_believed() {
    let answer = |status: u16| Fault::Answer(status, b"because".to_vec());
    assert!(matches!(error_of(answer(403)).await, Error::Denied { .. }));
    assert!(matches!(error_of(answer(404)).await, Error::NotFound { .. }));
    assert!(matches!(error_of(answer(400)).await, Error::Protocol { .. }));
    assert!(matches!(error_of(answer(503)).await, Error::Unreachable { .. }));
    assert!(error_of(answer(403)).await.to_string().contains("because"));
}

#[tokio::test]
async fn an_empty_success_is_transient() {
    let error = error_of(Fault::Answer(200, Vec::new())).await;
    assert!(matches!(error, Error::Empty { .. }) && error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn broken_connections_and_silence_are_transient_and_bounded_in_time() {
    let slow = Fault::Slow(Duration::from_millis(50));
    for fault in [Fault::Hang, Fault::Close, Fault::NotHttp, Fault::Cut, Fault::Announce(99), slow]
    {
        let started = Instant::now();
        let error = error_of(fault.clone()).await;
        assert!(matches!(error, Error::Unreachable { .. }), "{fault:?}: {error:?}");
        assert!(started.elapsed() < Duration::from_secs(2), "{fault:?} took too long");
    }
}

#[tokio::test]
async fn nobody_listening_is_transient() {
    let url = hub().await.url(); // dropped: the port is closed
    let error = Cdh::new(&url, &settings()).unwrap().release(&resource()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn too_long_answers_are_left_unread() {
    for fault in [Fault::Endless, Fault::Announce(Secret::BYTES_MAX as u64 + 1)] {
        let error = error_of(fault.clone()).await;
        assert!(matches!(error, Error::TooLarge { .. }), "{fault:?}: {error:?}");
    }
    let error = error_of(Fault::Answer(403, vec![b'x'; 1 << 20])).await;
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (hub, elsewhere) = (hub().await, hub().await);
    for to in [elsewhere.url(), hub.url()] {
        hub.fail_next(Step::Cdh, Fault::Redirect(format!("{to}/cdh/resource/{PATH}")));
        let error = ask(&hub).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    }
    assert_eq!(elsewhere.requests(), [""; 0]);
}

#[test]
fn plain_http_is_for_loopback_only() {
    let of = |base: &str| {
        let settings = HttpSettings { insecure_dev: true, ..HttpSettings::default() };
        Cdh::new(base, &settings).map(drop)
    };
    for base in
        ["http://127.0.0.1:8006", "http://127.9.9.9", "http://[::1]:8006", "http://localhost"]
    {
        of(base).unwrap();
    }
    for base in [
        "http://10.0.0.1:8006",
        "http://cdh.example",
        "http://127.0.0.1.example:8006",
        "http://localhost.example",
        "http://[::ffff:8.8.8.8]",
        "http://0x08080808",
    ] {
        assert!(matches!(of(base), Err(Error::Usage(_))), "{base}");
    }
}

#[test]
fn an_address_that_says_too_much_is_refused() {
    for base in [
        "127.0.0.1:8006",
        "unix:///run/cdh.sock",
        "http://user@127.0.0.1",
        "http://:password@127.0.0.1",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#f",
        "",
    ] {
        let error = Cdh::new(base, &settings()).unwrap_err();
        assert!(matches!(error, Error::Usage(_)), "{base}: {error:?}");
        assert!(!error.to_string().contains("password"), "{error}");
    }
}
