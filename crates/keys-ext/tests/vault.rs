//! [`Vault`] against a real OpenBao, and against a server that misbehaves on purpose.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{answering, bundle, fresh, http};
use keys::{Error, HttpSettings, Retry, with_retry};
use keys_ext::{Jwt, Login, RemoteKey, Vault, VaultSettings};
use seal::name::{KeyUri, VaultKv, VaultTransit};
use secret::Secret;
use serde_json::{Value, json};
use testkit::bao::Bao;
use testkit::tls::Authority;
use testkit::web::{Asked, Web, reply};

fn vault(address: &str, login: Login) -> Vault {
    let settings = VaultSettings {
        address: address.to_owned(),
        namespace: None,
        login,
        http: HttpSettings::default(),
    };
    Vault::new(&settings).unwrap()
}

fn as_token(bao: &Bao, token: &str) -> Vault {
    vault(&bao.address(), Login::Token(Arc::new(Secret::copy(token.as_bytes()).unwrap())))
}

fn transit(uri: &str) -> VaultTransit {
    match KeyUri::parse(uri).unwrap() {
        KeyUri::VaultTransit(key) => key,
        other => panic!("{other}"),
    }
}

fn kv(uri: &str) -> VaultKv {
    match KeyUri::parse(uri).unwrap() {
        KeyUri::VaultKv(key) => key,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn transit_unwraps_what_it_wrapped_for_this_bundle_and_this_key_alone() {
    let Some(bao) = Bao::start().unwrap() else { return };
    for key in ["a", "b"] {
        bao.must("POST", &format!("transit/keys/{key}"), json!({})).unwrap();
    }
    bao.must("POST", "transit/keys/derived", json!({"derived": true})).unwrap();
    bao.must("POST", "transit/keys/chacha", json!({"type": "chacha20-poly1305"})).unwrap();
    let (vault, kek) = (as_token(&bao, Bao::ROOT), fresh());
    for name in ["a", "derived", "chacha"] {
        let key = transit(&format!("vault:///transit/keys/{name}"));
        let wrapped = vault.wrap(&key, &kek, &bundle("1")).await.unwrap();
        assert!(wrapped.starts_with(b"vault:v1:"));
        let unwrapped = vault.unwrap(&key, &wrapped, &bundle("1")).await.unwrap();
        assert_eq!(unwrapped.expose(), kek.expose());

        let moved = vault.unwrap(&key, &wrapped, &bundle("2")).await;
        assert!(matches!(moved, Err(Error::Unwrap { .. })), "{moved:?}");
        let other = transit("vault:///transit/keys/b");
        let other = vault.unwrap(&other, &wrapped, &bundle("1")).await;
        assert!(matches!(other, Err(Error::Unwrap { .. })), "{other:?}");
        let mut changed = wrapped.clone();
        changed[20] ^= 1;
        let changed = vault.unwrap(&key, &changed, &bundle("1")).await;
        assert!(matches!(changed, Err(Error::Unwrap { .. })), "{changed:?}");
        let foreign = vault.unwrap(&key, b"\xff", &bundle("1")).await;
        assert!(matches!(foreign, Err(Error::Unwrap { .. })), "{foreign:?}");
    }
    // After a rotation both versions unwrap; the new one wraps.
    let key = transit("vault:///transit/keys/a");
    let old = vault.wrap(&key, &kek, &bundle("1")).await.unwrap();
    bao.must("POST", "transit/keys/a/rotate", json!({})).unwrap();
    let new = vault.wrap(&key, &kek, &bundle("1")).await.unwrap();
    assert!(new.starts_with(b"vault:v2:"));
    for wrapped in [old, new] {
        assert!(vault.unwrap(&key, &wrapped, &bundle("1")).await.is_ok());
    }
}

#[tokio::test]
async fn transit_refusals_are_told_apart() {
    let Some(mut bao) = Bao::start().unwrap() else { return };
    bao.must("POST", "transit/keys/a", json!({})).unwrap();
    bao.must("POST", "transit/keys/rsa", json!({"type": "rsa-2048"})).unwrap();
    let key = transit("vault:///transit/keys/a");
    let (kek, id) = (fresh(), bundle("1"));
    let root = as_token(&bao, Bao::ROOT);
    let wrapped = root.wrap(&key, &kek, &id).await.unwrap();

    let sealer = r#"path "transit/encrypt/a" { capabilities = ["update"] }"#;
    let sealer = as_token(&bao, &bao.token("sealer", sealer).unwrap());
    assert!(sealer.wrap(&key, &kek, &id).await.is_ok());
    let denied = sealer.unwrap(&key, &wrapped, &id).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    let opener = r#"path "transit/decrypt/a" { capabilities = ["update"] }"#;
    let opener = as_token(&bao, &bao.token("opener", opener).unwrap());
    assert!(opener.unwrap(&key, &wrapped, &id).await.is_ok());
    let denied = opener.wrap(&key, &kek, &id).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");

    let missing = root.unwrap(&transit("vault:///transit/keys/none"), &wrapped, &id).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let missing = root.unwrap(&transit("vault:///nowhere/keys/a"), &wrapped, &id).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let rsa = root.wrap(&transit("vault:///transit/keys/rsa"), &kek, &id).await;
    assert!(matches!(rsa, Err(Error::Protocol { .. })), "{rsa:?}");

    let stranger = as_token(&bao, "s.nobody").unwrap(&key, &wrapped, &id).await;
    assert!(matches!(stranger, Err(Error::Login { .. })), "{stranger:?}");
    let ended = bao.token("ended", r#"path "transit/decrypt/a" { capabilities = ["update"] }"#);
    let ended = ended.unwrap();
    bao.must("POST", "auth/token/revoke", json!({"token": ended})).unwrap();
    let ended = as_token(&bao, &ended).unwrap(&key, &wrapped, &id).await;
    assert!(matches!(ended, Err(Error::Login { .. })), "{ended:?}");

    bao.must("POST", "sys/quotas/rate-limit/q", json!({"rate": 0.01, "path": "transit"})).unwrap();
    let mut throttled = None;
    for _ in 0..5 {
        throttled = root.unwrap(&key, &wrapped, &id).await.err();
    }
    assert!(throttled.as_ref().is_some_and(Error::is_transient), "{throttled:?}");
    assert!(throttled.unwrap().to_string().contains("too many requests"));
    bao.must("DELETE", "sys/quotas/rate-limit/q", Value::Null).unwrap();

    bao.must("POST", "sys/seal", json!({})).unwrap();
    let sealed = root.unwrap(&key, &wrapped, &id).await.unwrap_err();
    assert!(sealed.is_transient() && sealed.to_string().contains("sealed"), "{sealed}");

    bao.kill();
    let down = root.unwrap(&key, &wrapped, &id).await.unwrap_err();
    assert!(matches!(down, Error::Unreachable { .. }), "{down}");
    let retry = Retry { deadline: std::time::Duration::from_millis(600), ..Retry::default() };
    let asked = AtomicUsize::new(0);
    let gave_up = with_retry(&"a", "vault", &retry, || {
        asked.fetch_add(1, Ordering::Relaxed);
        root.unwrap(&key, &wrapped, &id)
    });
    assert!(gave_up.await.is_err() && asked.load(Ordering::Relaxed) > 1);
}

#[tokio::test]
async fn kv_releases_what_was_put_there() {
    let Some(bao) = Bao::start().unwrap() else { return };
    let key = kv("vault:///secret/data/models/llama#kek");
    let root = as_token(&bao, Bao::ROOT);
    let missing = root.release(&key).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let jwk = format!(r#"{{"kty":"oct","k":"{}"}}"#, URL_SAFE_NO_PAD.encode([7; 32]));
    let put = |value: Value| bao.must("POST", "secret/data/models/llama", json!({"data": value}));
    put(json!({"kek": jwk, "other": "x"})).unwrap();
    assert_eq!(root.release(&key).await.unwrap().expose(), jwk.as_bytes());
    let field = root.release(&kv("vault:///secret/data/models/llama#none")).await;
    assert!(matches!(field, Err(Error::NotFound { .. })), "{field:?}");

    let long: String = "\"\\".repeat(Secret::BYTES_MAX / 2);
    put(json!({"kek": long})).unwrap();
    assert_eq!(root.release(&key).await.unwrap().expose(), long.as_bytes());
    put(json!({"kek": format!("{long}x")})).unwrap();
    let too_long = root.release(&key).await;
    assert!(matches!(too_long, Err(Error::TooLarge { .. })), "{too_long:?}");

    let nobody = as_token(&bao, &bao.token("none", r#"path "x" { capabilities = [] }"#).unwrap());
    let denied = nobody.release(&key).await;
    assert!(matches!(denied, Err(Error::Denied { .. })), "{denied:?}");
    bao.must("DELETE", "secret/data/models/llama", Value::Null).unwrap();
    let deleted = root.release(&key).await;
    assert!(matches!(deleted, Err(Error::NotFound { .. })), "{deleted:?}");
}

/// A signer of JWTs, and the server's `jwt` method that believes it for the role `model`.
fn jwt_method(bao: &Bao) -> EcdsaKeyPair {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    // SubjectPublicKeyInfo of P-256: a fixed head, and the point.
    let mut spki = vec![
        0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48,
        0xce, 0x3d, 3, 1, 7, 3, 0x42, 0,
    ];
    spki.extend_from_slice(key.public_key().as_ref());
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(spki)
    );
    bao.must("POST", "sys/auth/jwt", json!({"type": "jwt"})).unwrap();
    bao.must("POST", "auth/jwt/config", json!({"jwt_validation_pubkeys": [pem]})).unwrap();
    let rules = r#"path "transit/decrypt/a" { capabilities = ["update"] }"#;
    bao.must("POST", "sys/policies/acl/model", json!({"policy": rules})).unwrap();
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault",
        "bound_subject": "guest", "token_policies": "model",
    });
    bao.must("POST", "auth/jwt/role/model", role).unwrap();
    key
}

fn write_jwt(key: &EcdsaKeyPair, subject: &str, file: &Path) {
    write_claims(key, &json!({"sub": subject}), file);
}

/// A JWT with these claims, and those of each.
fn write_claims(key: &EcdsaKeyPair, claims: &Value, file: &Path) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut claims = claims.clone();
    claims["aud"] = json!(["vault"]);
    claims["iat"] = json!(now);
    claims["exp"] = json!(now + 600);
    let head = URL_SAFE_NO_PAD.encode(br#"{"alg":"ES256","typ":"JWT"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = key.sign(&aws_lc_rs::rand::SystemRandom::new(), signed.as_bytes()).unwrap();
    std::fs::write(file, format!("{signed}.{}\n", URL_SAFE_NO_PAD.encode(signature))).unwrap();
}

#[tokio::test]
async fn a_jwt_logs_in_for_one_question_and_leaves_no_token_behind() {
    let Some(bao) = Bao::start().unwrap() else { return };
    bao.must("POST", "transit/keys/a", json!({})).unwrap();
    let (key, kek, id) = (transit("vault:///transit/keys/a"), fresh(), bundle("1"));
    let wrapped = as_token(&bao, Bao::ROOT).wrap(&key, &kek, &id).await.unwrap();
    let signer = jwt_method(&bao);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let login = |role: &str| Login::Jwt {
        mount: "jwt".into(),
        role: role.into(),
        jwt: Jwt::File(file.clone()),
    };
    let guest = vault(&bao.address(), login("model"));

    let absent = guest.unwrap(&key, &wrapped, &id).await;
    assert!(matches!(absent, Err(Error::File { .. })), "{absent:?}");
    write_jwt(&signer, "guest", &file);
    let accessors =
        || bao.must("LIST", "auth/token/accessors", Value::Null).unwrap()["keys"].clone();
    let before = accessors();
    let unwrapped = guest.unwrap(&key, &wrapped, &id).await.unwrap();
    assert_eq!(unwrapped.expose(), kek.expose());
    assert_eq!(accessors(), before, "the token was revoked");

    let role = vault(&bao.address(), login("other")).unwrap(&key, &wrapped, &id).await;
    assert!(matches!(role, Err(Error::Login { .. })), "{role:?}");
    write_jwt(&signer, "stranger", &file);
    let stranger = guest.unwrap(&key, &wrapped, &id).await;
    assert!(matches!(stranger, Err(Error::Login { .. })), "{stranger:?}");
    std::fs::write(&file, "two\nlines\n").unwrap();
    let garbled = guest.unwrap(&key, &wrapped, &id).await;
    assert!(matches!(garbled, Err(Error::Usage(_))), "{garbled:?}");
    let unknown =
        Login::Jwt { mount: "kubernetes".into(), role: "r".into(), jwt: Jwt::File(file.clone()) };
    write_jwt(&signer, "guest", &file);
    let unknown = vault(&bao.address(), unknown).unwrap(&key, &wrapped, &id).await;
    assert!(matches!(unknown, Err(Error::Login { .. })), "{unknown:?}");
}

/// A cluster's API server, as far as OpenBao asks it who a service account's token is of.
fn cluster(signer: &EcdsaKeyPair) -> Web {
    let public =
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, signer.public_key().as_ref().to_vec());
    let answer = move |asked: &Asked| {
        if (asked.method.as_str(), asked.path.as_str())
            != ("POST", "/apis/authentication.k8s.io/v1/tokenreviews")
            || asked.header("authorization") != "Bearer the-reviewers"
        {
            return reply(403, b"{}");
        }
        let review: Value = serde_json::from_slice(&asked.body).unwrap();
        let token = review["spec"]["token"].as_str().unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let genuine = public.verify(signed.as_bytes(), &signature).is_ok();
        let status = json!({
            "authenticated": genuine, "audiences": review["spec"]["audiences"],
            "user": {"username": "system:serviceaccount:models:llama", "uid": "u-1"},
        });
        let answer = json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status,
        });
        let body = answer.to_string();
        let head = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length";
        format!("{head}: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    Web::start(answer).unwrap()
}

/// A service account's token, as Kubernetes projects it.
fn write_service_account(key: &EcdsaKeyPair, namespace: &str, file: &Path) {
    let account = json!({
        "namespace": namespace, "serviceaccount": {"name": "llama", "uid": "u-1"},
    });
    let subject = format!("system:serviceaccount:{namespace}:llama");
    write_claims(key, &json!({"sub": subject, "kubernetes.io": account}), file);
}

#[tokio::test]
async fn a_pod_logs_in_as_its_service_account() {
    let Some(bao) = Bao::start().unwrap() else { return };
    bao.must("POST", "transit/keys/a", json!({})).unwrap();
    let (key, kek, id) = (transit("vault:///transit/keys/a"), fresh(), bundle("1"));
    let wrapped = as_token(&bao, Bao::ROOT).wrap(&key, &kek, &id).await.unwrap();
    let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let cluster = cluster(&signer);
    bao.must("POST", "sys/auth/kubernetes", json!({"type": "kubernetes"})).unwrap();
    let config = json!({
        "kubernetes_host": cluster.url(), "token_reviewer_jwt": "the-reviewers",
        // Needed even where it is not used.
        "disable_local_ca_jwt": true, "kubernetes_ca_cert": Authority::new().unwrap().pem(),
    });
    bao.must("POST", "auth/kubernetes/config", config).unwrap();
    let rules = r#"path "transit/decrypt/a" { capabilities = ["update"] }"#;
    bao.must("POST", "sys/policies/acl/llama", json!({"policy": rules})).unwrap();
    let role = json!({
        "bound_service_account_names": "llama", "bound_service_account_namespaces": "models",
        "token_policies": "llama",
    });
    bao.must("POST", "auth/kubernetes/role/llama", role).unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let (mount, role) = ("kubernetes".to_owned(), "llama".to_owned());
    let pod = vault(&bao.address(), Login::Jwt { mount, role, jwt: Jwt::File(file.clone()) });
    write_service_account(&signer, "models", &file);
    assert_eq!(pod.unwrap(&key, &wrapped, &id).await.unwrap().expose(), kek.expose());

    write_service_account(&signer, "others", &file);
    let elsewhere = pod.unwrap(&key, &wrapped, &id).await;
    assert!(matches!(elsewhere, Err(Error::Login { .. })), "{elsewhere:?}");
    let forger = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    write_service_account(&forger, "models", &file);
    let forged = pod.unwrap(&key, &wrapped, &id).await;
    assert!(matches!(forged, Err(Error::Login { .. })), "{forged:?}");
    drop(cluster);
    write_service_account(&signer, "models", &file);
    let alone = pod.unwrap(&key, &wrapped, &id).await.unwrap_err();
    assert!(matches!(alone, Error::Login { .. } | Error::Unreachable { .. }), "{alone:?}");
}

#[tokio::test]
async fn a_namespace_is_a_world_of_its_own() {
    let Some(bao) = Bao::start().unwrap() else { return };
    bao.must("POST", "sys/namespaces/team", json!({})).unwrap();
    bao.must("POST", "team/sys/mounts/transit", json!({"type": "transit"})).unwrap();
    bao.must("POST", "team/transit/keys/a", json!({})).unwrap();
    let settings = |namespace: Option<&str>| VaultSettings {
        address: bao.address(),
        namespace: namespace.map(str::to_owned),
        login: Login::Token(Arc::new(Secret::copy(Bao::ROOT.as_bytes()).unwrap())),
        http: HttpSettings::default(),
    };
    let (key, kek, id) = (transit("vault:///transit/keys/a"), fresh(), bundle("1"));
    let team = Vault::new(&settings(Some("team"))).unwrap();
    let wrapped = team.wrap(&key, &kek, &id).await.unwrap();
    assert!(team.unwrap(&key, &wrapped, &id).await.is_ok());
    let outside = Vault::new(&settings(None)).unwrap().unwrap(&key, &wrapped, &id).await;
    assert!(matches!(outside, Err(Error::NotFound { .. })), "{outside:?}");
    assert!(matches!(Vault::new(&settings(Some("a\nb"))), Err(Error::Usage(_))));
}

#[tokio::test]
async fn whatever_a_server_answers_there_is_an_error_and_no_key() {
    let (key, id) = (transit("vault:///transit/keys/a"), bundle("1"));
    let value = kv("vault:///secret/data/a#k");
    let good = format!(r#"{{"data":{{"plaintext":"{}"}}}}"#, STANDARD.encode([7; 32]));
    let mut answers = vec![
        Vec::new(),
        b"garbage".to_vec(),
        http("200 OK", b""),
        http("200 OK", b"<html>"),
        http("200 OK", &[b'['; 100_000]),
        http("200 OK", &vec![b' '; 4 << 20]),
        http("200 OK", b"{\"data\":{\"plaintext\":\"AA==\"}}"),
        http("204 No Content", b""),
        http("302 Found", b""),
        http("307 Temporary Redirect", b""),
        http("500 Internal Server Error", &vec![b'x'; 1 << 20]),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n".to_vec(),
    ];
    let whole = http("200 OK", good.as_bytes());
    answers.extend((0..whole.len()).step_by(7).map(|length| whole[..length].to_vec()));
    for answer in answers {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        let token = Login::Token(Arc::new(Secret::copy(b"s.token-of-the-test").unwrap()));
        let vault = vault(&answering(answer).0, token);
        let errors = [
            vault.unwrap(&key, b"vault:v1:AAAA", &id).await.map(drop),
            vault.wrap(&key, &fresh(), &id).await.map(drop),
            vault.release(&value).await.map(drop),
        ];
        for error in errors {
            let error = error.expect_err(&shown);
            assert!(!format!("{error} {error:?}").contains("token-of-the-test"), "{error:?}");
        }
        assert!(!format!("{vault:?}").contains("token-of-the-test"));
    }
    let token = Login::Token(Arc::new(Secret::copy(b"s.t").unwrap()));
    let vault = vault(&answering(whole).0, token);
    assert_eq!(vault.unwrap(&key, b"vault:v1:AAAA", &id).await.unwrap().expose(), [7; 32]);
}

#[test]
fn plain_http_to_another_machine_and_odd_mounts_are_refused() {
    let settings = |address: &str, mount: &str| VaultSettings {
        address: address.to_owned(),
        namespace: None,
        login: Login::Jwt {
            mount: mount.into(),
            role: "r".into(),
            jwt: Jwt::File("/dev/null".into()),
        },
        http: HttpSettings::default(),
    };
    assert!(Vault::new(&settings("https://vault.example:8200", "jwt")).is_ok());
    for (address, mount) in [
        ("http://vault.example:8200", "jwt"),
        ("https://user:pass@vault.example", "jwt"),
        ("vault.example", "jwt"),
        ("https://vault.example", ""),
        ("https://vault.example", "../sys"),
        ("https://vault.example", "jwt?x"),
    ] {
        let refused = Vault::new(&settings(address, mount));
        assert!(matches!(refused, Err(Error::Usage(_))), "{address} {mount}");
    }
}
