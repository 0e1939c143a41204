//! `sealift init`: what KServe starts before a model server.

use std::path::PathBuf;

use crate::cli::{Global, Init, Opening};
use crate::code::Code;
use crate::failure::Failure;
use crate::opening::{self, Accept, Outcome, Target};
use crate::patterns::Patterns;
use crate::progress::{rate, size};
use crate::source::Source;
use crate::trace::Trace;
use seal::name::KeyUri;

pub(crate) async fn run(args: &Init, global: &Global) -> Result<(), Failure> {
    let confidential = std::env::var("CONFIDENTIAL_ENABLED").ok();
    let accept = accepted(args, confidential.as_deref())?;
    if matches!(accept, Accept::Plain(_)) {
        eprintln!("warning: SEALIFT_REQUIRE_SEALED=false: plain models are downloaded as they are");
    }
    let mut options = args.opening.clone();
    name_the_key(&mut options, std::env::var("CONFIDENTIAL_RESOURCE_ID").ok())?;
    let targets = targets(&args.pairs)?;
    let settings = crate::settings::store(&options.store, Some(&options.patience))?;
    let log = super::audit::log(&options.audit)?;
    let trace = Trace::begin(targets.len(), &settings);
    let opened =
        opening::open_traced(&targets, accept, &options, global, &settings, &log, &trace).await;
    trace.end(&opened);
    let outcomes = opened?;
    if !global.quiet {
        outcomes.iter().for_each(tell);
    }
    Ok(())
}

/// Plain models only when the deployer says so and the control plane does not ask for more. Any
/// value of `CONFIDENTIAL_ENABLED` that is not plainly `false` counts as asking.
fn accepted(args: &Init, confidential: Option<&str>) -> Result<Accept, Failure> {
    let confidential = confidential.is_some_and(|value| !value.eq_ignore_ascii_case("false"));
    let patterns = Patterns::parse(&args.allow_patterns, &args.ignore_patterns)?;
    Ok(match args.require_sealed || confidential {
        false => Accept::Plain(patterns),
        true => args.accept.sealed(),
    })
}

/// KServe's variable names the key where our own flag does not. Both are the deployer's; if they
/// differ, something is wrong and nobody should guess.
pub(crate) fn name_the_key(
    options: &mut Opening,
    confidential: Option<String>,
) -> Result<(), Failure> {
    let Some(text) = confidential.filter(|text| !text.is_empty()) else { return Ok(()) };
    let named = KeyUri::parse(&text)
        .map_err(|error| Failure::from(error).recode(Code::Usage).at("CONFIDENTIAL_RESOURCE_ID"))?;
    match &options.resource_id {
        Some(ours) if *ours != named => Err(Failure::usage(format!(
            "CONFIDENTIAL_RESOURCE_ID names {named} and --resource-id {ours}"
        ))),
        _ => {
            options.resource_id = Some(named);
            Ok(())
        }
    }
}

pub(crate) fn targets(pairs: &[String]) -> Result<Vec<Target>, Failure> {
    if !pairs.len().is_multiple_of(2) {
        return Err(Failure::usage("a source without a destination")
            .hint("Give pairs: SRC DEST [SRC DEST]…"));
    }
    let pair = |pair: &[String]| {
        Ok(Target { source: Source::parse(&pair[0])?, dest: PathBuf::from(&pair[1]) })
    };
    pairs.chunks_exact(2).map(pair).collect()
}

/// The line that ends a pod's start.
pub(super) fn tell(outcome: &Outcome) {
    let stream = std::time::Duration::from_millis(u64::try_from(outcome.stream_ms).unwrap_or(0));
    let fetched = outcome.bytes - outcome.resumed_bytes;
    let name = match (&outcome.model, outcome.generation) {
        (Some(model), Some(generation)) => format!("{model} generation {generation}"),
        _ => "unsealed model".into(),
    };
    let dest = outcome.destination.display();
    if outcome.unchanged {
        eprintln!("ready {dest}: {name} was there already, {}", outcome.digest);
    } else {
        eprintln!(
            "ready {dest}: {name}, {} files, {} in {:.1} s ({}/s), {}",
            outcome.files,
            size(outcome.bytes),
            stream.as_secs_f64(),
            size(rate(fetched, stream)),
            outcome.digest,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn init(arguments: &[&str]) -> Init {
        let line = ["sealift", "init", "s3://b/m", "/mnt/models"].iter().chain(arguments);
        match crate::cli::Cli::try_parse_from(line).unwrap().command {
            crate::cli::Command::Init(init) => init,
            _ => unreachable!("the line says init"),
        }
    }

    #[test]
    fn dropping_or_changing_a_variable_opens_nothing() {
        let sealed = init(&[]);
        let plain = init(&["--require-sealed=false"]);
        for confidential in [None, Some("false"), Some("true"), Some("1"), Some(""), Some("TRUE")] {
            assert_eq!(
                accepted(&sealed, confidential).unwrap(),
                Accept::SEALED_ONLY,
                "{confidential:?}"
            );
        }
        for confidential in [Some("true"), Some("1"), Some(""), Some("yes"), Some("TRUE")] {
            assert_eq!(
                accepted(&plain, confidential).unwrap(),
                Accept::SEALED_ONLY,
                "{confidential:?}"
            );
        }
        assert!(matches!(accepted(&plain, None), Ok(Accept::Plain(_))));
        assert!(matches!(accepted(&plain, Some("False")), Ok(Accept::Plain(_))));
    }

    #[test]
    fn two_names_for_the_key_are_refused() {
        let mut options = init(&["--resource-id", "kbs:///a/b/c"]).opening;
        name_the_key(&mut options, Some("kbs:///a/b/c".into())).unwrap();
        let failure = name_the_key(&mut options, Some("kbs:///a/b/d".into())).unwrap_err();
        assert_eq!(failure.code(), Code::Usage);
    }
}
