//! How a command ends: by itself, by a signal, and with what left for Kubernetes to show.

use std::future::Future;
use std::io::Write;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use crate::Stop;
use crate::code::Code;
use crate::failure::Failure;

/// Runs a command until it ends or the process is asked to stop.
///
/// The handler matters in a container: as its first process, ours would otherwise ignore SIGTERM
/// and be killed half a minute later. What is staged in memory stays for the next run to resume,
/// as it would after SIGKILL.
pub(crate) fn in_runtime(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Stop> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Bug, format!("no runtime: {error}")))?;
    let result = runtime.block_on(async {
        let broken = |error| Failure::new(Code::Bug, format!("no signal handler: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
        tokio::select! {
            result = command => Ok(result?),
            _ = terminate.recv() => Err(interrupted("SIGTERM", 143)),
            _ = interrupt.recv() => Err(interrupted("SIGINT", 130)),
        }
    });
    if matches!(result, Err(Stop::Exit(_))) {
        // Whoever still hashes a large file is not waited for.
        runtime.shutdown_background();
    }
    result
}

fn interrupted(signal: &str, exit: u8) -> Stop {
    eprintln!("stopped by {signal}");
    Stop::Exit(exit)
}

/// Writes the one-line failure where Kubernetes, and so KServe's status, shows it. A machine
/// without that file (a laptop) has nothing to be shown on.
pub(crate) fn leave_termination_message(path: &Path, failure: &Failure) {
    let file = std::fs::OpenOptions::new().write(true).truncate(true).open(path);
    let written = match file {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => Err(error),
        Ok(mut file) => file.write_all(failure.line().as_bytes()),
    };
    if let Err(error) = written {
        tracing::warn!(path = %path.display(), %error, "no termination message was left");
    }
}
