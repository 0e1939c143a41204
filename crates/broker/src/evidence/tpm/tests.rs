//! Evidence as a TPM makes it, with a key of our own, and changed in every way.

use aws_lc_rs::digest::digest;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
};
use tempfile::TempDir;

use super::*;

const REPORT_DATA: ReportData = ReportData([0x5a; 48]);

/// A TPM with the PCRs 0, 8 and 23, which hold these bytes over and over.
const PCRS: [(usize, u8); 3] = [(0, 1), (8, 2), (23, 3)];

struct Attestation {
    magic: u32,
    kind: u16,
    extra_data: Vec<u8>,
    safe: u8,
    selections: Vec<u8>,
    digest: Vec<u8>,
    tail: Vec<u8>,
}

impl Attestation {
    fn genuine() -> Self {
        let values: Vec<u8> = PCRS.iter().flat_map(|(_, byte)| [*byte; 32]).collect();
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            extra_data: vec![0x5a; 32],
            safe: 1,
            selections: vec![0, 0, 0, 1, 0, 0x0b, 3, 1, 1, 0x80],
            digest: digest(&SHA256, &values).as_ref().to_vec(),
            tail: Vec::new(),
        }
    }

    fn message(&self) -> Vec<u8> {
        let sized =
            |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        [
            &self.magic.to_be_bytes()[..],
            &self.kind.to_be_bytes(),
            &sized(&[0, 0x0b, 9, 9]),
            &sized(&self.extra_data),
            &[0, 0, 0, 0, 0, 0, 0x30, 0x39, 0, 0, 0, 7, 0, 0, 0, 2, self.safe],
            &0x2019_1023_0016_3636_u64.to_be_bytes(),
            &self.selections,
            &sized(&self.digest),
            &self.tail,
        ]
        .concat()
    }
}

fn p256() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()
}

fn spki(key: &EcdsaKeyPair) -> Vec<u8> {
    key.public_key().as_der().unwrap().as_ref().to_vec()
}

fn ecdsa(key: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let signature = key.sign(&SystemRandom::new(), message).unwrap();
    let (r, s) = signature.as_ref().split_at(32);
    [&[0, 0x18, 0, 0x0b, 0, 32], r, &[0, 32], s].concat()
}

fn evidence(spki: &[u8], message: &[u8], signature: &[u8]) -> Value {
    let pcrs: Vec<String> = PCRS.iter().map(|(_, byte)| hex::encode([*byte; 32])).collect();
    json!({
        "tpm_quote": {
            "signature": STANDARD.encode(signature),
            "message": STANDARD.encode(message),
            "pcrs": pcrs,
        },
        "ak_public": STANDARD.encode(spki),
    })
}

fn pem(spki: &[u8]) -> String {
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(spki))
}

fn trusting(spkis: &[&[u8]]) -> [Arc<TrustedKeys>; 1] {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), spkis.iter().map(|spki| pem(spki)).collect::<String>()).unwrap();
    [Arc::new(TrustedKeys::read(file.path()).unwrap())]
}

/// What becomes of a genuine quote, signed, whose attestation was changed before.
fn verdict(change: impl FnOnce(&mut Attestation)) -> Result<Value, Refused> {
    let key = p256();
    let mut attestation = Attestation::genuine();
    change(&mut attestation);
    let message = attestation.message();
    let evidence = evidence(&spki(&key), &message, &ecdsa(&key, &message));
    verify(&evidence, &REPORT_DATA, &trusting(&[&spki(&p256()), &spki(&key)]))
}

#[test]
fn a_genuine_quote_has_upstreams_claims_and_the_tpms_state() {
    let mut claims = verdict(|_| ()).unwrap();
    let key = claims.as_object_mut().unwrap().remove("ak_public").unwrap();
    assert_eq!(STANDARD.decode(key.as_str().unwrap()).unwrap().len(), 91);
    let expected = json!({
        "pcr00": "01".repeat(32),
        "pcr08": "02".repeat(32),
        "pcr23": "03".repeat(32),
        "init_data": "02".repeat(32),
        "report_data": "5a".repeat(32),
        "clock_info": { "clock": 12345, "reset_count": 7, "restart_count": 2, "safe": true },
        "firmware_version": "2019102300163636",
    });
    assert_eq!(claims, expected);
}

#[test]
fn rsa_keys_sign_with_both_paddings_and_none_other_than_named() {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki = key.public_key().as_der().unwrap();
    let trusted = trusting(&[spki.as_ref()]);
    let message = Attestation::genuine().message();
    let sign = |padding| {
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(padding, &SystemRandom::new(), &message, &mut signature).unwrap();
        signature
    };
    let of = |algorithm: u8, signature: &[u8]| {
        let signature = [&[0, algorithm, 0, 0x0b, 1, 0], signature].concat();
        verify(&evidence(spki.as_ref(), &message, &signature), &REPORT_DATA, &trusted).map(drop)
    };
    let (ssa, pss) = (sign(&RSA_PKCS1_SHA256), sign(&RSA_PSS_SHA256));
    assert_eq!((of(0x14, &ssa), of(0x16, &pss)), (Ok(()), Ok(())));
    let wrong = Err(Refused::TpmSignature);
    assert_eq!((of(0x16, &ssa), of(0x14, &pss)), (wrong, wrong));
    let ecdsa = [&[0, 0x18, 0, 0x0b, 0, 32][..], &[1; 32], &[0, 32], &[1; 32]].concat();
    let mixed = evidence(spki.as_ref(), &message, &ecdsa);
    assert_eq!(verify(&mixed, &REPORT_DATA, &trusted), Err(Refused::TpmSignatureAlgorithm));
}

#[test]
fn each_wrong_field_has_its_own_reason() {
    let selecting = |bytes: &'static [u8]| verdict(move |of| of.selections = bytes.to_vec());
    for (verdict, reason) in [
        (verdict(|of| of.magic ^= 1), Refused::TpmMagic),
        (verdict(|of| of.kind = 0x8017), Refused::TpmType),
        (verdict(|of| of.extra_data[31] ^= 1), Refused::TpmReportData),
        (verdict(|of| of.extra_data.truncate(31)), Refused::TpmReportData),
        (verdict(|of| of.extra_data.push(0x5a)), Refused::TpmReportData),
        (verdict(|of| of.extra_data.clear()), Refused::TpmReportData),
        (verdict(|of| of.extra_data = vec![0; 67]), Refused::TpmQuoteFormat),
        (verdict(|of| of.safe = 2), Refused::TpmQuoteFormat),
        (verdict(|of| of.tail.push(0)), Refused::TpmQuoteFormat),
        (verdict(|of| of.digest[0] ^= 1), Refused::TpmPcrDigest),
        (verdict(|of| of.digest.clear()), Refused::TpmPcrDigest),
        // Of SHA-1, of another width, none, empty, two, a PCR fewer, a PCR more.
        (selecting(&[0, 0, 0, 1, 0, 4, 3, 1, 1, 0x80]), Refused::TpmPcrSelection),
        (selecting(&[0, 0, 0, 1, 0, 0x0b, 4, 1, 1, 0x80, 0]), Refused::TpmPcrSelection),
        (selecting(&[0, 0, 0, 0]), Refused::TpmPcrSelection),
        (selecting(&[0, 0, 0, 1, 0, 0x0b, 3, 0, 0, 0]), Refused::TpmPcrSelection),
        (selecting(&[0, 0, 0, 2, 0, 0x0b, 3, 1, 1, 0, 0, 4, 3, 1, 0, 0]), Refused::TpmPcrSelection),
        (selecting(&[0, 0, 0, 1, 0, 0x0b, 3, 1, 1, 0]), Refused::TpmPcrCount),
        (selecting(&[0, 0, 0, 1, 0, 0x0b, 3, 1, 3, 0x80]), Refused::TpmPcrCount),
    ] {
        assert_eq!(verdict, Err(reason));
    }
}

#[test]
fn only_listed_keys_count() {
    let (listed, other) = (p256(), p256());
    let message = Attestation::genuine().message();
    let trusted = trusting(&[&spki(&listed)]);
    let of = |key: &EcdsaKeyPair, signer: &EcdsaKeyPair| {
        let evidence = evidence(&spki(key), &message, &ecdsa(signer, &message));
        verify(&evidence, &REPORT_DATA, &trusted).map(drop)
    };
    assert_eq!(of(&listed, &listed), Ok(()));
    assert_eq!(of(&other, &other), Err(Refused::TpmAkUnknown));
    assert_eq!(of(&listed, &other), Err(Refused::TpmSignature));
}

/// Verifies evidence of three parts, each as given.
fn refused(parts: [&[u8]; 3], trusted: &[Arc<TrustedKeys>]) -> Option<Refused> {
    let [spki, message, signature] = parts;
    verify(&evidence(spki, message, signature), &REPORT_DATA, trusted).err()
}

#[test]
fn every_flipped_byte_and_every_truncation_is_refused() {
    let key = p256();
    let (spki, message) = (spki(&key), Attestation::genuine().message());
    let signature = ecdsa(&key, &message);
    let trusted = trusting(&[&spki]);
    let whole = [&spki[..], &message, &signature];
    assert_eq!(refused(whole, &trusted), None);
    for (index, part) in whole.iter().enumerate() {
        let expected: &[Refused] = match index {
            0 => &[Refused::TpmAkUnknown],
            1 => &[Refused::TpmSignature],
            _ => &[
                Refused::TpmSignature,
                Refused::TpmSignatureFormat,
                Refused::TpmSignatureAlgorithm,
            ],
        };
        let check = |changed: &[u8], how: &str| {
            let mut parts = whole;
            parts[index] = changed;
            let reason = refused(parts, &trusted);
            assert!(reason.is_some_and(|reason| expected.contains(&reason)), "{how}: {reason:?}");
        };
        for at in 0..part.len() {
            check(&part[..at], &format!("part {index} cut at {at}"));
            for bit in 0..8 {
                let mut changed = part.to_vec();
                changed[at] ^= 1 << bit;
                check(&changed, &format!("part {index}, byte {at}, bit {bit}"));
            }
        }
        check(&[part, &[0][..]].concat(), &format!("part {index} and a byte more"));
    }
}

#[test]
fn truncated_attestations_are_refused_even_if_they_are_signed() {
    let key = p256();
    let (spki, message) = (spki(&key), Attestation::genuine().message());
    let trusted = trusting(&[&spki]);
    for length in 0..message.len() {
        let cut = &message[..length];
        let reason = refused([&spki, cut, &ecdsa(&key, cut)], &trusted);
        assert_eq!(reason, Some(Refused::TpmQuoteFormat), "{length}");
    }
}

#[test]
fn evidence_of_another_shape_is_refused() {
    let key = p256();
    let message = Attestation::genuine().message();
    let good = evidence(&spki(&key), &message, &ecdsa(&key, &message));
    let trusted = trusting(&[&spki(&key)]);
    let with = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        verify(&changed, &REPORT_DATA, &trusted).unwrap_err()
    };
    for (pointer, value) in [
        ("", json!(null)),
        ("/tpm_quote", json!([])),
        ("/ak_public", json!("!")),
        ("/ak_public", json!("A".repeat(FIELD_CHARS_MAX + 4))),
        ("/tpm_quote/message", json!("A")),
        ("/tpm_quote/signature", json!(1)),
        ("/tpm_quote/pcrs", json!(vec!["00".repeat(32); 25])),
        ("/tpm_quote/pcrs/0", json!("00".repeat(31))),
        ("/tpm_quote/pcrs/0", json!("zz".repeat(32))),
    ] {
        assert_eq!(with(pointer, value), Refused::TpmFormat, "{pointer}");
    }
    assert_eq!(with("/tpm_quote/pcrs/2", json!("04".repeat(32))), Refused::TpmPcrDigest);
    assert_eq!(with("/tpm_quote/pcrs", json!([])), Refused::TpmPcrCount);
}

#[test]
fn a_list_of_keys_is_usable_as_a_whole_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.pem");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        TrustedKeys::read(&path).is_ok()
    };
    let good = pem(&spki(&p256()));
    assert!(read(&format!("for the first node\n{good}{good}")));
    assert!(!read(""));
    assert!(!read("nothing"));
    let p384 = "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAE";
    assert!(!read(&format!(
        "{good}-----BEGIN PUBLIC KEY-----\n{p384}\n-----END PUBLIC KEY-----\n"
    )));
    let mut off_curve = spki(&p256());
    off_curve[90] ^= 1;
    assert!(!read(&pem(&off_curve)));
    assert!(!read(&good.replace("-----END PUBLIC KEY-----\n", "")));
    assert!(TrustedKeys::read(&dir.path().join("absent")).is_err());
}

#[test]
fn the_list_is_read_anew_and_nothing_is_trusted_while_it_cannot_be() {
    let key = p256();
    let message = Attestation::genuine().message();
    let evidence = evidence(&spki(&key), &message, &ecdsa(&key, &message));
    let dir = TempDir::new().unwrap();
    let [first, second] = ["first.pem", "second.pem"].map(|name| dir.path().join(name));
    let list = |path: &PathBuf, text: &str| {
        let unfinished = dir.path().join("unfinished");
        std::fs::write(&unfinished, text).unwrap();
        std::fs::rename(unfinished, path).unwrap();
    };
    let (good, other) = (pem(&spki(&key)), pem(&spki(&p256())));
    list(&first, &good);
    assert!(Tpm::new(&[first.clone(), second.clone()]).is_err());
    list(&second, &other);
    let tpm = Tpm::new(&[first.clone(), second.clone()]).unwrap();
    let appraise = || tpm.appraise(&evidence, &REPORT_DATA, 0).map_err(|error| error.reason);
    appraise().unwrap();
    list(&first, &other);
    assert_eq!(appraise().unwrap_err(), Refused::TpmAkUnknown);
    list(&second, &good);
    appraise().unwrap();
    // One that cannot be used spoils all: who knows what was taken out of it.
    list(&first, "");
    assert_eq!(appraise().unwrap_err(), Refused::TpmTrust);
    std::fs::remove_file(&first).unwrap();
    assert_eq!(appraise().unwrap_err(), Refused::TpmTrust);
    list(&first, &other);
    appraise().unwrap();
}
