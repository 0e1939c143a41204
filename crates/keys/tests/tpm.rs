//! The TPM attester against a real software TPM, and against one that misbehaves.
#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

mod common;

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{Fake, answer};
use keys::{Attester, Error, Pcrs, Tpm, TpmError};
use serde_json::Value;
use testkit::swtpm::Swtpm;

const DATA: [u8; 48] = [0x5a; 48];

fn tpm_at(device: &Path) -> Tpm {
    Tpm { device: device.to_owned(), ..Tpm::default() }
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// Why there is no evidence.
fn refusal(tpm: &Tpm) -> String {
    let Err(Error::Evidence { tee: "tpm", source }) = tpm.evidence(&DATA) else {
        panic!("evidence, or another error")
    };
    source.to_string()
}

#[test]
fn a_quote_convinces_tpm2_tools_and_carries_the_first_32_bytes() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let tpm = tpm_at(&swtpm.socket());
    let key = tpm.create_key().unwrap();
    let evidence = tpm.evidence(&DATA).unwrap();
    assert_eq!(evidence.as_object().unwrap().len(), 2);
    assert_eq!(bytes(&evidence["ak_public"]), key.spki());
    let quote = &evidence["tpm_quote"];
    assert_eq!(quote["pcrs"].as_array().unwrap().len(), 24);
    assert_eq!(quote["pcrs"][17], "f".repeat(64));

    let file = |name: &str, bytes: &[u8]| std::fs::write(swtpm.dir().join(name), bytes).unwrap();
    file("message", &bytes(&quote["message"]));
    file("signature", &bytes(&quote["signature"]));
    file("key.pem", key.pem().as_bytes());
    let check = |nonce: &str| {
        let arguments =
            ["-u", "key.pem", "-m", "message", "-s", "signature", "-g", "sha256", "-q", nonce];
        swtpm.tool("tpm2_checkquote", &arguments)
    };
    assert!(check(&"5a".repeat(32)).unwrap().is_none_or(|said| said.contains("sig")));
    assert!(check(&"5b".repeat(32)).is_err() || check("00").unwrap().is_none());
}

#[test]
fn a_key_is_made_once_is_the_same_again_and_leaves_nothing_else() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let tpm = tpm_at(&swtpm.socket());
    assert!(matches!(tpm.key(), Err(TpmError::NoKey(0x8101_0002))));
    assert!(refusal(&tpm).contains("sealift attest tpm-key"));
    let key = tpm.create_key().unwrap();
    assert!(matches!(tpm.create_key(), Err(TpmError::Occupied(0x8101_0002))));
    assert_eq!(tpm.key().unwrap(), key);
    let other = Tpm { key_handle: 0x8101_0003, ..tpm.clone() };
    assert_eq!(other.create_key().unwrap(), key, "the TPM's owner seed decides");
    // Three transient objects would fill this TPM.
    let platform = Tpm { key_handle: 0x8180_0000, ..tpm.clone() };
    for _ in 0..50 {
        let error = platform.create_key().unwrap_err().to_string();
        assert!(error.contains("refuses TPM2_EvictControl"), "{error}");
        tpm.evidence(&DATA).unwrap();
    }
    if let Some(left) = swtpm.tool("tpm2_getcap", &["handles-transient"]).unwrap() {
        assert_eq!(left, "");
        let kept = swtpm.tool("tpm2_getcap", &["handles-persistent"]).unwrap().unwrap();
        assert_eq!(kept, "- 0x81010002\n- 0x81010003\n");
        let loaded = swtpm.tool("tpm2_getcap", &["handles-loaded-session"]).unwrap().unwrap();
        assert_eq!(loaded, "");
    }
}

/// The enrolment that docs/keys.md tells: whoever has the EK's public key, from its certificate,
/// learns whether the AK is in the same TPM.
#[test]
fn a_key_of_ours_can_be_shown_to_be_in_the_tpm_of_an_endorsement_key() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let key = tpm_at(&swtpm.socket()).create_key().unwrap();
    let tool = |name: &str, arguments: &[&str]| swtpm.tool(name, arguments).unwrap();
    if tool("tpm2_createek", &["-Q", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub"]).is_none() {
        return;
    }
    tool("tpm2_readpublic", &["-Q", "-c", "ek.ctx", "-f", "pem", "-o", "ek.pem"]);
    // Without the kernel's resource manager, nobody makes room.
    tool("tpm2_flushcontext", &["-t"]);
    tool("tpm2_readpublic", &["-Q", "-c", "0x81010002", "-n", "ak.name", "-o", "ak.pub"]);
    // The broker's side: the name is that of the public area, and that has the key to be listed.
    let public = std::fs::read(swtpm.dir().join("ak.pub")).unwrap();
    let name = std::fs::read(swtpm.dir().join("ak.name")).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &public[2..]);
    assert_eq!(name, [&[0, 0x0b], digest.as_ref()].concat());
    let listed = tool("tpm2_print", &["-t", "TPM2B_PUBLIC", "-f", "pem", "ak.pub"]).unwrap();
    assert_eq!(listed.trim(), key.pem().trim());

    std::fs::write(swtpm.dir().join("secret"), [0x5e; 32]).unwrap();
    let activate = |name: &str| {
        let make = ["-Q", "-T", "none", "-G", "rsa", "-u", "ek.pem", "-s", "secret", "-n", name];
        tool("tpm2_makecredential", &[&make[..], &["-o", "challenge"]].concat());
        tool("tpm2_startauthsession", &["-Q", "--policy-session", "-S", "session"]);
        tool("tpm2_policysecret", &["-Q", "-S", "session", "-c", "e"]);
        let activate = ["-Q", "-c", "0x81010002", "-C", "ek.ctx", "-P", "session:session"];
        let files = ["-i", "challenge", "-o", "answer"];
        let _ = std::fs::remove_file(swtpm.dir().join("answer"));
        let activated = swtpm.tool("tpm2_activatecredential", &[&activate[..], &files].concat());
        tool("tpm2_flushcontext", &["session"]);
        activated.map(|_| std::fs::read(swtpm.dir().join("answer")).unwrap())
    };
    assert_eq!(activate(&hex::encode(&name)).unwrap(), [0x5e; 32]);
    // For a key that is in no TPM.
    let mut other = name.clone();
    other[2] ^= 1;
    assert!(activate(&hex::encode(other)).is_err());
}

#[test]
fn only_the_pcrs_that_were_asked_for_are_quoted() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let tpm = Tpm { pcrs: "0,7,16-18".parse().unwrap(), ..tpm_at(&swtpm.socket()) };
    tpm.create_key().unwrap();
    let evidence = tpm.evidence(&DATA).unwrap();
    let (zeroes, ones) = ("0".repeat(64), "f".repeat(64));
    let expected = [&zeroes, &zeroes, &zeroes, &ones, &ones];
    assert_eq!(evidence["tpm_quote"]["pcrs"], serde_json::json!(expected));
}

#[test]
fn rsa_keys_of_others_are_taken_and_keys_that_sign_anything_are_not() {
    let Some(swtpm) = Swtpm::start().unwrap() else { return };
    let make = |algorithm: &str, attributes: &str, handle: &str| {
        let always = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|";
        let attributes = format!("{always}{attributes}");
        let create = ["-Q", "-C", "o", "-G", algorithm, "-a", &attributes, "-c", "ak.ctx"];
        let created = swtpm.tool("tpm2_createprimary", &create).unwrap()?;
        swtpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "ak.ctx", handle]).unwrap();
        swtpm.tool("tpm2_flushcontext", &["-t"]).unwrap();
        Some(created)
    };
    let at = |key_handle| Tpm { key_handle, ..tpm_at(&swtpm.socket()) };
    for (algorithm, handle, number) in [
        ("rsa2048:rsassa-sha256:null", "0x81010010", 0x8101_0010),
        ("rsa2048:rsapss-sha256:null", "0x81010011", 0x8101_0011),
    ] {
        if make(algorithm, "restricted|sign", handle).is_none() {
            return;
        }
        let tpm = at(number);
        let evidence = tpm.evidence(&DATA).unwrap();
        assert_eq!(bytes(&evidence["ak_public"]), tpm.key().unwrap().spki());
        let pem = swtpm.tool("tpm2_readpublic", &["-c", handle, "-f", "pem", "-o", "ak.pem"]);
        pem.unwrap();
        let theirs = std::fs::read_to_string(swtpm.dir().join("ak.pem")).unwrap();
        assert_eq!(tpm.key().unwrap().pem(), theirs);
    }
    make("ecc256:ecdsa-sha256:null", "sign", "0x81010012");
    assert!(refusal(&at(0x8101_0012)).contains("not a restricted signing key"));
    make("ecc256:null:aes128cfb", "restricted|decrypt", "0x81010013");
    assert!(refusal(&at(0x8101_0013)).contains("not a restricted signing key"));
    make("ecc384:ecdsa-sha256:null", "restricted|sign", "0x81010014");
    assert!(refusal(&at(0x8101_0014)).contains("not P-256"));
    make("ecc256:ecdsa-sha384:null", "restricted|sign", "0x81010015");
    assert!(refusal(&at(0x8101_0015)).contains("SHA-256"));
}

#[test]
fn a_device_that_is_none_is_named() {
    let error = refusal(&tpm_at(Path::new("/nonexistent/tpmrm0")));
    assert_eq!(error, "/nonexistent/tpmrm0 cannot be used");
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(Error::Evidence { source, .. }) = tpm_at(file.path()).evidence(&DATA) else { panic!() };
    let cause = source.source().unwrap().to_string();
    assert_eq!(cause, "neither a character device nor a socket");
}

fn refusal_of(answers: Vec<Vec<u8>>) -> String {
    refusal(&tpm_at(&Fake::start(answers).socket()))
}

/// TPM2_ReadPublic's answer for a proper key.
fn public() -> Vec<u8> {
    let mut key =
        vec![0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
    for _ in 0..2 {
        key.extend([0, 32]);
        key.extend([1; 32]);
    }
    let mut body = u16::try_from(key.len()).unwrap().to_be_bytes().to_vec();
    body.extend(key);
    answer(0x8001, 0, &body)
}

/// TPM2_Quote's answer over nothing in particular.
fn quote(message: &[u8]) -> Vec<u8> {
    let mut parameters = u16::try_from(message.len()).unwrap().to_be_bytes().to_vec();
    parameters.extend(message);
    parameters.extend(b"signature");
    common::authorised(&parameters)
}

/// TPM2_PCR_Read's answer of one PCR of a bank.
fn pcr(bank: u8, bitmap: [u8; 3], values: u8, bytes: u8) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 9, 0, 0, 0, 1, 0, bank, 3];
    body.extend(bitmap);
    body.extend([0, 0, 0, values]);
    for _ in 0..values {
        body.extend([0, bytes]);
        body.extend(vec![7; usize::from(bytes)]);
    }
    answer(0x8001, 0, &body)
}

#[test]
fn silence_ends_at_the_deadline_and_a_closed_connection_at_once() {
    let half = public()[..30].to_vec();
    for answers in [vec![Vec::new()], vec![half, Vec::new()]] {
        let fake = Fake::start(answers);
        let tpm = Tpm { timeout: Duration::from_millis(200), ..tpm_at(&fake.socket()) };
        assert_eq!(refusal(&tpm), "the TPM did not answer TPM2_ReadPublic within 200 ms");
    }
    assert!(refusal_of(vec![]).ends_with("/tpm cannot be used"));
}

#[test]
fn a_busy_tpm_is_asked_again_and_not_for_ever() {
    for busy in [0x922, 0x908, 0x909, 0x90a] {
        let busy = answer(0x8001, busy, &[]);
        let error = refusal_of(vec![busy.clone(), busy, answer(0x8001, 0x18b, &[])]);
        assert!(error.contains("no key at 0x81010002"), "{error}");
    }
    let error = refusal_of(vec![answer(0x8001, 0x922, &[]); 20]);
    assert_eq!(error, "the TPM refuses TPM2_ReadPublic: response code 0x922 (busy)");
}

#[test]
fn answers_that_are_no_answers_are_refused() {
    let malformed = |answers: Vec<Vec<u8>>, why: &str| {
        let error = refusal_of(answers);
        assert!(error.contains("is malformed: ") && error.contains(why), "{error}");
    };
    malformed(vec![b"SSH-2.0-dropbear".to_vec()], "out of bounds");
    malformed(vec![vec![0xff; 5000]], "out of bounds");
    malformed(vec![[answer(0x8001, 0, &[]), vec![0]].concat()], "longer than it says");
    malformed(vec![answer(0x8002, 0, &[])], "tag");
    malformed(vec![answer(0x8001, 0, &[0xff; 8])], "longer than it may be");
    malformed(vec![public(), quote(&[1; 600])], "longer than it may be");
    let of_pcr = |pcr| vec![public(), quote(b"message"), pcr];
    malformed(of_pcr(pcr(0x04, [1, 0, 0], 1, 32)), "another bank");
    malformed(of_pcr(pcr(0x0b, [0, 0, 0], 0, 32)), "SHA-256 bank is off");
    malformed(of_pcr(pcr(0x0b, [1, 0, 0], 2, 32)), "more or fewer");
    malformed(of_pcr(pcr(0x0b, [1, 0, 0], 1, 20)), "not a SHA-256 digest");
    let again =
        vec![public(), quote(b"message"), pcr(0x0b, [1, 0, 0], 1, 32), pcr(0x0b, [1, 0, 0], 1, 32)];
    malformed(again, "not asked for");
}

#[test]
fn every_truncation_of_an_answer_is_an_error() {
    let whole = [public(), quote(b"message"), pcr(0x0b, [1, 0, 0], 1, 32)];
    for (index, answer) in whole.iter().enumerate() {
        for length in 10..answer.len() {
            let mut cut = answer[..length].to_vec();
            cut[2..6].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            let answers = [&whole[..index], &[cut]].concat();
            // The part that a signature has for its own stays what it is: the verifier's business.
            let error = refusal_of(answers);
            let later =
                index == 1 && error.contains("TPM2_PCR_Read") || error.ends_with("cannot be used");
            assert!(error.contains("is malformed") || later, "{index} {length} {error}");
        }
    }
}

#[test]
fn pcrs_that_never_hold_still_are_an_error() {
    let mut answers = vec![public()];
    for _ in 0..5 {
        answers.push(quote(b"over other values"));
        answers.push(pcr(0x0b, [1, 0, 0], 1, 32));
    }
    let fake = Fake::start(answers);
    let tpm = Tpm { pcrs: "0".parse::<Pcrs>().unwrap(), ..tpm_at(&fake.socket()) };
    assert!(refusal(&tpm).contains("a PCR was extended during each of 5 quotes"));
}
