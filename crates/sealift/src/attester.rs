//! Which attester the deployer chose. There is no detection, and nothing to fall back to.

use keys::{Attester, AzureTee, AzureVtpm, SampleAttester, Tpm, Tsm};

use crate::cli::{AttesterArgs, AttesterKind, TpmArgs};
use crate::failure::Failure;

/// The attester that the arguments name.
pub(crate) fn open(args: &AttesterArgs, insecure_dev: bool) -> Result<Box<dyn Attester>, Failure> {
    match (args.attester, insecure_dev) {
        (Some(AttesterKind::Tsm), _) => {
            Ok(Box::new(Tsm::open(&args.tsm_root, args.tsm_privlevel)?))
        }
        (Some(AttesterKind::Tpm), _) => Ok(Box::new(tpm(&args.tpm))),
        (Some(AttesterKind::AzSnpVtpm), _) => azure(AzureTee::Snp, args),
        (Some(AttesterKind::AzTdxVtpm), _) => azure(AzureTee::Tdx, args),
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
            "Say --attester tsm in a guest of SNP, TDX or CCA, az-snp-vtpm or az-tdx-vtpm on \
             Azure, or tpm; inside Confidential Containers use --key-source cdh",
        )),
    }
}

fn azure(tee: AzureTee, args: &AttesterArgs) -> Result<Box<dyn Attester>, Failure> {
    let key_handle = args.tpm.tpm_key_handle.unwrap_or(AzureVtpm::KEY_HANDLE);
    let tpm = Tpm { key_handle, ..tpm(&args.tpm) };
    Ok(Box::new(AzureVtpm::new(tee, tpm, &args.azure_metadata_url)?))
}

/// The TPM that the arguments name.
pub(crate) fn tpm(args: &TpmArgs) -> Tpm {
    let default = Tpm::default();
    Tpm {
        device: args.tpm_device.clone(),
        key_handle: args.tpm_key_handle.unwrap_or(default.key_handle),
        pcrs: args.tpm_pcrs,
        ..default
    }
}
