//! Who is believed, and what becomes of files that nobody should believe.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::Error;
use provenance::bundle::{SIGNATURE_BYTES_MAX, Signature, sign};
use provenance::digest::{Algorithm, Hasher};
use provenance::key::SigningKey;
use provenance::statement::{File, Method, RESOURCES_MAX, Statement, Task};
use provenance::trust::Trust;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, SanType, date_time_ymd,
};
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};

/// A publisher, with a key of its own.
struct Publisher {
    pair: KeyPair,
    key: SigningKey,
}

impl Publisher {
    fn new() -> Self {
        Self::on(&PKCS_ECDSA_P256_SHA256)
    }

    fn on(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let key = SigningKey::from_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { pair, key }
    }

    fn trust(&self) -> Trust {
        let mut trust = Trust::default();
        trust.add_keys(self.pair.public_key_pem().as_bytes()).unwrap();
        trust
    }

    /// Signs any text as the payload, by none of our code.
    fn payload(&self, payload: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        let der = self.pair.serialize_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der).unwrap();
        let message = format!("DSSEv1 28 application/vnd.in-toto+json {} {payload}", payload.len());
        let sig = pair.sign(&random, message.as_bytes()).unwrap();
        let bundle = json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": self.key.public().fingerprint()}},
            "dsseEnvelope": {
                "payload": STANDARD.encode(payload),
                "payloadType": "application/vnd.in-toto+json",
                "signatures": [{"sig": STANDARD.encode(sig), "keyid": ""}],
            },
        });
        bundle.to_string().into_bytes()
    }

    /// Whether a payload that it really signed is refused; `tasks` for these files.
    fn read(&self, payload: &str, files: &[File<'_>]) -> Result<Vec<Task>, Error> {
        let signature = Signature::parse(&self.payload(payload))?;
        signature.verify(&self.trust(), now())?.statement.tasks(files, "model.sig")
    }
}

fn now() -> UnixTime {
    UnixTime::now()
}

const FILES: [File<'_>; 3] = [
    File { path: "a", bytes: 5 },
    File { path: "b/c", bytes: 2500 },
    File { path: "model.sig", bytes: 9 },
];

fn sha256(parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finish()
}

fn statement(method: Method, files: &[File<'_>]) -> Statement {
    let mut tasks = Statement::plan(method, files, "model.sig").unwrap();
    for task in &mut tasks {
        task.digest = sha256(&[format!("{task:?}").as_bytes()]);
    }
    Statement::new("m", method, Algorithm::Sha256, files, tasks, "model.sig")
}

/// A payload as Python writes it, to be edited.
fn payload(method: &Value, resources: &[(&str, &str)]) -> Value {
    let digest = sha256(&[b""]);
    let digests: Vec<&[u8]> = resources.iter().map(|_| &*digest).collect();
    let resources: Vec<_> = resources
        .iter()
        .map(|(name, algorithm)| {
            json!({"name": name, "algorithm": algorithm, "digest": hex::encode(&digest)})
        })
        .collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": hex::encode(sha256(&digests))}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": method, "resources": resources},
    })
}

fn by_files() -> Value {
    json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false, "ignore_paths": [".git"]})
}

fn by_shards() -> Value {
    json!({"method": "shards", "hash_type": "sha256", "shard_size": 1000.0, "allow_symlinks": false})
}

#[test]
fn every_curve_signs_and_only_the_believed_key_counts() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ECDSA_P521_SHA512] {
        let (publisher, other) = (Publisher::on(algorithm), Publisher::on(algorithm));
        let made = statement(Method::Files, &FILES);
        let bytes = sign(&made, &publisher.key);
        let signature = Signature::parse(&bytes).unwrap();
        let signed = signature.verify(&publisher.trust(), now()).unwrap();
        assert_eq!(signed.statement, made);
        let fingerprint = publisher.key.public().fingerprint();
        assert_eq!(signed.signer.to_string(), format!("key sha256:{fingerprint}"));
        let refused = |trust: &Trust| signature.verify(trust, now()).unwrap_err();
        assert!(matches!(refused(&other.trust()), Error::UnknownKey(_)));
        assert!(matches!(refused(&Trust::default()), Error::OtherMaterial { .. }));

        // The hint chooses among the believed keys, and proves nothing.
        let mut document: Value = serde_json::from_slice(&bytes).unwrap();
        let mut with_hint = |hint: &str| {
            document["verificationMaterial"]["publicKey"]["hint"] = hint.into();
            Signature::parse(document.to_string().as_bytes()).unwrap()
        };
        let claimed = with_hint(other.key.public().fingerprint());
        assert!(matches!(claimed.verify(&other.trust(), now()), Err(Error::Forged)));
        assert!(matches!(claimed.verify(&publisher.trust(), now()), Err(Error::UnknownKey(_))));
        let unnamed = with_hint("");
        assert!(unnamed.verify(&publisher.trust(), now()).is_ok());
        assert!(matches!(unnamed.verify(&other.trust(), now()), Err(Error::UnknownKey(_))));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    let publisher = Publisher::new();
    let trust = publisher.trust();
    let bytes = sign(&statement(Method::Files, &FILES[..1]), &publisher.key);
    let holds = |bytes: &[u8]| {
        Signature::parse(bytes).and_then(|signature| signature.verify(&trust, now())).is_ok()
    };
    assert!(holds(&bytes));
    for at in 0..bytes.len() {
        assert!(!holds(&bytes[..at]), "cut at {at}");
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(!holds(&changed), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn a_signature_file_of_another_form_is_refused() {
    let publisher = Publisher::new();
    let bytes = sign(&statement(Method::Files, &FILES), &publisher.key);
    let good: Value = serde_json::from_slice(&bytes).unwrap();
    let refused = |edit: &dyn Fn(&mut Value)| {
        let mut document = good.clone();
        edit(&mut document);
        Signature::parse(document.to_string().as_bytes())
            .and_then(|signature| signature.verify(&publisher.trust(), now()))
            .expect_err("must be refused")
    };
    let material = "verificationMaterial";
    let edits: [&dyn Fn(&mut Value); 10] = [
        &|doc| doc[material] = json!({"certificate": {"rawBytes": ""}, "tlogEntries": []}),
        &|doc| doc["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.2+json".into(),
        &|doc| doc["more"] = 1.into(),
        &|doc| doc[material] = json!({}),
        &|doc| doc[material]["x509CertificateChain"] = json!({"certificates": []}),
        &|doc| doc[material]["publicKey"]["key"] = "".into(),
        &|doc| doc["dsseEnvelope"]["payloadType"] = "text/plain".into(),
        &|doc| doc["dsseEnvelope"]["signatures"] = json!([]),
        &|doc| {
            let one = doc["dsseEnvelope"]["signatures"][0].clone();
            doc["dsseEnvelope"]["signatures"] = json!([one, one]);
        },
        &|doc| *doc = json!([doc["mediaType"], doc[material], doc["dsseEnvelope"]]),
    ];
    edits.iter().for_each(|edit| drop(refused(edit)));
    let text = String::from_utf8(bytes.clone()).unwrap();
    let twice = text.replacen("{", r#"{"mediaType":"x","#, 1);
    assert!(matches!(Signature::parse(twice.as_bytes()), Err(Error::Malformed { .. })));
    let large = vec![b' '; SIGNATURE_BYTES_MAX + 1];
    assert!(matches!(Signature::parse(&large), Err(Error::Limit { .. })));
}

#[test]
fn a_statement_of_another_form_is_refused_though_it_is_signed() {
    let publisher = Publisher::new();
    let files = payload(&by_files(), &[("a", "sha256"), ("b/c", "sha256")]);
    assert!(publisher.read(&files.to_string(), &FILES).is_ok());
    let refused = |edit: &dyn Fn(&mut Value)| {
        let mut edited = files.clone();
        edit(&mut edited);
        publisher.read(&edited.to_string(), &FILES).expect_err("must be refused")
    };
    let edits: [&dyn Fn(&mut Value); 12] = [
        &|doc| doc["_type"] = "https://in-toto.io/Statement/v0.1".into(),
        &|doc| doc["predicateType"] = "https://model_signing/Digests/v0.1".into(),
        &|doc| doc["subject"] = json!([]),
        &|doc| doc["subject"][0]["digest"]["sha256"] = hex::encode(sha256(&[b"x"])).into(),
        &|doc| doc["predicate"]["serialization"]["method"] = "tensors".into(),
        &|doc| doc["predicate"]["serialization"]["hash_type"] = "md5".into(),
        &|doc| doc["predicate"]["serialization"]["method"] = "shards".into(),
        &|doc| doc["predicate"]["serialization"]["allow_symlinks"] = "no".into(),
        &|doc| doc["predicate"]["resources"] = json!([]),
        &|doc| doc["predicate"]["resources"][0]["algorithm"] = "blake3".into(),
        &|doc| doc["predicate"]["resources"][0]["digest"] = "00".into(),
        &|doc| doc["predicate"]["resources"][1] = doc["predicate"]["resources"][0].clone(),
    ];
    edits.iter().for_each(|edit| drop(refused(edit)));
    // What is not known is passed over, what stands twice is not.
    let text = files.to_string();
    let more = text.replacen(r#""name":"a""#, r#""name":"a","size":5"#, 1);
    assert!(publisher.read(&more, &FILES).is_ok());
    let twice = text.replacen(r#""name":"a""#, r#""name":"x","name":"a""#, 1);
    assert!(matches!(publisher.read(&twice, &FILES), Err(Error::Malformed { .. })));
}

#[test]
fn files_that_are_missing_additional_or_renamed_are_named() {
    let publisher = Publisher::new();
    let text = payload(&by_files(), &[("a", "sha256"), ("b/c", "sha256")]).to_string();
    let tasks = |paths: &[&str]| {
        let files: Vec<_> = paths.iter().map(|path| File { path, bytes: 1 }).collect();
        publisher.read(&text, &files)
    };
    assert_eq!(tasks(&["a", "b/c"]).unwrap().len(), 2);
    // What the signer left out may be there, whole folders too; nothing that only looks like it.
    assert!(tasks(&["a", "b/c", ".git", "model.sig"]).is_ok());
    assert!(tasks(&["a", "b/c", ".git/hooks/x"]).is_ok());
    for (paths, expected) in [
        (&["a"][..], "b/c was signed and is missing"),
        (&["a", "b/d"], "b/c was signed and is missing"),
        (&["a", "b/c", "b/d"], "b/d is there and was not signed"),
        (&["a", "b/c", ".gitx"], ".gitx is there and was not signed"),
        (&["a", "b/c", "x/.git"], "x/.git is there and was not signed"),
        (&["a", "b/c", "x/model.sig"], "x/model.sig is there and was not signed"),
    ] {
        assert_eq!(tasks(paths).unwrap_err().to_string(), expected);
    }
    // Nothing signs itself.
    let own = payload(&by_files(), &[("model.sig", "sha256")]).to_string();
    assert!(matches!(publisher.read(&own, &FILES), Err(Error::Missing { .. })));
    // A signer cannot leave everything out by the way that Python spells the root.
    let mut all = by_files();
    all["ignore_paths"] = json!([".", "", "/"]);
    let all = payload(&all, &[("a", "sha256")]).to_string();
    assert!(matches!(publisher.read(&all, &FILES), Err(Error::Extra { .. })));
}

#[test]
fn shards_cover_each_file_from_end_to_end() {
    let publisher = Publisher::new();
    let name = "sha256-sharded-1000";
    let tasks = |names: &[&str]| {
        let resources: Vec<_> = names.iter().map(|shard| (*shard, name)).collect();
        publisher.read(&payload(&by_shards(), &resources).to_string(), &FILES)
    };
    let all = ["a:0:5", "b/c:0:1000", "b/c:1000:2000", "b/c:2000:2500"];
    let ranges: Vec<_> = tasks(&all).unwrap().into_iter().map(|task| task.range).collect();
    assert_eq!(ranges, [0..5, 0..1000, 1000..2000, 2000..2500]);
    for left_out in 0..all.len() {
        let mut some = all.to_vec();
        some.remove(left_out);
        assert!(tasks(&some).is_err(), "without {left_out}");
    }
    for last in [
        "b/c:2000:2501",
        "b/c:2000:3000",
        "b/c:2000:2499",
        "b/c:1500:2500",
        "b/c:1000:2000",
        "b/c:2500:2500",
        "b/c:2000",
        "b/c:2000:2500:",
        "b/c:02000:2500",
        "b/c:2000:+2500",
        "b/c:2000:18446744073709551616",
        "2000:2500",
        "b/c:18446744073709551000:2500",
    ] {
        assert!(tasks(&[all[0], all[1], all[2], last]).is_err(), "{last}");
    }
    for size in [json!(0), json!(-1), json!(1.5), json!(1e300), json!("1000"), json!(null)] {
        let mut shards = by_shards();
        shards["shard_size"] = size.clone();
        assert!(
            publisher.read(&payload(&shards, &[("a:0:5", name)]).to_string(), &FILES).is_err(),
            "{size}"
        );
    }
    // What is made here is read here, and an empty file has no shard.
    let files = [FILES[0], FILES[1], File { path: "empty", bytes: 0 }];
    let made = statement(Method::Shards(1000), &files);
    let signature = Signature::parse(&sign(&made, &publisher.key)).unwrap();
    let read = signature.verify(&publisher.trust(), now()).unwrap().statement;
    assert_eq!(read, made);
    assert_eq!(read.tasks(&files, "model.sig").unwrap().len(), 4);
    assert_eq!(read.unsigned(&files, "model.sig"), 1);
    let colon = [File { path: "a:b", bytes: 1 }];
    assert!(Statement::plan(Method::Shards(1000), &colon, "model.sig").is_err());
    assert!(Statement::plan(Method::Files, &colon, "model.sig").is_ok());
}

#[test]
fn floods_are_refused() {
    let publisher = Publisher::new();
    let names: Vec<String> = (0..=RESOURCES_MAX).map(|i| i.to_string()).collect();
    let resources: Vec<_> = names.iter().map(|name| (name.as_str(), "sha256")).collect();
    let refused = publisher.read(&payload(&by_files(), &resources).to_string(), &FILES);
    assert!(matches!(refused, Err(Error::Limit { .. })));
    let mut ignoring = by_files();
    ignoring["ignore_paths"] = vec!["x"; 1025].into();
    let refused = publisher.read(&payload(&ignoring, &[("a", "sha256")]).to_string(), &FILES);
    assert!(matches!(refused, Err(Error::Limit { .. })));
    let bytes = sign(&statement(Method::Files, &FILES), &publisher.key);
    let mut document: Value = serde_json::from_slice(&bytes).unwrap();
    let chain = vec![json!({"rawBytes": ""}); 17];
    document["verificationMaterial"] = json!({"x509CertificateChain": {"certificates": chain}});
    let refused = Signature::parse(document.to_string().as_bytes());
    assert!(matches!(refused, Err(Error::Limit { .. })));
    let huge = [File { path: "a", bytes: u64::MAX }];
    assert!(matches!(Statement::plan(Method::Shards(1), &huge, "x"), Err(Error::Limit { .. })));
}

/// Changes a certificate before it is issued.
type Edit<'a> = &'a dyn Fn(&mut CertificateParams);

/// An authority whose certificates live from 2020 to 2040.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[test]
fn a_certificate_counts_while_it_is_valid_for_signing_and_for_whom_it_names() {
    let (root, other_root) = (authority(), authority());
    let publisher = Publisher::new();
    let bytes = sign(&statement(Method::Files, &FILES), &publisher.key);
    let with_certificate = |bytes: &[u8], holder: &KeyPair, edit: Edit<'_>| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "release");
        params.subject_alt_names = vec![
            SanType::Rfc822Name("release@example.com".try_into().unwrap()),
            SanType::URI("https://example.com/release".try_into().unwrap()),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) =
            (date_time_ymd(2025, 1, 1), date_time_ymd(2026, 1, 1));
        edit(&mut params);
        let leaf = params.signed_by(holder, &root).unwrap();
        let mut document: Value = serde_json::from_slice(bytes).unwrap();
        let chain = json!({"certificates": [{"rawBytes": STANDARD.encode(leaf.der())}]});
        document["verificationMaterial"] =
            json!({"x509CertificateChain": chain, "tlogEntries": []});
        Signature::parse(document.to_string().as_bytes()).unwrap()
    };
    let signed_with = |edit: Edit<'_>| with_certificate(&bytes, &publisher.pair, edit);
    let trust = |root: &CertifiedIssuer<'_, KeyPair>, identity: &str| {
        let mut trust = Trust::default();
        trust.add_authorities(root.pem().as_bytes()).unwrap();
        trust.add_identity(identity);
        trust
    };
    let at = |year: i32| {
        let seconds = date_time_ymd(year, 6, 1).unix_timestamp();
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.try_into().unwrap()))
    };
    let release = trust(&root, "release@example.com");
    let good = signed_with(&|_| {});
    let signed = good.verify(&release, at(2025)).unwrap();
    assert_eq!(signed.signer.to_string(), "certificate release@example.com");
    for identity in ["https://example.com/release", "CN=release"] {
        assert!(good.verify(&trust(&root, identity), at(2025)).is_ok(), "{identity}");
    }
    for identity in ["release@example.org", "release", "", "CN=releas", "RELEASE@example.com"] {
        let refused = good.verify(&trust(&root, identity), at(2025));
        assert!(matches!(refused, Err(Error::Identity { .. })), "{identity}");
    }
    for year in [2024, 2026] {
        assert!(matches!(good.verify(&release, at(year)), Err(Error::Certificate(_))), "{year}");
    }
    let refused = good.verify(&trust(&other_root, "release@example.com"), at(2025));
    assert!(matches!(refused, Err(Error::Certificate(_))));
    // The certificate of a believed signer beside somebody else's signature.
    let stranger = Publisher::new();
    let forged = sign(&statement(Method::Files, &FILES), &stranger.key);
    let forged = with_certificate(&forged, &publisher.pair, &|_| {}).verify(&release, at(2025));
    assert!(matches!(forged, Err(Error::Forged)));
    // A key of another kind is refused with its certificate, not as a fault of the command line.
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other_kind = with_certificate(&bytes, &ed25519, &|_| {}).verify(&release, at(2025));
    assert!(matches!(other_kind, Err(Error::Certificate(_))));
    // A key that is believed is no authority, whatever certificate it has.
    let refused = good.verify(&publisher.trust(), at(2025));
    assert!(matches!(refused, Err(Error::OtherMaterial { .. })));

    let code = ExtendedKeyUsagePurpose::CodeSigning;
    let tls = ExtendedKeyUsagePurpose::ServerAuth;
    let with_usages = |usages: &[KeyUsagePurpose], extended: &[ExtendedKeyUsagePurpose]| {
        signed_with(&|params| {
            params.key_usages = usages.to_vec();
            params.extended_key_usages = extended.to_vec();
        })
        .verify(&release, at(2025))
    };
    let digital = KeyUsagePurpose::DigitalSignature;
    assert!(with_usages(&[digital], std::slice::from_ref(&code)).is_ok());
    assert!(with_usages(&[], std::slice::from_ref(&code)).is_ok());
    for (usages, extended) in [
        (&[][..], &[][..]),
        (&[KeyUsagePurpose::KeyAgreement], &[]),
        (&[KeyUsagePurpose::KeyAgreement], &[code]),
        (&[digital], &[tls]),
    ] {
        let refused = with_usages(usages, extended);
        assert!(matches!(refused, Err(Error::Certificate(_))), "{usages:?}");
    }
    let authority = signed_with(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(authority.verify(&release, at(2025)), Err(Error::Certificate(_))));
}

#[test]
fn what_is_no_key_or_certificate_is_refused() {
    let mut trust = Trust::default();
    let publisher = Publisher::new();
    let rsa_like = "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n";
    for pem in ["", "x", rsa_like, &publisher.pair.serialize_pem(), authority().pem().as_str()] {
        assert!(trust.add_keys(pem.as_bytes()).is_err(), "{pem}");
    }
    for pem in ["", "x", &publisher.pair.public_key_pem()] {
        assert!(trust.add_authorities(pem.as_bytes()).is_err(), "{pem}");
    }
    for pem in ["", "x", &publisher.pair.public_key_pem()] {
        assert!(SigningKey::from_pem(pem.as_bytes()).is_err(), "{pem}");
    }
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    assert!(SigningKey::from_pem(ed25519.as_bytes()).is_err());
    assert!(trust.is_empty());
    let shown = format!("{:?}", publisher.key);
    assert!(shown.contains(publisher.key.public().fingerprint()) && shown.len() < 120, "{shown}");
}
