//! The attestation report, from upstream's JSON back to the bytes that AMD's firmware signed.
//!
//! Upstream's guests send the fields of `sev::firmware::guest::AttestationReport` (names and order
//! of the struct, byte strings as lists of numbers). The layout is that of AMD's "SEV Secure Nested
//! Paging Firmware ABI Specification" (56860), table 23. Reserved bytes are not sent; they are zero,
//! or the signature does not verify.

mod binary;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Line;

/// Bytes that the signature covers: all before it.
const SIGNED_BYTES: usize = 0x2a0;

/// A report, nothing of it verified.
#[derive(Debug, Deserialize)]
pub(in crate::evidence) struct Report {
    pub(super) version: u32,
    guest_svn: u32,
    pub(super) policy: u64,
    family_id: Bytes<16>,
    image_id: Bytes<16>,
    pub(super) vmpl: u32,
    pub(super) sig_algo: u32,
    current_tcb: Tcb,
    plat_info: u64,
    key_info: u32,
    pub(in crate::evidence) report_data: Bytes<64>,
    pub(in crate::evidence) measurement: Bytes<48>,
    pub(super) host_data: Bytes<32>,
    id_key_digest: Bytes<48>,
    author_key_digest: Bytes<48>,
    report_id: Bytes<32>,
    report_id_ma: Bytes<32>,
    pub(super) reported_tcb: Tcb,
    cpuid_fam_id: Option<u8>,
    cpuid_mod_id: Option<u8>,
    cpuid_step: Option<u8>,
    pub(super) chip_id: Bytes<64>,
    committed_tcb: Tcb,
    current: Version,
    committed: Version,
    launch_tcb: Tcb,
    // Guests with an older library do not know these.
    #[serde(default)]
    launch_mit_vector: Option<u64>,
    #[serde(default)]
    current_mit_vector: Option<u64>,
    signature: Signature,
}

/// Security version numbers of the firmware's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Tcb {
    /// From Turin on.
    #[serde(default)]
    pub(super) fmc: Option<u8>,
    pub(super) bootloader: u8,
    pub(super) tee: u8,
    pub(super) snp: u8,
    pub(super) microcode: u8,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Version {
    major: u8,
    minor: u8,
    build: u8,
}

/// Little endian, 72 bytes each, of which P-384 needs 48.
#[derive(Debug, Deserialize)]
struct Signature {
    r: Bytes<72>,
    s: Bytes<72>,
}

/// Exactly `N` bytes, sent as a list of numbers.
#[derive(Debug)]
pub(in crate::evidence) struct Bytes<const N: usize>(pub(in crate::evidence) [u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Bytes<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        bytes.try_into().map(Self).map_err(|bytes: Vec<u8>| {
            serde::de::Error::custom(format!("{} bytes where {N} belong", bytes.len()))
        })
    }
}

impl Tcb {
    fn bytes(&self, line: Line) -> [u8; 8] {
        match line {
            Line::Milan | Line::Genoa => {
                [self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode]
            }
            Line::Turin => {
                let fmc = self.fmc.unwrap_or(0);
                [fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode]
            }
        }
    }

    fn claims(&self) -> Value {
        json!({
            "fmc": self.fmc, "bootloader": self.bootloader, "tee": self.tee, "snp": self.snp,
            "microcode": self.microcode,
        })
    }
}

impl Version {
    fn bytes(self) -> [u8; 3] {
        [self.build, self.minor, self.major]
    }

    fn claims(self) -> Value {
        json!({ "major": self.major, "minor": self.minor, "build": self.build })
    }
}

impl Report {
    /// The line that the report itself names: from version 3 on, by CPUID. `None` in `Ok` is a
    /// version without it.
    pub(super) fn line(&self) -> Result<Option<Line>, String> {
        if self.version < 3 {
            return Ok(None);
        }
        match (self.cpuid_fam_id, self.cpuid_mod_id) {
            (Some(0x19), Some(0x00..=0x0f)) => Ok(Some(Line::Milan)),
            (Some(0x19), Some(0x10..=0x1f | 0xa0..=0xaf)) => Ok(Some(Line::Genoa)),
            (Some(0x1a), Some(0x00..=0x11)) => Ok(Some(Line::Turin)),
            other => Err(format!("family and model {other:?}")),
        }
    }

    /// Whether every field that is there has a place in the signed bytes of this version and line:
    /// others would become claims that nobody vouches for.
    pub(super) fn has_only_signed_fields(&self, line: Line) -> bool {
        let tcbs = [self.current_tcb, self.reported_tcb, self.committed_tcb, self.launch_tcb];
        let cpuid = [self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step];
        let mitigations = [self.launch_mit_vector, self.current_mit_vector];
        tcbs.iter().all(|tcb| tcb.fmc.is_some() == (line == Line::Turin))
            && cpuid.iter().all(|number| number.is_some() == (self.version >= 3))
            && mitigations.iter().all(|vector| vector.is_some() == (self.version >= 5))
    }

    /// Which key says it signed: 0 VCEK, 1 VLEK.
    pub(super) fn signing_key(&self) -> u32 {
        self.key_info >> 2 & 0b111
    }

    /// Whether the host may read the guest's memory.
    pub(super) fn debug_allowed(&self) -> bool {
        bit(self.policy, 19)
    }

    /// The signature as r ‖ s, big endian, 48 bytes each; `None` if a number is larger.
    pub(super) fn signature(&self) -> Option<[u8; 96]> {
        let mut fixed = [0; 96];
        for (half, number) in fixed.chunks_exact_mut(48).zip([&self.signature.r, &self.signature.s])
        {
            let (low, high) = number.0.split_at(48);
            if high.iter().any(|&byte| byte != 0) {
                return None;
            }
            half.copy_from_slice(low);
            half.reverse();
        }
        Some(fixed)
    }

    /// The bytes that the firmware signed, if it was a processor of this line.
    pub(super) fn signed(&self, line: Line) -> [u8; SIGNED_BYTES] {
        let mut bytes = [0; SIGNED_BYTES];
        let mut put = |at: usize, field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
        };
        put(0x00, &self.version.to_le_bytes());
        put(0x04, &self.guest_svn.to_le_bytes());
        put(0x08, &self.policy.to_le_bytes());
        put(0x10, &self.family_id.0);
        put(0x20, &self.image_id.0);
        put(0x30, &self.vmpl.to_le_bytes());
        put(0x34, &self.sig_algo.to_le_bytes());
        put(0x38, &self.current_tcb.bytes(line));
        put(0x40, &self.plat_info.to_le_bytes());
        put(0x48, &self.key_info.to_le_bytes());
        put(0x50, &self.report_data.0);
        put(0x90, &self.measurement.0);
        put(0xc0, &self.host_data.0);
        put(0xe0, &self.id_key_digest.0);
        put(0x110, &self.author_key_digest.0);
        put(0x140, &self.report_id.0);
        put(0x160, &self.report_id_ma.0);
        put(0x180, &self.reported_tcb.bytes(line));
        if self.version >= 3 {
            let cpuid = [self.cpuid_fam_id, self.cpuid_mod_id, self.cpuid_step];
            put(0x188, &cpuid.map(|number| number.unwrap_or(0)));
        }
        put(0x1a0, &self.chip_id.0);
        put(0x1e0, &self.committed_tcb.bytes(line));
        put(0x1e8, &self.current.bytes());
        put(0x1ec, &self.committed.bytes());
        put(0x1f0, &self.launch_tcb.bytes(line));
        if self.version >= 5 {
            put(0x1f8, &self.launch_mit_vector.unwrap_or(0).to_le_bytes());
            put(0x200, &self.current_mit_vector.unwrap_or(0).to_le_bytes());
        }
        bytes
    }

    /// What upstream's verifier makes of a report, by its names.
    pub(in crate::evidence) fn claims(&self, line: Line) -> Value {
        let policy = |at| bit(self.policy, at);
        let platform = |at| bit(self.plat_info, at);
        let [abi_minor, abi_major, ..] = self.policy.to_le_bytes();
        let (measurement, report_data) =
            (hex::encode(self.measurement.0), hex::encode(self.report_data.0));
        let host_data = hex::encode(self.host_data.0);
        let evidence = json!({
            "version": self.version,
            "guest_svn": self.guest_svn,
            "policy": {
                "abi_major": abi_major, "abi_minor": abi_minor, "smt_allowed": policy(16),
                "migrate_ma_allowed": policy(18), "debug_allowed": policy(19),
                "single_socket_required": policy(20), "cxl_allowed": policy(21),
                "mem_aes_256_xts": policy(22), "rapl_dis": policy(23),
                "ciphertext_hiding": policy(24), "page_swap_disabled": policy(25),
            },
            "family_id": hex::encode(self.family_id.0),
            "image_id": hex::encode(self.image_id.0),
            "vmpl": self.vmpl,
            "sig_algo": self.sig_algo,
            "current_tcb": self.current_tcb.claims(),
            "plat_info": {
                "smt_enabled": platform(0), "tsme_enabled": platform(1),
                "ecc_enabled": platform(2), "rapl_disabled": platform(3),
                "ciphertext_hiding_enabled": platform(4), "alias_check_complete": platform(5),
                "tio_enabled": platform(7),
            },
            "key_info": {
                "author_key_en": self.key_info & 1 != 0,
                "mask_chip_key": self.key_info & 2 != 0,
                "signing_key": self.signing_key(),
            },
            "measurement": measurement,
            "report_data": report_data,
            "host_data": host_data,
            "id_key_digest": hex::encode(self.id_key_digest.0),
            "author_key_digest": hex::encode(self.author_key_digest.0),
            "report_id": hex::encode(self.report_id.0),
            "report_id_ma": hex::encode(self.report_id_ma.0),
            "reported_tcb": self.reported_tcb.claims(),
            "cpu_id_fam_id": self.cpuid_fam_id,
            "cpu_id_mod_id": self.cpuid_mod_id,
            "cpu_id_step": self.cpuid_step,
            "chip_id": hex::encode(self.chip_id.0),
            "committed_tcb": self.committed_tcb.claims(),
            "current": self.current.claims(),
            "committed": self.committed.claims(),
            "launch_tcb": self.launch_tcb.claims(),
            "launch_mit_vector": self.launch_mit_vector,
            "current_mit_vector": self.current_mit_vector,
        });
        json!({
            "init_data": host_data,
            "report_data": report_data,
            "measurement": measurement,
            "policy_abi_major": abi_major,
            "policy_abi_minor": abi_minor,
            "policy_smt_allowed": policy(16),
            "policy_migrate_ma": policy(18),
            "policy_debug_allowed": policy(19),
            "policy_single_socket": policy(20),
            "reported_tcb_bootloader": self.reported_tcb.bootloader,
            "reported_tcb_tee": self.reported_tcb.tee,
            "reported_tcb_snp": self.reported_tcb.snp,
            "reported_tcb_microcode": self.reported_tcb.microcode,
            "platform_tsme_enabled": platform(1),
            "platform_smt_enabled": platform(0),
            "generation": line.name().to_lowercase(),
            "evidence": evidence,
        })
    }
}

fn bit(bits: u64, at: u32) -> bool {
    bits >> at & 1 != 0
}
