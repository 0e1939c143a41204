//! What every [`KeySource`] must do, as a suite that runs against any of them.
//!
//! A source's tests implement [`Fixture`] and call [`check`], which panics with the rule that was
//! broken. The same suite runs against our fakes and against a real Trustee.

use std::fmt::Debug;

use seal::name::ResourceUri;
use secret::Secret;
use tokio::sync::Mutex;

use crate::{Error, KeySource, Retry, release_with_retry};

/// A key source and the world behind it.
pub trait Fixture: Send + Sync {
    /// The source under test.
    type Source: KeySource + Debug;

    /// A source that has released nothing yet.
    fn source(&self) -> Self::Source;

    /// Stores or replaces a resource. `false`: what stands behind the source keeps no such bytes,
    /// which is only fine for those that no source may release.
    fn put(&self, resource: &ResourceUri, bytes: &[u8]) -> impl Future<Output = bool> + Send;

    /// Denies a resource by policy. `false`: there is no policy behind this source.
    fn deny(&self, resource: &ResourceUri) -> impl Future<Output = bool> + Send;

    /// Makes the source unreachable, or reachable again. `false`: this source cannot be.
    fn set_down(&self, down: bool) -> impl Future<Output = bool> + Send;

    /// Whether the source tells a missing key from a denied one. `false`: [`Error::Opaque`].
    fn tells_why(&self) -> bool {
        true
    }
}

/// Checks every rule.
pub async fn check(fixture: &impl Fixture) {
    releases_exactly_what_is_stored(fixture).await;
    releases_what_is_stored_now(fixture).await;
    releases_to_many_at_once(fixture).await;
    refuses_a_missing_key(fixture).await;
    refuses_a_denied_key(fixture).await;
    refuses_an_empty_key_for_now(fixture).await;
    refuses_a_key_that_is_too_long(fixture).await;
    shows_no_key_in_its_debug_output(fixture).await;
    releases_once_the_source_is_back(fixture).await;
}

async fn releases_exactly_what_is_stored(fixture: &impl Fixture) {
    let source = fixture.source();
    for len in [1, 32, 4096, 4097, Secret::BYTES_MAX] {
        let resource = resource(&format!("exact-{len}"));
        // Every byte value, newlines and NULs at the ends included.
        let stored: Vec<u8> = (0..=255).cycle().take(len).collect();
        assert!(fixture.put(&resource, &stored).await);
        assert_releases(&source, &resource, &stored).await;
        assert_releases(&source, &resource, &stored).await;
    }
}

async fn releases_what_is_stored_now(fixture: &impl Fixture) {
    let (source, resource) = (fixture.source(), resource("rotated"));
    for generation in ["generation one", "generation two, longer", "three"] {
        assert!(fixture.put(&resource, generation.as_bytes()).await);
        assert_releases(&source, &resource, generation.as_bytes()).await;
    }
}

async fn releases_to_many_at_once(fixture: &impl Fixture) {
    let source = fixture.source();
    let (a, b) = (resource("many-a"), resource("many-b"));
    assert!(fixture.put(&a, b"key a").await);
    assert!(fixture.put(&b, b"key b").await);
    tokio::join!(
        assert_releases(&source, &a, b"key a"),
        assert_releases(&source, &b, b"key b"),
        assert_releases(&source, &a, b"key a"),
        assert_releases(&source, &b, b"key b"),
        assert_releases(&source, &a, b"key a"),
        assert_releases(&source, &b, b"key b"),
    );
}

async fn refuses_a_missing_key(fixture: &impl Fixture) {
    let error = refusal(&fixture.source(), &resource("missing")).await;
    let expected = if fixture.tells_why() {
        matches!(error, Error::NotFound { .. })
    } else {
        matches!(error, Error::Opaque { .. })
    };
    assert!(expected, "a missing key: {error:?}");
}

async fn refuses_a_denied_key(fixture: &impl Fixture) {
    let resource = resource("denied");
    assert!(fixture.put(&resource, CANARY.as_bytes()).await);
    if !fixture.deny(&resource).await {
        return;
    }
    let error = refusal(&fixture.source(), &resource).await;
    let expected = if fixture.tells_why() {
        matches!(error, Error::Denied { .. })
    } else {
        matches!(error, Error::Opaque { .. })
    };
    assert!(expected, "a denied key: {error:?}");
}

async fn refuses_an_empty_key_for_now(fixture: &impl Fixture) {
    let resource = resource("empty");
    if !fixture.put(&resource, b"").await {
        return;
    }
    let error = refusal(&fixture.source(), &resource).await;
    assert!(matches!(error, Error::Empty { .. }), "an empty key: {error:?}");
    assert!(error.is_transient(), "an empty key may be one that is being replaced");
}

async fn refuses_a_key_that_is_too_long(fixture: &impl Fixture) {
    for excess in [1, Secret::BYTES_MAX * 3] {
        let resource = resource(&format!("too-long-{excess}"));
        let long = CANARY.as_bytes().repeat(1 + 4 * Secret::BYTES_MAX / CANARY.len());
        if !fixture.put(&resource, &long[..Secret::BYTES_MAX + excess]).await {
            continue;
        }
        let error = refusal(&fixture.source(), &resource).await;
        assert!(matches!(error, Error::TooLarge { .. }), "{excess} bytes too long: {error:?}");
    }
}

async fn shows_no_key_in_its_debug_output(fixture: &impl Fixture) {
    let (source, resource) = (fixture.source(), resource("debug"));
    assert!(fixture.put(&resource, CANARY.as_bytes()).await);
    match source.release(&resource).await {
        Ok(key) => {
            let shown = format!("{source:?} {source:#?} {key:?}");
            assert!(!shown.contains(CANARY), "the key is in the debug output");
        }
        Err(error) => panic!("{resource} was not released: {error:?}"),
    }
}

async fn releases_once_the_source_is_back(fixture: &impl Fixture) {
    let resource = resource("back");
    assert!(fixture.put(&resource, b"back again").await);
    if !fixture.set_down(true).await {
        return;
    }
    let error = refusal(&fixture.source(), &resource).await;
    assert!(error.is_transient(), "a source that is down: {error:?}");

    let source = Recovering { source: fixture.source(), fixture, failures_left: Mutex::new(2) };
    let retry = Retry { pause_first: std::time::Duration::from_millis(1), ..Retry::default() };
    match release_with_retry(&source, &resource, &retry).await {
        Ok(key) => assert!(key.expose() == b"back again", "another key after the outage"),
        Err(error) => panic!("not released after the outage: {error:?}"),
    }
    assert_eq!(*source.failures_left.lock().await, 0, "released while it was down");
}

/// A source whose world comes back after some failures: an outage that needs no clock.
#[derive(Debug)]
struct Recovering<'a, F: Fixture> {
    source: F::Source,
    fixture: &'a F,
    failures_left: Mutex<u32>,
}

impl<F: Fixture> KeySource for Recovering<'_, F> {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    async fn release(&self, resource: &ResourceUri) -> Result<Secret, Error> {
        let outcome = self.source.release(resource).await;
        let mut failures_left = self.failures_left.lock().await;
        if outcome.is_err() {
            *failures_left = failures_left.saturating_sub(1);
            if *failures_left == 0 {
                self.fixture.set_down(false).await;
            }
        }
        outcome
    }
}

/// Long enough not to appear by chance.
const CANARY: &str = "canary-5d41402abc4b2a76b9719d911017c592";

async fn assert_releases(source: &impl KeySource, resource: &ResourceUri, stored: &[u8]) {
    match source.release(resource).await {
        Ok(key) => assert!(key.expose() == stored, "{resource} was released as other bytes"),
        Err(error) => panic!("{resource} was not released: {error:?}"),
    }
}

/// The error of a source that must not release, checked for what it shows.
async fn refusal(source: &impl KeySource, resource: &ResourceUri) -> Error {
    match source.release(resource).await {
        Ok(_) => panic!("{resource} was released"),
        Err(error) => {
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(CANARY), "the key is in the error");
            error
        }
    }
}

fn resource(tag: &str) -> ResourceUri {
    ResourceUri::from_path(&format!("conformance/key/{tag}"))
        .expect("the rules for resource names allow it")
}
