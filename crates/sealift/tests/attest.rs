//! `sealift attest`, and the choice of an attester, as a person has them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::process::Command;

use common::{refuse, sealift, succeed, text};
use sealift::code::Code;
use serde_json::Value;
use testkit::swtpm::Swtpm;

fn attest(swtpm: &Swtpm, arguments: &[&str]) -> Command {
    let mut command = sealift();
    command.arg("attest").args(arguments).args(["--tpm-device", text(&swtpm.socket())]);
    command
}

#[test]
fn a_key_is_made_shown_and_never_replaced() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let none = refuse(&mut attest(&swtpm, &["tpm-key", "--show"]), Code::Attestation);
    assert!(none.contains("the TPM has no key at 0x81010002"), "{none}");

    let made = succeed(&mut attest(&swtpm, &["tpm-key"]));
    let pem = String::from_utf8(made.stdout).unwrap();
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{pem}");
    let said = String::from_utf8(made.stderr).unwrap();
    assert!(said.contains("attestation key at 0x81010002, SHA-256 "), "{said}");

    let again = refuse(&mut attest(&swtpm, &["tpm-key"]), Code::Usage);
    assert!(again.contains("an object at 0x81010002 already"), "{again}");
    let shown = succeed(&mut attest(&swtpm, &["tpm-key", "--show", "--output", "json"]));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["public_key"], pem);
    assert!(said.contains(shown["sha256"].as_str().unwrap()));
}

#[test]
fn evidence_is_what_a_broker_would_get() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    succeed(&mut attest(&swtpm, &["tpm-key"]));
    let flags = ["evidence", "--report-data", "00ff", "--attester", "tpm", "--tpm-pcrs", "1,2"];
    let evidence = succeed(&mut attest(&swtpm, &flags));
    let evidence: Value = serde_json::from_slice(&evidence.stdout).unwrap();
    assert_eq!(evidence["tee"], "tpm");
    let pcrs = &evidence["primary_evidence"]["tpm_quote"]["pcrs"];
    assert_eq!(pcrs.as_array().unwrap().len(), 2);
}

#[test]
fn azures_vtpm_is_named_like_any_attester() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let metadata = testkit::azure_vm::Metadata::start().unwrap();
    let url = metadata.url();
    let flags = [
        "evidence",
        "--report-data",
        "00ff",
        "--attester",
        "az-tdx-vtpm",
        "--azure-metadata-url",
        &url,
    ];
    let message = refuse(&mut attest(&swtpm, &flags), Code::Attestation);
    assert!(message.contains("this is no confidential machine of Azure"), "{message}");
    if swtpm.make_azure_key().unwrap().is_none() {
        return;
    }
    swtpm.put_azure_report(&[7; 2000]).unwrap();
    let message = refuse(&mut attest(&swtpm, &flags), Code::Attestation);
    assert!(message.contains("the metadata service gave no TDX quote"), "{message}");
    metadata.answer("POST /acc/tdquote", 200, r#"{"quote":"AQID"}"#);
    let evidence = succeed(&mut attest(&swtpm, &flags));
    let evidence: Value = serde_json::from_slice(&evidence.stdout).unwrap();
    assert_eq!(evidence["tee"], "az-tdx-vtpm");
    assert_eq!(evidence["primary_evidence"]["td_quote"], "AQID");
}

fn evidence(arguments: &[&str]) -> Command {
    let mut command = sealift();
    command.args(["attest", "evidence", "--report-data", "00"]).args(arguments);
    command
}

#[test]
fn nothing_is_detected_and_nothing_stands_in() {
    let message = refuse(&mut evidence(&[]), Code::Usage);
    assert!(message.contains("no attester is named"), "{message}");
    let message = refuse(&mut evidence(&["--attester", "sample"]), Code::Usage);
    assert!(message.contains("--insecure-dev"), "{message}");

    let sample = succeed(&mut evidence(&["--insecure-dev"]));
    assert!(String::from_utf8_lossy(&sample.stderr).contains("proves nothing"));
    // What is named is used, whatever else is allowed.
    let tpm = ["--insecure-dev", "--attester", "tpm", "--tpm-device", "/nonexistent"];
    let message = refuse(&mut evidence(&tpm), Code::Attestation);
    assert!(message.contains("/nonexistent cannot be used"), "{message}");
    let tsm = ["--insecure-dev", "--attester", "tsm", "--tsm-root", "/nonexistent"];
    let message = refuse(&mut evidence(&tsm), Code::Attestation);
    assert!(message.contains("no report can be asked for in /nonexistent"), "{message}");
}

#[test]
fn a_key_source_that_attests_needs_an_attester() {
    let ask = |arguments: &[&str]| {
        let mut command = sealift();
        command.args(["key", "check", "--resource-id", common::RESOURCE]);
        command.args(["--kbs-url", "http://127.0.0.1:9"]).args(arguments);
        command
    };
    let message = refuse(&mut ask(&[]), Code::Usage);
    assert!(message.contains("--attester tsm"), "{message}");
    let message = refuse(&mut ask(&["--attester", "tsm"]), Code::Attestation);
    assert!(message.contains("/sys/kernel/config/tsm/report"), "{message}");
    let mut by_variable = ask(&[]);
    by_variable.env("SEALIFT_ATTESTER", "tsm").env("SEALIFT_TSM_ROOT", "/elsewhere");
    let message = refuse(&mut by_variable, Code::Attestation);
    assert!(message.contains("/elsewhere"), "{message}");
}

#[test]
fn settings_out_of_bounds_are_wrong_usage() {
    let attest = |report_data: &str, flags: [&str; 2]| {
        let mut command = sealift();
        command.args(["attest", "evidence", "--insecure-dev", "--report-data", report_data]);
        command.args(flags).output().unwrap().status.code()
    };
    for (flag, good, bad) in [
        ("--tpm-pcrs", "0-23", "24"),
        ("--tpm-pcrs", "1,3", "3-1"),
        ("--tpm-key-handle", "0x81ffffff", "0x80000000"),
        ("--tpm-key-handle", "0x81000000", "2164326402"),
        ("--tsm-privlevel", "3", "4"),
    ] {
        assert_eq!(attest("00", [flag, good]), Some(0), "{flag} {good}");
        assert_eq!(attest("00", [flag, bad]), Some(Code::Usage.exit().into()), "{flag} {bad}");
    }
    for bad in ["0", "zz", &"00".repeat(65)] {
        let code = attest(bad, ["--tpm-pcrs", "0"]);
        assert_eq!(code, Some(Code::Usage.exit().into()), "{bad}");
    }
}
