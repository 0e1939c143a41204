//! What Python's `model-signing` wrote (`vectors/make.py`), verified here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use provenance::Error;
use provenance::bundle::{Signature, Signed};
use provenance::digest::Hasher;
use provenance::statement::File;
use provenance::trust::{Signer, Trust};
use rustls_pki_types::UnixTime;

fn vector(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    std::fs::read(folder.join(name)).unwrap()
}

/// What `make.py` signs, and what it leaves out.
fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (".gitattributes", b"left out".to_vec()),
        ("a-b/z", b"y".to_vec()),
        ("a/z", b"x".to_vec()),
        ("config.json", b"hello".to_vec()),
        ("empty", Vec::new()),
        ("model.sig", vec![0; 9]),
        ("w.bin", (0_u32..2500).map(|i| (i * i % 251).to_le_bytes()[0]).collect()),
    ]
}

fn believing(keys: &[&str]) -> Trust {
    let mut trust = Trust::default();
    keys.iter().for_each(|key| trust.add_keys(&vector(key)).unwrap());
    trust
}

fn check(signed: &Signed, model: &[(&str, Vec<u8>)]) -> Result<(), Error> {
    let files: Vec<_> =
        model.iter().map(|(path, content)| File { path, bytes: content.len() as u64 }).collect();
    for task in signed.statement.tasks(&files, "model.sig")? {
        let (path, content) = &model[task.file];
        let range =
            usize::try_from(task.range.start).unwrap()..usize::try_from(task.range.end).unwrap();
        let mut hasher = Hasher::new(signed.statement.algorithm());
        hasher.update(&content[range]);
        if hasher.finish() != task.digest {
            return Err(Error::Changed { path: (*path).to_owned() });
        }
    }
    Ok(())
}

#[test]
fn every_curve_hash_and_method_of_python_is_verified() {
    let all = believing(&["P-521.pub", "P-384.pub", "P-256.pub"]);
    for (name, key) in [
        ("P-256.sig", "P-256.pub"),
        ("P-384.sig", "P-384.pub"),
        ("P-521.sig", "P-521.pub"),
        ("files-blake2.sig", "P-256.pub"),
        ("files-blake3.sig", "P-256.pub"),
        ("shards-sha256.sig", "P-256.pub"),
    ] {
        let signature = Signature::parse(&vector(name)).unwrap();
        for trust in [&all, &believing(&[key])] {
            let signed = signature.verify(trust, UnixTime::now()).unwrap();
            assert!(matches!(signed.signer, Signer::Key(_)), "{name}");
            assert_eq!(signed.statement.name(), "model");
            check(&signed, &model()).unwrap_or_else(|error| panic!("{name}: {error}"));
            // One byte of each file in turn.
            for file in 0..model().len() {
                let mut changed = model();
                let (path, content) = &mut changed[file];
                let Some(byte) = content.last_mut() else { continue };
                *byte ^= 1;
                let left_out = ["model.sig", ".gitattributes"].contains(path);
                assert_eq!(
                    check(&signed, &changed).is_ok(),
                    left_out,
                    "{name}: {}",
                    changed[file].0
                );
            }
        }
        let others: Vec<_> = ["P-256.pub", "P-384.pub", "P-521.pub"]
            .into_iter()
            .filter(|other| *other != key)
            .collect();
        let refused = signature.verify(&believing(&others), UnixTime::now());
        assert!(matches!(refused, Err(Error::UnknownKey(_))), "{name}");
    }
}

#[test]
fn a_certificate_of_python_is_verified() {
    let mut trust = Trust::default();
    trust.add_authorities(&vector("root.pem")).unwrap();
    let signature = Signature::parse(&vector("certificate.sig")).unwrap();
    let now = UnixTime::now();
    let refused = signature.verify(&trust, now).unwrap_err();
    let Error::Identity { found } = &refused else { panic!("{refused}") };
    assert_eq!(found, "CN=release,O=Example or release@example.com");
    trust.add_identity("release@example.com");
    let signed = signature.verify(&trust, now).unwrap();
    assert_eq!(signed.signer.to_string(), "certificate release@example.com");
    check(&signed, &model()).unwrap();
}
