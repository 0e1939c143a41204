//! Where no virtual machine can run: the same files and script in a mount namespace of this machine's
//! kernel. The guest's filesystem is a directory; the channel is a socket file in it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Console, Files, Guest};
use crate::arch::Arch;
use crate::process;
use crate::setup;
use crate::setup::vm::busybox;
use crate::world::World;

/// Starts the script that follows, and ends everything that came of it when it is asked to end.
const START: &str = r#"
unshare --mount sh -c "$1" sh "$2" &
trap 'kill -9 0' TERM
wait
"#;

/// Makes the guest's directory the root of its mount namespace: whoever is only below a changed root
/// may have no user namespace, and the container gets one.
const ENTER: &str = r#"
set -e
mount --bind "$1" "$1"
cd "$1"
pivot_root . old
exec bin/busybox chroot . /init namespaces
"#;

/// What keeps namespaces from being used here, if anything does.
pub(super) fn why_not() -> Result<Option<String>> {
    if !setup::is_root()? {
        return Ok(Some("namespaces need root".into()));
    }
    let mut attempt = Command::new("unshare");
    attempt.args(["--mount", "--pid", "--user", "--fork", "true"]);
    let allowed = process::output(&mut attempt).is_ok_and(|output| output.status.success());
    if !allowed {
        return Ok(Some("namespaces may not be made here".into()));
    }
    Ok(busybox(Arch::here()).err().map(|why| format!("{why:#}")))
}

pub(super) fn start(world: &mut World, files: &Files) -> Result<Guest> {
    let root = world.path("guest");
    let lines = root.join("lines");
    for directory in [&root, &lines, &root.join("old")] {
        fs::create_dir(directory)?;
    }
    files.write_below(&root)?;
    let mut control = line(&lines, "control")?;
    let container = line(&lines, "container")?;
    world.serve("guest", Command::new("sh").args(["-c", START, "sh", ENTER]).arg(&root))?;
    world.wait("guest", || control.greeting())?;
    let channel = lines.join("agent.sock");
    Ok(Guest { control, container, channel, address: ["unix:", ""] })
}

/// Two pipes with names. Both sides open both for reading and writing: nobody waits for anybody.
fn line(lines: &Path, name: &'static str) -> Result<Console> {
    let open = |end: &str| -> Result<File> {
        let path = lines.join(format!("{name}.{end}"));
        process::capture(Command::new("mkfifo").arg(&path))?;
        Ok(File::options().read(true).write(true).open(path)?)
    };
    Ok(Console::new(name, open("in")?, open("out")?))
}
