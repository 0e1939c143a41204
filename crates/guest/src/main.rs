//! `sealift-guest`: flags in, volumes out.

mod cli;
mod processes;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use cli::{Bind, Cli, Command, Hook, Output, Run, Status};
use guest::bind::bind;
use link::pages;
use volumes::chain;
use volumes::report::{self, GuestVolume};

/// Exit code of whatever keeps the agent from its work.
const FAILED: u8 = 42;

fn main() -> ExitCode {
    // Secrets pass through it. Where a sandbox forbids this already, there is nothing to add.
    let _ = confine::harden_process();
    let done = match Cli::parse().command {
        Command::Run(run) => {
            start_log(&run);
            match run.plain_directories {
                true => processes::plain(&run),
                false => processes::mount(&run),
            }
        }
        Command::Receive(run) => {
            start_log(&run);
            processes::receive(&run)
        }
        Command::Status(status) => show(&status),
        Command::Bind(Bind { root, volume, target }) => {
            bind(&root, &volume, &target).map_err(|error| chain(&error))
        }
        Command::Hook(Hook { root, wait }) => {
            let patience = Duration::from_secs(u64::from(wait));
            let mounted = guest::hook::run(&root, io::stdin().lock(), patience);
            mounted.map(drop).map_err(|error| chain(&error))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            // Nobody reads it: then nobody is to be told.
            let _ = writeln!(io::stderr(), "E{FAILED}: {what}. Run: sealift explain E{FAILED}");
            ExitCode::from(FAILED)
        }
    }
}

/// Where the agent of the volumes at `root` answers questions about them, also in a guest without
/// network.
fn status_address(root: &Path) -> pages::Address {
    pages::Address::Unix(root.join("status.sock"))
}

fn show(status: &Status) -> Result<(), String> {
    let address = status_address(&status.root);
    let text = pages::get(&address, "/status")
        .map_err(|error| format!("the guest agent at {address}: {error}"))?;
    let text = match status.output {
        Output::Json => text + "\n",
        Output::Table => {
            let volumes: Vec<GuestVolume> = serde_json::from_str(&text)
                .map_err(|error| format!("what the guest agent at {address} says: {error}"))?;
            report::table(&report::rows(&volumes))
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}

fn start_log(run: &Run) {
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(run.log_level)
        .with_target(false);
    match run.log_json {
        true => log.json().init(),
        false => log.with_ansi(false).init(),
    }
}
