//! What Azure's paravisor (HCL) keeps in the vTPM's NV index 0x01400001: a header, the hardware's
//! report, and the runtime data that the report is for, which names the vTPM's attestation key.
//!
//! All numbers are little endian. Nothing of the header and of the request that follows the report
//! is signed; what has another value than known ones is refused nevertheless.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::super::{Refused, Rejection};

/// Longest report, in bytes: the NV index has 2600.
const REPORT_BYTES_MAX: usize = 8192;
const SIGNATURE: &[u8; 4] = b"HCLA";
const HEADER_BYTES: usize = 32;
/// An SNP report's length; the shorter TDREPORT is followed by zeroes.
const HARDWARE_BYTES: usize = 1184;
const REQUEST_BYTES: usize = 20;
/// IGVM_ATTEST_REQUEST of a certificate for the attestation key.
const REQUEST_TYPE: u32 = 2;
const REQUEST_VERSION: u32 = 1;
const HASH_SHA256: u32 = 1;
/// `kid` of the vTPM's attestation key.
const AK: &str = "HCLAkPub";
/// Longest number of a key, in characters of base64url: RSA-4096 has 683.
const NUMBER_CHARS_MAX: usize = 1024;

/// Which TEE's report is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Snp = 2,
    Tdx = 4,
}

/// A report of the paravisor, nothing of it verified.
#[derive(Debug)]
pub(super) struct Hcl<'a> {
    /// What the hardware said of this guest, 1184 bytes.
    pub(super) hardware: &'a [u8],
    runtime_data: &'a [u8],
}

/// The runtime data, as far as it is of use here.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RuntimeData {
    keys: Vec<Jwk>,
    #[serde(default)]
    user_data: String,
}

#[derive(Deserialize)]
struct Jwk {
    #[serde(default)]
    kid: String,
    #[serde(default)]
    kty: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
}

/// What the runtime data says, once the hardware's report is for it.
#[derive(Debug)]
pub(super) struct Vouched {
    ak: RsaPublicKeyComponents<Vec<u8>>,
    user_data: String,
}

impl<'a> Hcl<'a> {
    /// Reads a report with that kind of hardware report inside, to its last byte.
    pub(super) fn parse(bytes: &'a [u8], kind: Kind) -> Result<Self, Rejection> {
        let malformed = |why: &str| Refused::AzureReport.because(why);
        if bytes.len() > REPORT_BYTES_MAX {
            return Err(malformed("longer than any"));
        }
        let mut rest = bytes;
        let mut take = |count: usize| {
            let (taken, left) =
                rest.split_at_checked(count).ok_or_else(|| malformed("ends too early"))?;
            rest = left;
            Ok::<_, Rejection>(taken)
        };
        let header = take(HEADER_BYTES)?;
        let hardware = take(HARDWARE_BYTES)?;
        let [data_bytes, version, report_type, hash, runtime_bytes] = numbers(take(REQUEST_BYTES)?);
        let runtime_data = take(usize::try_from(runtime_bytes).unwrap_or(usize::MAX))?;
        let used = HEADER_BYTES + HARDWARE_BYTES + REQUEST_BYTES + runtime_data.len();

        let (signature, header) = header.split_at(SIGNATURE.len());
        let [header_version, report_bytes, request_type, status, reserved @ ..] =
            numbers::<7>(header);
        if signature != SIGNATURE {
            return Err(malformed("not of the paravisor"));
        }
        if !matches!(header_version, 1 | 2) || version != REQUEST_VERSION {
            return Err(malformed("of an unknown version"));
        }
        if (request_type, status, reserved) != (REQUEST_TYPE, 0, [0; 3]) {
            return Err(malformed("not of an attestation that succeeded"));
        }
        if report_type != kind as u32 {
            return Err(malformed("of another TEE"));
        }
        if hash != HASH_SHA256 {
            return Err(malformed("its hash is not SHA-256"));
        }
        let lengths = (usize::try_from(report_bytes), usize::try_from(data_bytes));
        if lengths != (Ok(used), Ok(REQUEST_BYTES + runtime_data.len())) {
            return Err(malformed("its lengths contradict each other"));
        }
        if rest.iter().any(|&byte| byte != 0) {
            return Err(malformed("something follows it"));
        }
        Ok(Self { hardware, runtime_data })
    }

    /// Believes the runtime data if it is what the hardware's report, by its report data, is for.
    pub(super) fn vouched(&self, report_data: &[u8; 64]) -> Result<Vouched, Rejection> {
        let (hash, rest) = report_data.split_at(32);
        if digest(&SHA256, self.runtime_data).as_ref() != hash || rest != [0; 32] {
            return Err(Refused::AzureRuntimeData.into());
        }
        let unusable = |error: &dyn std::fmt::Display| Refused::AzureKey.because(error);
        let RuntimeData { keys, user_data } =
            serde_json::from_slice(self.runtime_data).map_err(|error| unusable(&error))?;
        let mut found = keys.iter().filter(|key| key.kid == AK);
        let (Some(key), None) = (found.next(), found.next()) else {
            return Err(unusable(&format!("not exactly one {AK}")));
        };
        if key.kty != "RSA" || key.n.len().max(key.e.len()) > NUMBER_CHARS_MAX {
            return Err(unusable(&"not an RSA key, or too long"));
        }
        let number = |text| URL_SAFE_NO_PAD.decode(text).map_err(|error| unusable(&error));
        let ak = RsaPublicKeyComponents { n: number(&key.n)?, e: number(&key.e)? };
        Ok(Vouched { ak, user_data })
    }
}

impl Vouched {
    /// Whether the attestation key made this signature: RSASSA with SHA-256, without TPMT_SIGNATURE
    /// around it.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> Result<(), Refused> {
        self.ak
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            .map_err(|_| Refused::TpmSignature)
    }

    /// Whether the paravisor was given this when it asked the hardware: hex, padded with zeroes.
    pub(super) fn is_for(&self, data: &[u8; 64]) -> bool {
        self.user_data.eq_ignore_ascii_case(&hex::encode(data))
    }
}

/// `bytes` has exactly `N` of them.
fn numbers<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let (chunks, _) = bytes.as_chunks();
    std::array::from_fn(|index| u32::from_le_bytes(chunks[index]))
}
