use serde_json::{Value, json};
use testkit::sealer::Sealer;
use volumes::audience::{Audience, File, Place, Time};
use zeroize::Zeroizing;

use super::*;

const KEK: [u8; 32] = [9; 32];
/// Where nothing is known but the time, which is the beginning.
const NOWHERE: Place<'static> = Place {
    namespace: None,
    service_account: None,
    file: File::Unknown,
    now: std::time::SystemTime::UNIX_EPOCH,
};
const NAME: &str = "kbs:///team/db/password";

fn sealer() -> Sealer {
    Sealer::new("kbs:///team/signer/one")
}

/// Opened with what the key source would release.
fn open(text: &str, jwk: &Value, released: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let sealed = SealedSecret::parse(text.as_bytes())?;
    let admitted = sealed.verify(jwk.to_string().as_bytes())?.admit(&NOWHERE)?;
    assert_eq!(admitted.resource().to_string(), NAME);
    admitted.open(&Secret::copy(released).unwrap())
}

#[test]
fn both_kinds_open() {
    let sealer = sealer();
    let jwk = &sealer.jwk();
    assert_eq!(**open(&sealer.vault(NAME), jwk, b"hunter2").unwrap(), *b"hunter2");
    let long = vec![0x61; 100_000];
    for secret in [&b""[..], b"hunter2", &long] {
        for cipher in ["A256GCM", "A256CTR"] {
            let text = sealer.envelope(NAME, &KEK, cipher, secret);
            assert!(*open(&text, jwk, &KEK).unwrap() == secret, "{cipher}");
        }
    }
    // A key with its private part, as upstream's tools leave it, and what they may add.
    let mut private = jwk.clone();
    (private["d"], private["alg"], private["use"]) = (json!("AA"), json!("ES256"), json!("sig"));
    assert!(open(&sealer.vault(NAME), &private, b"x").is_ok());
}

#[test]
fn the_signer_is_a_resource_or_a_file_and_nothing_else() {
    let text = sealer().vault(NAME);
    let sealed = SealedSecret::parse(text.as_bytes()).unwrap();
    assert_eq!(sealed.signer().to_string(), "kbs:///team/signer/one");
    let file = Sealer::new("signer-1.jwk").vault(NAME);
    let sealed = SealedSecret::parse(file.as_bytes()).unwrap();
    assert_eq!(*sealed.signer(), Signer::File("signer-1.jwk".into()));
    let long = "a".repeat(256);
    for kid in [
        "",
        ".",
        "..",
        "../signer",
        "a/b",
        "/etc/passwd",
        ".hidden",
        "a\0b",
        "a b",
        "kbs:///a/b",
        "kbs:///a/../c",
        "kbs://host/a/b/c",
        "https://host/a",
        "file:///etc/passwd",
        &long,
    ] {
        let text = Sealer::new(kid).vault(NAME);
        let refused = SealedSecret::parse(text.as_bytes());
        assert!(matches!(refused, Err(Error::Sealed(_))), "{kid:?}: {refused:?}");
    }
}

#[test]
fn every_prefix_and_every_changed_byte_is_refused() {
    let sealer = sealer();
    let jwk = &sealer.jwk();
    let texts = [
        (sealer.vault(NAME), &b"hunter2"[..]),
        (sealer.envelope(NAME, &KEK, "A256GCM", b"hunter2"), &KEK),
        (sealer.envelope(NAME, &KEK, "A256CTR", b"hunter2"), &KEK),
    ];
    for (text, released) in texts {
        assert_eq!(**open(&text, jwk, released).unwrap(), *b"hunter2");
        for end in 0..text.len() {
            assert!(open(&text[..end], jwk, released).is_err(), "{end}");
        }
        for position in 0..text.len() {
            for byte in [b'A', b'.', b'\n', b'=', b'_', 0xff, text.as_bytes()[position] ^ 1] {
                let mut changed = text.clone().into_bytes();
                if std::mem::replace(&mut changed[position], byte) == byte {
                    continue;
                }
                let opened = SealedSecret::parse(&changed)
                    .and_then(|sealed| sealed.verify(jwk.to_string().as_bytes()).map(drop));
                assert!(opened.is_err(), "{position} {byte}");
            }
        }
        for more in ["\n", ".", ".x", "A"] {
            assert!(open(&format!("{text}{more}"), jwk, released).is_err(), "{more:?}");
        }
    }
}

#[test]
fn no_other_algorithm_and_no_other_header_is_taken() {
    let sealer = sealer();
    let kid = "kbs:///team/signer/one";
    let payload = Sealer::vault_payload(NAME);
    for header in [
        json!({"alg": "none", "kid": kid}),
        json!({"alg": "HS256", "kid": kid}),
        json!({"alg": "ES384", "kid": kid}),
        json!({"alg": "es256", "kid": kid}),
        json!({"alg": ["ES256"], "kid": kid}),
        json!({"kid": kid}),
        json!({"alg": "ES256"}),
        json!({"alg": "ES256", "kid": kid, "crit": ["b64"], "b64": false}),
        json!({"alg": "ES256", "kid": kid, "jwk": sealer.jwk()}),
        json!({"alg": "ES256", "kid": kid, "x5c": []}),
        json!(["ES256", kid]),
        json!(null),
    ] {
        let text = sealer.sign_with(&header, &payload);
        let refused = SealedSecret::parse(text.as_bytes());
        assert!(matches!(refused, Err(Error::Sealed(_))), "{header}: {refused:?}");
    }
    // A signature of no bytes, as `none` would have it.
    let text = sealer.vault(NAME);
    let unsigned = &text[..=text.rfind('.').unwrap()];
    assert!(SealedSecret::parse(unsigned.as_bytes()).is_err());
    let twice = r#"{"alg":"ES256","kid":"a","kid":"b"}"#;
    let twice = format!("sealed.{}.e30.{}", URL_SAFE_NO_PAD.encode(twice), "A".repeat(86));
    assert!(SealedSecret::parse(twice.as_bytes()).is_err());
}

#[test]
fn only_the_signers_key_verifies_it() {
    let sealer = sealer();
    let text = sealer.vault(NAME);
    let wrong = open(&text, &Sealer::new("x").jwk(), b"x");
    assert!(matches!(wrong, Err(Error::Signature { .. })), "{wrong:?}");
    let change = |member: &str, value: Value| {
        let mut jwk = sealer.jwk();
        jwk[member] = value;
        jwk
    };
    let short = sealer.jwk()["x"].as_str().unwrap()[1..].to_owned();
    for jwk in [
        change("kty", json!("RSA")),
        change("crv", json!("P-384")),
        change("crv", json!("secp256k1")),
        change("alg", json!("ECDH-ES+A256KW")),
        change("x", json!(short)),
        change("y", json!("")),
        change("y", Value::Null),
        change("sealift_purposes", json!(["open", "seal", "secret"])),
        change("sealift_purposes", json!([])),
        change("sealift_purposes", Value::Null),
        json!({"kty": "oct", "k": "AAAA"}),
        json!([]),
        json!("EC"),
    ] {
        let refused = open(&text, &jwk, b"x");
        assert!(matches!(refused, Err(Error::SignerUnusable { .. })), "{jwk}: {refused:?}");
    }
    let signs = open(&text, &change("sealift_purposes", json!(["sign"])), b"x");
    assert!(signs.is_ok(), "{signs:?}");
    // Not on the curve.
    let off = open(&text, &change("y", sealer.jwk()["x"].clone()), b"x");
    assert!(matches!(off, Err(Error::Signature { .. })), "{off:?}");
}

#[test]
fn signed_payloads_that_say_something_else_are_refused() {
    let sealer = sealer();
    let vault = Sealer::vault_payload(NAME);
    let envelope = Sealer::envelope_payload(NAME, &KEK, "A256GCM", b"hunter2");
    let changed = |payload: &Value, member: &str, value: Value| {
        let mut payload = payload.clone();
        payload[member] = value;
        payload
    };
    let mut cases = vec![
        changed(&vault, "version", json!("0.2.0")),
        changed(&vault, "type", json!("box")),
        changed(&vault, "type", json!("envelope")),
        changed(&vault, "provider", json!("aws")),
        changed(&vault, "provider_settings", json!({"region": "x"})),
        // A restriction that is not understood must not be ignored.
        changed(&vault, "annotations", json!({"audience": "somebody else"})),
        changed(&vault, "annotations", json!({"sealift.audience": {"pod": "x"}})),
        changed(&vault, "annotations", json!({"sealift.audience": {"key": null}})),
        changed(&vault, "annotations", json!({"sealift.audience": ["team-a"]})),
        changed(&vault, "annotations", json!({"sealift.audience": {"key": "a"}, "x": 1})),
        changed(&vault, "name", json!("kbs:///a/../b")),
        changed(&vault, "name", json!("https://host/a/b/c")),
        changed(&vault, "extra", json!(1)),
        changed(&vault, "iv", json!("")),
        changed(&envelope, "type", json!("vault")),
        changed(&envelope, "name", json!(NAME)),
        changed(&envelope, "wrap_type", json!("A128GCM")),
        changed(&envelope, "wrap_type", json!("A256CTR")),
        changed(&envelope, "iv", json!("AAAA")),
        changed(&envelope, "encrypted_key", json!("!")),
        json!([]),
        json!("sealed"),
    ];
    for (payload, members) in [(&vault, 6), (&envelope, 10)] {
        let names: Vec<String> = payload.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names.len(), members);
        cases.extend(names.iter().map(|name| {
            let mut payload = payload.clone();
            payload.as_object_mut().unwrap().remove(name);
            payload
        }));
    }
    for payload in cases {
        let refused = open(&sealer.sign(&payload), &sealer.jwk(), &KEK);
        assert!(matches!(refused, Err(Error::Sealed(_))), "{payload}: {refused:?}");
    }
    let empty = json!("");
    for (member, value) in [
        ("encrypted_key", empty.clone()),
        ("encrypted_key", envelope["encrypted_data"].clone()),
        ("encrypted_data", empty),
        ("iv", json!("AAAAAAAAAAAAAAAA")),
    ] {
        let refused = open(&sealer.sign(&changed(&envelope, member, value)), &sealer.jwk(), &KEK);
        assert!(matches!(refused, Err(Error::Sealed(_))), "{member}: {refused:?}");
    }
    let text = sealer.sign(&envelope);
    for kek in [&[8; 32][..], b"short"] {
        assert!(matches!(open(&text, &sealer.jwk(), kek), Err(Error::Sealed(_))));
    }
}

#[test]
fn what_is_too_long_is_refused_before_it_is_looked_at() {
    let long = vec![b'A'; TEXT_BYTES_MAX + 1];
    assert!(matches!(SealedSecret::parse(&long), Err(Error::TooLarge { .. })));
    let header = format!("sealed.{}.e30.{}", "A".repeat(PROTECTED_BYTES_MAX + 1), "A".repeat(86));
    assert!(matches!(SealedSecret::parse(header.as_bytes()), Err(Error::Sealed(_))));
}

#[test]
fn key_files_are_regular_files_of_their_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("one.jwk"), "{}").unwrap();
    std::fs::create_dir(dir.path().join("two")).unwrap();
    assert_eq!(Signer::read("one.jwk", dir.path()).unwrap().expose(), b"{}");
    for name in ["two", "three"] {
        assert!(matches!(Signer::read(name, dir.path()), Err(Error::File { .. })), "{name}");
    }
}

/// Made by `tests/interop/sealed_secrets.py`, with nothing of ours.
#[test]
fn what_python_sealed_opens() {
    let vectors: Value = serde_json::from_str(include_str!("python.json")).unwrap();
    let text = |name: &str| vectors[name].as_str().unwrap();
    let kek = hex::decode(text("kek")).unwrap();
    let secret = text("secret").as_bytes();
    for (name, needs, released) in [
        ("vault", "kbs:///team/secret/python", secret),
        ("gcm", "kbs:///team/kek/python", &kek),
        ("ctr", "kbs:///team/kek/python", &kek),
    ] {
        let sealed = SealedSecret::parse(text(name).as_bytes()).unwrap();
        assert_eq!(sealed.signer().to_string(), "kbs:///team/signer/python");
        let verified = sealed.verify(vectors["jwk"].to_string().as_bytes()).unwrap();
        let admitted = verified.admit(&NOWHERE).unwrap();
        assert_eq!(admitted.resource().to_string(), needs);
        assert!(*admitted.open(&Secret::copy(released).unwrap()).unwrap() == secret, "{name}");
    }
    let sealed = SealedSecret::parse(text("bound").as_bytes()).unwrap();
    let verified = || sealed.verify(vectors["jwk"].to_string().as_bytes()).unwrap();
    assert!(matches!(verified().admit(&NOWHERE), Err(Error::Audience(_))));
    let here = Place {
        namespace: Some("team-a"),
        service_account: Some("db"),
        file: File::At("password"),
        ..NOWHERE
    };
    assert!(verified().admit(&here).is_ok());
}

/// Ours, as the issue's other half: every text that [`seal`] makes opens, for its audience alone, and
/// no changed byte of it does.
#[test]
fn what_is_sealed_here_opens_here_and_for_its_audience_alone() {
    let key = SigningKey::generate().unwrap();
    let jwk = key.public_jwk();
    let signer = Signer::parse("kbs:///team/signer/one").unwrap();
    let name = ResourceUri::parse(NAME).unwrap();
    let kek = seal::key::Kek::parse(&Secret::copy(&KEK).unwrap()).unwrap();
    let bound = Audience {
        namespace: Some("team-a".into()),
        service_account: Some("db".into()),
        key: Some("password".into()),
        expires: Time::parse("2027-01-01T00:00:00Z"),
    };
    let here = Place {
        namespace: Some("team-a"),
        service_account: Some("db"),
        file: File::At("password"),
        ..NOWHERE
    };
    let envelope = |plaintext| Content::Envelope { key: &name, kek: &kek, plaintext };
    for (content, released, secret) in [
        (Content::Vault(&name), &b"hunter2"[..], &b"hunter2"[..]),
        (envelope(b"hunter2"), &KEK, b"hunter2"),
        (envelope(b""), &KEK, b""),
    ] {
        let text = seal(&content, &Audience::default(), &signer, &key).unwrap();
        assert_eq!(**open(&text, &jwk, released).unwrap(), *secret);
        let text = seal(&content, &bound, &signer, &key).unwrap();
        assert_eq!(Audience::claimed(text.as_bytes()).as_ref(), Ok(&bound));
        let sealed = SealedSecret::parse(text.as_bytes()).unwrap();
        assert_eq!(sealed.claimed().unwrap().audience, bound);
        let verified = || sealed.verify(jwk.to_string().as_bytes()).unwrap();
        let opened = verified().admit(&here).unwrap().open(&Secret::copy(released).unwrap());
        assert_eq!(**opened.unwrap(), *secret);
        for elsewhere in [
            NOWHERE,
            Place { namespace: Some("team-b"), ..here },
            Place { service_account: None, ..here },
            Place { file: File::Unknown, ..here },
            Place {
                now: std::time::SystemTime::now() + std::time::Duration::from_secs(1 << 30),
                ..here
            },
        ] {
            assert!(matches!(verified().admit(&elsewhere), Err(Error::Audience(_))));
        }
        for position in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[position] ^= 1;
            let opened = SealedSecret::parse(&changed)
                .and_then(|sealed| sealed.verify(jwk.to_string().as_bytes()).map(drop));
            assert!(opened.is_err(), "{position}");
        }
    }
    let long = vec![0; TEXT_BYTES_MAX];
    let refused = seal(&envelope(&long), &Audience::default(), &signer, &key);
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
}

#[test]
fn signing_keys_are_read_in_every_form_that_they_are_kept_in() {
    let key = SigningKey::generate().unwrap();
    let parse = |text: &str| SigningKey::parse(&Secret::copy(text.as_bytes()).unwrap());
    let pem = key.to_pem().unwrap();
    let again = SigningKey::parse(&pem).unwrap();
    assert_eq!(again.public_jwk(), key.public_jwk());
    // By OpenSSL: `genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`, and as `ec` prints it.
    let sec1 = "-----BEGIN EC PRIVATE KEY-----\n\
        MHcCAQEEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4foAoGCCqGSM49\n";
    assert!(parse(&format!("{sec1}-----END EC PRIVATE KEY-----\n")).is_err(), "cut short");
    // RFC 7515, A.3: d belongs to x and y.
    let jwk = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    });
    assert_eq!(parse(&jwk.to_string()).unwrap().public_jwk()["x"], jwk["x"]);
    let mut other = key.public_jwk();
    other["d"] = jwk["d"].clone();
    let public = key.public_jwk().to_string();
    for bad in ["", "{}", "x", &public, &other.to_string(), "-----BEGIN PRIVATE KEY-----\n"] {
        let refused = parse(bad).unwrap_err();
        assert!(!refused.to_string().contains("jpsQ"), "{refused}");
    }
    assert_eq!(format!("{key:?}"), "SigningKey([redacted])");
}

/// The public key as an HMAC's key, another curve's name, no signature: only ES256 is looked at.
#[test]
fn no_algorithm_is_confused_with_another() {
    use aws_lc_rs::hmac;
    let sealer = sealer();
    let jwk = sealer.jwk().to_string();
    let kid = "kbs:///team/signer/one";
    let payload = URL_SAFE_NO_PAD.encode(Sealer::vault_payload(NAME).to_string());
    for alg in ["HS256", "ES256"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "kid": kid}).to_string());
        let signed = format!("{header}.{payload}");
        for key in [jwk.as_bytes(), &point(jwk.as_bytes()).unwrap()] {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key);
            let tag = hmac::sign(&key, signed.as_bytes());
            for tag in [tag.as_ref().to_vec(), [tag.as_ref(), tag.as_ref()].concat(), vec![0; 64]] {
                let text = format!("sealed.{signed}.{}", URL_SAFE_NO_PAD.encode(tag));
                assert!(open(&text, &sealer.jwk(), b"x").is_err(), "{alg}");
            }
        }
    }
    for header in [
        r#"{"alg":"ES256","alg":"none","kid":"a"}"#,
        r#"{"alg":"none","alg":"ES256","kid":"a"}"#,
        r#"{"alg":"ES256","\u0061lg":"none","kid":"a"}"#,
    ] {
        let text =
            format!("sealed.{}.{payload}.{}", URL_SAFE_NO_PAD.encode(header), "A".repeat(86));
        assert!(SealedSecret::parse(text.as_bytes()).is_err(), "{header}");
    }
}

#[test]
fn a_key_wraps_and_unwraps_secrets_only_if_it_is_for_that() {
    use seal::key::{Kek, Purpose};
    let name = ResourceUri::parse(NAME).unwrap();
    let signer = Signer::parse("kbs:///team/signer/one").unwrap();
    let key = SigningKey::generate().unwrap();
    let kek = |purposes: &[Purpose]| {
        let jwk = Secret::copy(format!(r#"{{"kty":"oct","k":"{}"}}"#, "A".repeat(43)).as_bytes());
        Kek::parse(&jwk.unwrap()).unwrap().with_purposes(purposes.to_vec())
    };
    let sealed = |kek: &Kek| {
        let content = Content::Envelope { key: &name, kek, plaintext: b"s" };
        seal(&content, &Audience::default(), &signer, &key)
    };
    let text = sealed(&kek(&[Purpose::Secret])).unwrap();
    let jwk = key.public_jwk();
    let released = |purposes: &[Purpose]| kek(purposes).to_jwk().unwrap();
    for purposes in [&[][..], &[Purpose::Secret], &[Purpose::Open, Purpose::Secret]] {
        assert_eq!(open(&text, &jwk, released(purposes).expose()).unwrap()[..], *b"s");
    }
    let other = [Purpose::Open, Purpose::Seal, Purpose::Sign];
    let refused = open(&text, &jwk, released(&other).expose());
    assert!(matches!(refused, Err(Error::KeyUnusable(_))), "{refused:?}");
    assert!(matches!(sealed(&kek(&other)), Err(Error::KeyUnusable(_))));
}
