//! `sealift unsealer run`: opens sealed secrets for the agents of this guest, for guests without
//! upstream's data hub. What it serves is the data hub's own API, so that the agents speak one.

mod metrics;
mod server;

use std::io;
use std::sync::Arc;

use link::pages::{Address, Page, Pages};

use self::metrics::Metrics;
use crate::cli::{Global, Unsealer};
use crate::failure::Failure;
use crate::opener::Opener;

pub(crate) async fn run(args: &Unsealer, global: &Global) -> Result<(), Failure> {
    let Unsealer::Run(args) = args;
    let listener = server::bind(&args.listen).await?;
    let log = super::audit::log(&args.audit)?;
    let opener = Opener::new(&args.key, &args.signers, &args.pod, log)?;
    let metrics = Arc::new(Metrics::default());
    if let Some(address) = &args.metrics {
        pages(address, Arc::clone(&metrics)).map_err(|error| {
            Failure::usage(error.to_string()).at(format_args!("--metrics {address}"))
        })?;
    }
    if !global.quiet {
        eprintln!("listening on unix:{}", args.listen.display());
    }
    server::serve(&listener, Arc::new(opener), metrics).await
}

fn pages(address: &Address, metrics: Arc<Metrics>) -> io::Result<()> {
    let pages = Pages::bind(address)?;
    let page = move |path: &str| match path {
        "/metrics" => Some(Page::metrics(metrics.page())),
        "/healthz" => Some(Page::probe("ok", true)),
        // It listens already, and asks the key source with each request anew.
        "/readyz" => Some(Page::probe("ready", true)),
        _ => None,
    };
    std::thread::Builder::new().name("metrics".into()).spawn(move || pages.serve(page)).map(drop)
}
