//! `cargo xtask demo volumes`: a pod's Secret, ConfigMap and token, in a container in a virtual
//! machine that shares no filesystem with this one, while kubelet changes them and things fail.
//!
//! Every step asserts what it says, inside the container, and `cargo xtask test` runs the same.

mod host;
#[path = "../../../crates/testkit/src/kubelet.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests' own kubelet, taken as a module since it needs nothing but the standard \
              library, whereas its crate is minutes of building"
)]
mod kubelet;
mod pod;
mod story;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::story::Story;
use crate::arch::Arch;
use crate::setup;
use crate::vm::{Kind, guest_program};
use crate::workspace::{Profile, build};
use crate::world::World;

/// Nothing is kept in this machine's memory.
const MEMORY_BYTES: u64 = 1 << 20;

/// Where the story took place.
pub(crate) enum Place {
    Machine,
    /// Not in a virtual machine, and why.
    Namespaces(String),
    /// Nowhere, and why.
    Nowhere(String),
}

/// The demo: as [`play`], but not taking place is a failure. `machines` are out of the question if
/// false.
pub(crate) fn run(machines: bool) -> Result<()> {
    match play(machines, Profile::Release)? {
        Place::Nowhere(why) => bail!("this cannot be shown here: {why}"),
        Place::Machine | Place::Namespaces(_) => Ok(()),
    }
}

/// Tells the story, and fails where it does not hold.
pub(crate) fn play(machines: bool, profile: Profile) -> Result<Place> {
    let kind = Kind::find(machines)?;
    if let Kind::None(why) = kind {
        return Ok(Place::Nowhere(why));
    }
    let building = setup::Doing::new("building sealift-host");
    let programs = build(&[host::PROGRAM], profile)?;
    building.done();
    let agent = guest_program(Arch::here())?;

    let start = Instant::now();
    println!(
        "\nSealift: kubelet's volumes, current in a guest that shares no files with this host.\n"
    );
    if let Kind::Namespaces(why) = &kind {
        println!("  There is no virtual machine here, so the guest is namespaces of this kernel:");
        println!("  {}\n", why.replace('\n', "\n  "));
    }
    let mut world = World::new("volumes", MEMORY_BYTES, programs)?;
    let booting = Instant::now();
    let guest = kind.start(&mut world, &agent)?;
    let mut story = Story::new(world, guest)?;
    if let Err(error) = tell(&mut story, booting) {
        println!("  FAILED\n\n{}", story.logs());
        return Err(error);
    }
    drop(story);
    println!(
        "\nAll as promised, in {:.1} s; everything is cleaned up.",
        start.elapsed().as_secs_f64()
    );
    Ok(match kind {
        Kind::Machine(_) => Place::Machine,
        Kind::Namespaces(why) => Place::Namespaces(why),
        Kind::None(why) => Place::Nowhere(why),
    })
}

fn tell(story: &mut Story, booting: Instant) -> Result<()> {
    story.agents_listen()?;
    step("the guest boots, and its agent listens", booting.elapsed());
    println!("{}\n", story.guest()?);
    println!("  {:62}{:>11}", "step", "time");
    step("attach: the first revision of 3 volumes is in the guest", story.attach()?);
    step("a container starts, and reads all of them as user 1000", story.start_container()?);
    println!("\n  from kubelet's switch until the running container sees it:");
    step("  the Secret's values change", story.rotate_secret()?);
    step("  a key is added", story.add_key()?);
    step("  a key is deleted, and gone", story.delete_key()?);
    step("  a ConfigMap's conf/app/x.yaml changes, a neighbour goes", story.rotate_config()?);
    step("  the token is renewed", story.renew_token()?);
    println!("\n  from the repair until the running container sees what changed meanwhile:");
    step("  the channel was cut", story.cut_channel()?);
    step("  the guest's agent was killed, and starts again", story.kill_guest_agent()?);
    step("  the host's agent was killed, and starts again", story.kill_host_agent()?);
    println!();
    step("one revision of each volume is left, and nothing else", story.settle()?);
    println!("{}", story.watcher()?);
    step("detach: the guest has none of them any more", story.detach()?);
    Ok(())
}

fn step(what: &str, took: Duration) {
    println!("  {what:62}{:8.1} ms", took.as_secs_f64() * 1e3);
}
