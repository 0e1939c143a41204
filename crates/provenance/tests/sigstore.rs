//! Keyless signatures: each thing that must hold is broken in turn, by services that do what they are
//! told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::Error;
use provenance::bundle::{Signature, Signed};
use provenance::trust::Trust;
use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use testkit::sigstore::{BEGIN, Flaw, LogKind, Request, SIGNED_AT, Sct, Sigstore};

const IDENTITY: &str = "release@example.com";
const PROVIDER: &str = "https://accounts.example.com";
const ENTRY: &str = "/verificationMaterial/tlogEntries/0";
const DAY: u64 = 86_400;

/// A statement about one file.
fn payload() -> String {
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let root: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&digest[at..at + 2], 16).unwrap()).collect();
    let mut hasher = provenance::digest::Hasher::new(provenance::digest::Algorithm::Sha256);
    hasher.update(&root);
    let root: String = hasher.finish().iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "m", "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false},
            "resources": [{"name": "a", "algorithm": "sha256", "digest": digest}],
        },
    })
    .to_string()
}

fn sign(sigstore: &Sigstore, request: &Request) -> Value {
    sigstore.sign(payload().as_bytes(), request).unwrap()
}

fn believing(root: &Value, identity: &str, provider: &str) -> Trust {
    let mut trust = Trust::default();
    trust.set_sigstore(root.to_string().as_bytes(), provider).unwrap();
    trust.add_identity(identity);
    trust
}

fn verify(bundle: &Value, trust: &Trust) -> Result<Signed, Error> {
    verify_bytes(bundle.to_string().as_bytes(), trust)
}

/// Long after the certificate's end, since the time is in the file.
fn verify_bytes(bundle: &[u8], trust: &Trust) -> Result<Signed, Error> {
    Signature::parse(bundle)?.verify(trust, UnixTime::now())
}

/// Whether what services make of `request` is refused, and for that reason.
fn refused(sigstore: &Sigstore, request: &Request, why: &str) {
    let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
    refused_by(&sign(sigstore, request), &trust, why);
}

fn refused_by(bundle: &Value, trust: &Trust, why: &str) {
    let error = verify(bundle, trust).expect_err(why).to_string();
    assert!(error.contains(why), "{error:?} is not {why:?}");
}

/// What a signature file may have: each kind of entry with each proof.
fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for kind in [LogKind::Dsse, LogKind::Intoto, LogKind::HashedRekord] {
        for (promise, proof, stamped_at) in [
            (true, true, None),
            (true, false, None),
            (true, true, Some(SIGNED_AT)),
            (false, true, Some(SIGNED_AT)),
        ] {
            requests.push(Request { kind, promise, proof, stamped_at, ..Request::default() });
        }
    }
    requests
}

#[test]
fn a_signature_holds_by_a_promise_by_a_proof_and_by_both() {
    for sigstore in [Sigstore::new().unwrap(), Sigstore::with_ed25519().unwrap()] {
        let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
        for request in requests() {
            let signed = verify(&sign(&sigstore, &request), &trust).unwrap();
            assert_eq!(signed.signer.to_string(), format!("keyless {IDENTITY} by {PROVIDER}"));
            assert_eq!(signed.statement.name(), "m");
        }
        // What model-signing's command line is given holds a trusted root.
        let config = json!({
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": sigstore.trusted_root(),
            "signingConfig": {},
        });
        let bundle = sign(&sigstore, &Request::default());
        assert!(verify(&bundle, &believing(&config, IDENTITY, PROVIDER)).is_ok());
    }
}

#[test]
fn only_this_name_by_this_provider_of_this_sigstore_is_believed() {
    let (sigstore, other) = (Sigstore::new().unwrap(), Sigstore::new().unwrap());
    let root = sigstore.trusted_root();
    let bundle = sign(&sigstore, &Request::default());
    for identity in ["release@example.org", "release", "", "RELEASE@example.com", "CN=", ".*"] {
        refused_by(&bundle, &believing(&root, identity, PROVIDER), "the signer is release@");
    }
    for provider in ["https://accounts.example.org", "https://accounts.example.com/", "", ".*"] {
        refused_by(&bundle, &believing(&root, IDENTITY, provider), "is vouched for by https");
    }
    let stranger = believing(&other.trusted_root(), IDENTITY, PROVIDER);
    refused_by(&bundle, &stranger, "certificate is refused");
    let nobody = Trust::default();
    refused_by(&bundle, &nobody, "signed with a keyless certificate");

    let uri = "https://github.com/example/model/.github/workflows/release.yml@refs/heads/main";
    let names = vec![SanType::URI(uri.try_into().unwrap())];
    let bundle = sign(&sigstore, &Request { names, ..Request::default() });
    assert!(verify(&bundle, &believing(&root, uri, PROVIDER)).is_ok());
    refused_by(&bundle, &believing(&root, IDENTITY, PROVIDER), "none of the identities");
    let names = vec![SanType::DnsName(IDENTITY.replace('@', ".").try_into().unwrap())];
    let bundle = sign(&sigstore, &Request { names, ..Request::default() });
    let dns = believing(&root, "release.example.com", PROVIDER);
    refused_by(&bundle, &dns, "none of the identities");

    let with = |provider, old_provider| Request { provider, old_provider, ..Request::default() };
    let trust = believing(&root, IDENTITY, PROVIDER);
    for request in [with(Some(PROVIDER), None), with(None, Some(PROVIDER))] {
        assert!(verify(&sign(&sigstore, &request), &trust).is_ok());
    }
    refused(&sigstore, &with(None, None), "names no identity provider");
    refused(&sigstore, &with(Some(PROVIDER), Some("https://x")), "two identity providers");
    refused(&sigstore, &with(Some("https://x"), Some(PROVIDER)), "two identity providers");
}

#[test]
fn the_certificate_is_for_signing_and_valid_when_it_was_used() {
    let sigstore = Sigstore::new().unwrap();
    let default = Request::default;
    let usages = vec![KeyUsagePurpose::KeyAgreement];
    refused(&sigstore, &Request { usages, ..default() }, "no digitalSignature");
    refused(&sigstore, &Request { usages: Vec::new(), ..default() }, "no digitalSignature");
    refused(&sigstore, &Request { extended: Vec::new(), ..default() }, "no codeSigning");
    let extended = vec![ExtendedKeyUsagePurpose::ServerAuth];
    refused(&sigstore, &Request { extended, ..default() }, "certificate is refused");

    for at in [BEGIN - 1, BEGIN + 601, BEGIN + DAY] {
        refused(&sigstore, &Request { logged_at: at, ..default() }, "certificate is refused");
    }
    for at in [BEGIN, BEGIN + 600] {
        let request = Request { logged_at: at, ..default() };
        let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
        assert!(verify(&sign(&sigstore, &request), &trust).is_ok());
    }
    // Every time that is there counts, not the one that fits.
    let stamped = |at| Request { stamped_at: Some(at), ..default() };
    refused(&sigstore, &stamped(BEGIN + DAY), "certificate is refused");
    let late = Request { logged_at: BEGIN + DAY, ..stamped(SIGNED_AT) };
    refused(&sigstore, &late, "certificate is refused");
    let old = Sigstore::flawed(Flaw::OldRoot).unwrap();
    refused(&old, &default(), "the root was not valid");
    for flaw in [Flaw::UnnamedTimestamps, Flaw::BroadTimestamps] {
        let flawed = Sigstore::flawed(flaw).unwrap();
        refused(&flawed, &stamped(SIGNED_AT), "is not for timestamps");
    }
    // Without a verified time there is none; what the file says of it alone is nothing.
    let timeless = Request { promise: false, ..default() };
    refused(&sigstore, &timeless, "time of signing is refused");
    let mut bundle = sign(&sigstore, &timeless);
    bundle.pointer_mut(ENTRY).unwrap()["integratedTime"] = SIGNED_AT.to_string().into();
    let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
    refused_by(&bundle, &trust, "time of signing is refused");
}

#[test]
fn the_certificate_was_logged_before_it_was_handed_out() {
    let sigstore = Sigstore::new().unwrap();
    for (sct, why) in [
        (Sct::None, "there is none"),
        (Sct::Twice, "more than one"),
        (Sct::Empty, "not of its form"),
        (Sct::Trailing, "not of its form"),
        (Sct::OtherKey, "signature does not hold"),
        (Sct::OtherIssuer, "signature does not hold"),
        (Sct::OtherCertificate, "signature does not hold"),
    ] {
        refused(&sigstore, &Request { sct, ..Request::default() }, why);
    }
    // A log whose key did not count yet, or any more.
    refused(&sigstore, &Request { sct_at: 1, ..Request::default() }, "no log of the trusted root");
}

#[test]
fn each_proof_that_is_there_must_hold() {
    let sigstore = Sigstore::new().unwrap();
    let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
    let request = Request { stamped_at: Some(SIGNED_AT), ..Request::default() };
    let good = sign(&sigstore, &request);
    assert!(verify(&good, &trust).is_ok());
    let other = sign(&sigstore, &request);
    let edited = |edit: &dyn Fn(&mut Value), why: &str| {
        let mut bundle = good.clone();
        edit(bundle.pointer_mut(ENTRY).unwrap());
        refused_by(&bundle, &trust, why);
    };
    let flipped = |value: &Value| {
        let mut bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        Value::from(STANDARD.encode(bytes))
    };
    let theirs = |name: &str| other.pointer(ENTRY).unwrap()[name].clone();

    // The promise: its signature, and all that it signs.
    edited(&|entry| entry["inclusionPromise"] = theirs("inclusionPromise"), "(SET) is refused");
    edited(&|entry| entry["logIndex"] = "1006".into(), "(SET) is refused");
    edited(
        &|entry| entry["integratedTime"] = (SIGNED_AT + 1).to_string().into(),
        "(SET) is refused",
    );
    edited(
        &|entry| drop(entry.as_object_mut().unwrap().remove("integratedTime")),
        "it has no time",
    );
    let promise = "/inclusionPromise/signedEntryTimestamp";
    edited(
        &|entry| entry.pointer_mut(promise).map(|set| *set = flipped(set)).unwrap(),
        "is refused",
    );

    // The proof: path, place, root, and the tree that the log signed.
    let proof = "inclusionProof";
    edited(
        &|entry| entry[proof]["hashes"][1] = flipped(&entry[proof]["hashes"][1]),
        "to another root",
    );
    edited(&|entry| drop(entry[proof]["hashes"].as_array_mut().unwrap().pop()), "to another root");
    edited(
        &|entry| {
            let hash = entry[proof]["hashes"][0].clone();
            entry[proof]["hashes"].as_array_mut().unwrap().push(hash);
        },
        "to another root",
    );
    edited(&|entry| entry[proof]["hashes"].as_array_mut().unwrap().swap(0, 1), "to another root");
    edited(&|entry| entry[proof]["logIndex"] = "4".into(), "to another root");
    edited(&|entry| entry[proof]["logIndex"] = "7".into(), "to another root");
    edited(&|entry| entry[proof]["treeSize"] = "6".into(), "another");
    edited(&|entry| entry[proof]["treeSize"] = "8".into(), "another");
    edited(
        &|entry| entry[proof]["rootHash"] = flipped(&entry[proof]["rootHash"]),
        "to another root",
    );
    edited(
        &|entry| entry[proof]["checkpoint"] = theirs(proof)["checkpoint"].clone(),
        "another tree",
    );
    edited(&|entry| entry[proof] = theirs(proof), "to another root");
    // A checkpoint that the log did sign, and over the right root, but of another size.
    let root = good.pointer(ENTRY).unwrap()[proof]["rootHash"].as_str().unwrap();
    let checkpoint = sigstore.checkpoint(8, &STANDARD.decode(root).unwrap()).unwrap();
    edited(
        &|entry| entry[proof]["checkpoint"]["envelope"] = checkpoint.as_str().into(),
        "another tree",
    );

    // The entry: another's, and another kind's.
    edited(&|entry| *entry = other.pointer(ENTRY).unwrap().clone(), "another signature");
    edited(&|entry| entry["canonicalizedBody"] = theirs("canonicalizedBody"), "is refused");
    edited(&|entry| entry["kindVersion"]["kind"] = "hashedrekord".into(), "unsupported kind");
    edited(&|entry| entry["kindVersion"]["version"] = "0.0.2".into(), "unsupported kind");
    edited(
        &|entry| entry["kindVersion"] = json!({"kind": "intoto", "version": "0.0.2"}),
        "malformed log entry",
    );
    edited(&|entry| entry["logId"]["keyId"] = STANDARD.encode([0; 32]).into(), "no log of the");
    edited(
        &|entry| {
            entry.as_object_mut().unwrap().remove("inclusionPromise");
            entry.as_object_mut().unwrap().remove(proof);
        },
        "neither promises nor proves",
    );
    let claimed = Request { claimed: Some("rekord"), ..request.clone() };
    refused(&sigstore, &claimed, "of another kind than it says");
    // The signature: a log takes up what anybody sends, and so does a timestamp authority.
    for kind in [LogKind::Dsse, LogKind::Intoto, LogKind::HashedRekord] {
        let forged = Request { forged: true, kind, ..request.clone() };
        refused(&sigstore, &forged, "the signature does not hold");
    }
    // The timestamp: one with another time in it, and another signature's.
    let place =
        "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp";
    let mut later = good.clone();
    let response = later.pointer_mut(place).unwrap();
    let mut bytes = STANDARD.decode(response.as_str().unwrap()).unwrap();
    let time = b"20250601000100Z";
    let at = bytes.windows(time.len()).position(|window| window == time).unwrap();
    bytes[at + 11] += 1;
    *response = STANDARD.encode(bytes).into();
    refused_by(&later, &trust, "its content is not what was signed");
    let stamped = Some(b"something else".to_vec());
    refused(&sigstore, &Request { stamped, ..request }, "it is for something else");
}

#[test]
fn a_checkpoint_is_signed_by_the_log_whoever_else_signs_it() {
    let sigstore = Sigstore::new().unwrap();
    let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
    let good = sign(&sigstore, &Request::default());
    let place = format!("{ENTRY}/inclusionProof/checkpoint/envelope");
    let text = good.pointer(&place).unwrap().as_str().unwrap().to_owned();
    let with = |text: String| {
        let mut bundle = good.clone();
        *bundle.pointer_mut(&place).unwrap() = text.into();
        verify(&bundle, &trust)
    };
    let (body, line) = text.rsplit_once("\n\n").unwrap();
    let witness = format!("\u{2014} witness.example.com {}\n", STANDARD.encode([9; 76]));
    assert!(with(format!("{text}{witness}")).is_ok());
    assert!(with(format!("{body}\n\n{witness}{line}")).is_ok());
    // By the log's key, says its hint.
    let (name, signature) = line.trim_end().rsplit_once(' ').unwrap();
    let mut signature = STANDARD.decode(signature).unwrap();
    *signature.last_mut().unwrap() ^= 1;
    let damaged = format!("{name} {}\n", STANDARD.encode(signature));
    for changed in [
        format!("{body}\n\n{witness}"),
        format!("{body}\n\n"),
        body.to_owned(),
        format!("{body}\n{line}"),
        format!("x{text}"),
        format!("{body}\nextension\n\n{line}"),
        text.replace("\u{2014}", "-"),
        text.replace("42", "43"),
        text.trim_end().to_owned(),
        format!("{text}\n"),
        format!("{text}{damaged}"),
        format!("{body}\n\n{damaged}"),
        String::new(),
    ] {
        assert!(with(changed.clone()).is_err(), "{changed}");
    }
}

#[test]
fn what_the_trusted_root_does_not_have_or_no_longer_counts_is_not_believed() {
    let sigstore = Sigstore::new().unwrap();
    let root = sigstore.trusted_root();
    let good = sign(&sigstore, &Request { stamped_at: Some(SIGNED_AT), ..Request::default() });
    let with = |edit: &dyn Fn(&mut Value), why: &str| {
        let mut root = root.clone();
        edit(&mut root);
        refused_by(&good, &believing(&root, IDENTITY, PROVIDER), why);
    };
    assert!(verify(&good, &believing(&root, IDENTITY, PROVIDER)).is_ok());
    let valid = |start: &str, end: &str| json!({"start": start, "end": end});
    let before = valid("2020-01-01T00:00:00Z", "2025-05-31T23:59:59.999Z");
    let after = valid("2025-06-01T00:01:01Z", "2030-01-01T00:00:00Z");
    let log = "no log of the trusted root";
    let authority = "no authority of the trusted root";
    for (list, why) in [
        ("tlogs", log),
        ("ctlogs", log),
        ("certificateAuthorities", authority),
        ("timestampAuthorities", authority),
    ] {
        with(&|root| root[list] = json!([]), why);
        with(&|root| drop(root.as_object_mut().unwrap().remove(list)), why);
        for window in [&before, &after] {
            with(
                &|root| match list {
                    "tlogs" | "ctlogs" => root[list][0]["publicKey"]["validFor"] = window.clone(),
                    _ => root[list][0]["validFor"] = window.clone(),
                },
                match list {
                    "timestampAuthorities" => "did not count then",
                    _ => why,
                },
            );
        }
    }
    // Another's key under the log's name, and the log's key under another name.
    for list in ["tlogs", "ctlogs"] {
        let key = &Sigstore::new().unwrap().trusted_root()[list][0]["publicKey"];
        with(&|root| root[list][0]["publicKey"] = key.clone(), "signature does not hold");
        with(&|root| root[list][0]["logId"]["keyId"] = STANDARD.encode([0; 32]).into(), log);
        with(&|root| root[list][0]["hashAlgorithm"] = "SHA2_512".into(), log);
    }
    // The same names, other roots.
    let chains = Sigstore::new().unwrap().trusted_root();
    with(
        &|root| root["certificateAuthorities"] = chains["certificateAuthorities"].clone(),
        "certificate is refused",
    );
    let place = "/timestampAuthorities/0/certChain/certificates/1";
    with(
        &|root| *root.pointer_mut(place).unwrap() = chains.pointer(place).unwrap().clone(),
        "certificate is refused",
    );
    // One that makes certificates makes no timestamps, and the reverse.
    with(&|root| root["timestampAuthorities"] = root["certificateAuthorities"].clone(), authority);
    with(
        &|root| root["certificateAuthorities"] = root["timestampAuthorities"].clone(),
        "certificate is refused",
    );
}

#[test]
fn a_trusted_root_of_another_form_is_refused() {
    let root = Sigstore::new().unwrap().trusted_root();
    let refused = |edit: &dyn Fn(&mut Value)| {
        let mut root = root.clone();
        edit(&mut root);
        let mut trust = Trust::default();
        let refused = trust.set_sigstore(root.to_string().as_bytes(), PROVIDER);
        assert!(refused.is_err() && trust.is_empty(), "{root}");
    };
    let edits: [&dyn Fn(&mut Value); 10] = [
        &|root| root["mediaType"] = "application/json".into(),
        &|root| drop(root.as_object_mut().unwrap().remove("mediaType")),
        &|root| *root = json!([]),
        &|root| root["tlogs"][0]["publicKey"]["rawBytes"] = "!".into(),
        &|root| drop(root["tlogs"][0]["publicKey"].as_object_mut().unwrap().remove("validFor")),
        &|root| root["ctlogs"][0]["publicKey"]["validFor"]["start"] = "yesterday".into(),
        &|root| root["certificateAuthorities"][0]["certChain"]["certificates"] = json!([]),
        &|root| {
            root["certificateAuthorities"][0]["certChain"]["certificates"][1]["rawBytes"] =
                "AA==".into()
        },
        &|root| root["tlogs"] = vec![root["tlogs"][0].clone(); 65].into(),
        &|root| {
            let chain = &mut root["certificateAuthorities"][0]["certChain"]["certificates"];
            *chain = vec![chain[0].clone(); 17].into();
        },
    ];
    edits.iter().for_each(|edit| refused(edit));
    let mut trust = Trust::default();
    assert!(trust.set_sigstore(&vec![b' '; (1 << 20) + 1], PROVIDER).is_err());
}

#[test]
fn several_entries_and_floods_are_refused() {
    let sigstore = Sigstore::new().unwrap();
    let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
    let good = sign(&sigstore, &Request { stamped_at: Some(SIGNED_AT), ..Request::default() });
    let edited = |place: &str, edit: &dyn Fn(&mut Value)| {
        let mut bundle = good.clone();
        edit(bundle.pointer_mut(place).unwrap());
        verify(&bundle, &trust).expect_err("must be refused")
    };
    let times =
        |number: usize| move |list: &mut Value| *list = vec![list[0].clone(); number].into();
    let entries = "/verificationMaterial/tlogEntries";
    let stamps = "/verificationMaterial/timestampVerificationData/rfc3161Timestamps";
    for number in [0, 2, 1000] {
        let refused = edited(entries, &times(number));
        assert!(matches!(refused, Error::Malformed { .. }), "{refused}");
    }
    assert!(matches!(edited(stamps, &times(9)), Error::Limit { .. }));
    let hashes = format!("{ENTRY}/inclusionProof/hashes");
    assert!(matches!(edited(&hashes, &times(64)), Error::Limit { .. }));
    let large =
        |bytes: usize| move |value: &mut Value| *value = STANDARD.encode(vec![0; bytes]).into();
    let place = format!("{ENTRY}/canonicalizedBody");
    assert!(matches!(edited(&place, &large((128 << 10) + 1)), Error::Limit { .. }));
    let place = "/verificationMaterial/certificate/rawBytes";
    assert!(matches!(edited(place, &large((16 << 10) + 1)), Error::Limit { .. }));
    let place = format!("{stamps}/0/signedTimestamp");
    assert!(matches!(edited(&place, &large((64 << 10) + 1)), Error::Limit { .. }));
    let place = format!("{ENTRY}/inclusionProof/checkpoint/envelope");
    assert!(matches!(edited(&place, &large(16 << 10)), Error::Limit { .. }));
    for number in ["-1", "01", "+1", "18446744073709551616", "", "1.0"] {
        for place in ["logIndex", "integratedTime", "inclusionProof/treeSize"] {
            edited(&format!("{ENTRY}/{place}"), &|value| *value = number.into());
        }
    }
    // Beyond what a time can be.
    edited(&format!("{ENTRY}/integratedTime"), &|value| *value = u64::MAX.to_string().into());
    // The two other kinds of material beside it.
    for (name, value) in [
        ("publicKey", json!({"hint": ""})),
        ("x509CertificateChain", json!({"certificates": []})),
        ("more", json!(1)),
    ] {
        edited("/verificationMaterial", &|material| material[name] = value.clone());
    }
}

/// No byte of the file decides anything that another proof does not hold: what is still accepted is the
/// same statement by the same signer.
#[test]
fn every_cut_is_refused_and_no_flipped_byte_changes_what_is_believed() {
    let sigstore = Sigstore::new().unwrap();
    let trust = believing(&sigstore.trusted_root(), IDENTITY, PROVIDER);
    let request = Request { stamped_at: Some(SIGNED_AT), ..Request::default() };
    let bytes = sign(&sigstore, &request).to_string().into_bytes();
    let good = verify_bytes(&bytes, &trust).unwrap();
    let mut accepted = 0;
    for at in 0..bytes.len() {
        assert!(verify_bytes(&bytes[..at], &trust).is_err(), "cut at {at}");
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 7);
        if let Ok(signed) = verify_bytes(&changed, &trust) {
            assert_eq!(signed.statement, good.statement, "byte {at}");
            assert_eq!(signed.signer, good.signer, "byte {at}");
            accepted += 1;
        }
    }
    // What nobody signs: a timestamp's own certificate and identifier, a name in the checkpoint's line.
    assert!(accepted < bytes.len() / 10, "{accepted} of {}", bytes.len());
}
