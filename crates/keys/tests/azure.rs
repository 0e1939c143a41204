//! The attester of Azure's confidential machines, against a real software TPM that has what theirs
//! have, and a stand-in for the metadata service. Not run on Azure.
#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

mod common;

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use common::{Fake, answer, authorised};
use keys::{Attester, AzureTee, AzureVtpm, Error, Tpm};
use serde_json::{Value, json};
use testkit::azure_vm::Metadata;
use testkit::swtpm::Swtpm;

const DATA: [u8; 48] = [0x5a; 48];
const CERTIFICATION: &str = "GET /metadata/THIM/amd/certification";
const TD_QUOTE: &str = "POST /acc/tdquote";
const PEM: &str = "-----BEGIN CERTIFICATE-----\nAQID\nBAUG\n-----END CERTIFICATE-----\n";

/// No two bytes in a row that would hide a shift. Azure's has 2600 of them; the software TPM has
/// room for 2048.
fn report() -> Vec<u8> {
    (0..2000_u32).map(|at| (at % 251) as u8).collect()
}

/// A machine, if there is a software TPM and tools for it.
fn machine() -> Option<(Swtpm, Metadata)> {
    let swtpm = Swtpm::start().unwrap()?;
    swtpm.make_azure_key().unwrap()?;
    swtpm.put_azure_report(&report()).unwrap();
    let metadata = Metadata::start().unwrap();
    let certificates =
        json!({ "vcekCert": PEM, "certificateChain": "", "tcbm": "DB18000000000004" });
    metadata.answer(CERTIFICATION, 200, certificates.to_string());
    let quote = json!({ "quote": URL_SAFE_NO_PAD.encode(b"a quote of a TD") });
    metadata.answer(TD_QUOTE, 200, quote.to_string());
    Some((swtpm, metadata))
}

fn attester(tee: AzureTee, device: &Path, metadata: &str) -> AzureVtpm {
    let tpm =
        Tpm { device: device.to_owned(), key_handle: AzureVtpm::KEY_HANDLE, ..Tpm::default() };
    AzureVtpm::new(tee, tpm, metadata).unwrap()
}

/// Why there is no evidence, with all causes.
fn refusal(attester: &AzureVtpm) -> String {
    let Err(Error::Evidence { source, .. }) = attester.evidence(&DATA) else {
        panic!("evidence, or another error")
    };
    let mut text = source.to_string();
    let mut cause = source.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn check_quote(swtpm: &Swtpm, evidence: &Value) {
    let quote = &evidence["tpm_quote"];
    assert_eq!(quote["pcrs"].as_array().unwrap().len(), 24);
    let bytes = |name: &str| hex::decode(quote[name].as_str().unwrap()).unwrap();
    std::fs::write(swtpm.dir().join("message"), bytes("message")).unwrap();
    std::fs::write(swtpm.dir().join("signature"), bytes("signature")).unwrap();
    assert_eq!(bytes("signature").len(), 256, "bare");
    let read = ["-Q", "-c", "0x81000003", "-f", "pem", "-o", "ak.pem"];
    swtpm.tool("tpm2_readpublic", &read).unwrap();
    // All 48 bytes of the nonce are in it.
    let nonce = "5a".repeat(48);
    let files = ["-u", "ak.pem", "-m", "message", "-s", "signature"];
    let check = [&files[..], &["-g", "sha256", "-q", &nonce]].concat();
    swtpm.tool("tpm2_checkquote", &check).unwrap();
}

#[test]
fn evidence_is_made_of_index_key_and_metadata() {
    let Some((swtpm, metadata)) = machine() else { return };
    let snp = attester(AzureTee::Snp, &swtpm.socket(), &metadata.url());
    for _ in 0..2 {
        let evidence = snp.evidence(&DATA).unwrap();
        assert_eq!(evidence["version"], 1);
        assert_eq!(evidence["hcl_report"], URL_SAFE.encode(report()));
        assert_eq!(evidence["vcek"], URL_SAFE.encode([1, 2, 3, 4, 5, 6]));
        check_quote(&swtpm, &evidence);
    }
    let (request, head, _) = metadata.asked().pop().unwrap();
    assert_eq!(request, CERTIFICATION);
    assert!(head.contains("\r\nmetadata: true\r\n"), "{head}");

    let tdx = attester(AzureTee::Tdx, &swtpm.socket(), &metadata.url());
    let evidence = tdx.evidence(&DATA).unwrap();
    assert_eq!(evidence["td_quote"], URL_SAFE.encode(b"a quote of a TD"));
    check_quote(&swtpm, &evidence);
    let (request, _, body) = metadata.asked().pop().unwrap();
    assert_eq!(request, TD_QUOTE);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, json!({ "report": URL_SAFE_NO_PAD.encode(&report()[32..32 + 1024]) }));
    assert_eq!((snp.tee(), tdx.tee()), ("az-snp-vtpm", "az-tdx-vtpm"));
}

#[test]
fn what_the_metadata_service_lacks_is_named() {
    let Some((swtpm, metadata)) = machine() else { return };
    let snp = attester(AzureTee::Snp, &swtpm.socket(), &metadata.url());
    let tdx = attester(AzureTee::Tdx, &swtpm.socket(), &metadata.url());
    for (status, body, why) in [
        (404, "{}", "status 404"),
        (302, "", "a redirect"),
        (200, "certificates", "not the JSON expected"),
        (200, "{\"vcekCert\":1,\"quote\":1}", "not the JSON expected"),
        (200, "{\"vcekCert\":\"AQID\",\"quote\":\"?\"}", "not the JSON expected"),
        (200, &" ".repeat(65 * 1024), "longer than 65536 bytes"),
    ] {
        metadata.answer(CERTIFICATION, status, body);
        metadata.answer(TD_QUOTE, status, body);
        for (attester, what) in [(&snp, "VCEK certificate"), (&tdx, "TDX quote")] {
            let error = refusal(attester);
            let begin = format!("the metadata service gave no {what}");
            assert!(error.starts_with(&begin) && error.contains(why), "{why}: {error}");
        }
    }
    let nobody = attester(AzureTee::Snp, &swtpm.socket(), "http://127.0.0.1:9");
    assert!(refusal(&nobody).contains("cannot connect"), "{}", refusal(&nobody));
    for bad in ["169.254.169.254", "ftp://169.254.169.254", "http://a:b@169.254.169.254"] {
        let refused = AzureVtpm::new(AzureTee::Snp, Tpm::default(), bad);
        assert!(matches!(refused, Err(Error::Usage(_))), "{bad}");
    }
}

#[test]
fn a_tpm_that_is_not_azures_is_named() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let metadata = Metadata::start().unwrap();
    let snp = attester(AzureTee::Snp, &swtpm.socket(), &metadata.url());
    assert!(refusal(&snp).contains("no confidential machine of Azure"), "{}", refusal(&snp));
    if swtpm.make_azure_key().unwrap().is_none() {
        return;
    }
    swtpm.put_azure_report(&report()[..1000]).unwrap();
    metadata.answer(CERTIFICATION, 200, json!({ "vcekCert": PEM }).to_string());
    let tdx = attester(AzureTee::Tdx, &swtpm.socket(), &metadata.url());
    assert!(refusal(&tdx).contains("shorter than a TDREPORT"), "{}", refusal(&tdx));
    // A key that signs otherwise.
    let ecc = Tpm { device: swtpm.socket(), ..Tpm::default() };
    ecc.create_key().unwrap();
    let other = AzureVtpm::new(AzureTee::Snp, ecc, &metadata.url()).unwrap();
    assert!(refusal(&other).contains("does not sign with RSASSA"), "{}", refusal(&other));
}

/// TPM2_NV_ReadPublic's answer for an index of so many bytes.
fn index(bytes: u16) -> Vec<u8> {
    let public =
        [&0x0140_0001_u32.to_be_bytes()[..], &[0, 0x0b, 0, 2, 0, 2, 0, 0], &bytes.to_be_bytes()]
            .concat();
    let length = u16::try_from(public.len()).unwrap().to_be_bytes();
    answer(0x8001, 0, &[&length[..], &public, &[0, 0]].concat())
}

/// TPM2_NV_Read's.
fn content(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    authorised(&[&length[..], bytes].concat())
}

#[test]
fn an_index_is_read_as_far_as_it_goes_and_answers_that_are_none_are_refused() {
    let metadata = Metadata::start().unwrap();
    let of = |answers: Vec<Vec<u8>>| {
        let fake = Fake::start(answers);
        refusal(&attester(AzureTee::Snp, &fake.socket(), &metadata.url()))
    };
    // Read to its end, in pieces as the TPM likes: what fails is what comes next.
    let mut pieces = vec![index(2600)];
    pieces.extend([512, 8, 512, 512, 512, 512, 32].map(|bytes| content(&vec![1; bytes])));
    assert!(of(pieces).contains("status 404"));
    let malformed = |answers: Vec<Vec<u8>>, why: &str| {
        let error = of(answers);
        assert!(error.contains("is malformed: ") && error.contains(why), "{error}");
    };
    malformed(vec![index(9000)], "the index is longer than it may be");
    malformed(vec![index(700), content(&[])], "nothing of the index");
    malformed(vec![index(10), content(&[1; 11])], "longer than it may be");
    malformed(vec![index(10), authorised(&[0, 2, 1, 1, 7])], "something follows");
    // TPM_RC_NV_UNINITIALIZED, TPM_RC_NV_AUTHORIZATION.
    for code in [0x14a, 0x149] {
        let error = of(vec![index(10), answer(0x8002, code, &[])]);
        assert!(error.contains("refuses TPM2_NV_Read"), "{error}");
    }
    let whole = [index(10), content(&[1; 10])];
    for (at, one) in whole.iter().enumerate() {
        // TPM2_NV_ReadPublic ends with the index's name, which is not read.
        for length in 10..one.len() - if at == 0 { 2 } else { 5 } {
            let mut cut = one[..length].to_vec();
            cut[2..6].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            let error = of([&whole[..at], &[cut]].concat());
            assert!(error.contains("is malformed"), "{at} cut at {length}: {error}");
        }
    }
}
