//! [`GcpKms`] and [`AzureKms`] against stand-ins that were written from the published REST
//! references: of neither service there is an emulator.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{bundle, fresh};
use keys::{Error, HttpSettings};
use keys_ext::{AzureKms, AzureKmsSettings, GcpKms, GcpKmsSettings, RemoteKey};
use seal::name::{AzureKmsKey, GcpKmsKey, KeyUri};
use serde_json::json;
use testkit::azure::{self, FakeAzure};
use testkit::gcp::{self, FakeGcp, Fault, Step};
use testkit::web::reply;

const RING: &str = "projects/acme-ml/locations/europe-west3/keyRings/models/cryptoKeys";
const AES: &[&str] = &["encrypt", "decrypt", "wrapKey", "unwrapKey"];

fn gcp_key(name: &str) -> GcpKmsKey {
    match KeyUri::parse(&format!("gcpkms:///{RING}/{name}")).unwrap() {
        KeyUri::GcpKms(key) => key,
        other => panic!("{other}"),
    }
}

fn azure_key(name: &str) -> AzureKmsKey {
    match KeyUri::parse(&format!("azurekms:///{}/keys/{name}", azure::HOST)).unwrap() {
        KeyUri::AzureKms(key) => key,
        other => panic!("{other}"),
    }
}

fn variables(set: &[(&str, &str)]) -> HashMap<String, String> {
    set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn gcp_with(fake: &FakeGcp, set: &[(&str, &str)]) -> GcpKms {
    let (endpoint, http) = (Some(fake.url()), HttpSettings::default());
    GcpKms::new(GcpKmsSettings { endpoint, variables: variables(set), http })
}

fn start_gcp() -> FakeGcp {
    FakeGcp::start(&[&format!("{RING}/one"), &format!("{RING}/two")]).unwrap()
}

fn gcp_with_file(fake: &FakeGcp, dir: &Path) -> GcpKms {
    let file = fake.key_file(dir).unwrap();
    gcp_with(fake, &[("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())])
}

fn azure_with(fake: &FakeAzure, set: &[(&str, &str)]) -> AzureKms {
    let (endpoint, http) = (Some(fake.url()), HttpSettings::default());
    AzureKms::new(AzureKmsSettings { endpoint, variables: variables(set), http })
}

fn azure_with_secret(fake: &FakeAzure) -> AzureKms {
    azure_with(
        fake,
        &[
            ("AZURE_AUTHORITY_HOST", &fake.url()),
            ("AZURE_TENANT_ID", azure::TENANT),
            ("AZURE_CLIENT_ID", azure::CLIENT),
            ("AZURE_CLIENT_SECRET", azure::SECRET),
        ],
    )
}

/// Wraps by `one` and unwraps; and is refused for another bundle, another key and every changed byte.
async fn keeps_to_key_and_bundle<R: RemoteKey>(
    remote: &R,
    one: &R::Name,
    two: &R::Name,
    bound: bool,
) {
    let kek = fresh();
    let wrapped = remote.wrap(one, &kek, &bundle("1")).await.unwrap();
    let unwrapped = remote.unwrap(one, &wrapped, &bundle("1")).await.unwrap();
    assert_eq!(unwrapped.expose(), kek.expose());
    assert_ne!(remote.wrap(one, &kek, &bundle("1")).await.unwrap() == wrapped, bound);
    let moved = remote.unwrap(one, &wrapped, &bundle("2")).await;
    assert_eq!(matches!(moved, Err(Error::Unwrap { .. })), bound, "{moved:?}");
    let wrong = remote.unwrap(two, &wrapped, &bundle("1")).await;
    assert!(matches!(wrong, Err(Error::Unwrap { .. } | Error::NotFound { .. })), "{wrong:?}");
    for at in 0..wrapped.len() {
        let mut changed = wrapped.clone();
        changed[at] ^= 1;
        let refused = remote.unwrap(one, &changed, &bundle("1")).await;
        let refused = matches!(refused, Err(Error::Unwrap { .. } | Error::NotFound { .. }));
        assert!(refused, "byte {at}");
    }
    for length in [0, 1, 31, wrapped.len() - 1] {
        let cut = remote.unwrap(one, &wrapped[..length], &bundle("1")).await;
        assert!(matches!(cut, Err(Error::Unwrap { .. })), "{length}: {cut:?}");
    }
}

#[tokio::test]
async fn cloud_kms_unwraps_for_this_key_and_this_bundle_alone() {
    let (fake, dir) = (start_gcp(), tempfile::tempdir().unwrap());
    let kms = gcp_with_file(&fake, dir.path());
    keeps_to_key_and_bundle(&kms, &gcp_key("one"), &gcp_key("two"), true).await;
    let missing = kms.wrap(&gcp_key("none"), &fresh(), &bundle("1")).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let told =
        |complaint: &String| complaint == "decrypt: Decryption failed: the ciphertext is invalid.";
    assert!(fake.complaints().iter().all(told), "{:?}", fake.complaints());
}

#[tokio::test]
async fn managed_hsm_unwraps_for_this_key_and_this_bundle_alone() {
    let fake = FakeAzure::start().unwrap();
    for key in ["one", "two"] {
        fake.put_key(key, "oct-HSM", AES).unwrap();
    }
    let kms = azure_with_secret(&fake);
    keeps_to_key_and_bundle(&kms, &azure_key("one"), &azure_key("two"), true).await;
    // One that may only wrap binds nothing: the bundle's JWE does.
    for key in ["three", "four"] {
        fake.put_key(key, "oct-HSM", &AES[2..]).unwrap();
    }
    keeps_to_key_and_bundle(&kms, &azure_key("three"), &azure_key("four"), false).await;
    let missing = kms.wrap(&azure_key("none"), &fresh(), &bundle("1")).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
}

#[tokio::test]
async fn what_a_rotated_key_has_wrapped_still_unwraps_unless_one_version_is_named() {
    let fake = FakeAzure::start().unwrap();
    let old = fake.put_key("one", "oct-HSM", AES).unwrap();
    let (kms, kek) = (azure_with_secret(&fake), fresh());
    let wrapped = kms.wrap(&azure_key("one"), &kek, &bundle("1")).await.unwrap();
    let new = fake.put_key("one", "oct-HSM", AES).unwrap();
    let later = kms.wrap(&azure_key("one"), &kek, &bundle("1")).await.unwrap();
    assert!(wrapped.starts_with(old.as_bytes()) && later.starts_with(new.as_bytes()));
    for name in ["one".to_owned(), format!("one/{old}")] {
        let unwrapped = kms.unwrap(&azure_key(&name), &wrapped, &bundle("1")).await.unwrap();
        assert_eq!(unwrapped.expose(), kek.expose());
    }
    let before = fake.requests().len();
    let other = kms.unwrap(&azure_key(&format!("one/{new}")), &wrapped, &bundle("1")).await;
    assert!(matches!(other, Err(Error::Unwrap { .. })), "{other:?}");
    assert_eq!(fake.requests().len(), before, "nobody is asked");
}

#[tokio::test]
async fn key_pairs_are_refused_before_anything_is_wrapped() {
    let fake = FakeAzure::start().unwrap();
    for (name, kty) in [("rsa", "RSA-HSM"), ("ec", "EC-HSM")] {
        fake.put_key(name, kty, AES).unwrap();
        let refused = azure_with_secret(&fake).wrap(&azure_key(name), &fresh(), &bundle("1")).await;
        assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    }
    assert!(!fake.requests().iter().any(|request| request.ends_with("key")));
    let before = fake.requests().len();
    let KeyUri::AzureKms(vault) = KeyUri::parse("azurekms:///m.vault.azure.net/keys/k").unwrap()
    else {
        panic!()
    };
    let refused = azure_with_secret(&fake).wrap(&vault, &fresh(), &bundle("1")).await;
    assert!(matches!(refused, Err(Error::Usage(_))), "{refused:?}");
    assert_eq!(fake.requests().len(), before);
}

#[tokio::test]
async fn google_is_told_who_asks_by_a_key_file_or_by_the_machine() {
    let (fake, dir) = (start_gcp(), tempfile::tempdir().unwrap());
    let host = fake.host();
    let machine = gcp_with(&fake, &[("GCE_METADATA_HOST", &host)]);
    let of = async |kms: &GcpKms| kms.wrap(&gcp_key("one"), &fresh(), &bundle("1")).await;
    let nobody = of(&machine).await;
    assert!(matches!(nobody, Err(Error::Login { .. })), "{nobody:?}");
    fake.give_machine_an_account();
    of(&machine).await.unwrap();
    of(&gcp_with_file(&fake, dir.path())).await.unwrap();
    let asked = fake.requests();
    assert_eq!(asked.iter().filter(|request| *request == "POST /token").count(), 1);

    // No metadata service here, and none elsewhere.
    let none = of(&gcp_with(&fake, &[("GCE_METADATA_HOST", "127.0.0.1:1")])).await.unwrap_err();
    assert!(matches!(none, Error::Login { .. }), "{none:?}");
    assert!(none.to_string().contains("there are no credentials"), "{none}");
    let far = of(&gcp_with(&fake, &[("GCE_METADATA_HOST", "metadata.example")])).await;
    assert!(matches!(far, Err(Error::Usage(_))), "{far:?}");
    // A file that is named counts, and one that fails is an error.
    let file = dir.path().join("account.json");
    let good = std::fs::read_to_string(&file).unwrap();
    let by_file = async |text: &str| {
        std::fs::write(&file, text).unwrap();
        let set = [("GOOGLE_APPLICATION_CREDENTIALS", file.to_str().unwrap())];
        of(&gcp_with(&fake, &set)).await.unwrap_err()
    };
    for text in [
        "x",
        "{}",
        &good[..good.len() / 2],
        &good.replace("service_account", "external_account"),
        &good.replace("PRIVATE KEY", "PUBLIC KEY"),
        &good.replace("http://127.0.0.1", "http://tokens.example"),
    ] {
        let refused = by_file(text).await;
        assert!(matches!(refused, Error::Usage(_)), "{refused:?}");
        assert!(!format!("{refused:?}").contains("MII"), "{refused:?}");
    }
    // Another account's key.
    let others = tempfile::tempdir().unwrap();
    let other = std::fs::read_to_string(start_gcp().key_file(others.path()).unwrap()).unwrap();
    let here = |text: &str| {
        let at = text.find(r#""token_uri""#).unwrap();
        let own = &good[good.find(r#""token_uri""#).unwrap()..];
        format!("{}{own}", &text[..at])
    };
    let refused = by_file(&here(&other)).await;
    assert!(matches!(refused, Error::Login { .. }), "{refused:?}");
    assert!(refused.to_string().contains("Invalid JWT Signature"), "{refused}");
}

#[tokio::test]
async fn azure_is_told_who_asks_by_a_secret_by_a_workload_or_by_the_machine() {
    let fake = FakeAzure::start().unwrap();
    fake.put_key("one", "oct-HSM", AES).unwrap();
    let (url, dir) = (fake.url(), tempfile::tempdir().unwrap());
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, format!("{}\n", azure::ASSERTION)).unwrap();
    let token_file = token_file.to_str().unwrap();
    let of = async |set: &[(&str, &str)]| {
        let kms = azure_with(&fake, set);
        kms.wrap(&azure_key("one"), &fresh(), &bundle("1")).await
    };
    let whom = [
        ("AZURE_AUTHORITY_HOST", url.as_str()),
        ("AZURE_TENANT_ID", azure::TENANT),
        ("AZURE_CLIENT_ID", azure::CLIENT),
        ("AZURE_POD_IDENTITY_AUTHORITY_HOST", url.as_str()),
    ];
    let with = |more: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
        let all = whom.iter().chain(more);
        all.map(|(name, value)| (*name, (*value).to_owned())).collect()
    };
    let call = async |set: Vec<(&'static str, String)>| {
        let set: Vec<(&str, &str)> = set.iter().map(|(n, v)| (*n, v.as_str())).collect();
        of(&set).await
    };
    call(with(&[("AZURE_CLIENT_SECRET", azure::SECRET)])).await.unwrap();
    call(with(&[("AZURE_FEDERATED_TOKEN_FILE", token_file)])).await.unwrap();
    let machine = call(with(&[])).await;
    assert!(matches!(machine, Err(Error::Login { .. })), "{machine:?}");
    fake.give_machine_an_identity();
    call(with(&[])).await.unwrap();

    let wrong = call(with(&[("AZURE_CLIENT_SECRET", "wrong-secret")])).await.unwrap_err();
    assert!(matches!(wrong, Error::Login { .. }), "{wrong:?}");
    assert!(wrong.to_string().contains("AADSTS7000215"), "{wrong}");
    assert!(!format!("{wrong:?}").contains("wrong-secret"));
    let half = of(&[("AZURE_CLIENT_SECRET", azure::SECRET)]).await;
    assert!(matches!(half, Err(Error::Usage(_))), "{half:?}");
    let missing = call(with(&[("AZURE_FEDERATED_TOKEN_FILE", "/nowhere")])).await;
    assert!(matches!(missing, Err(Error::File { .. })), "{missing:?}");
    let mut elsewhere = with(&[("AZURE_CLIENT_SECRET", azure::SECRET)]);
    elsewhere[1].1 = "a/../b".to_owned();
    assert!(matches!(call(elsewhere).await, Err(Error::Usage(_))));
    let shown = format!("{:?}", azure_with_secret(&fake));
    assert!(!shown.contains(azure::SECRET), "{shown}");
}

/// Answers that both services may give to any request, and whether asking again may help.
fn bad_answers(elsewhere: &str) -> Vec<(Vec<u8>, bool)> {
    let redirect = format!("HTTP/1.1 307 x\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n");
    vec![
        (Vec::new(), true),
        (b"220 mail.example ESMTP\r\n".to_vec(), true),
        (reply(429, b""), true),
        (reply(500, b"<html>"), true),
        (reply(503, b""), true),
        (b"HTTP/1.1 200 x\r\nContent-Length: 100\r\n\r\n{".to_vec(), true),
        (redirect.into_bytes(), false),
        (reply(200, b""), false),
        (reply(200, b"{}"), false),
        (reply(200, b"garbage"), false),
        (reply(200, &[b'['; 10_000]), false),
        (reply(200, &vec![b' '; 1 << 20]), false),
        (b"HTTP/1.1 200 x\r\nContent-Length: 1099511627776\r\n\r\n".to_vec(), false),
    ]
}

/// An answer of KMS's, and whether an error is what it means.
type Meant = (Vec<u8>, fn(&Error) -> bool);

async fn fails_and_recovers<R: RemoteKey>(
    remote: &R,
    key: &R::Name,
    fail_next: impl Fn(Step, Fault),
    named: &[Meant],
) {
    let elsewhere = start_gcp();
    let kek = fresh();
    let wrapped = remote.wrap(key, &kek, &bundle("1")).await.unwrap();
    for step in [Step::Token, Step::Kms] {
        for (answer, transient) in bad_answers(&elsewhere.url()) {
            let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
            fail_next(step, Fault::Raw(answer));
            let error = remote.unwrap(key, &wrapped, &bundle("1")).await.unwrap_err();
            assert_eq!(error.is_transient(), transient, "{step:?} {shown}: {error:?}");
        }
    }
    for (answer, is_meant) in named {
        fail_next(Step::Kms, Fault::Raw(answer.clone()));
        let error = remote.unwrap(key, &wrapped, &bundle("1")).await.unwrap_err();
        assert!(is_meant(&error), "{error:?}");
    }
    assert_eq!(elsewhere.requests(), [""; 0], "a redirect was followed");
    let unwrapped = remote.unwrap(key, &wrapped, &bundle("1")).await.unwrap();
    assert_eq!(unwrapped.expose(), kek.expose());
}

#[tokio::test]
async fn whatever_cloud_kms_answers_there_is_an_error_and_no_key() {
    let (fake, dir) = (start_gcp(), tempfile::tempdir().unwrap());
    let kms = gcp_with_file(&fake, dir.path());
    let named: Vec<Meant> = vec![
        (gcp::error(429, "RESOURCE_EXHAUSTED", "Quota exceeded"), Error::is_transient),
        (gcp::error(403, "PERMISSION_DENIED", "no"), |e| matches!(e, Error::Denied { .. })),
        (gcp::error(400, "FAILED_PRECONDITION", "disabled"), |e| matches!(e, Error::Denied { .. })),
        (gcp::error(401, "UNAUTHENTICATED", "no"), |e| matches!(e, Error::Login { .. })),
    ];
    let one = gcp_key("one");
    fails_and_recovers(&kms, &one, |step, fault| fake.fail_next(step, fault), &named).await;

    // Wrong checksums, a wrong key, and what KMS says not to have checked.
    let wrapped = kms.wrap(&one, &fresh(), &bundle("1")).await.unwrap();
    for value in [json!("1"), json!(7), json!(null)] {
        fake.fail_next(Step::Kms, Fault::Member("plaintextCrc32c", value.clone()));
        let error = kms.unwrap(&one, &wrapped, &bundle("1")).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        fake.fail_next(Step::Kms, Fault::Member("ciphertextCrc32c", value));
        assert!(kms.wrap(&one, &fresh(), &bundle("1")).await.unwrap_err().is_transient());
    }
    fake.fail_next(Step::Kms, Fault::Member("verifiedPlaintextCrc32c", json!(false)));
    assert!(kms.wrap(&one, &fresh(), &bundle("1")).await.unwrap_err().is_transient());
    let other = json!(format!("{RING}/two/cryptoKeyVersions/1"));
    fake.fail_next(Step::Kms, Fault::Member("name", other));
    let error = kms.wrap(&one, &fresh(), &bundle("1")).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
    fake.fail_next(Step::Kms, Fault::Member("plaintext", json!("AAAA")));
    let error = kms.unwrap(&one, &wrapped, &bundle("1")).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");

    let far = GcpKms::new(GcpKmsSettings {
        endpoint: Some("http://kms.example".to_owned()),
        variables: HashMap::new(),
        http: HttpSettings::default(),
    });
    let far = far.unwrap(&one, &wrapped, &bundle("1")).await;
    assert!(matches!(far, Err(Error::Usage(_))), "{far:?}");
}

#[tokio::test]
async fn whatever_a_managed_hsm_answers_there_is_an_error_and_no_key() {
    let fake = FakeAzure::start().unwrap();
    fake.put_key("one", "oct-HSM", AES).unwrap();
    let (kms, one) = (azure_with_secret(&fake), azure_key("one"));
    let named: Vec<Meant> = vec![
        (azure::error(429, "Throttled", "slow down"), Error::is_transient),
        (azure::error(403, "Forbidden", "no"), |e| matches!(e, Error::Denied { .. })),
        (azure::error(401, "Unauthorized", "no"), |e| matches!(e, Error::Login { .. })),
        (azure::error(404, "KeyNotFound", "no"), |e| matches!(e, Error::NotFound { .. })),
    ];
    fails_and_recovers(&kms, &one, |step, fault| fake.fail_next(step, fault), &named).await;

    let wrapped = kms.wrap(&one, &fresh(), &bundle("1")).await.unwrap();
    for (member, value) in [
        ("kid", json!(format!("https://{}/keys/two/{}", azure::HOST, "0".repeat(32)))),
        ("kid", json!("https://evil.example/keys/one/0")),
        ("value", json!("AAAA")),
        ("value", json!(7)),
    ] {
        fake.fail_next(Step::Kms, Fault::Member(member, value));
        let error = kms.unwrap(&one, &wrapped, &bundle("1")).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{member}: {error:?}");
    }
    fake.fail_next(Step::Kms, Fault::Member("key", json!({"kid": "x", "kty": "oct-HSM"})));
    let error = kms.wrap(&one, &fresh(), &bundle("1")).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
}
