//! An SNP report (SEV-SNP Firmware ABI, ATTESTATION_REPORT) and the certificate table that may come
//! with it (GHCB specification, "SNP Extended Guest Request"), in the JSON that upstream's verifier
//! reads: the `sev` crate's.
//!
//! Nothing is judged here but the form: the report's signature is over the bytes that the JSON's
//! reader puts together again.

use serde_json::{Value, json};

type Why = &'static str;

const REPORT_BYTES: usize = 0x4a0;
/// Most certificates in a table: the specification names four, and a revocation list.
const CERTIFICATES_MAX: usize = 16;
/// GUID, offset, length.
const ENTRY_BYTES: usize = 24;

/// The certificates that verifiers know, by GUID in the order of its text.
const KINDS: [([u8; 16], &str); 5] = [
    (0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae_u128.to_be_bytes(), "ARK"),
    (0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782_u128.to_be_bytes(), "ASK"),
    (0x63da_758d_e664_4564_adc5_f4b9_3be8_accd_u128.to_be_bytes(), "VCEK"),
    (0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1_u128.to_be_bytes(), "VLEK"),
    (0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea_u128.to_be_bytes(), "CRL"),
];

/// A report as `attestation_report`.
pub(super) fn report(bytes: &[u8]) -> Result<Value, Why> {
    let bytes: &[u8; REPORT_BYTES] =
        bytes.try_into().map_err(|_| "it has not the length of an SNP report, 1184 bytes")?;
    let at = |offset: usize, length: usize| &bytes[offset..offset + length];
    let u32_at =
        |offset: usize| at(offset, 4).iter().rev().fold(0_u32, |n, b| n << 8 | u32::from(*b));
    let u64_at =
        |offset: usize| at(offset, 8).iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b));
    let version_at = |offset: usize| {
        let [build, minor, major] = [bytes[offset], bytes[offset + 1], bytes[offset + 2]];
        json!({ "major": major, "minor": minor, "build": build })
    };
    let version = u32_at(0);
    let has_fmc = has_fmc(version, at(0x188, 3), at(0x1a0, 64))?;
    let tcb_at = |offset: usize| tcb(at(offset, 8), has_fmc);
    // Fields came with the report's versions.
    let cpuid_at = |offset: usize| (version >= 3).then_some(bytes[offset]);
    let mitigations_at = |offset: usize| (version >= 5).then(|| u64_at(offset));
    Ok(json!({
        "version": version,
        "guest_svn": u32_at(0x04),
        "policy": u64_at(0x08),
        "family_id": at(0x10, 16),
        "image_id": at(0x20, 16),
        "vmpl": u32_at(0x30),
        "sig_algo": u32_at(0x34),
        "current_tcb": tcb_at(0x38),
        "plat_info": u64_at(0x40),
        "key_info": u32_at(0x48),
        "report_data": at(0x50, 64),
        "measurement": at(0x90, 48),
        "host_data": at(0xc0, 32),
        "id_key_digest": at(0xe0, 48),
        "author_key_digest": at(0x110, 48),
        "report_id": at(0x140, 32),
        "report_id_ma": at(0x160, 32),
        "reported_tcb": tcb_at(0x180),
        "cpuid_fam_id": cpuid_at(0x188),
        "cpuid_mod_id": cpuid_at(0x189),
        "cpuid_step": cpuid_at(0x18a),
        "chip_id": at(0x1a0, 64),
        "committed_tcb": tcb_at(0x1e0),
        "current": version_at(0x1e8),
        "committed": version_at(0x1ec),
        "launch_tcb": tcb_at(0x1f0),
        "launch_mit_vector": mitigations_at(0x1f8),
        "current_mit_vector": mitigations_at(0x200),
        "signature": { "r": at(0x2a0, 72), "s": at(0x2e8, 72) },
    }))
}

/// Whether TCB versions have the form of Turin and later, which begins with the FMC's.
fn has_fmc(version: u32, cpuid: &[u8], chip_id: &[u8]) -> Result<bool, Why> {
    match (version, cpuid) {
        (0 | 1, _) => Err("the report is of a version before 2"),
        // Version 2 does not name the processor; Turin's chip IDs have eight bytes.
        (2, _) if chip_id.iter().all(|byte| *byte == 0) => {
            Err("a report of version 2 without chip ID does not tell the processor")
        }
        (2, _) => Ok(chip_id[8..].iter().all(|byte| *byte == 0)),
        (_, [0x19, ..]) => Ok(false),
        (_, [0x1a, ..]) => Ok(true),
        _ => Err("the report is of a processor that is not known to have SNP"),
    }
}

fn tcb(bytes: &[u8], has_fmc: bool) -> Value {
    let (fmc, bootloader, tee, snp) = if has_fmc {
        (Some(bytes[0]), bytes[1], bytes[2], bytes[3])
    } else {
        (None, bytes[0], bytes[1], bytes[6])
    };
    json!({ "fmc": fmc, "bootloader": bootloader, "tee": tee, "snp": snp, "microcode": bytes[7] })
}

/// A certificate table as `cert_chain`: null if there is none. Certificates of kinds that no
/// verifier knows are left out.
pub(super) fn certificates(table: &[u8]) -> Result<Value, Why> {
    let mut certificates = Vec::new();
    let (entries, _) = table.as_chunks::<ENTRY_BYTES>();
    for (index, entry) in entries.iter().enumerate() {
        let (guid, place) = entry.split_at(16);
        if guid == [0; 16] {
            return Ok(if certificates.is_empty() { Value::Null } else { json!(certificates) });
        }
        if index == CERTIFICATES_MAX {
            return Err("it has too many certificates");
        }
        let number =
            |at: usize| place[at..at + 4].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        let (offset, length) = (number(0), number(4));
        let data = offset.checked_add(length).and_then(|end| table.get(offset..end));
        let data = data.ok_or("a certificate lies outside the table")?;
        if let Some((_, kind)) = KINDS.iter().find(|(known, _)| known == guid) {
            certificates.push(json!({ "cert_type": kind, "data": data }));
        }
    }
    if table.is_empty() { Ok(Value::Null) } else { Err("its list has no end") }
}
