//! Init-data: what a guest was configured with, believed if the TEE was started with its digest.
//!
//! Upstream's "initdata" 0.1.0: a TOML text with `version`, `algorithm` and `[data]`, a file each.
//! The digest is over the text as it is, and is padded with zeroes or cut to the TEE's field.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::evidence::{InitDataDigest, Refused, Rejection};
use crate::protocol::InitData;

/// Where policies find it.
pub(crate) const CLAIMS: &str = "init_data_claims";

const FORMAT: &str = "toml";
const VERSION: &str = "0.1.0";
/// Longest text, in bytes.
const BODY_BYTES_MAX: usize = 256 * 1024;

#[derive(Deserialize)]
struct Text {
    version: String,
    algorithm: String,
    data: BTreeMap<String, String>,
}

/// Compares with what the TEE proved, and makes claims of the files: those that are TOML as JSON, of
/// others the digest.
pub(crate) fn verify(sent: &InitData, proved: &InitDataDigest) -> Result<Value, Rejection> {
    let malformed = |why: &dyn std::fmt::Display| Refused::InitDataFormat.because(why);
    if sent.format != FORMAT || sent.body.len() > BODY_BYTES_MAX {
        return Err(malformed(&format!("not {FORMAT}, or longer than {BODY_BYTES_MAX} bytes")));
    }
    let text: Text = toml::from_str(&sent.body).map_err(|error| malformed(&error.message()))?;
    let algorithm: &Algorithm = match text.algorithm.as_str() {
        "sha256" => &SHA256,
        "sha384" => &SHA384,
        "sha512" => &SHA512,
        other => return Err(malformed(&format!("algorithm {other:.20?}"))),
    };
    if text.version != VERSION {
        return Err(malformed(&format!("version {:.20?}", text.version)));
    }
    let mut expected = digest(algorithm, sent.body.as_bytes()).as_ref().to_vec();
    let is_proved = match proved {
        InitDataDigest::Field(field) => {
            expected.resize(field.len(), 0);
            expected == *field
        }
        InitDataDigest::Pcr(pcr) => {
            expected.resize(pcr.len(), 0);
            let extended = [&[0; 32], &expected[..]].concat();
            digest(&SHA256, &extended).as_ref() == pcr
        }
    };
    if !is_proved {
        return Err(Refused::InitDataMismatch.into());
    }
    let claim = |(name, content): (String, String)| {
        let claim = if name.ends_with(".toml") {
            toml::from_str::<Value>(&content).map_err(|error| malformed(&error.message()))?
        } else {
            json!({ "sha256": hex::encode(digest(&SHA256, content.as_bytes())) })
        };
        Ok((name, claim))
    };
    let files = text.data.into_iter().map(claim).collect::<Result<Map<_, _>, Rejection>>()?;
    Ok(Value::Object(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\
                        \"cdh.toml\" = '''\nsocket = \"a\"\n[kbc]\nname = \"cc_kbc\"\n'''\n\
                        \"policy.rego\" = '''package agent_policy'''\n";

    fn sent(body: &str) -> InitData {
        InitData { format: "toml".to_owned(), body: body.to_owned() }
    }

    fn refused(body: &str, field: &[u8]) -> Refused {
        verify(&sent(body), &InitDataDigest::Field(field.to_vec())).unwrap_err().reason
    }

    #[test]
    fn a_digest_in_a_field_of_any_length_proves_the_files() {
        let claims = json!({
            "cdh.toml": { "socket": "a", "kbc": { "name": "cc_kbc" } },
            "policy.rego": { "sha256": hex::encode(digest(&SHA256, b"package agent_policy")) },
        });
        for (name, algorithm) in [("sha256", &SHA256), ("sha384", &SHA384), ("sha512", &SHA512)] {
            let body = BODY.replace("sha384", name);
            let full = digest(algorithm, body.as_bytes());
            for length in [32, 48] {
                let mut field = full.as_ref().to_vec();
                field.resize(length, 0);
                let proved = InitDataDigest::Field(field.clone());
                assert_eq!(verify(&sent(&body), &proved).unwrap(), claims, "{name} {length}");
                for at in 0..length {
                    field[at] ^= 1;
                    assert_eq!(refused(&body, &field), Refused::InitDataMismatch);
                    field[at] ^= 1;
                }
            }
        }
        assert_eq!(refused(BODY, &[0; 32]), Refused::InitDataMismatch);
    }

    #[test]
    fn a_pcr_that_was_extended_once_proves_the_files() {
        let body = BODY.replace("sha384", "sha256");
        let digest_of_all = digest(&SHA256, body.as_bytes());
        let extended = |from: &[u8]| {
            digest(&SHA256, &[from, digest_of_all.as_ref()].concat()).as_ref().to_vec()
        };
        let verdict = |pcr: &[u8]| {
            let pcr = InitDataDigest::Pcr(pcr.try_into().unwrap());
            verify(&sent(&body), &pcr).map(drop).map_err(|rejection| rejection.reason)
        };
        let once = extended(&[0; 32]);
        assert_eq!(verdict(&once), Ok(()));
        for other in [&[0; 32][..], digest_of_all.as_ref(), &extended(&once)] {
            assert_eq!(verdict(other), Err(Refused::InitDataMismatch));
        }
    }

    #[test]
    fn what_is_no_init_data_is_refused() {
        let field = |body: &str| digest(&SHA384, body.as_bytes()).as_ref().to_vec();
        for body in [
            "",
            "version = 1",
            &BODY.replace("0.1.0", "0.2.0"),
            &BODY.replace("sha384", "md5"),
            &BODY.replace("[data]", "[more]"),
            &BODY.replace("socket = \"a\"", "socket ="),
            &format!("{BODY}{}", "#".repeat(BODY_BYTES_MAX)),
        ] {
            assert_eq!(refused(body, &field(body)), Refused::InitDataFormat, "{body:.200}");
        }
        let other = InitData { format: "json".to_owned(), body: BODY.to_owned() };
        let proved = InitDataDigest::Field(field(BODY));
        let rejection = verify(&other, &proved).unwrap_err();
        assert_eq!(rejection.reason, Refused::InitDataFormat);
    }
}
