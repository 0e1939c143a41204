//! What Trustee's plugins serve, against a stand-in written from upstream's sources: the routes and
//! answers of its plugin manager, and its `pkcs11` plugin's RSA-OAEP.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PrivateDecryptingKey,
};
use keys::{Error, HttpSettings, Kbs, SampleAttester};
use seal::jwe::TeeKeyKind;
use seal::name::{KeyUri, PluginUri};
use testkit::kbs::{FakeKbs, Fault, Step};

fn plugin(uri: &str) -> PluginUri {
    match KeyUri::parse(uri).unwrap() {
        KeyUri::KbsPlugin(plugin) => plugin,
        other => panic!("{other}"),
    }
}

fn client(broker: &FakeKbs) -> Kbs {
    Kbs::new(&broker.url(), Box::new(SampleAttester), &HttpSettings::default()).unwrap()
}

/// The HSM's key: PKCS#8, and its public half at work.
fn hsm() -> (Vec<u8>, impl Fn(&[u8]) -> Vec<u8>) {
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let public = OaepPublicEncryptingKey::new(key.public_key()).unwrap();
    let wrap = move |plaintext: &[u8]| {
        let mut wrapped = vec![0; public.ciphertext_size()];
        let oaep = &OAEP_SHA256_MGF1SHA256;
        public.encrypt(oaep, plaintext, &mut wrapped, None).unwrap().to_vec()
    };
    (pkcs8.as_ref().to_vec(), wrap)
}

#[tokio::test]
async fn a_plugins_resource_is_released_as_any_other() {
    let broker = FakeKbs::start().await.unwrap();
    broker.put("pkcs11/resource/team/key/one", b"of the hsm");
    let client = client(&broker);
    let one = plugin("kbs+pkcs11:///resource/team/key/one");
    assert_eq!(client.release_plugin(&one).await.unwrap().expose(), b"of the hsm");
    assert!(broker.requests().contains(&"GET /kbs/v0/pkcs11/resource/team/key/one".to_owned()));

    let missing = plugin("kbs+pkcs11:///resource/team/key/two");
    let missing = client.release_plugin(&missing).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }), "{missing:?}");
    let unknown = client.release_plugin(&plugin("kbs+nebula-ca:///credential")).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");
    assert!(unknown.to_string().contains("PluginNotFound"), "{unknown}");
    broker.deny("pkcs11/resource/team/key/one");
    let denied = client.release_plugin(&one).await.unwrap_err();
    assert!(matches!(denied, Error::Denied { .. }), "{denied:?}");
    assert_eq!(broker.attestations(), 1);
    assert_eq!(broker.complaints(), [""; 0]);
}

#[tokio::test]
async fn the_hsm_behind_the_broker_unwraps_for_every_kind_of_guest_key() {
    let broker = FakeKbs::start().await.unwrap();
    let (pkcs8, wrap) = hsm();
    broker.put_wrap_key(pkcs8);
    let (name, wrapped) = (plugin("kbs+pkcs11:///wrap-key"), wrap(&[7; 32]));
    for kind in [TeeKeyKind::P256, TeeKeyKind::P521, TeeKeyKind::Rsa] {
        let client = client(&broker).with_key_kind(kind);
        assert_eq!(client.unwrap(&name, &wrapped).await.unwrap().expose(), [7; 32]);
        broker.expire_sessions();
        assert_eq!(client.unwrap(&name, &wrapped).await.unwrap().expose(), [7; 32]);
    }
}

#[tokio::test]
async fn what_the_hsm_does_not_unwrap_is_refused_without_another_attestation() {
    let broker = FakeKbs::start().await.unwrap();
    let ((pkcs8, wrap), (_, others)) = (hsm(), hsm());
    broker.put_wrap_key(pkcs8);
    let (client, name) = (client(&broker), plugin("kbs+pkcs11:///wrap-key"));
    let good = wrap(&[7; 32]);
    let mut bad = vec![others(&[7; 32]), good[..255].to_vec(), vec![0; 256]];
    bad.extend((0..good.len()).step_by(37).map(|at| {
        let mut changed = good.clone();
        changed[at] ^= 1;
        changed
    }));
    for wrapped in bad {
        let error = client.unwrap(&name, &wrapped).await.unwrap_err();
        assert!(matches!(error, Error::Unwrap { .. }), "{error:?}");
        assert!(!error.is_transient());
    }
    assert_eq!(broker.attestations(), 1);

    for (fault, transient) in [
        (Fault::Answer(503, b"busy".to_vec()), true),
        (Fault::Cut, true),
        (Fault::Endless, false),
        (Fault::Redirect(broker.url()), false),
        (Fault::OtherKey, false),
        (Fault::FlippedTag, false),
        (Fault::Refuse("PolicyDeny"), false),
        (Fault::Answer(200, Vec::new()), true),
    ] {
        broker.fail_next(Step::Resource, fault.clone());
        let error = client.unwrap(&name, &good).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{fault:?}: {error:?}");
        assert_eq!(client.unwrap(&name, &good).await.unwrap().expose(), [7; 32]);
    }
}
