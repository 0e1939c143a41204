//! `sealift doctor`: what stands between this machine and a model, in the order in which `init` meets it.

use std::path::Path;
use std::sync::Arc;

use super::init;
use crate::attester;
use crate::checks::Checks;
use crate::cli::{Doctor, Global, KeySourceKind};
use crate::failure::Failure;
use crate::opening;
use crate::recipients::Keys;
use crate::signature;

/// Where the kernel shows what a guest can attest with.
const SIGNS: [(&str, &str); 4] = [
    ("configfs-tsm", "/sys/kernel/config/tsm/report"),
    ("SNP", "/dev/sev-guest"),
    ("TDX", "/dev/tdx_guest"),
    ("TPM", "/dev/tpmrm0"),
];

pub(crate) async fn run(args: &Doctor, global: &Global) -> Result<(), Failure> {
    let mut checks = Checks::default();
    let mut options = args.opening.clone();
    checks.ok("guest", guest());
    let log = super::audit::log_beside_result(&options.audit);
    let log = checks.take("audit log", log, |_| options.audit.audit_file.display().to_string());
    let named = std::env::var("CONFIDENTIAL_RESOURCE_ID").ok();
    let named = init::name_the_key(&mut options, named);
    let settings = named.and_then(|()| {
        let targets = init::targets(&args.pair)?;
        let settings = crate::settings::store(&options.store, Some(&options.patience))?;
        let check = signature::Check::load(&options.signature)?;
        Ok((targets, settings, Arc::new(check)))
    });
    let settings = checks.take("settings", settings, |_| "understood".to_owned());
    if options.key.key_source == Some(KeySourceKind::Kbs) || options.key.kbs_url.is_some() {
        let attester = attester::open(&options.key.attester, options.key.insecure_dev);
        checks.take("attester", attester, |attester| attester.tee().to_owned());
    }
    let (Some(log), Some((targets, settings, check))) = (log, settings) else {
        return checks.finish(global.output);
    };
    match (targets.first(), &options.resource_id) {
        (Some(target), _) => {
            opening::rehearse(target, check, &options, global, &settings, &log, &mut checks).await;
        }
        (None, Some(name)) if !name.unwraps() => {
            let keys = Keys::new(&options.key, &options.remote, "doctor", &log);
            let kek = keys.released(name).await;
            checks.release(keys.holder(name), kek, |_| name.to_string());
        }
        _ => checks.no_release(),
    }
    checks.finish(global.output)
}

fn guest() -> String {
    let found: Vec<_> =
        SIGNS.iter().filter(|(_, path)| Path::new(path).exists()).map(|(name, _)| *name).collect();
    match found.as_slice() {
        [] => "nothing to attest with is seen here".to_owned(),
        found => found.join(", "),
    }
}
