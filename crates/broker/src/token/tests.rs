//! What is no token of ours, although a part of it is: JOSE's own traps.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING};

use super::*;

const NOW: u64 = 1_800_000_000;
const GOOD: &str = r#"{"alg":"ES256"}"#;

fn key() -> TokenKey {
    TokenKey::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
}

fn message(header: &str, payload: &str) -> String {
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
}

/// Whatever the header says, signed as ES256 is.
fn signed(pair: &EcdsaKeyPair, header: &str, payload: &str) -> String {
    let message = message(header, payload);
    let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn claims() -> String {
    json!({ "exp": NOW + TOKEN_SECONDS }).to_string()
}

#[test]
fn a_header_chooses_neither_algorithm_nor_key() {
    let (ours, theirs) = (key(), key());
    let verify = |token: &str| ours.verify(token, NOW);
    assert!(verify(&signed(&ours.pair, GOOD, &claims())).is_ok());
    // Signed by us, so that the header alone is wrong.
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"None"}"#,
        r#"{"alg":"es256"}"#,
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"ES384"}"#,
        r#"{"alg":"ES256K"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":["ES256"]}"#,
        r#"{"alg":null}"#,
        r#"{}"#,
        r#"["ES256"]"#,
        r#"["ES256",null]"#,
        r#""ES256""#,
        r#"{"alg":"ES256","alg":"ES256"}"#,
        r#"{"alg":"none","alg":"ES256"}"#,
        r#"{"alg":"ES256","\u0061lg":"none"}"#,
        r#"{"alg":"ES256","crit":[]}"#,
        r#"{"alg":"ES256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"ES256","crit":["exp"]}"#,
        r#"{"alg":"ES256"} x"#,
    ] {
        assert!(verify(&signed(&ours.pair, header, &claims())).is_err(), "{header}");
    }
    // Signed by others, who say so.
    let point = ours.pair.public_key().as_ref();
    let kid = &ours.jwk["kid"];
    for header in [
        json!({ "alg": "ES256", "kid": kid }),
        json!({ "alg": "ES256", "jwk": theirs.jwk }),
        json!({ "alg": "ES256", "kid": kid, "jwk": theirs.jwk }),
        json!({ "alg": "ES256", "jku": "http://127.0.0.1/jwks.json" }),
        json!({ "alg": "ES256", "x5c": [URL_SAFE_NO_PAD.encode(point)] }),
    ] {
        assert!(verify(&signed(&theirs.pair, &header.to_string(), &claims())).is_err(), "{header}");
    }
    // Our public key as an HMAC's.
    for secret in
        [point.to_vec(), ours.jwk.to_string().into_bytes(), ours.jwks().to_string().into()]
    {
        for header in [GOOD, r#"{"alg":"HS256"}"#] {
            let message = message(header, &claims());
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
            let tag = URL_SAFE_NO_PAD.encode(tag.as_ref());
            assert!(verify(&format!("{message}.{tag}")).is_err(), "{header}");
        }
    }
}

#[test]
fn a_signature_is_64_bytes_in_one_spelling() {
    let ours = key();
    let token = signed(&ours.pair, GOOD, &claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let verify = |signature: &str| ours.verify(&format!("{message}.{signature}"), NOW);
    assert!(verify(signature).is_ok());
    let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for length in (0..bytes.len()).chain([bytes.len() + 1, bytes.len() * 2]) {
        let other = [&bytes[..], &bytes].concat();
        assert!(verify(&URL_SAFE_NO_PAD.encode(&other[..length])).is_err(), "{length}");
    }
    // The order of P-256, which is 0 to whoever reduces.
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
    let (zero, order) = ([0; 32], order.unwrap());
    for [r, s] in
        [[&zero[..], &zero], [&order, &order], [&bytes[..32], &zero], [&zero, &bytes[32..]]]
    {
        assert!(verify(&URL_SAFE_NO_PAD.encode([r, s].concat())).is_err());
    }
    // Two bits of the last character mean nothing; padding and line breaks neither.
    let (head, last) = signature.split_at(signature.len() - 1);
    for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=".chars() {
        let spelt = format!("{head}{other}");
        assert_eq!(verify(&spelt).is_ok(), other.to_string() == last, "{other}");
    }
    for more in ["=", "==", "\n", " ", ".", ".e30"] {
        assert!(verify(&format!("{signature}{more}")).is_err(), "{more:?}");
    }
    // The same key, its signatures as other algorithms have them.
    let pkcs8 = ours.pair.to_pkcs8v1().unwrap();
    let der = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref()).unwrap();
    assert!(ours.verify(&signed(&der, GOOD, &claims()), NOW).is_err());
    let p_384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    assert!(ours.verify(&signed(&p_384, GOOD, &claims()), NOW).is_err());
}

#[test]
fn a_time_is_a_whole_number_and_soon_over() {
    let ours = key();
    for exp in [
        "null".to_owned(),
        "\"1800000100\"".to_owned(),
        "1800000100.5".to_owned(),
        "1.8e9".to_owned(),
        "-1".to_owned(),
        "[1800000100]".to_owned(),
        "18446744073709551616".to_owned(),
        u64::MAX.to_string(),
        NOW.to_string(),
        (NOW + TOKEN_SECONDS + 1).to_string(),
    ] {
        let token = signed(&ours.pair, GOOD, &format!(r#"{{"exp":{exp}}}"#));
        assert!(ours.verify(&token, NOW).is_err(), "{exp}");
    }
    for payload in ["", "null", "{}", "[]", "{\"exp\":", "7"] {
        assert!(ours.verify(&signed(&ours.pair, GOOD, payload), NOW).is_err(), "{payload}");
    }
}
