//! `sealift doctor`: what stands between this machine and a model, in the order in which `init` meets it; then
//! what the machine is like.

mod cluster;
mod credentials;
#[cfg(test)]
mod fake;
mod finding;
mod machine;
mod memory;
mod network;
mod node;
mod place;
mod reach;

use std::path::PathBuf;
use std::sync::Arc;

pub(crate) use self::finding::{Finding, Level};
use self::place::Machine;
pub use self::place::Place;

use super::init;
use crate::attester;
use crate::checks::Checks;
use crate::cli::{Doctor, Global, KeySourceKind};
use crate::failure::Failure;
use crate::opening;
use crate::recipients::Keys;
use crate::signature;

pub(crate) async fn run(args: &Doctor, global: &Global) -> Result<(), Failure> {
    let mut checks = Checks::default();
    let bundles = chain(args, global, &mut checks).await;
    let machine = Machine { root: "/".into(), variable: &|name| std::env::var(name).ok() };
    let place = args.at.unwrap_or_else(|| machine.place());
    let key = &args.opening.key;
    checks.found(place::finding(place, args.at.is_some()));
    let reached = reach::look(key, place).await;
    let found = survey(&machine, place, key.kbs_url.as_deref(), &bundles, reached);
    let cluster = cluster::look(&machine, place).await;
    found.into_iter().chain(cluster).for_each(|found| checks.found(found));
    checks.finish(global.output)
}

/// All that opening needs, up to what fails. Returns the bundles of authorities that it would trust.
async fn chain(args: &Doctor, global: &Global, checks: &mut Checks) -> Vec<PathBuf> {
    let mut options = args.opening.clone();
    let mut bundles: Vec<_> = options.key.kbs_ca.clone().into_iter().collect();
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
        return bundles;
    };
    bundles.extend(settings.ca_bundle.clone());
    match (targets.first(), &options.resource_id) {
        (Some(target), _) => {
            opening::rehearse(target, check, &options, global, &settings, &log, checks).await;
        }
        (None, Some(name)) if !name.unwraps() => {
            let keys = Keys::new(&options.key, &options.remote, "doctor", &log);
            let kek = keys.released(name).await;
            checks.release(keys.holder(name), kek, |_| name.to_string());
        }
        _ => checks.no_release(),
    }
    bundles
}

/// What the machine is like, whatever is to be opened on it.
fn survey(
    machine: &Machine<'_>,
    place: Place,
    kbs: Option<&str>,
    bundles: &[PathBuf],
    reached: Finding,
) -> Vec<Finding> {
    let mut findings = machine::look(machine);
    findings.push(memory::look(machine));
    findings.push(network::proxy(machine, kbs));
    findings.push(network::authorities(bundles));
    findings.push(reached);
    findings.push(credentials::look(machine));
    findings.extend(node::look(machine, place));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_its_id_and_its_line_in_the_documentation() {
        for place in [Place::Laptop, Place::Node, Place::Pod] {
            let reached = Finding::skipped("network.keys", "");
            let found = survey(&fake::Fake::new(&[]).machine(), place, None, &[], reached);
            let here = place::finding(place, true);
            let cluster = cluster::skipped("");
            let all = [&here].into_iter().chain(&found).chain(&cluster);
            let ids: Vec<_> = all.map(|found| found.id).collect();
            assert_eq!(ids, finding::IDS);
        }
        let page = include_str!("../../../../docs/doctor.md");
        let lines = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(lines.collect::<Vec<_>>(), finding::IDS);
    }
}
