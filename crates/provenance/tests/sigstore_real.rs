//! Real signatures of Sigstore's services, out of the packages that publish them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provenance::Error;
use provenance::bundle::Signature;
use provenance::trust::Trust;
use rustls_pki_types::UnixTime;
use serde_json::Value;
use testkit::packages::of_package;

const PRODUCTION: &str = "trusted_root.json";
const STAGING: &str = "trusted_root_staging.json";
const ACTIONS: &str = "https://token.actions.githubusercontent.com";
const GITHUB: &str = "https://github.com/login/oauth";

/// Signatures over other things than models, by Sigstore's public services: the file, whose they are,
/// and what proves them.
const REAL: [(&str, &str, &str, &str); 5] = [
    // Rekor 1, promise and proof.
    (
        "bundles/conda-attestation.sigstore.json",
        PRODUCTION,
        "https://github.com/prefix-dev/sigstore-example/.github/workflows/action.yaml@refs/heads/main",
        ACTIONS,
    ),
    // An older kind of entry, with and without a proof.
    (
        "bundles/sigstore.js@2.0.0-provenance.sigstore.json",
        PRODUCTION,
        "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main",
        ACTIONS,
    ),
    ("bundles/dsse.sigstore.json", PRODUCTION, "brian@dehamer.com", GITHUB),
    // Rekor 2, proof and timestamp.
    ("bundles/conda-attestation-rekor2.sigstore.json", STAGING, "jku@goto.fi", GITHUB),
    (
        "upstream/sigstore-python/a.dsse.staging-rekor-v2.txt.sigstore.json",
        STAGING,
        "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main",
        ACTIONS,
    ),
];

fn root(name: &str) -> Vec<u8> {
    of_package("sigstore-trust-root", &format!("src/{name}"))
}

/// As the newest form has it: one certificate, of the signer's.
fn bundle(name: &str) -> Value {
    let file = of_package("sigstore-verify", &format!("test_data/{name}"));
    let mut bundle: Value = serde_json::from_slice(&file).unwrap();
    bundle["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.3+json".into();
    let material = bundle["verificationMaterial"].as_object_mut().unwrap();
    if let Some(chain) = material.remove("x509CertificateChain") {
        material.insert("certificate".into(), chain["certificates"][0].clone());
    }
    bundle
}

fn verify(bundle: &Value, root: &[u8], identity: &str, provider: &str) -> Result<(), Error> {
    let mut trust = Trust::default();
    trust.set_sigstore(root, provider)?;
    trust.add_identity(identity);
    let signature = Signature::parse(bundle.to_string().as_bytes())?;
    signature.verify(&trust, UnixTime::now()).map(drop)
}

/// Everything holds, and what was signed is no model: statements are read last.
fn holds(result: &Result<(), Error>) -> bool {
    matches!(
        result,
        Err(Error::Unsupported { what: "predicate" | "statement", .. }
            | Error::Malformed { what: "statement", .. })
    )
}

#[test]
fn real_signatures_hold_for_whom_they_are_of() {
    for (name, of, identity, provider) in REAL {
        let (bundle, own) = (bundle(name), root(of));
        let result = verify(&bundle, &own, identity, provider);
        assert!(holds(&result), "{name}: {result:?}");
        let refused = verify(&bundle, &own, "release@example.com", provider);
        assert!(matches!(refused, Err(Error::Identity { .. })), "{name}: {refused:?}");
        let refused = verify(&bundle, &own, identity, "https://accounts.example.com");
        assert!(matches!(refused, Err(Error::Provider { .. })), "{name}: {refused:?}");
        for other in [PRODUCTION, STAGING, "trusted_root_github.json"] {
            let result = verify(&bundle, &root(other), identity, provider);
            assert_eq!(holds(&result), other == of, "{name} by {other}: {result:?}");
        }
    }
}

/// Each proof of a real signature, one byte flipped; and its envelope, payload and signature.
#[test]
fn a_flipped_byte_in_any_proof_of_a_real_signature_is_refused() {
    let entry = "/verificationMaterial/tlogEntries/0";
    let mut flips = 0;
    for (name, of, identity, provider) in REAL {
        let (bundle, root) = (bundle(name), root(of));
        assert!(holds(&verify(&bundle, &root, identity, provider)), "{name}");
        for place in [
            "/verificationMaterial/certificate/rawBytes",
            "/verificationMaterial/timestampVerificationData/rfc3161Timestamps/0/signedTimestamp",
            &format!("{entry}/canonicalizedBody"),
            &format!("{entry}/logId/keyId"),
            &format!("{entry}/inclusionPromise/signedEntryTimestamp"),
            &format!("{entry}/inclusionProof/rootHash"),
            &format!("{entry}/inclusionProof/hashes/0"),
            "/dsseEnvelope/payload",
            "/dsseEnvelope/signatures/0/sig",
        ] {
            let Some(value) = bundle.pointer(place) else { continue };
            let bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
            // The last byte of each is a signature's or a hash's.
            for at in [bytes.len() / 2, bytes.len() - 1] {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                let mut bundle = bundle.clone();
                *bundle.pointer_mut(place).unwrap() = STANDARD.encode(changed).into();
                let result = verify(&bundle, &root, identity, provider);
                let unsigned = place.contains("signedTimestamp") && at < bytes.len() - 1;
                assert!(unsigned || !holds(&result), "{name}: {place} at {at}");
                flips += 1;
            }
        }
        let place = format!("{entry}/inclusionProof/checkpoint/envelope");
        if let Some(text) = bundle.pointer(&place) {
            let changed = text.as_str().unwrap().replacen('\n', "\n1", 1);
            let mut bundle = bundle.clone();
            *bundle.pointer_mut(&place).unwrap() = changed.into();
            let result = verify(&bundle, &root, identity, provider);
            assert!(matches!(result, Err(Error::Proof { what: "checkpoint", .. })), "{name}");
        }
    }
    assert!(flips >= 70, "{flips}");
}
