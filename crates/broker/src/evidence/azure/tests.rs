//! Evidence of real machines on Azure, whole and changed in every way.

use base64::engine::general_purpose::URL_SAFE;
use serde_json::json;

use super::super::snp::AmdRoots;
use super::super::tdx::intel_root;
use super::*;
use crate::evidence::vectors::of_folder;

/// A time at which the certificates of all vectors are good: 2026-06-20.
const NOW: u64 = 1_781_913_600;
/// Where a quote's nonce begins: after magic, type and the signer's name.
const NONCE_AT: usize = 4 + 2 + 2 + 34 + 2;

fn amd() -> AzureSnp {
    AzureSnp(Arc::new(Snp(AmdRoots::embedded())))
}

fn vector(file: &str) -> Option<Value> {
    of_folder(file).map(|bytes| serde_json::from_slice(&bytes).unwrap())
}

/// One that was made for a nonce and a key, as the protocol has them.
struct Bound {
    evidence: Evidence,
    report_data: ReportData,
}

impl Bound {
    fn read(file: &str) -> Option<Self> {
        let evidence = Evidence::of_snp(&vector(file)?).unwrap();
        let nonce = &evidence.message[NONCE_AT..NONCE_AT + 48];
        let report_data = ReportData(nonce.try_into().unwrap());
        Some(Self { evidence, report_data })
    }

    /// In the form that attesters send now.
    fn json(&self) -> Value {
        let Evidence { message, signature, pcrs, hcl_report, endorsement, binds_user_data } =
            &self.evidence;
        json!({
            "version": if *binds_user_data { 2 } else { 1 },
            "tpm_quote": {
                "message": hex::encode(message), "signature": hex::encode(signature),
                "pcrs": pcrs.iter().map(hex::encode).collect::<Vec<_>>(),
            },
            "hcl_report": URL_SAFE.encode(hcl_report), "vcek": URL_SAFE.encode(endorsement),
        })
    }

    fn verdict(&self) -> Result<Verified, Refused> {
        amd().appraise(&self.json(), &self.report_data, NOW).map_err(|rejection| rejection.reason)
    }
}

fn refused<T: std::fmt::Debug>(found: Result<T, Rejection>) -> Refused {
    found.unwrap_err().reason
}

#[test]
fn real_evidence_is_genuine_and_for_nobody_else() {
    for (file, pcr) in [("evidence-v2.json", 0), ("evidence-genoa.json", 11)] {
        let file = format!("az-snp-vtpm/{file}");
        let (Some(bound), Some(sent)) = (Bound::read(&file), vector(&file)) else { return };
        let verified = amd().appraise(&sent, &bound.report_data, NOW).unwrap();
        let claims = &verified.claims;
        println!("{claims:#}");
        assert_eq!(claims["tpm"].as_object().unwrap().len(), 24);
        let quoted = hex::encode(bound.evidence.pcrs[pcr]);
        assert_eq!(claims["tpm"][format!("pcr{pcr:02}")], quoted);
        assert_eq!(claims["init_data"], claims["tpm"]["pcr08"]);
        assert_eq!(claims["report_data"], hex::encode(bound.report_data.0));
        assert_eq!(claims["policy_debug_allowed"], "false");
        let measurement = STANDARD.decode(claims["measurement"].as_str().unwrap()).unwrap();
        assert_eq!(measurement, bound.evidence.hcl_report[32 + 0x90..32 + 0xc0]);
        assert_eq!(verified.init_data, Some(InitDataDigest::Pcr(bound.evidence.pcrs[8])));

        let mut other = bound.report_data.clone();
        other.0[47] ^= 1;
        assert_eq!(refused(amd().appraise(&sent, &other, NOW)), Refused::TpmReportData);
        for years in [10, -10] {
            let then = NOW.saturating_add_signed(years * 31_557_600);
            let found = amd().appraise(&sent, &bound.report_data, then);
            assert_eq!(refused(found), Refused::SnpChainExpired);
        }
    }
    // Forms 0 and 1 of one machine are for a nonce of 9 bytes: all but that is as it should be.
    for file in ["evidence-v0.json", "evidence-v1.json"] {
        let sent = vector(&format!("az-snp-vtpm/{file}")).unwrap();
        let found = amd().appraise(&sent, &ReportData([7; 48]), NOW);
        assert_eq!(refused(found), Refused::TpmReportData, "{file}");
    }
}

#[test]
fn every_cut_and_every_changed_byte_is_refused() {
    for file in ["evidence-v2.json", "evidence-genoa.json"] {
        let Some(mut bound) = Bound::read(&format!("az-snp-vtpm/{file}")) else { return };
        bound.verdict().unwrap();
        let parts: [fn(&mut Evidence) -> &mut Vec<u8>; 4] = [
            |evidence| &mut evidence.message,
            |evidence| &mut evidence.signature,
            |evidence| &mut evidence.hcl_report,
            |evidence| &mut evidence.endorsement,
        ];
        for (index, part) in parts.into_iter().enumerate() {
            let good = part(&mut bound.evidence).clone();
            let mut verdict = |changed: &[u8]| {
                part(&mut bound.evidence).clone_from(&changed.to_vec());
                bound.verdict()
            };
            for at in 0..good.len() {
                let mut changed = good.clone();
                changed[at] ^= 1;
                assert!(verdict(&changed).is_err(), "{file}, part {index}, byte {at}");
            }
            // The paravisor's report ends in zeroes, however many.
            let end = good.iter().rposition(|&byte| byte != 0).unwrap() + 1;
            let used = if index == 2 { end } else { good.len() };
            for length in 0..used {
                assert!(verdict(&good[..length]).is_err(), "{file}, part {index} cut at {length}");
            }
            verdict(&[&good[..], &[1]].concat()).unwrap_err();
            verdict(&good).unwrap();
        }
        for pcr in 0..24 {
            bound.evidence.pcrs[pcr][31] ^= 1;
            assert_eq!(bound.verdict().unwrap_err(), Refused::TpmPcrDigest);
            bound.evidence.pcrs[pcr][31] ^= 1;
        }
        bound.evidence.pcrs.pop();
        assert_eq!(bound.verdict().unwrap_err(), Refused::TpmPcrCount);
    }
}

#[test]
fn each_part_is_bound_to_the_next() {
    let read = |file: &str| Bound::read(&format!("az-snp-vtpm/{file}"));
    let (Some(milan), Some(genoa)) = (read("evidence-v2.json"), read("evidence-genoa.json")) else {
        return;
    };
    let of_milan = |change: fn(&mut Evidence, &Evidence)| {
        let mut bound = read("evidence-v2.json").unwrap();
        change(&mut bound.evidence, &genoa.evidence);
        bound.verdict().unwrap_err()
    };
    // Another machine's VCEK, paravisor and quote; each is genuine.
    let vcek = of_milan(|one, other| one.endorsement.clone_from(&other.endorsement));
    assert!(matches!(vcek, Refused::SnpFormat | Refused::SnpProduct), "{vcek}");
    let paravisor = of_milan(|one, other| {
        one.hcl_report.clone_from(&other.hcl_report);
        one.endorsement.clone_from(&other.endorsement);
    });
    assert_eq!(paravisor, Refused::TpmSignature);
    let quote = of_milan(|one, other| {
        one.message.clone_from(&other.message);
        one.signature.clone_from(&other.signature);
        one.pcrs.clone_from(&other.pcrs);
    });
    assert_eq!(quote, Refused::TpmSignature);
    let runtime_data = of_milan(|one, other| {
        let end = 32 + 1184;
        let hardware = one.hcl_report[..end].to_vec();
        one.hcl_report = [&hardware[..], &other.hcl_report[end..]].concat();
        one.hcl_report[8..12].copy_from_slice(&other.hcl_report[8..12]);
    });
    assert_eq!(runtime_data, Refused::AzureRuntimeData);
    // The first machine's runtime data is for its quote's nonce, the other's is for none.
    let binding = |bound: &Bound| {
        let evidence = Evidence { binds_user_data: true, ..read_again(&bound.json()) };
        Bound { evidence, report_data: bound.report_data.clone() }.verdict().map(drop)
    };
    assert_eq!(binding(&milan), Ok(()));
    assert_eq!(binding(&genoa), Err(Refused::AzureUserData));
}

fn read_again(json: &Value) -> Evidence {
    Evidence::of_snp(json).unwrap()
}

#[test]
fn a_td_and_its_vtpm_are_bound_to_each_other() {
    for file in ["evidence-v0.json", "evidence-v1.json"] {
        let Some(sent) = vector(&format!("az-tdx-vtpm/{file}")) else { return };
        let evidence = Evidence::of_tdx(&sent).unwrap();
        let report_data = evidence.endorsement[48 + 520..48 + 584].try_into().unwrap();
        let bound = |report: &[u8]| Hcl::parse(report, Kind::Tdx)?.vouched(&report_data);
        let vouched = bound(&evidence.hcl_report).unwrap();
        vouched.has_signed(&evidence.message, &evidence.signature).unwrap();
        let (_, pcrs) = tpm::quoted(&evidence.message, b"challenge", &evidence.pcrs).unwrap();
        assert_eq!(pcrs.len(), 24);
        let other = tpm::quoted(&evidence.message, b"challenged", &evidence.pcrs);
        assert_eq!(other.err(), Some(Refused::TpmReportData));

        let end = evidence.hcl_report.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        for at in 0..evidence.hcl_report.len() {
            let mut changed = evidence.hcl_report.clone();
            changed[at] ^= 1;
            // The TDREPORT, which the quote stands for.
            assert_eq!(bound(&changed).is_ok(), (32..32 + 1184).contains(&at), "byte {at}");
            if at < end {
                assert!(bound(&evidence.hcl_report[..at]).is_err(), "{at} bytes");
            }
        }
        assert_eq!(refused(Hcl::parse(&evidence.hcl_report, Kind::Snp)), Refused::AzureReport);

        // No collateral of this platform is published with it.
        let dir = tempfile::tempdir().unwrap();
        let tdx = AzureTdx(Arc::new(Tdx::new(dir.path().to_owned(), intel_root()).unwrap()));
        let found = tdx.appraise(&sent, &ReportData([0; 48]), NOW);
        assert_eq!(refused(found), Refused::TdxCollateralMissing);
    }
}

#[test]
fn a_paravisors_report_is_read_to_its_last_byte() {
    let runtime_data =
        json!({ "keys": [{ "kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "AQ" }] });
    let runtime_data = runtime_data.to_string();
    let length = u32::try_from(runtime_data.len()).unwrap();
    let numbers =
        |numbers: &[u32]| numbers.iter().flat_map(|one| one.to_le_bytes()).collect::<Vec<_>>();
    let (header, request) = ([1, 1236 + length, 2, 0, 0, 0, 0], [20 + length, 1, 2, 1, length]);
    let mut good = [b"HCLA", &numbers(&header)[..], &[3; 1184], &numbers(&request)].concat();
    good.extend(runtime_data.as_bytes());
    let used = good.len();
    good.resize(2600, 0);
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, runtime_data.as_bytes());
    let mut report_data = [0; 64];
    report_data[..32].copy_from_slice(hash.as_ref());
    let read = |bytes: &[u8]| {
        let hcl = Hcl::parse(bytes, Kind::Snp)?;
        hcl.vouched(&report_data).map(|_| hcl.hardware.to_vec())
    };
    assert_eq!(read(&good).unwrap(), [3; 1184]);
    assert_eq!(read(&good[..used]).unwrap(), [3; 1184]);
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 4;
        match read(&changed) {
            // The hardware's report is not for this module to judge.
            Ok(hardware) => assert_eq!(hardware[at - 32], 7, "byte {at}"),
            Err(rejection) => {
                let inside = (1236..used).contains(&at);
                let expected =
                    if inside { Refused::AzureRuntimeData } else { Refused::AzureReport };
                assert_eq!(rejection.reason, expected, "byte {at}");
            }
        }
        if at < used {
            assert_eq!(refused(read(&good[..at])), Refused::AzureReport, "{at} bytes");
        }
    }
    assert_eq!(refused(read(&[&good[..], &[0; 6000]].concat())), Refused::AzureReport);
    report_data[63] = 1;
    let hcl = Hcl::parse(&good, Kind::Snp).unwrap();
    assert_eq!(refused(hcl.vouched(&report_data)), Refused::AzureRuntimeData);
}

#[test]
fn evidence_of_another_shape_is_refused() {
    let form = |evidence: &Value| refused(amd().appraise(evidence, &ReportData([0; 48]), NOW));
    let quote = json!({ "signature": "", "message": "", "pcrs": [] });
    let good = json!({ "version": 1, "tpm_quote": quote, "hcl_report": "", "vcek": "" });
    assert_eq!(form(&good), Refused::AzureReport, "its form is good");
    let numbers = json!({ "signature": [], "message": [], "pcrs": [] });
    for (name, bad) in [
        ("version", json!(0)),
        ("version", json!(3)),
        ("version", json!("1")),
        ("version", json!(null)),
        ("tpm_quote", json!(null)),
        ("tpm_quote", numbers.clone()),
        ("tpm_quote", json!({ "signature": "0", "message": "", "pcrs": [] })),
        ("tpm_quote", json!({ "signature": "", "message": "", "pcrs": vec!["00".repeat(32); 25] })),
        ("tpm_quote", json!({ "signature": "", "message": "", "pcrs": ["00"] })),
        ("hcl_report", json!("?")),
        ("hcl_report", json!("A".repeat(40_000))),
        ("vcek", json!(null)),
        ("vcek", json!("A")),
    ] {
        let mut changed = good.clone();
        changed[name] = bad;
        assert_eq!(form(&changed), Refused::AzureFormat, "{changed:.200}");
    }
    for bad in [
        json!(null),
        json!([1]),
        json!({}),
        json!({ "quote": numbers, "report": [], "vcek": "no PEM" }),
        json!({ "quote": { "signature": [], "message": [], "pcrs": [[1]] }, "report": [], "vcek": "" }),
    ] {
        assert_eq!(form(&bad), Refused::AzureFormat, "{bad}");
    }
}
