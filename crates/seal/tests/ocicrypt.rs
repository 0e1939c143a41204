//! Encrypted layers, made by other programs: every way to change one is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use seal::Error;
use seal::name::KeyUri;
use seal::ocicrypt::{Encryption, LayerKey, Opening};
use serde_json::{Value, json};

const PACKETS: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";
const PUBLIC: &str = "org.opencontainers.image.enc.pubopts";

struct Vector {
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
    packet: Vec<u8>,
    public: Vec<u8>,
}

fn kek() -> Vec<u8> {
    hex::decode(vectors()["kek"].as_str().unwrap()).unwrap()
}

fn key() -> KeyUri {
    KeyUri::parse(vectors()["key"].as_str().unwrap()).unwrap()
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("ocicrypt.json")).unwrap()
}

fn each() -> Vec<Vector> {
    let vector = |layer: &Value| {
        let text = |name: &str| layer[name].as_str().unwrap().to_owned();
        Vector {
            plaintext: hex::decode(text("plaintext")).unwrap(),
            ciphertext: hex::decode(text("ciphertext")).unwrap(),
            packet: STANDARD.decode(text("packets")).unwrap(),
            public: STANDARD.decode(text("pubopts")).unwrap(),
        }
    };
    vectors()["layers"].as_array().unwrap().iter().map(vector).collect()
}

fn unwrapped(packets: &str, public: &[u8]) -> Result<LayerKey, Error> {
    let public = STANDARD.encode(public);
    Encryption::parse([(PACKETS, packets), (PUBLIC, &public), ("x", "y")])?.unwrap(&key(), &kek())
}

fn opened(layer: &LayerKey, ciphertext: &[u8], unpacked: &[u8]) -> Result<Vec<u8>, Error> {
    let mut opening = layer.opening();
    let mut found = Vec::new();
    for piece in ciphertext.chunks(7) {
        found.extend_from_slice(opening.update(piece, &mut [0; 7 + Opening::ROOM_BYTES]));
    }
    let unpacked = digest(&SHA256, unpacked).as_ref().try_into().unwrap();
    opening.finish(&unpacked).map(|()| found)
}

fn open(packet: &[u8], public: &[u8], ciphertext: &[u8]) -> Result<Vec<u8>, Error> {
    opened(&unwrapped(&STANDARD.encode(packet), public)?, ciphertext, b"another")
}

#[test]
fn what_others_encrypted_opens() {
    for Vector { plaintext, ciphertext, packet, public } in each() {
        assert_eq!(open(&packet, &public, &ciphertext).unwrap(), plaintext);
        // Beside the packet for another key, and with what newer packets say.
        let mut newer: Value = serde_json::from_slice(&packet).unwrap();
        newer["kid"] = "kbs:///another/key/x".into();
        let mut same: Value = serde_json::from_slice(&packet).unwrap();
        (same["version"], same["provider"]) = ("0.1.0".into(), "kbs".into());
        same["kid"] = "kbs://broker.example:8080/default/key/one".into();
        let both = [newer, same].map(|packet| STANDARD.encode(packet.to_string())).join(",");
        let layer = unwrapped(&both, &public).unwrap();
        assert_eq!(opened(&layer, &ciphertext, b"").unwrap(), plaintext);
        assert!(!format!("{layer:?}").contains(&hex::encode(&plaintext)));
    }
}

#[test]
fn every_cut_and_every_changed_byte_is_refused() {
    for Vector { plaintext, ciphertext, packet, public } in each() {
        for cut in 0..ciphertext.len() {
            let refused = open(&packet, &public, &ciphertext[..cut]);
            assert!(matches!(refused, Err(Error::LayerForged)), "{cut}");
        }
        let longer = [&ciphertext[..], b"x"].concat();
        assert!(matches!(open(&packet, &public, &longer), Err(Error::LayerForged)));
        for at in 0..ciphertext.len() {
            let mut changed = ciphertext.clone();
            changed[at] ^= 1;
            let refused = open(&packet, &public, &changed);
            assert!(matches!(refused, Err(Error::LayerForged)), "{at}");
        }
        for (part, of_packet) in [(&packet, true), (&public, false)] {
            let open = |part: &[u8]| match of_packet {
                true => open(part, &public, &ciphertext),
                false => open(&packet, part, &ciphertext),
            };
            for cut in 0..part.len() {
                assert!(open(&part[..cut]).is_err(), "{cut}");
            }
            for at in 0..part.len() {
                for bit in 0..8 {
                    let mut changed = part.clone();
                    changed[at] ^= 1 << bit;
                    // What members are called that may be left out, and spaces, say nothing.
                    if let Ok(found) = open(&changed) {
                        assert_eq!(found, plaintext, "{at}");
                        assert_eq!(meaning(&changed), meaning(part), "{at}");
                    }
                }
            }
        }
    }
}

/// What a document says that is not beside the point.
fn meaning(json: &[u8]) -> Vec<Value> {
    let json: Value = serde_json::from_slice(json).unwrap();
    let named = ["kid", "wrapped_data", "iv", "wrap_type", "cipher", "hmac"];
    named.iter().map(|name| json[*name].clone()).collect()
}

/// The registry sees the packet's length, the digest and the public options: all that it can write.
#[test]
fn what_was_wrapped_decides() {
    let Vector { plaintext, ciphertext, packet, public } = each().remove(0);
    let options = |edit: &dyn Fn(&mut Value)| {
        let mut packet: Value = serde_json::from_slice(&packet).unwrap();
        let decode = |name: &str| STANDARD.decode(packet[name].as_str().unwrap()).unwrap();
        let (iv, mut wrapped) = (decode("iv"), decode("wrapped_data"));
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &kek()).unwrap());
        let nonce = || Nonce::try_assume_unique_for_key(&iv).unwrap();
        let length = cipher.open_in_place(nonce(), Aad::empty(), &mut wrapped).unwrap().len();
        let mut options: Value = serde_json::from_slice(&wrapped[..length]).unwrap();
        edit(&mut options);
        let mut wrapped = options.to_string().into_bytes();
        cipher.seal_in_place_append_tag(nonce(), Aad::empty(), &mut wrapped).unwrap();
        packet["wrapped_data"] = STANDARD.encode(wrapped).into();
        packet.to_string().into_bytes()
    };
    let with = |name: &'static str, value: Value| options(&move |it| it[name] = value.clone());
    assert!(open(&options(&|_| ()), &public, &ciphertext).is_ok());
    let unpacked = format!("sha256:{}", hex::encode(digest(&SHA256, b"unpacked")));
    let packet_of_unpacked = with("digest", unpacked.into());
    let layer = unwrapped(&STANDARD.encode(&packet_of_unpacked), &public).unwrap();
    assert_eq!(opened(&layer, &ciphertext, b"unpacked").unwrap(), plaintext);
    assert!(matches!(opened(&layer, &ciphertext, b"other"), Err(Error::LayerForged)));
    for (name, value) in [
        ("digest", json!("")),
        ("digest", json!("sha512:00")),
        ("digest", json!(null)),
        ("symkey", json!(STANDARD.encode([0; 16]))),
        ("symkey", json!(7)),
        ("symkey", json!("*")),
        ("cipheroptions", json!({})),
        ("cipheroptions", json!({ "nonce": STANDARD.encode([0; 12]) })),
        ("cipheroptions", json!([])),
    ] {
        let refused = open(&with(name, value.clone()), &public, &ciphertext);
        assert!(matches!(refused, Err(Error::Malformed { .. })), "{name} {value}: {refused:?}");
    }
    // Upstream would take this nonce, which nothing authenticates.
    let mut public: Value = serde_json::from_slice(&public).unwrap();
    public["cipheroptions"] = json!({ "nonce": STANDARD.encode([7; 16]) });
    let refused = open(&packet, public.to_string().as_bytes(), &ciphertext);
    assert!(matches!(refused, Err(Error::Malformed { .. })), "{refused:?}");
}

#[test]
fn other_keys_providers_and_ciphers_are_refused_by_name() {
    let Vector { packet, public, .. } = each().remove(0);
    let encoded = STANDARD.encode(&public);
    let parsed = |notes: &[(&str, &str)]| {
        let notes = notes.iter().copied().chain([(PUBLIC, encoded.as_str())]);
        Encryption::parse(notes).map(|it| it.keys().count())
    };
    for name in ["jwe", "pkcs7", "pgp", "pkcs11", "provider.another"] {
        let name = format!("org.opencontainers.image.enc.keys.{name}");
        let refused = parsed(&[(&name, "eyJ9")]).unwrap_err().to_string();
        assert!(refused.contains(name.rsplit_once("keys.").unwrap().1), "{refused}");
    }
    assert!(matches!(parsed(&[]), Err(Error::Unsupported { .. })));
    for (name, value) in
        [("provider", "aliyun"), ("wrap_type", "A256CTR"), ("wrap_type", ""), ("version", "0.2.0")]
    {
        let mut other: Value = serde_json::from_slice(&packet).unwrap();
        other[name] = value.into();
        let refused = parsed(&[(PACKETS, &STANDARD.encode(other.to_string()))]);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{name}: {refused:?}");
    }
    for kid in ["", "one", "kbs:///../key/one", "file:///key", "kbs:///a/b/c/d", "kbs://a"] {
        let mut other: Value = serde_json::from_slice(&packet).unwrap();
        other["kid"] = kid.into();
        assert!(parsed(&[(PACKETS, &STANDARD.encode(other.to_string()))]).is_err(), "{kid}");
    }
    let many = vec![STANDARD.encode(&packet); 65].join(",");
    assert!(parsed(&[(PACKETS, &many)]).is_err());
    assert!(parsed(&[(PACKETS, &"A".repeat(70_000))]).is_err());

    let encryption = Encryption::parse([(PACKETS, &*STANDARD.encode(&packet)), (PUBLIC, &encoded)]);
    let encryption = encryption.unwrap();
    let other = KeyUri::parse("kbs:///default/key/two").unwrap();
    assert!(matches!(encryption.unwrap(&other, &kek()), Err(Error::NoRecipient { .. })));
    assert!(matches!(encryption.unwrap(&key(), &[0; 32]), Err(Error::Unwrap)));
}
