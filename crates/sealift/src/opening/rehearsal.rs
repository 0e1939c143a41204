//! [`rehearse`]: what `init` does before it fetches a model's bytes, one check after the other.

use std::sync::Arc;

use publish::{Destination, Policy};
use store::{Settings, Store};

use super::plan::Work;
use super::{Accept, Run, Target, limits};
use crate::checks::Checks;
use crate::cli::{Global, Opening};
use crate::failure::Failure;
use crate::objects::Objects;
use crate::progress::size;
use crate::recipients::Keys;
use crate::signature::Check;
use crate::trace::Trace;

/// Checks a target without publishing anything. The key is really asked for, and that is recorded; what
/// an interrupted run has left in the destination stays.
pub(crate) async fn rehearse(
    target: &Target,
    check: Arc<Check>,
    options: &Opening,
    global: &Global,
    settings: &Settings,
    log: &audit::Log,
    checks: &mut Checks,
) {
    let limits = limits(&options.patience, options.max_memory);
    let (accept, trace) = (Accept::SEALED_ONLY, &Trace::OFF);
    let run = Run { accept, options, global, settings, log, limits, check, trace };
    let policy = Policy { allow_disk: options.allow_disk };
    let destination = Destination::open(&target.dest, &policy).map_err(Failure::from);
    let destination =
        checks.take("destination", destination, |place| place.filesystem().to_string());
    let keys = Keys::new(&options.key, &options.remote, "doctor", log);
    let planned =
        run.look(target, &keys).await.map_err(|failure| failure.at(&target.source.location));
    let planned = checks.take("bundle", planned, |(plan, _)| {
        let bytes: u64 = plan.files.iter().map(|file| file.bytes).sum();
        format!("{} files, {}, sealed for this key", plan.files.len(), size(bytes))
    });
    let room = match (&destination, &planned) {
        (Some(destination), Some((plan, _))) => Some(destination.preflight(plan)),
        _ => None,
    };
    match room {
        Some(room) => {
            checks.take("room", room.map_err(Failure::from), |room| {
                let free = room.space.map_or("without a limit".to_owned(), size);
                format!("{} needed, {free} there", size(room.need_bytes))
            });
        }
        None => checks.not_tried("room"),
    }
    let Some((_, Work::Sealed { bundle, resource })) = planned else {
        checks.no_release();
        checks.not_tried("current");
        return;
    };
    let kek = keys.opening(&resource, None, &bundle).await;
    let kek = checks.release(keys.holder(&resource), kek, |_| resource.to_string());
    match kek {
        Some(kek) => {
            let opened = match run.demand(target, &keys).await {
                Ok(demand) => bundle.open(&resource, &kek, &demand).map_err(Failure::from),
                Err(failure) => Err(failure),
            };
            checks.take("current", opened, |opened| {
                let manifest = opened.manifest();
                format!("{} generation {}", manifest.name, manifest.generation)
            });
        }
        None => checks.not_tried("current"),
    }
}

impl Run<'_> {
    async fn look(
        &self,
        target: &Target,
        keys: &Keys<'_>,
    ) -> Result<(publish::Plan, Work), Failure> {
        let store = Store::open(&target.source.location, self.settings)?;
        self.plan_work(target, &Objects { store: &store, limits: &self.limits }, keys).await
    }
}
