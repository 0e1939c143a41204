//! What `init` gives up before its first thread: it hears stores and key sources, of which it
//! believes nothing, and holds a key and plaintext.
//!
//! It reads what its user may, writes only into its destinations (or where those have to be made), the
//! directory of its audit log and the termination message, and starts no other program. With a key in a PKCS#11 token it does start one, which loads
//! its vendor's library: nobody can say what that needs.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use audit::Target;
use confine::files::Files;
use seal::name::KeyUri;

use crate::cli::{Init, Opening};
use crate::command::init::{name_the_key, targets};
use crate::failure::{Failure, chain};

/// Confines the process, which has one thread, to what `args` need.
pub(crate) fn initializer(args: &Init) -> Result<(), Failure> {
    if !args.confine {
        tracing::warn!("not confined: SEALIFT_CONFINE=false");
        return Ok(());
    }
    let targets = targets(&args.pairs)?;
    let mut options = args.opening.clone();
    name_the_key(&mut options, std::env::var("CONFIDENTIAL_RESOURCE_ID").ok())?;
    let keys = targets.iter().filter_map(|target| target.source.key.as_ref());
    if keys.chain(&options.resource_id).any(|key| matches!(key, KeyUri::Pkcs11(_))) {
        tracing::info!("not confined: a token's library may need anything");
        return Ok(());
    }
    let destinations = targets.iter().map(|target| target.dest.as_path());
    let files = files(&options, destinations, &args.termination_log);
    match files.and_then(|files| confine::program(&files)) {
        Ok(confined) => {
            tracing::info!(%confined, "confined");
            Ok(())
        }
        Err(error) => Err(Failure::usage(chain(&error)).hint(
            "Where the sandbox around it has no seccomp, start it with SEALIFT_CONFINE=false",
        )),
    }
}

fn files<'a>(
    options: &Opening,
    destinations: impl Iterator<Item = &'a Path>,
    termination_log: &Path,
) -> Result<Files, confine::Error> {
    let attester = &options.key.attester;
    let mut files = Files::new()
        .read("/")
        .connect()
        .write_if_there(termination_log)
        .write_if_there("/dev/null")
        .write_if_there(&attester.tpm.tpm_device);
    for destination in destinations {
        files = files.keep_or_make(destination)?;
    }
    files = files.keep_if_there(&attester.tsm_root)?;
    // A software TPM.
    if attester.tpm.tpm_device.metadata().is_ok_and(|file| file.file_type().is_socket()) {
        files = files.connect_unix();
    }
    Ok(match Target::parse(&options.audit.audit_file) {
        Target::File(log) => files.keep_beside(&log)?,
        Target::Journal | Target::Syslog(_) => files.connect_unix(),
        Target::Stdout | Target::Http(_) => files,
    })
}
