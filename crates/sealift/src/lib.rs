//! The `sealift` command and the KServe storage initializer.
//!
//! [`run`] is the whole life of the process: parse, harden, log, do, say why not. What the commands do lies in `command`,
//! one file each; what `init` and `open` share in [`opening`] and [`transfer`].

mod attester;
mod checks;
pub mod cli;
pub mod code;
mod command;
mod confinement;
pub mod failure;
mod key_source;
mod kubernetes;
mod manifest;
mod objects;
mod opener;
pub mod opening;
mod output;
pub mod patterns;
pub mod progress;
mod recipients;
mod recording;
pub mod retry;
mod settings;
mod signature;
pub mod source;
mod stop;
mod trace;
pub mod transfer;
mod width;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, LogFormat};
use code::Code;
use failure::Failure;

/// The name under which the program takes KServe's bare `SRC DEST [SRC DEST]…`.
const STORAGE_INITIALIZER: &str = "storage-initializer";

/// Runs the program to its end. `arguments` begin with the name that it was started by.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let cli = match parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results, anything else is wrong usage; clap prints both.
            let code = if error.use_stderr() { Code::Usage.exit() } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    log_to_stderr(&cli.global);
    let hardening = confine::harden_process();
    if !hardening.undumpable || !hardening.no_core {
        tracing::warn!(?hardening, "core dumps could not be switched off");
    }
    let termination_log = match &cli.command {
        Command::Init(init) => Some(init.termination_log.clone()),
        Command::Secret(cli::Secret::Sync(sync)) => Some(sync.termination_log.clone()),
        _ => None,
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(failure)) => {
            if let Some(path) = termination_log {
                stop::leave_termination_message(&path, &failure);
            }
            eprintln!("{failure}");
            ExitCode::from(failure.code().exit())
        }
        Err(Stop::Exit(code)) => ExitCode::from(code),
    }
}

fn parse(mut arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == STORAGE_INITIALIZER) {
        arguments.insert(1, "init".into());
    }
    Cli::try_parse_from(arguments)
}

/// Why a command ended without a result.
enum Stop {
    Failed(Failure),
    /// Another program's exit code, or a signal's.
    Exit(u8),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

fn dispatch(cli: Cli) -> Result<(), Stop> {
    let global = &cli.global;
    confinement::confine(&cli.command, global)?;
    match cli.command {
        Command::Seal(args) => stop::in_runtime(command::seal::run(&args, global)),
        Command::Doctor(args) => stop::in_runtime(command::doctor::run(&args, global)),
        Command::Init(args) => stop::in_runtime(command::init::run(&args, global)),
        Command::Open(args) => stop::in_runtime(command::open::run(&args, global)),
        Command::Cache(args) => stop::in_runtime(command::cache::run(&args, global)),
        Command::Inspect(args) => stop::in_runtime(command::inspect::run(&args, global)),
        Command::Verify(args) => stop::in_runtime(command::verify::run(&args, global)),
        Command::Rewrap(args) => stop::in_runtime(command::rewrap::run(&args, global)),
        Command::Key(args) => stop::in_runtime(command::key::run(&args, global)),
        Command::Unsealer(args) => stop::in_runtime(command::unsealer::run(&args, global)),
        Command::Secret(args) => command::secret::run(&args, global),
        Command::Keygen(args) => Ok(command::keygen::run(&args, global)?),
        Command::Attest(args) => Ok(command::attest::run(&args, global)?),
        Command::Audit(args) => Ok(command::audit::run(&args, global)?),
        Command::Manifest(args) => Ok(command::manifest::run(&args)?),
        Command::Explain(args) => Ok(command::explain::run(&args)?),
        Command::Completion(args) => Ok(command::completion::run(&args)?),
        Command::Man(args) => Ok(command::man::run(&args)?),
        Command::Broker(args) => command::beside::exec("sealift-broker", None, &args),
        Command::Host(args) => command::beside::exec("sealift-host", None, &args),
        Command::Guest(args) => command::beside::exec("sealift-guest", None, &args),
        Command::Status(args) => command::beside::exec("sealift-host", Some("status"), &args),
    }
}

fn log_to_stderr(global: &cli::Global) {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| global.log_level.clone());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        LogFormat::Text => builder.with_ansi(false).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}
