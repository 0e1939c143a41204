//! A maker of TDX platforms for tests: Intel's tree of certificates with keys of our own, and a
//! quote and collateral of a real platform, changed and signed again.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CustomExtension, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
};
use serde_json::{Value, json};
use x509_cert::Certificate;
use x509_cert::der::{Decode, pem};

use super::vectors::of_package;

/// The FMSPC of the real platform, whose description we sign again.
pub const FMSPC: &str = "b0c06f000000";

/// Where the TD's report begins in a quote, and the quoting enclave's.
const REPORT: usize = 48;
const AUTHENTICATION: usize = REPORT + 584;
const ENCLAVE: std::ops::Range<usize> =
    AUTHENTICATION + 4 + 128 + 6..AUTHENTICATION + 4 + 128 + 6 + 384;

pub struct Maker {
    root: CertifiedIssuer<'static, KeyPair>,
    platforms: CertifiedIssuer<'static, KeyPair>,
    signer: (KeyPair, String),
    platform: (KeyPair, String),
    attestation: EcdsaKeyPair,
}

impl Maker {
    pub fn new() -> Self {
        let key = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(authority("Test Root CA"), key()).unwrap();
        let platforms =
            CertifiedIssuer::signed_by(authority("Test PCK Platform CA"), key(), &root).unwrap();
        let (signer_key, platform_key) = (key(), key());
        let signer = params("Test TCB Signing").signed_by(&signer_key, &root).unwrap().pem();
        let mut platform = params("Test PCK");
        platform.custom_extensions = vec![CustomExtension::from_oid_content(
            &[1, 2, 840, 113_741, 1, 13, 1],
            description_of_the_platform(),
        )];
        let platform = platform.signed_by(&platform_key, &platforms).unwrap().pem();
        Self {
            signer: (signer_key, signer + &root.as_ref().pem()),
            platform: (platform_key, platform + &platforms.as_ref().pem() + &root.as_ref().pem()),
            attestation: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            root,
            platforms,
        }
    }

    pub fn root(&self) -> Vec<u8> {
        self.root.as_ref().der().to_vec()
    }

    /// Collateral that is good in 2027, with the platform's levels of TCB all of this status.
    pub fn collateral(&self, status: &str) -> Value {
        let real: Value =
            serde_json::from_slice(&of_package("dcap-qvl", "sample/tdx_quote_collateral.json"))
                .unwrap();
        let sign = |text: &str, change: &dyn Fn(&mut Value)| {
            let mut document: Value = serde_json::from_str(text).unwrap();
            document["issueDate"] = json!("2027-01-01T00:00:00Z");
            document["nextUpdate"] = json!("2027-01-31T00:00:00Z");
            change(&mut document);
            let text = document.to_string();
            let signature = hex::encode(sign(&self.signer.0, text.as_bytes()));
            (text, signature)
        };
        let (tcb_info, tcb_info_signature) = sign(real["tcb_info"].as_str().unwrap(), &|info| {
            info["tcbLevels"][0]["tcbStatus"] = json!(status);
            info["tcbLevels"][0]["advisoryIDs"] = json!(["TEST-SA-1"]);
        });
        let (qe_identity, qe_identity_signature) =
            sign(real["qe_identity"].as_str().unwrap(), &|_| {});
        let chain = &self.signer.1;
        json!({
            "pck_crl_issuer_chain": self.platform.1,
            "root_ca_crl": revocations(&self.root),
            "pck_crl": revocations(&self.platforms),
            "tcb_info_issuer_chain": chain, "tcb_info": tcb_info,
            "tcb_info_signature": tcb_info_signature,
            "qe_identity_issuer_chain": chain, "qe_identity": qe_identity,
            "qe_identity_signature": qe_identity_signature,
        })
    }

    /// Signs what `change` makes of a real TD's report for `report_data`: upstream's
    /// `primary_evidence`.
    pub fn evidence(&self, report_data: &[u8], change: impl FnOnce(&mut [u8])) -> Value {
        let real = of_package("dcap-qvl", "sample/tdx_quote");
        let mut quote = real[..AUTHENTICATION].to_vec();
        let report = &mut quote[REPORT..];
        report[520..].fill(0);
        report[520..520 + report_data.len()].copy_from_slice(report_data);
        change(report);
        let key = &self.attestation.public_key().as_ref()[1..];
        let mut enclave = real[ENCLAVE].to_vec();
        let bound = digest(&SHA256, &[key, &[0; 32]].concat());
        enclave[320..352].copy_from_slice(bound.as_ref());
        let chain = self.platform.1.as_bytes();
        let inner = [
            &enclave,
            &sign(&self.platform.0, &enclave)[..],
            &32_u16.to_le_bytes(),
            &[0; 32],
            &5_u16.to_le_bytes(),
            &length(chain),
            chain,
        ]
        .concat();
        let signature = self.attestation.sign(&SystemRandom::new(), &quote).unwrap();
        let outer =
            [signature.as_ref(), key, &6_u16.to_le_bytes(), &length(&inner), &inner].concat();
        quote.extend(length(&outer));
        quote.extend(outer);
        json!({ "cc_eventlog": null, "quote": STANDARD.encode(quote) })
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// An empty list, in hex.
fn revocations(issuer: &CertifiedIssuer<'_, KeyPair>) -> String {
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2027, 1, 1),
        next_update: rcgen::date_time_ymd(2027, 1, 31),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    hex::encode(list.signed_by(issuer).unwrap().der())
}

/// Intel's extension out of the real platform's certificate.
fn description_of_the_platform() -> Vec<u8> {
    let quote = of_package("dcap-qvl", "sample/tdx_quote");
    let (begin, end) = (&b"-----BEGIN CERTIFICATE-----"[..], &b"-----END CERTIFICATE-----"[..]);
    let find = |what: &[u8]| quote.windows(what.len()).position(|window| window == what).unwrap();
    let (_, der) = pem::decode_vec(&quote[find(begin)..find(end) + end.len()]).unwrap();
    let certificate = Certificate::from_der(&der).unwrap();
    let extensions = certificate.tbs_certificate().extensions().unwrap().clone();
    let found = extensions.iter().find(|one| one.extn_id.to_string() == "1.2.840.113741.1.13.1");
    found.unwrap().extn_value.as_bytes().to_vec()
}

/// r ‖ s.
fn sign(key: &KeyPair, message: &[u8]) -> Vec<u8> {
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der()).unwrap();
    key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_le_bytes()
}
