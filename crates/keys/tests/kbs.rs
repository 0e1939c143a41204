//! The broker's client against a broker that checks it, and one that misbehaves.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use std::time::{Duration, Instant};

use keys::{Attester, Error, HttpSettings, Kbs, KeySource, SampleAttester};
use seal::name::ResourceUri;
use secret::Secret;
use serde_json::Value;
use testkit::kbs::{FakeKbs, Fault, Step};

const PATH: &str = "default/key/one";
const KEY: &[u8] = b"thirty-two bytes of key material";

fn resource() -> ResourceUri {
    ResourceUri::from_path(PATH).unwrap()
}

fn missing() -> ResourceUri {
    ResourceUri::from_path("default/key/missing").unwrap()
}

async fn broker() -> FakeKbs {
    let broker = FakeKbs::start().await.unwrap();
    broker.put(PATH, KEY);
    broker
}

fn client_with(broker: &FakeKbs, attester: impl Attester + 'static) -> Kbs {
    let settings = HttpSettings { timeout: Duration::from_millis(500), ..HttpSettings::default() };
    Kbs::new(&broker.url(), Box::new(attester), &settings).unwrap()
}

fn client(broker: &FakeKbs) -> Kbs {
    client_with(broker, SampleAttester)
}

/// The error when the broker's next answer at `step` goes wrong in this way.
async fn error_of(step: Step, fault: Fault) -> Error {
    let broker = broker().await;
    broker.fail_next(step, fault);
    let client = client(&broker);
    let error = client.release(&resource()).await.unwrap_err();
    let key = client.release(&resource()).await.unwrap();
    assert_eq!(key.expose(), KEY, "the client recovers");
    error
}

fn count(broker: &FakeKbs, request: &str) -> usize {
    broker.requests().iter().filter(|of| *of == request).count()
}

#[tokio::test]
async fn one_attestation_serves_a_whole_run() {
    let broker = broker().await;
    let client = client(&broker);
    for tag in ["two", "three"] {
        broker.put(&format!("default/key/{tag}"), tag.as_bytes());
        let resource = ResourceUri::from_path(&format!("default/key/{tag}")).unwrap();
        assert_eq!(client.release(&resource).await.unwrap().expose(), tag.as_bytes());
    }
    let (one, two) = (resource(), resource());
    let (a, b) = tokio::join!(client.release(&one), client.release(&two));
    assert_eq!((a.unwrap().expose(), b.unwrap().expose()), (KEY, KEY));
    assert_eq!(broker.attestations(), 1);
    assert_eq!(broker.complaints(), [""; 0]);
}

#[tokio::test]
async fn concurrent_first_releases_share_one_attestation() {
    let broker = broker().await;
    let (client, resource) = (client(&broker), resource());
    let (a, b, c) = tokio::join!(
        client.release(&resource),
        client.release(&resource),
        client.release(&resource)
    );
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    assert_eq!(count(&broker, "POST /kbs/v0/auth"), 1);
}

#[tokio::test]
async fn a_session_that_ended_is_renewed() {
    let broker = broker().await;
    let client = client(&broker);
    client.release(&resource()).await.unwrap();
    broker.expire_sessions();
    assert_eq!(client.release(&resource()).await.unwrap().expose(), KEY);
    assert_eq!(broker.attestations(), 2);
}

#[tokio::test]
async fn a_session_that_stays_refused_is_renewed_once() {
    for variant in ["TokenNotFound", "TokenVerifierError"] {
        let broker = broker().await;
        for _ in 0..3 {
            broker.fail_next(Step::Resource, Fault::Refuse(variant));
        }
        let error = client(&broker).release(&resource()).await.unwrap_err();
        assert!(matches!(error, Error::Attestation { .. }), "{error:?}");
        assert_eq!(broker.attestations(), 2);
    }
}

#[tokio::test]
async fn a_missing_or_denied_key_costs_one_attestation() {
    let broker = broker().await;
    let error = client(&broker).release(&missing()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert_eq!(broker.attestations(), 1);

    broker.deny(PATH);
    let error = client(&broker).release(&resource()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert_eq!(broker.attestations(), 2);
}

/// Signs something else than what it was given.
struct Lying;

impl Attester for Lying {
    fn tee(&self) -> &'static str {
        "sample"
    }

    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error> {
        let mut other = report_data.to_vec();
        other[0] ^= 1;
        SampleAttester.evidence(&other)
    }
}

/// Says that it is something else than it is.
struct Unknown;

impl Attester for Unknown {
    fn tee(&self) -> &'static str {
        "toaster"
    }

    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error> {
        SampleAttester.evidence(report_data)
    }
}

/// Has no hardware, or a driver that panics.
struct Broken {
    panics: bool,
}

impl Attester for Broken {
    fn tee(&self) -> &'static str {
        "sample"
    }

    fn evidence(&self, _: &[u8]) -> Result<Value, Error> {
        assert!(!self.panics, "a panic in the attester");
        Err(Error::Evidence { tee: "sample", source: "no such device".into() })
    }
}

#[tokio::test]
async fn the_fake_broker_catches_evidence_over_other_bytes() {
    let broker = broker().await;
    let error = client_with(&broker, Lying).release(&resource()).await.unwrap_err();
    assert!(matches!(error, Error::Attestation { .. }), "{error:?}");
    assert_eq!(broker.attestations(), 0);
    let complaint = "POST /kbs/v0/attest: the evidence is not over the nonce and the key";
    assert_eq!(broker.complaints(), [complaint]);
}

#[tokio::test]
async fn an_unknown_tee_is_refused_before_any_evidence() {
    let broker = broker().await;
    let error = client_with(&broker, Unknown).release(&resource()).await.unwrap_err();
    assert!(matches!(error, Error::Attestation { .. }), "{error:?}");
    assert_eq!(count(&broker, "POST /kbs/v0/attest"), 0);
}

#[tokio::test]
async fn a_broken_attester_is_an_error_and_not_the_sample_tee() {
    for panics in [false, true] {
        let broker = broker().await;
        let error = client_with(&broker, Broken { panics }).release(&resource()).await.unwrap_err();
        assert!(matches!(error, Error::Evidence { tee: "sample", .. }), "{error:?}");
        assert_eq!(count(&broker, "POST /kbs/v0/attest"), 0);
    }
}

#[tokio::test]
async fn a_version_mismatch_is_told_in_the_brokers_words() {
    let body = br#"{"type":"https://github.com/confidential-containers/kbs/errors/AttestationError",
        "detail":"KBS Client Protocol Version Mismatch: expect =0.5.0 while the request is 0.4.0"}"#;
    let error = error_of(Step::Auth, Fault::Answer(401, body.to_vec())).await;
    assert!(matches!(error, Error::Attestation { .. }), "{error:?}");
    assert!(error.to_string().contains("expect =0.5.0 while the request is 0.4.0"), "{error}");
}

#[tokio::test]
async fn each_error_of_trustees_has_its_meaning() {
    let at = |step, variant| error_of(step, Fault::Refuse(variant));
    use Step::{Attest, Auth, Resource};
    assert!(matches!(at(Auth, "AttestationError").await, Error::Attestation { .. }));
    assert!(matches!(at(Attest, "AttestationError").await, Error::Attestation { .. }));
    assert!(matches!(at(Resource, "PolicyDeny").await, Error::Denied { .. }));
    assert!(matches!(at(Resource, "PolicyEngineError").await, Error::Denied { .. }));
    assert!(matches!(at(Resource, "PluginInternalError").await, Error::NotFound { .. }));
    assert!(matches!(at(Resource, "PluginNotFound").await, Error::Protocol { .. }));
    assert!(matches!(at(Resource, "ResourceNotFound").await, Error::NotFound { .. }));
    assert!(matches!(at(Resource, "JweError").await, Error::Protocol { .. }));
}

/// The errors when each step goes wrong in this way.
async fn errors_of(fault: Fault) -> [Error; 3] {
    let at = |step| error_of(step, fault.clone());
    tokio::join!(at(Step::Auth), at(Step::Attest), at(Step::Resource)).into()
}

#[tokio::test]
async fn silence_and_broken_connections_are_transient_at_every_step() {
    let slow = Fault::Slow(Duration::from_millis(50));
    let busy = Fault::Answer(503, b"busy".to_vec());
    for fault in [Fault::Hang, Fault::Close, Fault::NotHttp, Fault::Cut, slow, busy] {
        let started = Instant::now();
        for error in errors_of(fault.clone()).await {
            assert!(matches!(error, Error::Unreachable { .. }), "{fault:?}: {error:?}");
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{fault:?}");
    }
}

#[tokio::test]
async fn answers_are_bounded_at_every_step() {
    for fault in [Fault::Endless, Fault::Announce(1 << 40)] {
        for error in errors_of(fault.clone()).await {
            assert!(matches!(error, Error::TooLarge { .. }), "{fault:?}: {error:?}");
        }
    }
}

#[tokio::test]
async fn answers_that_break_the_protocol_are_refused_at_every_step() {
    for body in ["{}", "not json", "[1]", r#"{"nonce":"AAAA","token":1}"#] {
        for error in errors_of(Fault::Answer(200, body.into())).await {
            assert!(matches!(error, Error::Protocol { .. }), "{body}: {error:?}");
        }
    }
    for fault in [Fault::NonceBytes(8), Fault::NonceBytes(2000), Fault::NoCookie] {
        let error = error_of(Step::Auth, fault.clone()).await;
        assert!(matches!(error, Error::Protocol { .. }), "{fault:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_key_for_another_guest_or_a_changed_one_does_not_open() {
    for fault in [Fault::OtherKey, Fault::FlippedTag] {
        let error = error_of(Step::Resource, fault.clone()).await;
        assert!(matches!(error, Error::Protocol { .. }), "{fault:?}: {error:?}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn an_empty_key_is_transient_with_and_without_its_envelope() {
    let error = error_of(Step::Resource, Fault::Answer(200, Vec::new())).await;
    assert!(matches!(error, Error::Empty { .. }), "{error:?}");
    let broker = broker().await;
    broker.put(PATH, b"");
    let error = client(&broker).release(&resource()).await.unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed_at_any_step() {
    let elsewhere = broker().await;
    for error in errors_of(Fault::Redirect(elsewhere.url())).await {
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    }
    assert_eq!(elsewhere.requests(), [""; 0]);
}

#[tokio::test]
async fn what_the_broker_says_is_repeated_short_and_clean() {
    let detail = format!("line one\nline two \x1b[31m {}", "x".repeat(3000));
    let error = error_of(Step::Resource, Fault::Answer(403, detail.into_bytes())).await;
    let text = error.to_string();
    assert!(text.contains("line one line two"), "{text}");
    assert!(text.len() < 400 && !text.contains(['\n', '\x1b']), "{text}");
}

#[tokio::test]
async fn debug_output_shows_neither_cookie_nor_token_nor_key() {
    let broker = broker().await;
    let client = client(&broker);
    let key: Secret = client.release(&resource()).await.unwrap();
    let shown = format!("{client:?} {key:?}");
    for hidden in ["kbs-session-id", "e30.", "material"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[test]
fn plain_http_to_another_machine_needs_insecure_dev() {
    let of = |url: &str, insecure_dev| {
        let settings = HttpSettings { insecure_dev, ..HttpSettings::default() };
        Kbs::new(url, Box::new(SampleAttester), &settings).map(drop)
    };
    assert!(matches!(of("http://kbs.example:8080", false), Err(Error::Usage(_))));
    of("http://kbs.example:8080", true).unwrap();
    of("http://127.0.0.1:8080", false).unwrap();
}
