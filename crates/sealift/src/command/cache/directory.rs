//! The directory that a bundle is cached in: one run at a time, nothing else in it, room enough.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open, statvfs};
use rustix::io::Errno;
use seal::bundle::Bundle;
use seal::manifest::Manifest;
use store::Store;
use tokio::time::{Instant, sleep};

use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::progress::size;
use crate::transfer::Limits;

/// Between two looks whether the other run has ended.
const LOOK: Duration = Duration::from_millis(500);
/// Each file's last block, and the manifest.
const BLOCK_BYTES: u64 = 4_096;

/// Makes the directory and waits until no other run works in it. The lock is the directory's own, so
/// that it leaves nothing, and ends with the process.
pub(super) async fn alone(dest: &Path, time_max: Duration) -> Result<OwnedFd, Failure> {
    let failed = |what: &str, error: std::io::Error| {
        Failure::new(Code::Publish, format!("cannot {what}: {error}"))
    };
    std::fs::create_dir_all(dest).map_err(|error| failed("make the directory", error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = open(dest, flags, Mode::empty()).map_err(|errno| failed("open it", errno.into()))?;
    let began = Instant::now();
    let mut told = false;
    loop {
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(dir),
            Err(Errno::AGAIN) => {}
            Err(errno) => return Err(failed("lock it", errno.into())),
        }
        if !told {
            tracing::info!(directory = %dest.display(), "waiting for another run that caches here");
            told = true;
        }
        if began.elapsed() >= time_max {
            let what = format!("another run is still at work here after {} s", time_max.as_secs());
            return Err(Failure::new(Code::Publish, what).hint("Look at that Job's log"));
        }
        sleep(LOOK).await;
    }
}

/// Nothing may lie in the directory that is not of this bundle: whoever opens it would be refused,
/// and it is not ours to remove.
pub(super) async fn vacant(to: &Store, bundle: &Bundle, limits: &Limits) -> Result<(), Failure> {
    if !to.location().local_path().is_some_and(Path::exists) {
        return Ok(());
    }
    let there = Objects { store: to, limits };
    let advice = "A cache holds one bundle: empty the directory, or give the new one its own";
    if let Some(json) = there.manifest().await?
        && !Bundle::parse(&json).is_ok_and(|other| other.digest() == bundle.digest())
    {
        return Err(Failure::new(Code::Publish, "it holds another bundle").hint(advice));
    }
    let ours =
        |name: &String| bundle.claimed().files.iter().any(|file| file.path.object() == *name);
    let listed = there.list().await?.unwrap_or_default();
    match listed.keys().find(|name| !ours(name)) {
        Some(name) => Err(Failure::new(
            Code::Publish,
            format!("it holds {name}, which is not of this bundle"),
        )
        .hint(advice)),
        None => Ok(()),
    }
}

/// What is not there yet must fit.
pub(super) async fn room(dest: &Path, to: &Store, manifest: &Manifest) -> Result<(), Failure> {
    let mut need = 0_u64;
    for file in &manifest.files {
        let bytes = file.layout.ciphertext_bytes();
        let there = to.stat(&file.path.object()).await;
        if !there.is_ok_and(|meta| meta.bytes == bytes) {
            need = need.saturating_add(bytes + BLOCK_BYTES);
        }
    }
    let space = statvfs(dest).map_err(|errno| {
        Failure::new(
            Code::Publish,
            format!("cannot tell its room: {}", std::io::Error::from(errno)),
        )
    })?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    match need > free {
        true => {
            let what = format!("{} are missing here, and {} are free", size(need), size(free));
            Err(Failure::new(Code::TooSmall, what))
        }
        false => Ok(()),
    }
}
