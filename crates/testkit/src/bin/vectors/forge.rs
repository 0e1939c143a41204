//! A bundle that is still in pieces: each can be broken before they are put together.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::crypto::{base64, base64url, fixed, gcm, hkdf, hmac, key_wrap, sha256};

pub(crate) const SEGMENT: usize = 1 << 20;
pub(crate) const HEADER: usize = 40;
pub(crate) const TAG: usize = 16;

pub(crate) const MODEL: &str = "org/model";
pub(crate) const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The resource `kbs:///default/key/<tag>`.
pub(crate) fn resource(tag: &str) -> String {
    format!("kbs:///default/key/{tag}")
}

/// The key encryption key that is released as [`resource`] of `tag`.
pub(crate) fn kek(tag: &str) -> [u8; 32] {
    fixed(&format!("key encryption key {tag}"))
}

/// The JWK of [`kek`], pinned to the generation that the bundles have.
pub(crate) fn jwk(tag: &str) -> Value {
    json!({
        "kty": "oct",
        "k": base64url(&kek(tag)),
        "kid": resource(tag),
        "sealift": {MODEL: {"min_generation": 3}},
    })
}

/// One file, and the object that it is sealed to.
#[derive(Clone)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) executable: bool,
    pub(crate) plain: Vec<u8>,
    pub(crate) header: [u8; HEADER],
    pub(crate) object: String,
    pub(crate) sealed: Object,
    /// Of the whole object.
    pub(crate) sha256: [u8; 32],
    /// Whether the object is there.
    pub(crate) stored: bool,
}

/// An object: bytes of its own, or slices of a shared file put together.
#[derive(Clone)]
pub(crate) enum Object {
    Bytes(Vec<u8>),
    Slices { of: &'static str, slices: Vec<[usize; 2]> },
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bytes(bytes) => serializer.serialize_str(&base64(bytes)),
            Self::Slices { of, slices } => {
                json!({"of": of, "slices": slices}).serialize(serializer)
            }
        }
    }
}

/// How the key of a file's segments is derived, and which salt and nonce prefix it has.
#[derive(Clone)]
pub(crate) struct FileKey {
    pub(crate) key: Vec<u8>,
    pub(crate) header: [u8; HEADER],
}

impl FileKey {
    pub(crate) fn derive(dek: &[u8], header: [u8; HEADER], associated_data: &str) -> Self {
        Self { key: hkdf(dek, &header[1..33], associated_data.as_bytes()), header }
    }

    pub(crate) fn segment(&self, index: u32, last: bool, plain: &[u8]) -> Vec<u8> {
        gcm(&self.key, self.nonce(index, last), b"", plain)
    }

    pub(crate) fn nonce(&self, index: u32, last: bool) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..7].copy_from_slice(&self.header[33..]);
        nonce[7..11].copy_from_slice(&index.to_be_bytes());
        nonce[11] = last.into();
        nonce
    }
}

/// A recipient, as it stands in `sealift.json`.
#[derive(Clone)]
pub(crate) struct Recipient {
    pub(crate) kid: String,
    /// As JSON, between `kid` and `jwe`.
    pub(crate) wrapped_key: String,
    /// The protected header, as JSON.
    pub(crate) header: String,
    pub(crate) encrypted_key: Vec<u8>,
    pub(crate) aad: String,
    pub(crate) iv: Vec<u8>,
    pub(crate) ciphertext: Vec<u8>,
    pub(crate) tag: Vec<u8>,
    /// The content key.
    pub(crate) cek: Vec<u8>,
}

impl Recipient {
    /// By A256KW.
    pub(crate) fn new(dek: &[u8], id: &str, tag: &str) -> Self {
        let (kid, cek) = (resource(tag), fixed::<32>(&format!("content key {tag}")));
        let mut recipient = Self {
            header: format!(r#"{{"alg":"A256KW","enc":"A256GCM","kid":"{kid}"}}"#),
            kid,
            wrapped_key: String::new(),
            encrypted_key: key_wrap(&kek(tag), &cek),
            aad: format!("sealift/v1\n{id}"),
            iv: fixed::<12>(&format!("content iv {tag}")).to_vec(),
            ciphertext: Vec::new(),
            tag: Vec::new(),
            cek: cek.to_vec(),
        };
        recipient.seal(dek);
        recipient
    }

    /// By A256GCMKW, with `aad` for the wrapping (the format has none).
    pub(crate) fn gcm_kw(dek: &[u8], id: &str, tag: &str, aad: &[u8]) -> Self {
        let mut recipient = Self::new(dek, id, tag);
        let iv = fixed(&format!("wrapping iv {tag}"));
        let wrapped = gcm(&kek(tag), iv, aad, &recipient.cek);
        let (encrypted_key, wrapping_tag) = wrapped.split_at(32);
        recipient.encrypted_key = encrypted_key.to_vec();
        recipient.header = format!(
            r#"{{"alg":"A256GCMKW","enc":"A256GCM","kid":"{}","iv":"{}","tag":"{}"}}"#,
            recipient.kid,
            base64url(&iv),
            base64url(wrapping_tag),
        );
        recipient.seal(dek);
        recipient
    }

    /// Of `kid`, whose key has wrapped the key encryption key of `tag`.
    pub(crate) fn wrapped(dek: &[u8], id: &str, tag: &str, kid: &str) -> Self {
        let mut recipient = Self::new(dek, id, tag);
        recipient.wrapped_key = wrapped_key(b"vault:v1:whatever the server understands");
        recipient.header = recipient.header.replace(&recipient.kid, kid);
        recipient.kid = kid.to_owned();
        recipient.seal(dek);
        recipient
    }

    /// Encrypts `plain` again under whatever the header, the content key and `aad` now are.
    pub(crate) fn seal(&mut self, plain: &[u8]) {
        let authenticated = format!("{}.{}", self.protected(), base64url(self.aad.as_bytes()));
        self.seal_with(authenticated.as_bytes(), plain);
    }

    pub(crate) fn seal_with(&mut self, associated_data: &[u8], plain: &[u8]) {
        let iv = self.iv.as_slice().try_into().expect("an iv of 12 bytes");
        let mut sealed = gcm(&self.cek, iv, associated_data, plain);
        self.tag = sealed.split_off(plain.len());
        self.ciphertext = sealed;
    }

    /// Edits the header, and encrypts again as if it were right.
    pub(crate) fn edit_header(&mut self, dek: &[u8], from: &str, to: &str) {
        self.header = replace(&self.header, from, to);
        self.seal(dek);
    }

    pub(crate) fn protected(&self) -> String {
        base64url(self.header.as_bytes())
    }

    fn json(&self) -> String {
        format!(
            r#"{{"kid":{},{}"jwe":{{"protected":"{}","encrypted_key":"{}","aad":"{}","iv":"{}","ciphertext":"{}","tag":"{}"}}}}"#,
            quoted(&self.kid),
            self.wrapped_key,
            self.protected(),
            base64url(&self.encrypted_key),
            base64url(self.aad.as_bytes()),
            base64url(&self.iv),
            base64url(&self.ciphertext),
            base64url(&self.tag),
        )
    }
}

/// The member of a recipient.
pub(crate) fn wrapped_key(bytes: &[u8]) -> String {
    format!(r#""wrapped_key":"{}","#, base64url(bytes))
}

/// A whole bundle, in pieces.
#[derive(Clone)]
pub(crate) struct Bundle {
    pub(crate) dek: [u8; 32],
    pub(crate) id: String,
    pub(crate) files: Vec<File>,
    pub(crate) recipients: Vec<Recipient>,
}

impl Bundle {
    /// Two small files for one recipient, `a`.
    pub(crate) fn small() -> Self {
        let mut bundle = Self::empty("small");
        bundle.add("config.json", b"{\"a\": 1}\n");
        bundle.add("run.sh", b"#!/bin/sh\n");
        bundle.files[1].executable = true;
        bundle
    }

    /// No files, one recipient.
    pub(crate) fn empty(label: &str) -> Self {
        let dek = fixed(&format!("data key {label}"));
        let id = hex::encode(fixed::<16>(&format!("bundle id {label}")));
        let recipients = vec![Recipient::new(&dek, &id, "a")];
        Self { dek, id, files: Vec::new(), recipients }
    }

    /// Seals one more file of one segment; files stay sorted.
    pub(crate) fn add(&mut self, path: &str, plain: &[u8]) {
        let key = self.file_key(path);
        let sealed = [&key.header[..], &key.segment(0, true, plain)].concat();
        self.insert(path, plain.to_vec(), key.header, sha256(&sealed), Object::Bytes(sealed));
    }

    pub(crate) fn insert(
        &mut self,
        path: &str,
        plain: Vec<u8>,
        header: [u8; HEADER],
        sha256: [u8; 32],
        sealed: Object,
    ) {
        let (path, object) = (path.to_owned(), format!("{path}.sealed"));
        let executable = false;
        let file = File { path, executable, plain, header, object, sealed, sha256, stored: true };
        let place = self.files.partition_point(|other| other.path <= file.path);
        self.files.insert(place, file);
    }

    /// The key of a file's segments, with the header that its path gives.
    pub(crate) fn file_key(&self, path: &str) -> FileKey {
        let mut header: [u8; HEADER] = fixed(&format!("header {} {path}", self.id));
        header[0] = 40;
        FileKey::derive(&self.dek, header, &self.associated_data(path))
    }

    pub(crate) fn associated_data(&self, path: &str) -> String {
        format!("sealift/v1\n{}\n{path}", self.id)
    }

    pub(crate) fn manifest(&self) -> String {
        let subject = |file: &File| {
            let digest = hex::encode(file.sha256);
            format!(r#"{{"name":{},"digest":{{"sha256":"{digest}"}}}}"#, quoted(&file.object))
        };
        let entry = |file: &File| {
            format!(
                r#"{{"path":{},"mode":"{}","size":{},"object":{},"header":"{}"}}"#,
                quoted(&file.path),
                if file.executable { "0755" } else { "0644" },
                file.plain.len(),
                quoted(&file.object),
                base64(&file.header),
            )
        };
        let join = |member: &dyn Fn(&File) -> String| {
            self.files.iter().map(member).collect::<Vec<_>>().join(",")
        };
        let (id, subjects, files) = (&self.id, join(&subject), join(&entry));
        format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{subjects}],"predicateType":"urn:sealift:bundle:v1","predicate":{{"format":"sealift/v1","bundleId":"{id}","name":"{MODEL}","generation":3,"cipher":"AES256_GCM_HKDF_1MB","created":"2026-11-22T07:20:50Z","files":[{files}]}}}}"#
        )
    }

    /// The key under which the manifest is signed.
    pub(crate) fn mac_key(&self) -> Vec<u8> {
        hkdf(&self.dek, b"", format!("sealift/v1 manifest\n{}", self.id).as_bytes())
    }
}

/// One vector in the making: a bundle, and who opens it how. What is `None` follows from the bundle.
pub(crate) struct Case {
    pub(crate) bundle: Bundle,
    pub(crate) resource: String,
    /// What the broker releases.
    pub(crate) key: Vec<u8>,
    pub(crate) demand: Value,
    pub(crate) manifest: Option<Vec<u8>>,
    pub(crate) signature: Option<Vec<u8>>,
    /// The envelope's signatures, as JSON.
    pub(crate) signatures: Option<String>,
    pub(crate) document: Option<Vec<u8>>,
    /// An object in the place of `sealift.json`.
    pub(crate) replaced: Option<Object>,
    /// An object that the manifest does not name.
    pub(crate) stray: Option<Object>,
    pub(crate) nothing_stored: bool,
}

impl Case {
    pub(crate) fn new(bundle: Bundle) -> Self {
        Self {
            bundle,
            resource: resource("a"),
            key: jwk("a").to_string().into_bytes(),
            demand: json!({}),
            manifest: None,
            signature: None,
            signatures: None,
            document: None,
            replaced: None,
            stray: None,
            nothing_stored: false,
        }
    }

    pub(crate) fn dek(&self) -> [u8; 32] {
        self.bundle.dek
    }

    pub(crate) fn manifest(&self) -> Vec<u8> {
        self.manifest.clone().unwrap_or_else(|| self.bundle.manifest().into_bytes())
    }

    pub(crate) fn manifest_digest(&self) -> String {
        format!("sha256:{}", hex::encode(sha256(&self.manifest())))
    }

    /// Edits the manifest, which will be signed as edited.
    pub(crate) fn edit_manifest(&mut self, from: &str, to: &str) {
        self.manifest = Some(replace(text(&self.manifest()), from, to).into_bytes());
    }

    /// The same, and the signature stays that of the manifest as it was.
    pub(crate) fn forge_manifest(&mut self, from: &str, to: &str) {
        self.signature = Some(self.signature());
        self.edit_manifest(from, to);
    }

    pub(crate) fn signature(&self) -> Vec<u8> {
        let signed = pae(PAYLOAD_TYPE, &self.manifest());
        self.signature.clone().unwrap_or_else(|| hmac(&self.bundle.mac_key(), &signed))
    }

    /// The key holder's signature, as JSON.
    pub(crate) fn own_signature(&self) -> String {
        format!(r#"{{"keyid":"sealift-dek","sig":"{}"}}"#, base64(&self.signature()))
    }

    /// `sealift.json`.
    pub(crate) fn document(&self) -> Vec<u8> {
        if let Some(document) = &self.document {
            return document.clone();
        }
        let recipients: Vec<String> = self.bundle.recipients.iter().map(Recipient::json).collect();
        let recipients = recipients.join(",");
        let payload = base64(&self.manifest());
        let signatures = self.signatures.clone().unwrap_or_else(|| self.own_signature());
        let document = format!(
            r#"{{"format":"sealift/v1","recipients":[{recipients}],"envelope":{{"payload":"{payload}","payloadType":"{PAYLOAD_TYPE}","signatures":[{signatures}]}}}}"#
        );
        [document.as_bytes(), b"\n"].concat()
    }

    /// Edits `sealift.json` as it would have been written.
    pub(crate) fn edit_document(&mut self, from: &str, to: &str) {
        self.document = Some(replace(text(&self.document()), from, to).into_bytes());
    }

    /// A bundle of these files instead, each holding its own path.
    pub(crate) fn set_paths(&mut self, paths: &[&str]) {
        self.bundle.files.clear();
        for path in paths {
            self.bundle.add(path, path.as_bytes());
        }
    }
}

/// DSSE's pre-authentication encoding.
pub(crate) fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let (kind, bytes) = (payload_type.len(), payload.len());
    [format!("DSSEv1 {kind} {payload_type} {bytes} ").as_bytes(), payload].concat()
}

/// Replaces the one place where `from` stands.
pub(crate) fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} does not stand once in {text}");
    text.replace(from, to)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("not edited after it ceased to be text")
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
