use serde_json::json;
use sev::firmware::guest::AttestationReport;
use sev::firmware::host::{CertTableEntry, CertType};
use sev::parser::ByteParser;

use super::*;
use crate::evidence::vectors::{of_folder, of_package};

/// A time at which all certificates of the vectors are good: 2025-06-20.
const NOW: u64 = 1_750_377_600;
const YEAR: u64 = 31_557_600;

fn amd() -> Snp {
    Snp(AmdRoots::embedded())
}

/// As upstream's guests serialise it, by their library.
fn evidence(report: &[u8], kind: CertType, certificate: &[u8]) -> Option<Value> {
    let report = AttestationReport::from_bytes(report).ok()?;
    let chain = [CertTableEntry { cert_type: kind, data: certificate.to_vec() }];
    Some(json!({ "attestation_report": report, "cert_chain": chain }))
}

fn milan_report() -> Vec<u8> {
    let text = of_package("sev", "tests/certs_data/report_milan.hex");
    hex::decode(text.trim_ascii()).unwrap()
}

fn milan_vcek() -> Vec<u8> {
    of_package("sev", "tests/certs_data/vcek_milan.der")
}

fn milan() -> Value {
    evidence(&milan_report(), CertType::VCEK, &milan_vcek()).unwrap()
}

fn refused(evidence: &Value, now: u64) -> Refused {
    amd().genuine(evidence, now).expect_err("it is refused").reason
}

#[test]
fn a_real_report_is_genuine_and_for_nobody_else() {
    let (report, line) = amd().genuine(&milan(), NOW).unwrap();
    assert_eq!(line, Line::Milan);
    let claims = report.claims(line);
    assert_eq!(claims["measurement"], claims["evidence"]["measurement"]);
    assert_eq!(claims["measurement"], hex::encode(&milan_report()[0x90..0xc0]));
    assert_eq!(claims["evidence"]["reported_tcb"]["microcode"], 0x73);
    assert_eq!(claims["policy_debug_allowed"], false);
    assert_eq!(claims["evidence"]["policy"]["smt_allowed"], true);
    let rejection = amd().appraise(&milan(), &ReportData([7; 48]), NOW).unwrap_err();
    assert_eq!(rejection.reason, Refused::SnpReportData);
}

#[test]
fn every_changed_byte_of_a_report_is_refused() {
    let (good, vcek, snp) = (milan_report(), milan_vcek(), amd());
    let unchanged = milan();
    let mut tried = 0;
    for at in 0..good.len() {
        let mut report = good.clone();
        report[at] ^= 1;
        // Reserved bytes are not sent; of the signature, 512 bytes are padding.
        let Some(evidence) = evidence(&report, CertType::VCEK, &vcek) else { continue };
        if evidence != unchanged {
            tried += 1;
            assert!(snp.genuine(&evidence, NOW).is_err(), "byte {at:#x}");
        }
    }
    assert!(tried > 590, "{tried} bytes");
}

#[test]
fn a_binary_report_says_what_its_json_says_and_every_changed_byte_is_refused() {
    let (good, snp) = (milan_report(), amd());
    let prove = |report: &[u8]| snp.prove_binary(report, milan_vcek(), NOW);
    let (report, line) = prove(&good).unwrap();
    let (of_json, _) = snp.genuine(&milan(), NOW).unwrap();
    assert_eq!(report.claims(line), of_json.claims(line));
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(prove(&changed).is_err(), "byte {at:#x}");
        assert!(prove(&good[..at]).is_err(), "{at:#x} bytes");
    }
    assert!(prove(&[&good[..], &[0]].concat()).is_err());
    // A line with another layout, and all that later versions have.
    let mut turin = vec![0; good.len()];
    turin[0] = 5;
    turin[0x188..0x18b].copy_from_slice(&[0x1a, 2, 1]);
    turin[0x38..0x40].copy_from_slice(&[7, 4, 1, 24, 0, 0, 0, 219]);
    turin[0x1e8..0x1eb].copy_from_slice(&[3, 2, 1]);
    turin[0x1f8] = 9;
    let parsed = Report::parse(&turin).unwrap();
    let expected = AttestationReport::from_bytes(&turin).unwrap();
    let expected: Report = serde_json::from_value(json!(expected)).unwrap();
    assert_eq!(parsed.claims(Line::Turin), expected.claims(Line::Turin));
    assert_eq!(parsed.claims(Line::Turin)["evidence"]["current_tcb"]["fmc"], 7);
    turin[0x3c] = 1;
    assert!(Report::parse(&turin).is_none(), "a reserved byte");
}

#[test]
fn every_shortened_and_every_missing_field_is_refused() {
    fn fields(value: &Value, path: String, found: &mut Vec<String>) {
        for (name, inner) in value.as_object().into_iter().flatten() {
            let path = format!("{path}/{name}");
            fields(inner, path.clone(), found);
            found.push(path);
        }
    }
    let good = milan();
    let mut paths = Vec::new();
    fields(&good["attestation_report"], "/attestation_report".to_owned(), &mut paths);
    assert!(paths.len() > 50, "{}", paths.len());
    for path in paths {
        let mut changes = vec![json!("x"), json!(-1), json!(1_u64 << 40), json!([300]), json!({})];
        if let Some(list) = good.pointer(&path).unwrap().as_array() {
            changes.extend((0..list.len()).map(|length| json!(list[..length])));
            changes.push(json!([list.clone(), vec![json!(0)]].concat()));
        }
        if good.pointer(&path).unwrap().is_null() {
            // Signed by nobody: version 2 has no such field.
            changes.push(json!(1));
        }
        for change in changes {
            let mut bad = good.clone();
            *bad.pointer_mut(&path).unwrap() = change.clone();
            assert!(amd().genuine(&bad, NOW).is_err(), "{path}: {change}");
        }
        let (parent, name) = path.rsplit_once('/').unwrap();
        let mut bad = good.clone();
        let gone = bad.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name).unwrap();
        // What version 2 does not have may be left out: it is null otherwise.
        assert!(gone.is_null() || amd().genuine(&bad, NOW).is_err(), "{path}");
    }
    for bad in [json!(null), json!([]), json!({}), json!({ "attestation_report": 1 })] {
        assert_eq!(refused(&bad, NOW), Refused::SnpFormat);
    }
}

#[test]
fn every_cut_and_every_changed_byte_of_a_certificate_is_refused() {
    let (report, good, snp) = (milan_report(), milan_vcek(), amd());
    let genuine =
        |vcek: &[u8]| snp.genuine(&evidence(&report, CertType::VCEK, vcek).unwrap(), NOW).map(drop);
    genuine(&good).unwrap();
    for length in 0..good.len() {
        assert!(genuine(&good[..length]).is_err(), "{length} bytes");
    }
    for at in 0..good.len() {
        let mut vcek = good.clone();
        vcek[at] ^= 1;
        assert!(genuine(&vcek).is_err(), "byte {at}");
    }
    assert!(genuine(&[&good[..], &[0]].concat()).is_err());
    assert_eq!(genuine(&[0; 5000]).unwrap_err().reason, Refused::SnpCertificate);
}

#[test]
fn another_chips_certificate_and_another_lines_are_refused() {
    let turin = of_package("sev", "tests/certs_data/vcek_turin.der");
    let evidence = evidence(&milan_report(), CertType::VCEK, &turin).unwrap();
    assert_eq!(refused(&evidence, NOW), Refused::SnpFormat);
    // As a VLEK it is none.
    let vlek = super::tests::evidence(&milan_report(), CertType::VLEK, &milan_vcek()).unwrap();
    assert_eq!(refused(&vlek, NOW), Refused::SnpChain);
}

#[test]
fn the_chain_has_one_leaf_and_ends_in_an_embedded_root() {
    let pem = |file: &str| {
        let pem = of_package("sev", &format!("src/certs/snp/builtin/{file}.pem"));
        der::pem::decode_vec(&pem).unwrap().1
    };
    let with = |more: &[(&str, Vec<u8>)]| {
        let mut evidence = milan();
        let chain = evidence["cert_chain"].as_array_mut().unwrap();
        chain.extend(more.iter().map(|(kind, der)| json!({ "cert_type": kind, "data": der })));
        evidence
    };
    let ark = ("ARK", pem("milan/ark"));
    amd().genuine(&with(&[ark.clone(), ("ASK", pem("milan/ask"))]), NOW).unwrap();
    amd().genuine(&with(&[ark, ("CRL", vec![1, 2, 3])]), NOW).unwrap();
    // Another line's root, and a certificate that is no root at all.
    for other in ["genoa/ark", "milan/ask"] {
        assert_eq!(refused(&with(&[("ARK", pem(other))]), NOW), Refused::SnpChainRoot);
    }
    let twice = with(&[("VCEK", milan_vcek())]);
    assert_eq!(refused(&twice, NOW), Refused::SnpChainMissing);
    let mut none = milan();
    for chain in [json!(null), json!([])] {
        none["cert_chain"] = chain;
        assert_eq!(refused(&none, NOW), Refused::SnpChainMissing);
    }
    let many = vec![("CRL", vec![0]); 100];
    assert_eq!(refused(&with(&many), NOW), Refused::SnpCertificate);
}

#[test]
fn no_clock_turns_a_refusal_into_a_release() {
    let mut forged = milan();
    forged["attestation_report"]["measurement"][0] = json!(1);
    let mut unsigned = milan();
    unsigned["attestation_report"]["signature"]["r"][0] = json!(1);
    for years in 0..=20 {
        let now = NOW - 10 * YEAR + years * YEAR;
        assert_ne!(amd().genuine(&forged, now).err(), None);
        assert_ne!(amd().genuine(&unsigned, now).err(), None);
    }
    // The VCEK is good from 2023-04-03 to 2030-04-03, to the second.
    let (from, until) = (1_680_549_823, 1_901_474_623);
    for (now, good) in [
        (from - 1, false),
        (from, true),
        (until, true),
        (until + 1, false),
        (0, false),
        (NOW - 10 * YEAR, false),
        (NOW + 10 * YEAR, false),
        (u64::MAX, false),
    ] {
        match amd().genuine(&milan(), now) {
            Ok(_) => assert!(good, "{now}"),
            Err(rejection) => {
                assert_eq!((rejection.reason, good), (Refused::SnpChainExpired, false), "{now}");
            }
        }
    }
}

#[test]
fn the_embedded_certificates_are_a_chain_each() {
    assert_eq!(AmdRoots::embedded().check_embedded(), Line::ALL);
}

#[test]
fn trustees_vectors_get_the_verdict_that_they_deserve() {
    let Some(report) = of_folder("snp/test-report.bin") else { return };
    let read = |file: &str| of_folder(&format!("snp/{file}")).unwrap();
    let genuine = |report: &[u8], kind, file: &str| {
        let evidence = evidence(report, kind, &read(file)).unwrap();
        amd().genuine(&evidence, NOW).map(|(_, line)| line).map_err(|refused| refused.reason)
    };
    assert_eq!(genuine(&report, CertType::VCEK, "test-vcek.der"), Ok(Line::Milan));
    for bad in ["test-vcek-invalid-legacy.der", "test-vcek-invalid-new.der"] {
        assert_eq!(genuine(&report, CertType::VCEK, bad), Err(Refused::SnpChain), "{bad}");
    }
    // A Genoa, whose report Azure's firmware wraps: 32 bytes come before it.
    let azure: Value =
        serde_json::from_slice(&of_folder("az-snp-vtpm/evidence-genoa.json").unwrap()).unwrap();
    let wrapped: Vec<u8> = serde_json::from_value(azure["report"].clone()).unwrap();
    let (_, vcek) = der::pem::decode_vec(azure["vcek"].as_str().unwrap().as_bytes()).unwrap();
    let genoa = evidence(&wrapped[32..32 + 1184], CertType::VCEK, &vcek).unwrap();
    assert_eq!(amd().genuine(&genoa, NOW).unwrap().1, Line::Genoa);
    // A VLEK's issuer, the ASVK, is not in any package: that it is missing is noticed before
    // anything is believed.
    let report = read("test-vlek-report.bin");
    let missing = Err(Refused::SnpChainMissing);
    assert_eq!(genuine(&report, CertType::VLEK, "test-vlek.der"), missing);
}
