//! A guest as upstream's client is one: three kinds of keys, the runtime data's digest, the JWE.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P521, UnparsedPublicKey};
use aws_lc_rs::digest::{SHA256, SHA384, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use aws_lc_rs::rsa::{
    KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::Broker;
use super::http::Reply;

pub enum Key {
    Ec { curve: &'static str, private: agreement::PrivateKey },
    Rsa { private: OaepPrivateDecryptingKey, jwk: Value },
}

impl Key {
    pub fn p256() -> Self {
        Self::Ec { curve: "P-256", private: agreement::PrivateKey::generate(&ECDH_P256).unwrap() }
    }

    pub fn p521() -> Self {
        Self::Ec { curve: "P-521", private: agreement::PrivateKey::generate(&ECDH_P521).unwrap() }
    }

    pub fn rsa(size: KeySize) -> Self {
        let private = PrivateDecryptingKey::generate(size).unwrap();
        let spki = private.public_key().as_der().unwrap().as_ref().to_vec();
        let [n, e] = rsa_numbers(&spki);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let jwk = json!({ "kty": "RSA", "alg": "RSA-OAEP-256", "n": encode(&n), "e": encode(&e) });
        Self::Rsa { private: OaepPrivateDecryptingKey::new(private).unwrap(), jwk }
    }

    pub fn jwk(&self) -> Value {
        match self {
            Self::Rsa { jwk, .. } => jwk.clone(),
            Self::Ec { curve, private } => {
                let public = private.compute_public_key().unwrap();
                let point = &public.as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({
                    "kty": "EC", "crv": curve, "alg": "ECDH-ES+A256KW",
                    "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
                })
            }
        }
    }

    /// Opens a response. `protected` must be what upstream's client would serialise again.
    pub fn open(&self, jwe: &Value) -> Vec<u8> {
        let text = |name: &str| jwe[name].as_str().unwrap();
        let part = |name: &str| URL_SAFE_NO_PAD.decode(text(name)).unwrap();
        let header = String::from_utf8(part("protected")).unwrap();
        let cek = match self {
            Self::Rsa { private, .. } => {
                assert_eq!(header, r#"{"alg":"RSA-OAEP-256","enc":"A256GCM"}"#);
                let mut output = vec![0; private.min_output_size()];
                private
                    .decrypt(&OAEP_SHA256_MGF1SHA256, &part("encrypted_key"), &mut output, None)
                    .unwrap()
                    .to_vec()
            }
            Self::Ec { curve, private } => {
                let epk = serde_json::from_str::<Value>(&header).unwrap()["epk"].clone();
                let (x, y) = (epk["x"].as_str().unwrap(), epk["y"].as_str().unwrap());
                assert_eq!(
                    header,
                    format!(
                        r#"{{"alg":"ECDH-ES+A256KW","enc":"A256GCM","epk":{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}}}"#
                    )
                );
                let decode = |number: &str| URL_SAFE_NO_PAD.decode(number).unwrap();
                let point = [vec![4], decode(x), decode(y)].concat();
                let peer = UnparsedPublicKey::new(private.algorithm(), point);
                let kek = agreement::agree(private, peer, (), |z| Ok::<_, ()>(concat_kdf(z)));
                let mut cek = [0; 32];
                AesKek::new(&AES_256, &kek.unwrap())
                    .unwrap()
                    .unwrap(&part("encrypted_key"), &mut cek)
                    .unwrap();
                cek.to_vec()
            }
        };
        let mut content = [part("ciphertext"), part("tag")].concat();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &cek).unwrap());
        let nonce = Nonce::try_assume_unique_for_key(&part("iv")).unwrap();
        let aad = Aad::from(text("protected").as_bytes());
        key.open_in_place(nonce, aad, &mut content).unwrap().to_vec()
    }
}

/// RFC 7518 section 4.6.2, for `ECDH-ES+A256KW`.
fn concat_kdf(z: &[u8]) -> [u8; 32] {
    let mut input = vec![0, 0, 0, 1];
    input.extend_from_slice(z);
    input.extend_from_slice(&[0, 0, 0, 14]);
    input.extend_from_slice(b"ECDH-ES+A256KW");
    input.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    digest(&SHA256, &input).as_ref().try_into().unwrap()
}

/// Modulus and exponent out of a SubjectPublicKeyInfo.
pub fn rsa_numbers(spki: &[u8]) -> [Vec<u8>; 2] {
    let outer = der(spki).0;
    let bits = der(der(outer).1).0;
    let numbers = der(&bits[1..]).0;
    let (n, rest) = der(numbers);
    let strip = |number: &[u8]| number.iter().copied().skip_while(|&byte| byte == 0).collect();
    [strip(n), strip(der(rest).0)]
}

/// Content of the first element, and what follows it.
fn der(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (len, head) = match bytes[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let count = usize::from(long & 0x7f);
            let len = bytes[2..2 + count].iter().fold(0, |len, &b| len << 8 | usize::from(b));
            (len, 2 + count)
        }
    };
    bytes[head..].split_at(len)
}

/// `SHA-384` over the canonical runtime data. All its strings are ASCII, so that compact JSON with
/// sorted names is RFC 8785.
pub fn report_data(nonce: &str, jwk: &Value, additional_evidence: &str) -> String {
    let names: &[&str] = match jwk["kty"].as_str() {
        Some("RSA") => &["alg", "e", "kty", "n"],
        _ => &["alg", "crv", "kty", "x", "y"],
    };
    let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":{}", jwk[name])).collect();
    let text = format!(
        r#"{{"additional-evidence":"{additional_evidence}","nonce":"{nonce}","tee-pubkey":{{{}}}}}"#,
        members.join(",")
    );
    STANDARD.encode(digest(&SHA384, text.as_bytes()))
}

/// What a guest sends in step 3.
pub fn attestation(nonce: &str, jwk: &Value) -> Value {
    json!({
        "runtime-data": { "nonce": nonce, "tee-pubkey": jwk },
        "tee-evidence": {
            "primary_evidence": { "svn": "1", "report_data": report_data(nonce, jwk, "") },
            "additional_evidence": "",
        },
    })
}

impl Broker {
    pub fn auth(&self, tee: &str) -> Reply {
        let body = json!({
            "version": "0.4.0", "tee": tee,
            "extra-params": { "supported-hash-algorithms": ["sha256", "sha384", "sha512"] },
        });
        self.wire.send("POST", "/kbs/v0/auth", &[], body.to_string().as_bytes())
    }

    /// Step 1: cookie and nonce.
    pub fn challenge(&self) -> (String, String) {
        let reply = self.auth("sample");
        assert_eq!(reply.status, 200, "{reply:?}");
        (reply.cookie(), reply.json()["nonce"].as_str().unwrap().to_owned())
    }

    pub fn attest(&self, cookie: &str, body: &Value) -> Reply {
        let headers = [("Cookie", cookie)];
        self.wire.send("POST", "/kbs/v0/attest", &headers, body.to_string().as_bytes())
    }

    /// Steps 1 to 3: cookie and token.
    pub fn attested(&self, key: &Key) -> (String, String) {
        let (cookie, nonce) = self.challenge();
        let reply = self.attest(&cookie, &attestation(&nonce, &key.jwk()));
        assert_eq!(reply.status, 200, "{reply:?}");
        (reply.cookie(), reply.json()["token"].as_str().unwrap().to_owned())
    }

    pub fn get_with_cookie(&self, cookie: &str, resource: &str) -> Reply {
        let path = format!("/kbs/v0/resource/{resource}");
        self.wire.send("GET", &path, &[("Cookie", cookie)], b"")
    }

    pub fn get_with_token(&self, token: &str, resource: &str) -> Reply {
        let path = format!("/kbs/v0/resource/{resource}");
        self.wire.send("GET", &path, &[("Authorization", &format!("Bearer {token}"))], b"")
    }
}
