//! Which attester the deployer chose. There is no detection, and nothing to fall back to.

use keys::{Attester, SampleAttester, Tpm, Tsm};

use crate::cli::{AttesterArgs, AttesterKind, TpmArgs};
use crate::failure::Failure;

/// The attester that the arguments name.
pub(crate) fn open(args: &AttesterArgs, insecure_dev: bool) -> Result<Box<dyn Attester>, Failure> {
    match (args.attester, insecure_dev) {
        (Some(AttesterKind::Tsm), _) => {
            Ok(Box::new(Tsm::open(&args.tsm_root, args.tsm_privlevel)?))
        }
        (Some(AttesterKind::Tpm), _) => Ok(Box::new(tpm(&args.tpm))),
        (Some(AttesterKind::Sample) | None, true) => {
            eprintln!(
                "warning: --insecure-dev: attesting with the sample attester. This proves nothing \
                 and is not confidential."
            );
            Ok(Box::new(SampleAttester))
        }
        (Some(AttesterKind::Sample), false) => {
            Err(Failure::usage("the sample attester proves nothing")
                .hint("For a trial without a TEE add --insecure-dev"))
        }
        (None, false) => Err(Failure::usage("no attester is named").hint(
            "Say --attester tsm in a guest of SNP, TDX or CCA, or --attester tpm; inside \
             Confidential Containers use --key-source cdh",
        )),
    }
}

/// The TPM that the arguments name.
pub(crate) fn tpm(args: &TpmArgs) -> Tpm {
    Tpm {
        device: args.tpm_device.clone(),
        key_handle: args.tpm_key_handle,
        pcrs: args.tpm_pcrs,
        ..Tpm::default()
    }
}
