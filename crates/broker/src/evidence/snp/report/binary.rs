//! The report as AMD's firmware writes it, into the fields that upstream's JSON has.

use super::{Bytes, Line, Report, SIGNED_BYTES, Signature, Tcb, Version};

/// A whole report: what is signed, the signature, and zeroes.
const REPORT_BYTES: usize = 1184;
const NUMBER_BYTES: usize = 72;

impl Report {
    /// Reads a report; `None` if it is none. Every byte has a field, or has to be zero.
    pub(in crate::evidence) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REPORT_BYTES] = bytes.try_into().ok()?;
        let version = u32::from_le_bytes(at(bytes, 0x00));
        let [family, model, step] = at(bytes, 0x188).map(|byte| (version >= 3).then_some(byte));
        let mitigations = |from| (version >= 5).then(|| u64::from_le_bytes(at(bytes, from)));
        // Only from the version on that names its line has there been another layout.
        let line = if family == Some(0x1a) { Line::Turin } else { Line::Milan };
        let tcb = |from| Tcb::parse(at(bytes, from), line);
        let report = Self {
            version,
            guest_svn: u32::from_le_bytes(at(bytes, 0x04)),
            policy: u64::from_le_bytes(at(bytes, 0x08)),
            family_id: Bytes(at(bytes, 0x10)),
            image_id: Bytes(at(bytes, 0x20)),
            vmpl: u32::from_le_bytes(at(bytes, 0x30)),
            sig_algo: u32::from_le_bytes(at(bytes, 0x34)),
            current_tcb: tcb(0x38),
            plat_info: u64::from_le_bytes(at(bytes, 0x40)),
            key_info: u32::from_le_bytes(at(bytes, 0x48)),
            report_data: Bytes(at(bytes, 0x50)),
            measurement: Bytes(at(bytes, 0x90)),
            host_data: Bytes(at(bytes, 0xc0)),
            id_key_digest: Bytes(at(bytes, 0xe0)),
            author_key_digest: Bytes(at(bytes, 0x110)),
            report_id: Bytes(at(bytes, 0x140)),
            report_id_ma: Bytes(at(bytes, 0x160)),
            reported_tcb: tcb(0x180),
            cpuid_fam_id: family,
            cpuid_mod_id: model,
            cpuid_step: step,
            chip_id: Bytes(at(bytes, 0x1a0)),
            committed_tcb: tcb(0x1e0),
            current: Version::parse(at(bytes, 0x1e8)),
            committed: Version::parse(at(bytes, 0x1ec)),
            launch_tcb: tcb(0x1f0),
            launch_mit_vector: mitigations(0x1f8),
            current_mit_vector: mitigations(0x200),
            signature: Signature {
                r: Bytes(at(bytes, SIGNED_BYTES)),
                s: Bytes(at(bytes, SIGNED_BYTES + NUMBER_BYTES)),
            },
        };
        let rest = &bytes[SIGNED_BYTES + 2 * NUMBER_BYTES..];
        let whole = report.signed(line) == bytes[..SIGNED_BYTES] && rest.iter().all(|&b| b == 0);
        whole.then_some(report)
    }
}

impl Tcb {
    /// The other way of [`Tcb::bytes`].
    fn parse(bytes: [u8; 8], line: Line) -> Self {
        match (line, bytes) {
            (Line::Turin, [fmc, bootloader, tee, snp, _, _, _, microcode]) => {
                Self { fmc: Some(fmc), bootloader, tee, snp, microcode }
            }
            (_, [bootloader, tee, _, _, _, _, snp, microcode]) => {
                Self { fmc: None, bootloader, tee, snp, microcode }
            }
        }
    }
}

impl Version {
    /// The other way of [`Version::bytes`].
    fn parse([build, minor, major]: [u8; 3]) -> Self {
        Self { major, minor, build }
    }
}

fn at<const N: usize>(bytes: &[u8; REPORT_BYTES], from: usize) -> [u8; N] {
    bytes[from..from + N].try_into().expect("fields lie within the report")
}
