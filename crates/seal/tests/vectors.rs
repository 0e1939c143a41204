//! What others wrote (Google's Tink, jwcrypto; `vectors/make.py`), read here; what is sealed here
//! from the same inputs, byte for byte the same.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use seal::Error;
use seal::bundle::Bundle;
use seal::jwe::Jwe;
use seal::key::{Dek, Kek};
use seal::name::{Digest, KeyUri};
use seal::pin::Demand;
use seal::segment::{FileKey, HEADER_BYTES, Header, Layout, TAG_BYTES};
use secret::Secret;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Tink {
    keyset_value: String,
    dek: String,
    files: Vec<TinkFile>,
}

#[derive(Deserialize)]
struct TinkFile {
    associated_data: String,
    bytes: usize,
    header: String,
    sha256: String,
}

fn std64(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

fn secret(bytes: &[u8]) -> Secret {
    Secret::copy(bytes).unwrap()
}

/// The content of the vectors' files (`pattern` in `make.py`).
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from((i * 7 + (i >> 8)) & 0xff).unwrap()).collect()
}

#[test]
fn seals_the_very_bytes_that_tink_seals() {
    let vector: Tink = serde_json::from_str(include_str!("vectors/tink.json")).unwrap();
    let dek = Dek::from_secret(secret(&std64(&vector.dek))).unwrap();
    for file in vector.files {
        let header = Header::parse(&std64(&file.header)).unwrap();
        let key = FileKey::derive(&dek, &header, file.associated_data.as_bytes());
        let layout = Layout::of_plaintext(file.bytes as u64).unwrap();
        let plaintext = pattern(file.bytes);
        let mut object = header.as_bytes().to_vec();
        for index in 0..layout.segments() {
            let span = layout.span(index);
            let (start, end) = (span.plaintext.start, span.plaintext.end);
            let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            assert_eq!(span.ciphertext.start, object.len() as u64);
            let mut segment = [&plaintext[range.clone()], &[0; TAG_BYTES]].concat();
            key.seal(index, span.last, &mut segment).unwrap();
            object.extend(&segment);
            assert_eq!(key.open(index, span.last, &mut segment).unwrap(), &plaintext[range]);
        }
        assert_eq!(object.len() as u64, layout.ciphertext_bytes());
        assert_eq!(Digest::of(&object).hex(), file.sha256, "{} bytes", file.bytes);
    }
}

#[test]
fn exports_the_keyset_that_tink_would() {
    let vector: Tink = serde_json::from_str(include_str!("vectors/tink.json")).unwrap();
    let dek = Dek::from_secret(secret(&std64(&vector.dek))).unwrap();
    let keyset: Value = serde_json::from_slice(dek.to_tink_keyset().expose()).unwrap();
    let key = &keyset["key"][0];
    assert_eq!(key["keyData"]["value"], vector.keyset_value);
    assert_eq!(keyset["primaryKeyId"], key["keyId"]);
    let type_url = "type.googleapis.com/google.crypto.tink.AesGcmHkdfStreamingKey";
    assert_eq!(key["keyData"]["typeUrl"], type_url);
    assert_eq!(key["keyData"]["keyMaterialType"], "SYMMETRIC");
    assert_eq!([&key["status"], &key["outputPrefixType"]], ["ENABLED", "RAW"]);
}

#[test]
fn opens_tokens_of_jwcrypto_in_every_pair_of_algorithms() {
    let vector: Value = serde_json::from_str(include_str!("vectors/jwe.json")).unwrap();
    let tokens = vector["symmetric"].as_array().unwrap();
    assert_eq!(tokens.len(), 21);
    for token in tokens {
        let jwe = Jwe::parse(token["token"].as_str().unwrap().as_bytes()).unwrap();
        let mut key = URL_SAFE_NO_PAD.decode(token["k"].as_str().unwrap()).unwrap();
        let name = format!("{} {}", token["alg"], token["enc"]);
        assert_eq!(jwe.decrypt(&key, None).unwrap(), b"a key, or a small file", "{name}");
        key[0] ^= 1;
        assert!(matches!(jwe.decrypt(&key, None), Err(Error::Unwrap)), "{name}");
    }
}

#[derive(Deserialize)]
struct WholeBundle {
    keys: Vec<Value>,
    plain: BTreeMap<String, String>,
    objects: BTreeMap<String, String>,
}

#[test]
fn opens_a_bundle_that_was_written_from_the_documentation() {
    let vector: WholeBundle = serde_json::from_str(include_str!("vectors/bundle.json")).unwrap();
    let json = vector.objects["sealift.json"].as_bytes();
    for key in vector.keys {
        let resource = KeyUri::parse(key["kid"].as_str().unwrap()).unwrap();
        let kek = Kek::parse(&secret(key.to_string().as_bytes())).unwrap();
        let opened =
            Bundle::parse(json).unwrap().open(&resource, &kek, &Demand::default()).unwrap();
        assert_eq!(opened.manifest().files.len(), vector.plain.len());
        for file in &opened.manifest().files {
            let mut object = std64(&vector.objects[&file.path.object()]);
            assert_eq!(Digest::of(&object), file.sha256);
            assert_eq!(object.len() as u64, file.layout.ciphertext_bytes());
            let (header, segment) = object.split_at_mut(HEADER_BYTES);
            assert_eq!(header, file.header.as_bytes());
            let plain = opened.file_key(file).open(0, true, segment).unwrap();
            assert_eq!(plain, std64(&vector.plain[file.path.as_str()]), "{}", file.path);
        }
    }
}
