//! The messages of the KBS attestation protocol, version 0.4, as parsed and as hashed.
//!
//! Shapes follow upstream's clients; members that we do not name are ignored, and never hashed.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use seal::jwe::TeePublicKey;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

/// The version of the protocol spoken here, for messages. The last number may be any.
pub const VERSION: &str = "0.4.0";
/// Longest member of a `tee-pubkey`, in characters: the modulus of RSA-4096 has 683.
const KEY_MEMBER_CHARS_MAX: usize = 1024;

/// Whether a client speaks our version: exactly the 0.4 family.
pub(crate) fn speaks(version: &str) -> bool {
    version.strip_prefix("0.4.").is_some_and(|patch| {
        (1..=9).contains(&patch.len()) && patch.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// A kind of trusted execution environment that the protocol names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Tee(&'static str);

impl Tee {
    /// The development "TEE": its evidence proves nothing.
    pub const SAMPLE: Self = Self("sample");
    /// AMD SEV-SNP.
    pub const SNP: Self = Self("snp");
    /// Intel TDX.
    pub const TDX: Self = Self("tdx");
    /// AMD SEV-SNP on Azure: the paravisor's vTPM, vouched for by the processor.
    pub const AZ_SNP_VTPM: Self = Self("az-snp-vtpm");
    /// Intel TDX on Azure, likewise.
    pub const AZ_TDX_VTPM: Self = Self("az-tdx-vtpm");
    /// A TPM 2.0, of whatever machine.
    pub const TPM: Self = Self("tpm");
    /// Those that have a verifier here.
    pub const VERIFIED: [Self; 6] =
        [Self::SAMPLE, Self::SNP, Self::TDX, Self::AZ_SNP_VTPM, Self::AZ_TDX_VTPM, Self::TPM];

    /// All names of protocol 0.4.
    const ALL: [&str; 14] = [
        "az-snp-vtpm",
        "az-tdx-vtpm",
        "cca",
        "csv",
        "hygondcu",
        "nvidia",
        "nvidia-dpu",
        "sample",
        "sampledevice",
        "se",
        "sgx",
        "snp",
        "tdx",
        "tpm",
    ];

    /// Reads a name of the protocol; none other exists, so a `Tee` is fit to be a metric's label.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|&&known| known == name).map(|&known| Self(known))
    }

    /// The protocol's name.
    pub fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Tee {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::parse(&name).ok_or_else(|| serde::de::Error::custom("unknown tee"))
    }
}

/// Step 1: who asks. `extra-params` is only of use to TEEs that we do not verify.
#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    pub(crate) version: String,
    pub(crate) tee: String,
}

/// Step 2: the nonce, as its answer.
pub(crate) fn challenge(nonce: &str) -> Value {
    json!({ "nonce": nonce, "extra-params": "" })
}

/// Step 3: the evidence.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Attestation {
    #[serde(default)]
    pub(crate) init_data: Option<InitData>,
    pub(crate) runtime_data: RuntimeData,
    pub(crate) tee_evidence: TeeEvidence,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RuntimeData {
    pub(crate) nonce: String,
    pub(crate) tee_pubkey: serde_json::Map<String, Value>,
}

/// What the guest was configured with when it started, in its own words.
#[derive(Debug, Deserialize)]
pub(crate) struct InitData {
    pub(crate) format: String,
    pub(crate) body: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct TeeEvidence {
    pub(crate) primary_evidence: Value,
    #[serde(default)]
    pub(crate) additional_evidence: String,
}

/// A guest's public key: the members that are hashed, and the key that they make.
#[derive(Debug)]
pub(crate) struct GuestKey {
    members: BTreeMap<&'static str, String>,
    key: TeePublicKey,
}

impl GuestKey {
    /// Picks the members that belong to the key's type, and only them.
    pub(crate) fn from_jwk(jwk: &serde_json::Map<String, Value>) -> Result<Self, String> {
        let names: &[&str] = match jwk.get("kty").and_then(Value::as_str) {
            Some("EC") => &["alg", "crv", "kty", "x", "y"],
            Some("RSA") => &["alg", "e", "kty", "n"],
            _ => return Err("kty must be EC or RSA".to_owned()),
        };
        let mut members = BTreeMap::new();
        for &name in names {
            match jwk.get(name).and_then(Value::as_str) {
                Some(value) if value.len() <= KEY_MEMBER_CHARS_MAX => {
                    members.insert(name, value.to_owned());
                }
                _ => return Err(format!("{name} is missing or not a short string")),
            }
        }
        let key = TeePublicKey::from_jwk(&json!(members)).map_err(|error| error.to_string())?;
        Ok(Self { members, key })
    }

    /// Encrypts for the guest alone: a flattened JWE.
    pub(crate) fn encrypt(&self, plaintext: &[u8]) -> Result<Value, seal::Error> {
        self.key.encrypt(plaintext)
    }

    /// The JWK's members, sorted.
    pub(crate) fn members(&self) -> &BTreeMap<&'static str, String> {
        &self.members
    }

    /// RFC 7638: the base64url SHA-256 of the key's required members.
    pub(crate) fn thumbprint(&self) -> String {
        let required: BTreeMap<_, _> =
            self.members.iter().filter(|&(&name, _)| name != "alg").collect();
        URL_SAFE_NO_PAD.encode(digest(&SHA256, &canonical(&required)))
    }
}

/// What the primary evidence must carry: `SHA-384(JCS(runtime data))`, 48 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportData(pub [u8; 48]);

impl ReportData {
    /// The digest over exactly the members that the protocol names.
    pub(crate) fn of(nonce: &str, key: &GuestKey, additional_evidence: &str) -> Self {
        // In RFC 8785's order, which for these ASCII names is the order of their bytes.
        #[derive(Serialize)]
        #[serde(rename_all = "kebab-case")]
        struct Bound<'a> {
            additional_evidence: &'a str,
            nonce: &'a str,
            tee_pubkey: &'a BTreeMap<&'static str, String>,
        }
        let bound = Bound { additional_evidence, nonce, tee_pubkey: key.members() };
        let mut bytes = [0; 48];
        bytes.copy_from_slice(digest(&SHA384, &canonical(&bound)).as_ref());
        Self(bytes)
    }

    /// Padded with zeroes, or cut, to the field of a TEE.
    pub(crate) fn padded<const N: usize>(&self) -> [u8; N] {
        let mut field = [0; N];
        let length = N.min(self.0.len());
        field[..length].copy_from_slice(&self.0[..length]);
        field
    }

    /// Standard base64, as evidence carries it.
    pub(crate) fn base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

/// RFC 8785 for values of strings, maps and sorted structs: serde_json writes those as JCS asks
/// (short escapes, lower-case `\u00xx`, everything else as UTF-8).
fn canonical(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings under string keys always serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_04_family_is_spoken() {
        for version in ["0.4.0", "0.4.1", "0.4.10"] {
            assert!(speaks(version), "{version}");
        }
        for version in
            ["", "0.4", "0.4.", "0.3.0", "0.5.0", "1.4.0", "0.4.0-rc1", "0.4.0.0", "v0.4.0"]
        {
            assert!(!speaks(version), "{version}");
        }
    }

    #[test]
    fn canonical_json_escapes_as_rfc_8785_does() {
        // From RFC 8785 section 3.2.2.2.
        let text = "\u{20ac}$\u{f}\nA'B\"\\\\\"/";
        assert_eq!(canonical(&text), r#""€$\u000f\nA'B\"\\\\\"/""#.as_bytes());
        assert_eq!(canonical(&"\u{8}\u{c}\t\r\u{7f}"), "\"\\b\\f\\t\\r\u{7f}\"".as_bytes());
    }
}
