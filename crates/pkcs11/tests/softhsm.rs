//! The program and its client (`keys_ext::Pkcs11`) against SoftHSM, with `pkcs11-tool` and aws-lc as
//! the others who wrap and unwrap.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap as _};
use cryptoki::context::{CInitializeArgs, CInitializeFlags};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use keys::Error;
use keys_ext::{Pin, Pkcs11, Pkcs11Settings, RemoteKey as _};
use seal::bundle::recipient_aad;
use seal::key::Kek;
use seal::name::{BundleId, KeyUri, Pkcs11Key};
use secret::Secret;
use testkit::softhsm::SoftHsm;

const AES: [u8; 32] = [0xa5; 32];

fn pin(text: &str) -> Pin {
    Pin::Given(Arc::new(Secret::copy(text.as_bytes()).unwrap()))
}

fn client(helper: PathBuf, module: &Path, pin: Pin) -> Pkcs11 {
    let timeout = Duration::from_secs(60);
    Pkcs11::new(Pkcs11Settings { helper, module: module.to_owned(), pin, timeout })
}

fn ours(hsm: &SoftHsm) -> Pkcs11 {
    let helper = hsm.with_token(Path::new(env!("CARGO_BIN_EXE_sealift-pkcs11"))).unwrap();
    client(helper, hsm.module(), pin(SoftHsm::PIN))
}

fn key(attributes: &str) -> Pkcs11Key {
    match KeyUri::parse(&format!("pkcs11:token=my%20models;{attributes}")).unwrap() {
        KeyUri::Pkcs11(key) => key,
        other => panic!("{other}"),
    }
}

fn fresh() -> Kek {
    Kek::unwrapped(Secret::random_key()).unwrap()
}

fn bundle(digit: &str) -> BundleId {
    BundleId::parse(&digit.repeat(32)).unwrap()
}

#[tokio::test]
async fn an_aes_key_wraps_by_gcm_for_one_bundle_as_others_read_it() {
    let Some(hsm) = SoftHsm::start().unwrap() else { return };
    hsm.put_aes("aes", "02", &AES).unwrap();
    hsm.put_aes("other", "03", &[7; 32]).unwrap();
    let (token, kek, id) = (ours(&hsm), fresh(), bundle("1"));
    let wrapped = token.wrap(&key("object=aes"), &kek, &id).await.unwrap();
    let again = token.wrap(&key("id=%02"), &kek, &id).await.unwrap();
    assert_ne!(wrapped, again, "every IV is fresh");
    for name in ["object=aes", "id=%02"] {
        let unwrapped = token.unwrap(&key(name), &wrapped, &id).await.unwrap();
        assert_eq!(unwrapped.expose(), kek.expose());
    }
    // aws-lc unwraps what the token wrapped, and the token what aws-lc wrapped.
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &AES).unwrap());
    let aad = || Aad::from(recipient_aad(&id));
    let nonce = |bytes: &[u8]| Nonce::try_assume_unique_for_key(bytes).unwrap();
    let mut sealed = wrapped[12..].to_vec();
    assert_eq!(
        cipher.open_in_place(nonce(&wrapped[..12]), aad(), &mut sealed).unwrap(),
        kek.expose()
    );
    let mut theirs = kek.expose().to_vec();
    cipher.seal_in_place_append_tag(nonce(&[9; 12]), aad(), &mut theirs).unwrap();
    let theirs = [&[9; 12][..], &theirs].concat();
    let unwrapped = token.unwrap(&key("object=aes"), &theirs, &id).await.unwrap();
    assert_eq!(unwrapped.expose(), kek.expose());

    let mut changed = wrapped.clone();
    changed[30] ^= 1;
    for (name, wrapped, id) in [
        ("object=aes", &wrapped[..], bundle("2")),
        ("object=other", &wrapped, bundle("1")),
        ("object=aes", &changed, bundle("1")),
        ("object=aes", &wrapped[1..], bundle("1")),
        ("object=aes", b"x", bundle("1")),
    ] {
        let refused = token.unwrap(&key(name), wrapped, &id).await;
        assert!(matches!(refused, Err(Error::Unwrap { .. })), "{name}: {refused:?}");
    }
}

/// Whoever has its public half could wrap a key of his own, and seal with that.
#[tokio::test]
async fn an_rsa_key_is_no_key_to_open_with() {
    let Some(hsm) = SoftHsm::start().unwrap() else { return };
    let pair = ["--keypairgen", "--key-type", "RSA:2048", "--label", "rsa", "--id", "01"];
    hsm.tool(&[&pair[..], &["--usage-decrypt"]].concat()).unwrap();
    let (token, kek, id) = (ours(&hsm), fresh(), bundle("1"));
    let wrapped = token.wrap(&key("object=rsa"), &kek, &id).await;
    assert!(matches!(wrapped, Err(Error::NotFound { .. })), "{wrapped:?}");
    let unwrapped = token.unwrap(&key("object=rsa"), &[7; 256], &id).await;
    assert!(matches!(unwrapped, Err(Error::NotFound { .. })), "{unwrapped:?}");
}

/// Not a test, unless the one below has started it: a key that may wrap and nothing else, which
/// `pkcs11-tool` cannot make.
#[test]
#[ignore = "a child process of the test below"]
fn child() {
    let Some(module) = std::env::var_os("SEALIFT_TEST_MODULE") else { return };
    let context = cryptoki::context::Pkcs11::new(module).unwrap();
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = context.get_slots_with_initialized_token().unwrap()[0];
    let session = context.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&AuthPin::new(SoftHsm::PIN.into()))).unwrap();
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Label(b"wrap".to_vec()),
        Attribute::Value(AES.to_vec()),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
    ];
    session.create_object(&template).unwrap();
}

#[tokio::test]
async fn an_aes_key_that_may_only_wrap_does_so_by_rfc_3394() {
    let Some(hsm) = SoftHsm::start().unwrap() else { return };
    let mut harness = Command::new(std::env::current_exe().unwrap());
    harness.args(["--exact", "child", "--ignored"]).env("SOFTHSM2_CONF", hsm.settings());
    assert!(harness.env("SEALIFT_TEST_MODULE", hsm.module()).output().unwrap().status.success());
    let (token, kek, id) = (ours(&hsm), fresh(), bundle("1"));
    let wrapped = token.wrap(&key("object=wrap"), &kek, &id).await.unwrap();
    let unwrapped = token.unwrap(&key("object=wrap"), &wrapped, &id).await.unwrap();
    assert_eq!(unwrapped.expose(), kek.expose());

    let mut plain = [0; 40];
    let theirs = AesKek::new(&AES_256, &AES).unwrap().unwrap(&wrapped, &mut plain).unwrap();
    assert_eq!(theirs, kek.expose());
    let mut sealed = [0; 40];
    let sealed = AesKek::new(&AES_256, &AES).unwrap().wrap(kek.expose(), &mut sealed).unwrap();
    assert_eq!(sealed, wrapped);
    let mut changed = wrapped.clone();
    changed[7] ^= 1;
    let changed = token.unwrap(&key("object=wrap"), &changed, &id).await;
    assert!(matches!(changed, Err(Error::Unwrap { .. })), "{changed:?}");
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    let Some(hsm) = SoftHsm::start().unwrap() else { return };
    hsm.put_aes("aes", "02", &AES).unwrap();
    let (token, kek, id) = (ours(&hsm), fresh(), bundle("1"));
    let helper = hsm.dir().join("helper");
    let wrapped = token.wrap(&key("object=aes"), &kek, &id).await.unwrap();
    let unwrap = async |client: Pkcs11, name: &str| {
        client.unwrap(&key(name), &wrapped, &id).await.map(drop).unwrap_err()
    };
    let with = |helper: &Path, module: &Path, pin: Pin| client(helper.to_owned(), module, pin);
    let right = || pin(SoftHsm::PIN);

    let wrong_pin = unwrap(with(&helper, hsm.module(), pin("0000")), "object=aes").await;
    assert!(matches!(wrong_pin, Error::Login { .. }), "{wrong_pin}");
    assert!(!wrong_pin.is_transient(), "a PIN is not tried again: the token would lock it");
    let no_key = unwrap(with(&helper, hsm.module(), right()), "object=none").await;
    assert!(matches!(no_key, Error::NotFound { .. }), "{no_key}");
    let no_module = unwrap(with(&helper, Path::new("/nowhere.so"), right()), "object=aes").await;
    assert!(matches!(no_module, Error::Usage(_)), "{no_module}");
    let no_helper = unwrap(with(Path::new("/nowhere"), hsm.module(), right()), "object=aes").await;
    assert!(matches!(no_helper, Error::File { .. }), "{no_helper}");
    let no_pin = Pin::File(hsm.dir().join("none"));
    let no_pin = unwrap(with(&helper, hsm.module(), no_pin), "object=aes").await;
    assert!(matches!(no_pin, Error::File { .. }), "{no_pin}");
    let KeyUri::Pkcs11(elsewhere) = KeyUri::parse("pkcs11:token=other;object=aes").unwrap() else {
        panic!()
    };
    let no_token = token.unwrap(&elsewhere, &wrapped, &id).await.map(drop).unwrap_err();
    assert!(no_token.is_transient() && no_token.to_string().contains("other"), "{no_token}");
    let file = hsm.dir().join("pin");
    std::fs::write(&file, format!("{}\n", SoftHsm::PIN)).unwrap();
    let from_file = with(&helper, hsm.module(), Pin::File(file));
    assert!(from_file.unwrap(&key("object=aes"), &wrapped, &id).await.is_ok());
    hsm.put_aes("aes", "04", &AES).unwrap();
    let two = unwrap(with(&helper, hsm.module(), right()), "object=aes").await;
    assert!(matches!(two, Error::NotFound { .. }) && two.to_string().contains('2'), "{two}");
}

#[tokio::test]
async fn a_program_that_dies_hangs_or_babbles_gives_an_error_and_no_key() {
    let Some(hsm) = SoftHsm::start().unwrap() else { return };
    let of = async |name: &str, line: &str| {
        let helper = hsm.script(name, line).unwrap();
        let settings = Pkcs11Settings {
            helper,
            module: hsm.module().to_owned(),
            pin: pin(SoftHsm::PIN),
            timeout: Duration::from_secs(if name == "hangs" { 1 } else { 60 }),
        };
        let client = Pkcs11::new(settings);
        let error = client.unwrap(&key("object=aes"), &[7; 60], &bundle("1")).await.unwrap_err();
        assert!(!format!("{error:?} {client:?}").contains(SoftHsm::PIN));
        error
    };
    let killed = of("killed", "read line; kill -9 $$").await;
    assert!(killed.is_transient(), "{killed}");
    let hangs = of("hangs", "read line; exec sleep 60").await;
    assert!(hangs.is_transient() && hangs.to_string().contains("1 s"), "{hangs}");
    let flood = of("flood", "head -c 1000000 /dev/zero").await;
    assert!(matches!(flood, Error::TooLarge { .. }) || flood.is_transient(), "{flood}");
    for (name, answer) in [
        ("garbage", "garbage"),
        ("empty", "{}"),
        ("both", r#"{"output":"","refused":"pin","detail":""}"#),
        ("short", r#"{"output":"AAAA"}"#),
        ("unknown", r#"{"output":"AAAA","x":1}"#),
    ] {
        let error = of(name, &format!("read line; echo '{answer}'")).await;
        assert!(matches!(error, Error::Protocol { .. }), "{name}: {error}");
    }
}

/// The token's files begin to fail, or the program is killed, at one moment after the other: before
/// the library is there, before the login, between login and unwrapping, and behind it.
#[tokio::test]
async fn whenever_the_token_is_lost_there_is_an_error_and_no_key() {
    let Some(strace) = std::env::var_os("SEALIFT_STRACE").filter(|path| !path.is_empty()) else {
        return testkit::skip("SEALIFT_STRACE names no strace");
    };
    let Some(hsm) = SoftHsm::start().unwrap() else { return };
    hsm.put_aes("aes", "02", &AES).unwrap();
    let (kek, id) = (fresh(), bundle("1"));
    let wrapped = ours(&hsm).wrap(&key("object=aes"), &kek, &id).await.unwrap();
    let program = env!("CARGO_BIN_EXE_sealift-pkcs11");
    let (strace, settings) = (strace.to_str().unwrap().to_owned(), hsm.settings());
    for fault in ["error=EIO", "signal=KILL"] {
        let (mut lost, mut when) = (0, 1);
        loop {
            // `N+`: from the Nth on. A signal is needed once.
            let many = if fault.starts_with("error") { "+" } else { "" };
            let line = format!(
                "SOFTHSM2_CONF={} exec {strace} -f -qq -o /dev/null -e trace=openat \\\n\
                 -e inject=openat:{fault}:when={when}{many} {program}",
                settings.display()
            );
            let helper = hsm.script(&format!("lost-{when}"), &line).unwrap();
            let client = client(helper, hsm.module(), pin(SoftHsm::PIN));
            match client.unwrap(&key("object=aes"), &wrapped, &id).await {
                Ok(unwrapped) => {
                    assert_eq!(unwrapped.expose(), kek.expose(), "{fault} {when}");
                    break;
                }
                Err(error) => {
                    // Never taken for a wrong wrap, nor for a PIN whose tries are counted.
                    let told = matches!(
                        error,
                        Error::Unreachable { .. } | Error::NotFound { .. } | Error::Usage(_)
                    );
                    assert!(told, "{fault} {when}: {error:?}");
                    assert!(!format!("{error:?}").contains(SoftHsm::PIN));
                    lost += 1;
                }
            }
            when += 1;
            assert!(when < 500, "{fault}: it never succeeds");
        }
        assert!(lost > 10, "{fault}: lost at {lost} moments only");
    }
}

#[test]
fn the_program_refuses_every_truncated_question_and_quotes_none() {
    use std::io::Write as _;
    let question = br#"{"operation":"wrap","module":"/nowhere.so","token":"t","label":"l","pin":"secret-pin","input":"AAAA","associated_data":""}"#;
    for length in (0..=question.len()).step_by(9).chain([question.len()]) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sealift-pkcs11"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&question[..length]).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer = String::from_utf8(output.stdout).unwrap();
        assert!(answer.starts_with(r#"{"refused":"usage","#), "{length}: {answer}");
        assert!(!answer.contains("secret-pin"), "{answer}");
    }
}
