//! Azure's paravisor for tests: a vTPM with an attestation key and PCRs of our own, and the report
//! that says so.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::guest::rsa_numbers;

pub const SNP: u32 = 2;
pub const TDX: u32 = 4;

/// What the paravisor says, to be changed by tests.
pub struct Paravisor {
    pub ak: KeyPair,
    /// SubjectPublicKeyInfo of the key that it says is the AK.
    pub spki: Vec<u8>,
    pub pcrs: [[u8; 32]; 24],
    pub user_data: Vec<u8>,
    /// `kid` of the AK, and its type.
    pub kid: &'static str,
    pub kty: &'static str,
}

impl Paravisor {
    pub fn new() -> Self {
        let ak = KeyPair::generate(KeySize::Rsa2048).unwrap();
        Self {
            spki: ak.public_key().as_der().unwrap().as_ref().to_vec(),
            ak,
            pcrs: std::array::from_fn(|number| if number == 8 { [0; 32] } else { [0xab; 32] }),
            user_data: Vec::new(),
            kid: "HCLAkPub",
            kty: "RSA",
        }
    }

    /// The runtime data, as the paravisor writes it.
    pub fn runtime_data(&self) -> String {
        let [n, e] = rsa_numbers(&self.spki).map(|number| URL_SAFE_NO_PAD.encode(number));
        let mut user_data = self.user_data.clone();
        user_data.resize(64, 0);
        json!({
            "keys": [
                { "kid": self.kid, "key_ops": ["sign"], "kty": self.kty, "e": e, "n": n },
                { "kid": "HCLEkPub", "key_ops": ["encrypt"], "kty": "RSA", "e": e, "n": e },
            ],
            "vm-configuration": { "secure-boot": true, "tpm-enabled": true },
            "user-data": hex::encode_upper(user_data),
        })
        .to_string()
    }

    /// What the hardware's report has to be for.
    pub fn report_data(&self) -> Vec<u8> {
        digest(&SHA256, self.runtime_data().as_bytes()).as_ref().to_vec()
    }

    /// What is in the vTPM's NV index, with `hardware`'s report inside. Azure's has 2600 bytes; a
    /// software TPM has room for 2048.
    pub fn report(&self, kind: u32, hardware: &[u8]) -> Vec<u8> {
        let runtime_data = self.runtime_data();
        let length = u32::try_from(runtime_data.len()).unwrap();
        let mut hardware = hardware.to_vec();
        hardware.resize(1184, 0);
        let header = [2, 32 + 1184 + 20 + length, 2, 0, 0, 0, 0];
        let request = [20 + length, 1, kind, 1, length];
        let numbers = |numbers: &[u32]| -> Vec<u8> {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
        };
        let mut report = [b"HCLA", &numbers(&header)[..], &hardware, &numbers(&request)].concat();
        report.extend(runtime_data.as_bytes());
        report.resize(2000, 0);
        report
    }

    /// The vTPM's quote of all PCRs: TPMS_ATTEST.
    pub fn message(&self, nonce: &[u8]) -> Vec<u8> {
        let pcrs = digest(&SHA256, &self.pcrs.concat());
        let length = u16::try_from(nonce.len()).unwrap().to_be_bytes();
        let state = [0, 0, 0, 0, 0, 0, 0x30, 0x39, 0, 0, 0, 7, 0, 0, 0, 2, 1];
        [
            &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18, 0, 4, 0, 0x0b, 9, 9][..],
            &length,
            nonce,
            &state,
            &[0x20, 0x20, 3, 0x12, 0, 0x12, 0, 3],
            &[0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0xff, 0xff, 0, 32],
            pcrs.as_ref(),
        ]
        .concat()
    }

    /// Bare, not a TPMT_SIGNATURE.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.ak.public_modulus_len()];
        self.ak.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    }

    /// Upstream's evidence, forms 1 and 2: `name` is `vcek` or `td_quote`.
    pub fn evidence(
        &self,
        version: u32,
        nonce: &[u8],
        report: &[u8],
        (name, endorsement): (&str, &[u8]),
    ) -> Value {
        let message = self.message(nonce);
        json!({
            "version": version,
            "tpm_quote": {
                "signature": hex::encode(self.sign(&message)),
                "message": hex::encode(&message),
                "pcrs": self.pcrs.map(hex::encode),
            },
            "hcl_report": URL_SAFE.encode(report),
            name: URL_SAFE.encode(endorsement),
        })
    }
}
