//! `sealift open`: one bundle, for a person with the key.

use crate::cli::{Global, Open};
use crate::failure::Failure;
use crate::opening::{self, Target};
use crate::output::{self, row};
use crate::progress::size;
use crate::source::Source;

pub(crate) async fn run(args: &Open, global: &Global) -> Result<(), Failure> {
    let target = Target { source: Source::parse(&args.source)?, dest: args.dest.clone() };
    let options = &args.opening;
    let settings = crate::settings::store(&options.store, Some(&options.patience))?;
    let log = super::audit::log_beside_result(&options.audit)?;
    let accept = args.accept.sealed();
    let outcomes = opening::open_all(&[target], accept, options, global, &settings, &log).await?;
    output::print(global.output, &outcomes[0], |outcome| {
        let mut rows = vec![
            row([&"destination", &outcome.destination.display()]),
            row([&"model", &outcome.model.as_deref().unwrap_or("-")]),
            row([&"generation", &outcome.generation.map_or("-".to_owned(), |it| it.to_string())]),
            row([&"digest", &outcome.digest]),
            row([&"files", &outcome.files]),
            row([&"size", &size(outcome.bytes)]),
        ];
        rows.extend(outcome.signer.as_ref().map(|signer| row([&"signed by", signer])));
        rows
    })
}
