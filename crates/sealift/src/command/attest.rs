//! `sealift attest tpm-key|evidence`: what a machine attests with, and what it says.

use keys::{AttestationKey, TpmError};
use serde::Serialize;
use serde_json::json;

use crate::attester;
use crate::cli::{Attest, AttestEvidence, AttestTpmKey, Global, Output};
use crate::code::Code;
use crate::failure::{Failure, chain};
use crate::output;

pub(crate) fn run(args: &Attest, global: &Global) -> Result<(), Failure> {
    match args {
        Attest::TpmKey(args) => tpm_key(args, global),
        Attest::Evidence(args) => evidence(args),
    }
}

#[derive(Serialize)]
struct Made {
    key_handle: String,
    sha256: String,
    public_key: String,
}

fn tpm_key(args: &AttestTpmKey, global: &Global) -> Result<(), Failure> {
    let tpm = attester::tpm(&args.tpm);
    let key: AttestationKey = if args.show { tpm.key() } else { tpm.create_key() }?;
    let made = Made {
        key_handle: format!("{:#010x}", tpm.key_handle),
        sha256: key.sha256(),
        public_key: key.pem(),
    };
    if global.output == Output::Json {
        return output::print(global.output, &made, |_| Vec::new());
    }
    // The result is the file that a broker is given; the rest is for people.
    if !global.quiet {
        eprintln!("attestation key at {}, SHA-256 {}", made.key_handle, made.sha256);
    }
    output::print_text(&made.public_key)
}

fn evidence(args: &AttestEvidence) -> Result<(), Failure> {
    let attester = attester::open(&args.attester, args.insecure_dev)?;
    let evidence = attester.evidence(&args.report_data.0)?;
    let said = json!({ "tee": attester.tee(), "primary_evidence": evidence });
    output::print(Output::Json, &said, |_| Vec::new())
}

impl From<TpmError> for Failure {
    fn from(error: TpmError) -> Self {
        let code = match &error {
            TpmError::Occupied(_) => Code::Usage,
            _ => Code::Attestation,
        };
        let failure = Self::new(code, chain(&error));
        match &error {
            TpmError::Occupied(_) => {
                failure.hint("Say --show to print its public key, or name another --tpm-key-handle")
            }
            TpmError::Device { .. } => failure.hint("Check --tpm-device, and who may open it"),
            _ => failure,
        }
    }
}
