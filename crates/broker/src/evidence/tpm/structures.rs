//! TPMS_ATTEST of a quote and TPMT_SIGNATURE: parsed to the last byte, or refused.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
    VerificationAlgorithm,
};

use super::Refused;
use super::trust::{Algorithm, TrustedKey};

/// TPM_GENERATED: begins what only a TPM signs with a restricted key.
const MAGIC: u32 = 0xff54_4347;
/// TPM_ST_ATTEST_QUOTE.
const TYPE_QUOTE: u16 = 0x8018;
// TPM_ALG.
const ALG_SHA256: u16 = 0x000b;
const ALG_RSASSA: u16 = 0x0014;
const ALG_RSAPSS: u16 = 0x0016;
const ALG_ECDSA: u16 = 0x0018;
/// TPM2B_NAME: the name's algorithm and a digest of at most 64 bytes.
const NAME_BYTES_MAX: usize = 66;
/// TPM2B_DATA: TPMT_HA, likewise.
const DATA_BYTES_MAX: usize = 66;
const DIGEST_BYTES_MAX: usize = 64;
/// RSA-4096.
const RSA_BYTES_MAX: usize = 512;
const P256_BYTES: usize = 32;

/// What is left of a structure, and the reason if it does not read on.
struct Reader<'a>(&'a [u8], Refused);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(self.1)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        self.take(N)?.try_into().map_err(|_| self.1)
    }

    fn u16(&mut self) -> Result<u16, Refused> {
        self.number().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Refused> {
        self.number().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Refused> {
        self.number().map(u64::from_be_bytes)
    }

    /// A TPM2B.
    fn sized(&mut self, bytes_max: usize) -> Result<&'a [u8], Refused> {
        match usize::from(self.u16()?) {
            bytes if bytes <= bytes_max => self.take(bytes),
            _ => Err(self.1),
        }
    }

    fn end(&self) -> Result<(), Refused> {
        if self.0.is_empty() { Ok(()) } else { Err(self.1) }
    }
}

/// TPMS_ATTEST with TPMS_QUOTE_INFO, less the signer's name: who signed is shown by the signature.
pub(in crate::evidence) struct Quote<'a> {
    pub(super) extra_data: &'a [u8],
    /// Milliseconds that this TPM has had power since it was last cleared.
    pub(super) clock: u64,
    pub(super) reset_count: u32,
    pub(super) restart_count: u32,
    /// Whether the clock has surely not gone back.
    pub(super) safe: bool,
    pub(super) firmware_version: u64,
    /// One bit for each quoted PCR, all of the SHA-256 bank.
    pub(super) pcrs: u32,
    pub(super) pcr_digest: &'a [u8],
}

impl<'a> Quote<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Refused> {
        let mut reader = Reader(message, Refused::TpmQuoteFormat);
        if reader.u32()? != MAGIC {
            return Err(Refused::TpmMagic);
        }
        if reader.u16()? != TYPE_QUOTE {
            return Err(Refused::TpmType);
        }
        reader.sized(NAME_BYTES_MAX)?;
        let quote = Self {
            extra_data: reader.sized(DATA_BYTES_MAX)?,
            clock: reader.u64()?,
            reset_count: reader.u32()?,
            restart_count: reader.u32()?,
            safe: match reader.number()? {
                [0] => false,
                [1] => true,
                _ => return Err(Refused::TpmQuoteFormat),
            },
            firmware_version: reader.u64()?,
            pcrs: selection(&mut reader)?,
            pcr_digest: reader.sized(DIGEST_BYTES_MAX)?,
        };
        reader.end()?;
        Ok(quote)
    }
}

/// TPML_PCR_SELECTION: one bank, of 24 PCRs, and some of them.
fn selection(reader: &mut Reader<'_>) -> Result<u32, Refused> {
    if reader.u32()? != 1 || reader.u16()? != ALG_SHA256 || reader.number()? != [3] {
        return Err(Refused::TpmPcrSelection);
    }
    let [first, second, third] = reader.number()?;
    match u32::from_le_bytes([first, second, third, 0]) {
        0 => Err(Refused::TpmPcrSelection),
        pcrs => Ok(pcrs),
    }
}

/// TPMT_SIGNATURE with SHA-256: the bytes as the cryptographic library takes them.
pub(super) enum Signature {
    Ecdsa(Vec<u8>),
    RsaSsa(Vec<u8>),
    RsaPss(Vec<u8>),
}

impl Signature {
    pub(super) fn parse(signature: &[u8]) -> Result<Self, Refused> {
        let mut reader = Reader(signature, Refused::TpmSignatureFormat);
        let (algorithm, hash) = (reader.u16()?, reader.u16()?);
        if hash != ALG_SHA256 {
            return Err(Refused::TpmSignatureAlgorithm);
        }
        let parsed = match algorithm {
            ALG_RSASSA => Self::RsaSsa(reader.sized(RSA_BYTES_MAX)?.to_vec()),
            ALG_RSAPSS => Self::RsaPss(reader.sized(RSA_BYTES_MAX)?.to_vec()),
            ALG_ECDSA => Self::Ecdsa(ecdsa(&mut reader)?),
            _ => return Err(Refused::TpmSignatureAlgorithm),
        };
        reader.end()?;
        Ok(parsed)
    }

    pub(super) fn verify(&self, key: &TrustedKey, message: &[u8]) -> Result<(), Refused> {
        let (algorithm, signature): (&dyn VerificationAlgorithm, _) = match (self, key.algorithm) {
            (Self::Ecdsa(signature), Algorithm::P256) => (&ECDSA_P256_SHA256_FIXED, signature),
            (Self::RsaSsa(signature), Algorithm::Rsa) => (&RSA_PKCS1_2048_8192_SHA256, signature),
            (Self::RsaPss(signature), Algorithm::Rsa) => (&RSA_PSS_2048_8192_SHA256, signature),
            _ => return Err(Refused::TpmSignatureAlgorithm),
        };
        algorithm.verify_sig(&key.bytes, message, signature).map_err(|_| Refused::TpmSignature)
    }
}

/// r and s, each of a fixed length: a TPM may leave out leading zeroes.
fn ecdsa(reader: &mut Reader<'_>) -> Result<Vec<u8>, Refused> {
    let mut fixed = Vec::with_capacity(2 * P256_BYTES);
    for _ in 0..2 {
        let number = reader.sized(P256_BYTES)?;
        fixed.resize(fixed.len() + P256_BYTES - number.len(), 0);
        fixed.extend(number);
    }
    Ok(fixed)
}
