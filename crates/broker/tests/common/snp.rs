//! A maker of processors for tests: root, intermediates and chips of its own, certificates written
//! by hand, reports signed for any nonce. Only a broker that is given its root believes it.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA384,
};
use serde_json::{Value, json};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;

use super::NOW;

const DAY: u64 = 86_400;
/// How long all certificates are good, unless a test says otherwise.
pub const GOOD: (u64, u64) = (NOW - 1000 * DAY, NOW + 1000 * DAY);
pub const CHIP: [u8; 64] = [0xc7; 64];

/// The keys; made once for all tests of a program.
pub struct Maker {
    pub ark: RsaKeyPair,
    pub ask: RsaKeyPair,
    pub chip: EcdsaKeyPair,
}

pub fn maker() -> &'static Maker {
    static MAKER: OnceLock<Maker> = OnceLock::new();
    MAKER.get_or_init(Maker::new)
}

/// What a certificate says, to be changed by tests.
#[derive(Clone)]
pub struct Leaf {
    pub subject: &'static str,
    pub issuer: &'static str,
    pub product: &'static str,
    pub good: (u64, u64),
    pub chip: Option<Vec<u8>>,
    /// bootloader, tee, snp, microcode
    pub tcb: [u8; 4],
    pub fmc: Option<u8>,
}

impl Leaf {
    pub fn vcek() -> Self {
        Self {
            subject: "SEV-VCEK",
            issuer: "SEV-Milan",
            product: "Milan-B0",
            good: GOOD,
            chip: Some(CHIP.to_vec()),
            tcb: [4, 0, 24, 219],
            fmc: None,
        }
    }

    pub fn vlek() -> Self {
        let (subject, issuer) = ("SEV-VLEK", "SEV-VLEK-Milan");
        Self { subject, issuer, product: "Milan", chip: None, ..Self::vcek() }
    }
}

impl Maker {
    pub fn new() -> Self {
        let rsa = || RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let chip = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { ark: rsa(), ask: rsa(), chip }
    }

    pub fn ark_certificate(&self, line: &str) -> Vec<u8> {
        let name = format!("ARK-{line}");
        authority(&name, &self.ark, &name, &self.ark, GOOD, true)
    }

    /// An ASK (`SEV-Milan`) or ASVK (`SEV-VLEK-Milan`).
    pub fn intermediate(&self, subject: &str, good: (u64, u64)) -> Vec<u8> {
        let (_, line) = subject.rsplit_once('-').unwrap();
        authority(subject, &self.ask, &format!("ARK-{line}"), &self.ark, good, true)
    }

    /// The ARK's list of revoked serial numbers; all certificates here have 1.
    pub fn revocations(&self, good: (u64, u64), serials: &[u8], extensions: &[Vec<u8>]) -> Vec<u8> {
        let revoked = serials.iter().map(|serial| sequence(&[integer(&[*serial]), time(good.0)]));
        let revoked = sequence(&revoked.collect::<Vec<_>>());
        let signed = sequence(&[
            integer(&[1]),
            pss(),
            name("ARK-Milan"),
            time(good.0),
            time(good.1),
            if serials.is_empty() { Vec::new() } else { revoked },
            if extensions.is_empty() { Vec::new() } else { tlv(0xa0, &sequence(extensions)) },
        ]);
        sign(&self.ark, signed)
    }

    /// One that may not issue.
    pub fn powerless(&self, subject: &str) -> Vec<u8> {
        authority(subject, &self.ask, "ARK-Milan", &self.ark, GOOD, false)
    }

    pub fn leaf(&self, leaf: &Leaf) -> Vec<u8> {
        let level = |last: u8, value: u8| extension(&[1, 3, last], &integer(&[value]));
        let mut extensions = vec![extension(&[1, 2], &tlv(0x16, leaf.product.as_bytes()))];
        let [bootloader, tee, snp, microcode] = leaf.tcb;
        extensions.extend([
            level(1, bootloader),
            level(2, tee),
            level(3, snp),
            level(8, microcode),
        ]);
        extensions.extend(leaf.fmc.map(|fmc| level(9, fmc)));
        extensions.push(match &leaf.chip {
            Some(id) => extension(&[1, 4], id),
            None => extension(&[1, 5], &tlv(0x16, b"CN=cloud.test")),
        });
        let point = self.chip.public_key().as_ref();
        let key = sequence(&[
            sequence(&[oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), oid(&[0x2b, 0x81, 4, 0, 0x22])]),
            bits(point),
        ]);
        certificate(leaf.subject, &key, leaf.issuer, &self.ask, leaf.good, &extensions)
    }

    /// Signs what `change` makes of a good report for `report_data`, base64 of 48 bytes.
    pub fn report(&self, report_data: &[u8], change: impl FnOnce(&mut [u8])) -> Value {
        let bytes = self.report_bytes(report_data, change);
        // What upstream's guests send, by their own library.
        serde_json::to_value(AttestationReport::from_bytes(&bytes).unwrap()).unwrap()
    }

    /// The same as the firmware writes it.
    pub fn report_bytes(&self, report_data: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut bytes = [0; 1184];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0x00, &[3]);
        put(0x08, &0x3_001f_u64.to_le_bytes());
        put(0x34, &[1]);
        let tcb = [4, 0, 0, 0, 0, 0, 24, 219];
        for at in [0x38, 0x180, 0x1e0, 0x1f0] {
            put(at, &tcb);
        }
        put(0x50, report_data);
        put(0x90, &[0x3e; 48]);
        put(0x188, &[0x19, 1, 1]);
        put(0x1a0, &CHIP);
        change(&mut bytes);
        let signature = self.chip.sign(&SystemRandom::new(), &bytes[..0x2a0]).unwrap();
        for (at, number) in [0x2a0, 0x2a0 + 72].into_iter().zip(signature.as_ref().chunks(48)) {
            let little: Vec<_> = number.iter().rev().copied().collect();
            bytes[at..at + 48].copy_from_slice(&little);
        }
        bytes.to_vec()
    }
}

/// Upstream's `primary_evidence`.
pub fn evidence(report: Value, chain: &[(&str, Vec<u8>)]) -> Value {
    let entry = |(kind, der): &(&str, Vec<u8>)| json!({ "cert_type": kind, "data": der });
    json!({
        "attestation_report": report,
        "cert_chain": chain.iter().map(entry).collect::<Vec<_>>(),
    })
}

fn authority(
    subject: &str,
    key: &RsaKeyPair,
    issuer: &str,
    signer: &RsaKeyPair,
    good: (u64, u64),
    may_issue: bool,
) -> Vec<u8> {
    let spki = key.public_key().as_der().unwrap().as_ref().to_vec();
    let constraints = if may_issue { tlv(0x01, &[0xff]) } else { Vec::new() };
    let value = sequence(&[constraints]);
    let basic = sequence(&[oid(&[0x55, 0x1d, 0x13]), tlv(0x01, &[0xff]), tlv(0x04, &value)]);
    certificate(subject, &spki, issuer, signer, good, &[basic])
}

fn certificate(
    subject: &str,
    spki: &[u8],
    issuer: &str,
    signer: &RsaKeyPair,
    good: (u64, u64),
    extensions: &[Vec<u8>],
) -> Vec<u8> {
    let signed = sequence(&[
        tlv(0xa0, &integer(&[2])),
        integer(&[1]),
        pss(),
        name(issuer),
        sequence(&[time(good.0), time(good.1)]),
        name(subject),
        spki.to_vec(),
        tlv(0xa3, &sequence(extensions)),
    ]);
    sign(signer, signed)
}

fn sign(signer: &RsaKeyPair, signed: Vec<u8>) -> Vec<u8> {
    let mut signature = vec![0; signer.public_modulus_len()];
    signer.sign(&RSA_PSS_SHA384, &SystemRandom::new(), &signed, &mut signature).unwrap();
    sequence(&[signed, pss(), bits(&signature)])
}

fn name(text: &str) -> Vec<u8> {
    let common = sequence(&[oid(&[0x55, 4, 3]), tlv(0x0c, text.as_bytes())]);
    sequence(&[tlv(0x31, &common)])
}

/// RSASSA-PSS with SHA-384.
fn pss() -> Vec<u8> {
    let sha384 = sequence(&[oid(&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]), tlv(5, &[])]);
    let mgf1 = sequence(&[oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8]), sha384.clone()]);
    sequence(&[
        oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10]),
        sequence(&[tlv(0xa0, &sha384), tlv(0xa1, &mgf1), tlv(0xa2, &integer(&[48]))]),
    ])
}

/// Below 1.3.6.1.4.1.3704.
fn extension(below: &[u8], value: &[u8]) -> Vec<u8> {
    let id = oid(&[&[0x2b, 6, 1, 4, 1, 0x9c, 0x78], below].concat());
    sequence(&[id, tlv(0x04, value)])
}

/// UTCTime.
fn time(seconds: u64) -> Vec<u8> {
    let time = jiff::Timestamp::from_second(seconds.try_into().unwrap()).unwrap();
    tlv(0x17, time.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
}

fn integer(magnitude: &[u8]) -> Vec<u8> {
    let sign = if magnitude[0] & 0x80 != 0 { &[0][..] } else { &[] };
    tlv(0x02, &[sign, magnitude].concat())
}

pub fn oid(body: &[u8]) -> Vec<u8> {
    tlv(0x06, body)
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], bytes].concat())
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match u8::try_from(length) {
        Ok(short @ 0..0x80) => vec![tag, short],
        Ok(long) => vec![tag, 0x81, long],
        Err(_) => {
            let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
            vec![tag, 0x82, high, low]
        }
    };
    [head, content.to_vec()].concat()
}
