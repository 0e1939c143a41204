//! Artifacts in a real registry, behind each kind of door that registries have.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{put, range};
use store::{Error, Location, Rest, Settings, Store};
use testkit::registry::{Door, Registry};
use testkit::tls::Authority;

type Env<'a> = &'a [(&'a str, &'a str)];

fn open(uri: &str, env: Env<'_>) -> Store {
    common::open(uri, env.iter().copied()).unwrap()
}

/// Three chunks, the last one not full.
fn large() -> Vec<u8> {
    (0..20_000_003_u32).map(|i| i.to_le_bytes()[1] ^ 5).collect()
}

#[tokio::test]
async fn an_artifact_appears_as_a_whole_and_is_read_in_ranges() {
    let Some(registry) = Registry::start(&Door::Open).unwrap() else { return };
    let uri = format!("oci://{}/team/model:v1", registry.host());
    let store = open(&uri, &[]);
    let large = large();
    put(&store, "sub/w.bin", &large).await.unwrap();
    put(&store, "empty", b"").await.unwrap();
    put(&store, "config.json", b"{}").await.unwrap();
    for refused in [store.list(9).await.err(), store.stat("config.json").await.err()] {
        assert!(matches!(refused, Some(Error::NotFound { .. })), "{refused:?}");
    }
    store.commit(Rest::Gone).await.unwrap();

    let listed = store.list(9).await.unwrap();
    let names: Vec<_> = listed.iter().map(|entry| (entry.name.as_str(), entry.bytes)).collect();
    assert_eq!(names, [("config.json", 2), ("empty", 0), ("sub/w.bin", large.len() as u64)]);
    assert!(matches!(store.list(2).await, Err(Error::TooLarge { .. })));
    assert!(store.read("sub/w.bin", 1 << 30).await.unwrap() == large);
    assert!(store.read("empty", 1).await.unwrap().is_empty());
    assert!(range(&store, "sub/w.bin", 7..9_000_000, None).await.unwrap() == large[7..9_000_000]);
    let beyond = range(&store, "config.json", 0..3, None).await;
    assert!(matches!(beyond, Err(Error::Protocol { .. })), "{beyond:?}");
    assert!(matches!(store.stat("other").await, Err(Error::NotFound { .. })));
    assert!(store.has_ranges("sub/w.bin").await.unwrap());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &large);
    assert_eq!(store.sha256("sub/w.bin").await.unwrap().unwrap(), digest.as_ref());
}

#[tokio::test]
async fn one_object_is_replaced_and_the_rest_stays() {
    let Some(registry) = Registry::start(&Door::Open).unwrap() else { return };
    let uri = format!("oci://{}/m:v1", registry.host());
    let first = open(&uri, &[]);
    for (name, bytes) in [("a", "old a"), ("b", "old b")] {
        put(&first, name, bytes.as_bytes()).await.unwrap();
    }
    first.commit(Rest::Gone).await.unwrap();

    let (second, late) = (open(&uri, &[]), open(&uri, &[]));
    assert_eq!(late.read("b", 9).await.unwrap(), b"old b");
    assert_eq!(second.read("a", 9).await.unwrap(), b"old a");
    put(&second, "a", b"new a").await.unwrap();
    second.commit(Rest::Kept).await.unwrap();
    let third = open(&uri, &[]);
    assert_eq!(third.read("a", 9).await.unwrap(), b"new a");
    assert_eq!(third.read("b", 9).await.unwrap(), b"old b");
    // Whoever had read before goes on with what was there, and cannot undo what came since.
    assert_eq!(late.read("a", 9).await.unwrap(), b"old a");
    put(&late, "b", b"late").await.unwrap();
    let refused = late.commit(Rest::Kept).await;
    assert!(matches!(refused, Err(Error::Changed { .. })), "{refused:?}");
    // What was not there is no replacement.
    put(&third, "c", b"more").await.unwrap();
    assert!(matches!(third.commit(Rest::Kept).await, Err(Error::Usage { .. })));

    put(&first, "a", b"alone").await.unwrap();
    first.commit(Rest::Gone).await.unwrap();
    assert_eq!(open(&uri, &[]).list(9).await.unwrap().len(), 1);
    let pinned = open(&format!("{uri}@sha256:{}", "0a".repeat(32)), &[]);
    assert!(matches!(pinned.writer("x").await, Err(Error::Usage { .. })));
    assert!(matches!(pinned.list(9).await, Err(Error::NotFound { .. })));
}

/// Pushes and pulls with the right credentials, and neither without nor with wrong ones.
async fn behind(registry: &Registry, env: Env<'_>) {
    let uri = format!("oci://{}/team/m:v1", registry.host());
    let config = registry.docker_config().unwrap();
    let known = [env, &[("KSERVE_OCI_DOCKER_CONFIG", config.to_str().unwrap())]].concat();
    let store = open(&uri, &known);
    put(&store, "w", b"weights").await.unwrap();
    store.commit(Rest::Gone).await.unwrap();
    assert_eq!(open(&uri, &known).read("w", 9).await.unwrap(), b"weights");
    // Where Docker itself looks.
    let directory = config.parent().unwrap().to_str().unwrap();
    let docker = [env, &[("DOCKER_CONFIG", directory)]].concat();
    assert_eq!(open(&uri, &docker).read("w", 9).await.unwrap(), b"weights");

    let right = std::fs::read_to_string(&config).unwrap();
    let other = right.replace(&registry.host(), "registry.example");
    let unknown = right.replace("\"auth\":\"", "\"auth\":\"QQ");
    for content in [&other, &unknown] {
        std::fs::write(&config, content).unwrap();
        let refused = open(&uri, &known).read("w", 9).await.unwrap_err();
        assert!(matches!(refused, Error::Denied { .. }), "{content}: {refused:?}");
        let refused = put(&open(&uri, &known), "w", b"x").await.unwrap_err();
        assert!(matches!(refused, Error::Denied { .. }), "{content}: {refused:?}");
    }
    let refused = open(&uri, env).read("w", 9).await.unwrap_err();
    assert!(matches!(refused, Error::Denied { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_registry_that_asks_for_a_password() {
    let Some(registry) = Registry::start(&Door::Basic).unwrap() else { return };
    behind(&registry, &[]).await;
}

#[tokio::test]
async fn a_registry_that_asks_for_tokens() {
    let Some(registry) = Registry::start(&Door::Token).unwrap() else { return };
    behind(&registry, &[]).await;
    // The same by a refresh token, as `docker login` leaves one: never sent as a password.
    let config = registry.identity_config().unwrap();
    let known = [("KSERVE_OCI_DOCKER_CONFIG", config.to_str().unwrap())];
    let uri = format!("oci://{}/team/m:v1", registry.host());
    let store = open(&uri, &known);
    assert_eq!(store.read("w", 9).await.unwrap(), b"weights");
    put(&store, "w", b"weights").await.unwrap();
    store.commit(Rest::Gone).await.unwrap();
    let unknown = std::fs::read_to_string(&config).unwrap().replace(Registry::REFRESH, "hunter2");
    std::fs::write(&config, unknown).unwrap();
    let refused = open(&uri, &known).read("w", 9).await.unwrap_err();
    assert!(matches!(refused, Error::Denied { .. }), "{refused:?}");
    assert!(!format!("{refused:?} {refused}").contains("hunter2"), "{refused:?}");
    let scopes = registry.scopes();
    let allowed = ["repository:team/m:pull", "repository:team/m:pull,push"];
    assert!(scopes.iter().all(|scope| allowed.contains(&scope.as_str())), "{scopes:?}");
    assert!(allowed.iter().all(|scope| scopes.iter().any(|it| it == scope)), "{scopes:?}");
}

#[tokio::test]
async fn a_registry_behind_tls() {
    let authority = Authority::new().unwrap();
    let door = Door::Tls(authority.issue(&["127.0.0.1"]).unwrap());
    let Some(registry) = Registry::start(&door).unwrap() else { return };
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("ca.pem");
    std::fs::write(&bundle, authority.pem()).unwrap();
    let (bundle, insecure) = (bundle.to_str().unwrap(), "KSERVE_OCI_INSECURE_REGISTRY");
    behind(&registry, &[("AWS_CA_BUNDLE", bundle), (insecure, "false")]).await;

    let uri = format!("oci://{}/team/m:v1", registry.host());
    let config = registry.docker_config().unwrap();
    let config = ("KSERVE_OCI_DOCKER_CONFIG", config.to_str().unwrap());
    let foreign = directory.path().join("foreign.pem");
    std::fs::write(&foreign, Authority::new().unwrap().pem()).unwrap();
    let foreign = ("AWS_CA_BUNDLE", foreign.to_str().unwrap());
    let refused = open(&uri, &[config, foreign, (insecure, "false")]).list(9).await;
    assert!(matches!(refused, Err(Error::Tls { .. })), "{refused:?}");
    // This machine's registries are spoken to without TLS unless somebody says otherwise.
    for env in [&[config][..], &[config, (insecure, "true")]] {
        let refused = open(&uri, env).list(9).await;
        assert!(matches!(refused, Err(Error::Protocol { .. })), "{refused:?}");
    }
}

#[test]
fn a_configuration_that_is_named_must_be_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let location = Location::parse("oci://r.example/m").unwrap();
    let refused = |content: Option<&str>| {
        content.inspect(|content| std::fs::write(&path, content).unwrap());
        let named = |name: &str| {
            (name == "KSERVE_OCI_DOCKER_CONFIG").then(|| path.to_str().unwrap().to_owned())
        };
        Store::open(&location, &Settings::from_env(&named).unwrap()).err()
    };
    assert!(matches!(refused(None), Some(Error::Usage { .. })));
    for content in [
        "hunter2",
        r#"{"auths":{"r.example":{}}}"#,
        r#"{"credHelpers":{"r.example":"hunter2"}}"#,
        r#"{"credHelpers":{"r.example":"hunter2"},"auths":{"r.example":{}}}"#,
        r#"{"credsStore":"hunter2","auths":{"r.example":{}}}"#,
        r#"{"auths":{"r.example":{"username":"hunter2"}}}"#,
        "{\"auths\":{\"r.example\":{\"auth\":\"hunter2\\n\"}}}",
    ] {
        let error = refused(Some(content)).expect(content);
        assert!(matches!(error, Error::Usage { .. }), "{content}: {error:?}");
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
    }
    assert!(refused(Some("{}")).is_none());
    assert!(refused(Some(r#"{"credsStore":"x","credHelpers":{"other.example":"x"}}"#)).is_none());
    assert!(refused(Some(r#"{"auths":{"r.example":{"identitytoken":"t"}}}"#)).is_none());
    assert!(refused(Some(r#"{"auths":{"r.example":{"username":"u","password":"p"}}}"#)).is_none());
}
