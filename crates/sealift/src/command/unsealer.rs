//! `sealift unsealer run`: opens sealed secrets for the agents of this guest, for guests without
//! upstream's data hub. What it serves is the data hub's own API, so that the agents speak one.

mod server;

use std::sync::Arc;

use crate::cli::{Global, Unsealer};
use crate::failure::Failure;
use crate::opener::Opener;

pub(crate) async fn run(args: &Unsealer, global: &Global) -> Result<(), Failure> {
    let Unsealer::Run(args) = args;
    let listener = server::bind(&args.listen).await?;
    let log = super::audit::log(&args.audit)?;
    let opener = Opener::new(&args.key, &args.signers, &args.pod, log)?;
    if !global.quiet {
        eprintln!("listening on unix:{}", args.listen.display());
    }
    server::serve(&listener, Arc::new(opener)).await
}
