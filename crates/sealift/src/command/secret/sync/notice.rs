//! Tells of a change: by a signal, and by a program.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, kill_process};

use crate::cli::{Notice, SecretSync};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest content of a file with a process's number.
const PID_BYTES_MAX: u64 = 32;

/// Says that revision `revision` is visible. An error is for people.
pub(super) async fn tell(args: &SecretSync, revision: u64) -> Result<(), String> {
    if let Some(notice) = &args.signal {
        signal(notice).map_err(|why| format!("{}: {why}", notice.pid_file.display()))?;
    }
    match args.exec.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).env("SEALIFT_SECRETS_REVISION", revision.to_string());
            let done = run(command).await;
            done.map_err(|why| format!("{}: {why}", program.to_string_lossy()))
        }
        None => Ok(()),
    }
}

fn signal(notice: &Notice) -> Result<(), String> {
    let mut text = String::new();
    let file = std::fs::File::open(&notice.pid_file).map_err(|error| error.to_string())?;
    file.take(PID_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    // Zero and below are groups of processes.
    let number = text.trim().parse::<i32>().ok().filter(|number| *number > 0);
    let process = number.and_then(Pid::from_raw).ok_or("no process's number")?;
    kill_process(process, notice.signal).map_err(|error| error.to_string())
}

async fn run(mut command: Command) -> Result<(), String> {
    // Standard output is the audit log's.
    command.stdin(Stdio::null()).stdout(Stdio::from(std::io::stderr()));
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let until = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(status.to_string()),
            None if Instant::now() >= until => {
                let _ = child.kill().and_then(|()| child.wait());
                return Err(format!("took longer than {} s", PATIENCE.as_secs()));
            }
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
