//! What has to come of a step, and how long one waits for it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::super::host::Status;
use super::super::pod::{Pod, Volume};
use super::Story;
use crate::vm::{Console, GUEST_ROOT};

/// Longest time that anything may take: far above what it does take, and below the pause after which
/// the host's agent looks at everything again, which would hide what it did not notice.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

impl Story {
    pub(super) fn status(&self) -> Result<Status> {
        self.host.status(&self.world)
    }

    /// The host's agent says that the guest has everything, and knows which revision.
    pub(super) fn all_current(&self) -> Result<()> {
        until("a volume is not current", || {
            let status = self.status()?;
            Ok(self.pod.volumes().iter().all(|volume| {
                status.is_current(volume) == Some(true)
                    && status.of(volume, "sequence").is_some_and(|sequence| sequence != "0")
            }))
        })
    }

    /// Waits until the container sees a file's new first line, and then in every volume exactly
    /// what kubelet wrote. The time since `start` is that of the first.
    pub(super) fn line_arrives(
        &mut self,
        volume: fn(&Pod) -> &Volume,
        path: &str,
        start: Instant,
    ) -> Result<Duration> {
        let volume = volume(&self.pod);
        let (line, peek) = (volume.line(path)?, format!("peek {}/{path}", volume.place()));
        let mut seen = String::new();
        until("a change does not arrive", || {
            seen = self.guest.container.run(&peek)?;
            Ok(seen == line)
        })
        .with_context(|| format!("{}: {path} is {seen:?}, not {line:?}", volume.id()))?;
        let took = start.elapsed();
        self.sees_everything()?;
        Ok(took)
    }

    pub(super) fn still_reads(&mut self, path: &str, line: &str) -> Result<()> {
        let peek = format!("peek {}/{path}", self.pod.secret.place());
        let seen = self.guest.container.run(&peek)?;
        ensure!(seen == line, "{path} should still be {line:?}, and is {seen:?}");
        Ok(())
    }

    /// Waits until each volume in the container shows what it shows on this machine, nothing less
    /// and nothing more: paths, contents, modes and owners.
    pub(super) fn sees_everything(&mut self) -> Result<()> {
        for volume in self.pod.volumes() {
            let expected = volume.look()?;
            let look = format!("look {}", volume.place());
            let mut seen = Vec::new();
            until("the container sees something else", || {
                let said = self.guest.container.run(&look)?;
                seen = said.lines().map(str::to_owned).collect();
                seen.sort();
                Ok(seen == expected)
            })
            .with_context(|| {
                let (seen, expected) = (seen.join("\n  "), expected.join("\n  "));
                format!("{} shows\n  {seen}\ninstead of\n  {expected}", volume.id())
            })?;
        }
        Ok(())
    }
}

/// Where the guest's agent keeps what containers see of a volume.
pub(super) fn data_dir(volume: &Volume) -> String {
    format!("{GUEST_ROOT}/volumes/{}/data", volume.id())
}

/// The flags of the mount at `place`: `proc(5)`, `mountinfo`.
pub(super) fn flags<'a>(mounts: &'a str, place: &str) -> Option<BTreeSet<&'a str>> {
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|fields| fields.get(4) == Some(&place))?;
    Some(mount.get(5)?.split(',').collect())
}

pub(super) fn refused((status, said): (i32, String)) -> Result<()> {
    ensure!(status != 0 && said.contains("Read-only file system"), "not refused: {status} {said}");
    Ok(())
}

/// Waits until the guest has one revision of a volume. It keeps what was replaced for two seconds
/// and has three at most: the next change would wait, which is not what a step is to measure.
pub(super) fn until_quiet(control: &mut Console, volume: &Volume) -> Result<()> {
    let revisions = format!("ls -A {} | grep '^\\.\\.[0-9]'", data_dir(volume));
    let mut left = String::new();
    until("earlier revisions stay", || {
        left = control.run(&revisions)?;
        Ok(left.lines().count() == 1)
    })
    .with_context(|| format!("{}: {left}", volume.id()))
}

/// Waits until `done` says so. Its error is final.
pub(super) fn until(otherwise: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            bail!("after {PATIENCE:?}: {otherwise}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
