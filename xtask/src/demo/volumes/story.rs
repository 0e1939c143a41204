//! [`Story`]: what is done on this machine and in the guest, and what has to come of it. A step's
//! time is from the act to the moment at which the container was found to see it.

mod checks;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::checks::{PATIENCE, data_dir, flags, refused, until, until_quiet};
use super::host::{HostAgent, kubelet_root};
use super::pod::{Pod, TOKEN_SECONDS, Volume, credentials, token};
use crate::process;
use crate::setup;
use crate::vm::{GUEST_ROOT, Guest, Relay};
use crate::world::World;

/// The pod's `fsGroup`.
const FS_GROUP: u32 = 2000;
/// The container's user.
const USER: &str = "1000";
/// Where the guest's root finds the container's files.
const CONTAINER_ROOT: &str = "/run/container";
/// How much of a log is shown after a failure.
const LOG_LINES: usize = 25;

/// Who takes part.
pub(super) struct Story {
    guest: Guest,
    pod: Pod,
    relay: Relay,
    /// The address that the host's agent is given.
    address: String,
    host: HostAgent,
    fs_group: u32,
    /// Last: what uses it goes before it.
    world: World,
}

impl Story {
    /// Starts the host's agent; the guest's starts by itself.
    pub(super) fn new(world: World, guest: Guest) -> Result<Self> {
        let channel = world.path("channel.sock");
        let relay = Relay::start(&channel, guest.channel.clone())?;
        let [before, after] = guest.address;
        let kubelet_root = kubelet_root(&world);
        std::fs::create_dir(&kubelet_root)?;
        // Whoever is not root may give files only to a group of their own.
        let fs_group = if setup::is_root()? { FS_GROUP } else { own_group()? };
        Ok(Self {
            pod: Pod::new(&kubelet_root, fs_group)?,
            address: format!("{before}{}{after}", channel.display()),
            host: HostAgent::new(&world),
            guest,
            relay,
            fs_group,
            world,
        })
    }

    /// Waits for both agents.
    pub(super) fn agents_listen(&mut self) -> Result<()> {
        self.host.start(&mut self.world)?;
        // An address where nobody listens is attached at once, and tried again later: it is the
        // boot that is to be measured here, and not such a pause.
        let [before, after] = self.guest.address;
        until("the guest's agent does not listen", || {
            let Ok(mut stream) = UnixStream::connect(&self.guest.channel) else { return Ok(false) };
            if before.starts_with("unix") {
                return Ok(true);
            }
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(format!("CONNECT {}\n", after.trim_start_matches(':')).as_bytes())?;
            let mut answer = [0; 2];
            Ok(stream.read_exact(&mut answer).is_ok() && answer == *b"OK")
        })
    }

    /// What the guest is, for people. It must share nothing but the channel.
    pub(super) fn guest(&mut self) -> Result<String> {
        let control = &mut self.guest.control;
        let mounts = control.run("cat /proc/mounts")?;
        let kinds: BTreeSet<&str> =
            mounts.lines().filter_map(|line| line.split(' ').nth(2)).collect();
        let shared = kinds.iter().find(|kind| {
            ["9p", "virtiofs", "fuse", "nfs"].iter().any(|shared| kind.starts_with(shared))
        });
        ensure!(shared.is_none(), "the guest shares a filesystem: {shared:?}");
        let kinds: Vec<&str> = kinds.into_iter().collect();
        Ok(format!(
            "\n  guest       {}\n  its mounts  {}\n  channel     {}",
            control.run("uname -srm")?,
            kinds.join(", "),
            self.address,
        ))
    }

    pub(super) fn attach(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let wait = PATIENCE.as_secs().to_string();
        let attach = ["attach", "--guest", &self.address, "--pod", &self.pod.uid, "--wait", &wait];
        self.host.ask(&self.world, &attach)?;
        let took = start.elapsed();
        for volume in self.pod.volumes() {
            let data = data_dir(volume);
            self.guest.control.run(&format!("[ -d {data}/..data/ ]"))?;
        }
        self.all_current()?;
        Ok(took)
    }

    /// Starts it, and asserts in it what no later change may alter.
    pub(super) fn start_container(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let mut line = format!("start_container {}", self.fs_group);
        for volume in self.pod.volumes() {
            line += &format!(" {}={}", volume.id(), volume.place());
        }
        self.guest.control.run(&line)?;
        until("the container does not start", || Ok(self.guest.container.greeting().is_some()))?;
        self.sees_everything()?;
        let took = start.elapsed();

        let container = &mut self.guest.container;
        container.run("started=once")?;
        ensure!(container.run("id -u")? == USER, "the container's user is not {USER}");
        let groups = container.run("id -G")?;
        let group = self.fs_group.to_string();
        ensure!(groups.split(' ').any(|own| own == group), "groups {groups} without {group}");
        for namespace in ["mnt", "pid", "user"] {
            let own = format!("readlink /proc/self/ns/{namespace}");
            let (inside, outside) = (container.run(&own)?, self.guest.control.run(&own)?);
            ensure!(inside != outside, "the container has no {namespace} namespace of its own");
        }
        let mounts = container.run("cat /proc/self/mountinfo")?;
        for volume in self.pod.volumes() {
            let place = volume.place();
            let flags = flags(&mounts, &place).with_context(|| format!("no mount at {place}"))?;
            for flag in ["ro", "nosuid", "nodev"] {
                ensure!(flags.contains(flag), "{place} is not {flag}: {flags:?}");
            }
            // A ConfigMap may hold scripts. The token's volume might, and does not.
            let may_run = volume.id() == self.pod.config.id();
            ensure!(flags.contains("noexec") != may_run, "noexec of {place}: {flags:?}");
            // Neither the container nor the guest's root through the container's mount.
            let touch = |root: &str| format!("touch {root}{place}/new");
            refused(container.try_run(&touch(""))?)?;
            refused(self.guest.control.try_run(&touch(CONTAINER_ROOT))?)?;
        }
        let (user, config) = (self.pod.secret.place(), self.pod.config.place());
        let token = self.pod.identity.place();
        let watch = format!("watch {user}/user {config}/conf/app/x.yaml {token}/token & watch=$!");
        container.run(&watch)?;
        Ok(took)
    }

    pub(super) fn rotate_secret(&mut self) -> Result<Duration> {
        credentials(&mut self.pod.secret, 2)?;
        self.line_arrives(|pod| &pod.secret, "password", Instant::now())
    }

    pub(super) fn add_key(&mut self) -> Result<Duration> {
        self.pod.secret.set("certificate", "not really one\n", 0o400);
        self.pod.secret.write()?;
        self.line_arrives(|pod| &pod.secret, "certificate", Instant::now())
    }

    pub(super) fn delete_key(&mut self) -> Result<Duration> {
        let key = format!("{}/certificate", self.pod.secret.place());
        self.guest.container.run(&format!("[ -s {key} ]"))?;
        until_quiet(&mut self.guest.control, &self.pod.secret)?;
        self.pod.secret.remove("certificate");
        self.pod.secret.write()?;
        let start = Instant::now();
        let gone = format!("! [ -e {key} ] && ! [ -L {key} ]");
        until(
            "the deleted key is still there",
            || Ok(self.guest.container.try_run(&gone)?.0 == 0),
        )?;
        let took = start.elapsed();
        // Nor anywhere else in the volume, by any name.
        self.sees_everything()?;
        Ok(took)
    }

    pub(super) fn rotate_config(&mut self) -> Result<Duration> {
        self.pod.config.set("conf/app/x.yaml", "level: 2\n", 0o644);
        // Below a link that stays.
        self.pod.config.remove("conf/app/deeper/y.yaml");
        self.pod.config.write()?;
        self.line_arrives(|pod| &pod.config, "conf/app/x.yaml", Instant::now())
    }

    pub(super) fn renew_token(&mut self) -> Result<Duration> {
        // After 80 % of its life, as kubelet does it.
        let expires = token(&mut self.pod.identity, TOKEN_SECONDS * 8 / 10)?;
        let took = self.line_arrives(|pod| &pod.identity, "token", Instant::now())?;
        let status = self.status()?;
        let said = status.of(&self.pod.identity, "token_expires");
        ensure!(said == Some(&expires.to_string()), "the token's end is {expires}, not {said:?}");
        Ok(took)
    }

    /// A change while the agents cannot reach each other.
    pub(super) fn cut_channel(&mut self) -> Result<Duration> {
        until_quiet(&mut self.guest.control, &self.pod.secret)?;
        let before = self.pod.secret.line("password")?;
        self.relay.cut();
        credentials(&mut self.pod.secret, 3)?;
        until("the host's agent does not notice that it cannot reach the guest", || {
            Ok(self.status()?.is_current(&self.pod.secret) == Some(false))
        })?;
        self.still_reads("password", &before)?;
        self.relay.restore();
        self.line_arrives(|pod| &pod.secret, "password", Instant::now())
    }

    /// A change while the guest has no agent.
    pub(super) fn kill_guest_agent(&mut self) -> Result<Duration> {
        until_quiet(&mut self.guest.control, &self.pod.secret)?;
        let before = self.pod.secret.line("password")?;
        self.guest.control.run("kill -9 $agent; wait $agent; ! [ -e /proc/$agent ]")?;
        credentials(&mut self.pod.secret, 4)?;
        self.pod.config.set("conf/app/x.yaml", "level: 3\n", 0o644);
        self.pod.config.remove("greeting");
        self.pod.config.write()?;
        until("the host's agent does not notice that the guest's is gone", || {
            Ok(self.status()?.is_current(&self.pod.secret) == Some(false))
        })?;
        self.still_reads("password", &before)?;
        self.guest.control.run("start_agent")?;
        let start = Instant::now();
        self.line_arrives(|pod| &pod.config, "conf/app/x.yaml", start)?;
        self.line_arrives(|pod| &pod.secret, "password", start)
    }

    /// A change while this machine has no agent. Nothing is attached again.
    pub(super) fn kill_host_agent(&mut self) -> Result<Duration> {
        until_quiet(&mut self.guest.control, &self.pod.secret)?;
        let before = self.pod.secret.line("password")?;
        self.host.kill()?;
        until("the host's agent is still there", || Ok(self.status().is_err()))?;
        credentials(&mut self.pod.secret, 5)?;
        self.still_reads("password", &before)?;
        let start = Instant::now();
        self.host.start(&mut self.world)?;
        self.line_arrives(|pod| &pod.secret, "password", start)
    }

    /// Waits for the end of the last grace.
    pub(super) fn settle(&mut self) -> Result<Duration> {
        let start = Instant::now();
        for volume in [&self.pod.secret, &self.pod.config, &self.pod.identity] {
            until_quiet(&mut self.guest.control, volume)?;
        }
        let took = start.elapsed();
        self.all_current()?;
        self.sees_everything()?;
        // Of each volume what it shows, its one revision and a record of that; nothing staged,
        // nothing half made, nothing half bound.
        let status = self.status()?;
        let mut expected: BTreeSet<String> = ["", "/new", "/volumes", "/status.sock"]
            .map(|path| format!("{GUEST_ROOT}{path}"))
            .into();
        for volume in self.pod.volumes() {
            let at = format!("{GUEST_ROOT}/volumes/{}", volume.id());
            let sequence = status.of(volume, "sequence").context("no sequence")?;
            let names = ["", "/data", "/data/..data", "/records", "/staging"];
            expected.extend(names.map(|name| format!("{at}{name}")));
            expected
                .extend([format!("{at}/data/..{sequence}"), format!("{at}/records/{sequence}")]);
            expected.extend(volume.names()?.iter().map(|name| format!("{at}/data/{name}")));
        }
        let find = format!("find {GUEST_ROOT} -path '*/data/..[0-9]*/*' -prune -o -print");
        let found = self.guest.control.run(&find)?;
        let found: BTreeSet<String> = found.lines().map(str::to_owned).collect();
        let differ: Vec<_> = expected.symmetric_difference(&found).collect();
        ensure!(differ.is_empty(), "left over, or missing, in the guest: {differ:#?}");
        Ok(took)
    }

    /// What the container's own reader saw, from its start until now.
    pub(super) fn watcher(&mut self) -> Result<String> {
        let container = &mut self.guest.container;
        ensure!(container.run("echo $started")? == "once", "the container started again");
        let said = container.run("touch /tmp/stop; wait $watch; cat /tmp/reads /tmp/faults")?;
        let (reads, faults) = said.split_once('\n').unwrap_or((&said, ""));
        let reads: u64 = reads.trim().parse()?;
        ensure!(faults.is_empty(), "a reader in the container found:\n{faults}");
        ensure!(reads > 100, "the container's reader read {reads} times only");
        Ok(format!("  Meanwhile the container read {reads} files: none missing, none torn."))
    }

    pub(super) fn detach(&mut self) -> Result<Duration> {
        let places: Vec<String> = self.pod.volumes().map(Volume::place).into();
        self.guest.control.run(&format!("stop_container {}", places.join(" ")))?;
        let start = Instant::now();
        self.host.ask(&self.world, &["detach", "--pod", &self.pod.uid])?;
        until("the guest still has volumes", || {
            let left = self.guest.control.run(&format!("ls -A {GUEST_ROOT}/volumes"))?;
            Ok(left.is_empty())
        })?;
        let took = start.elapsed();
        let mounts = self.guest.control.run("cat /proc/mounts")?;
        let left = mounts.lines().find(|line| line.starts_with("sealift "));
        ensure!(left.is_none(), "still mounted: {left:?}");
        self.guest.control.run("kill -9 $agent; wait $agent; ! [ -e /proc/$agent ]")?;
        Ok(took)
    }

    /// What both agents and the guest's kernel have said lately.
    pub(super) fn logs(&self) -> String {
        let lately = |name: &str| {
            let log = self.world.log(name);
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            format!("--- {name}\n{}\n", lines[from..].join("\n"))
        };
        [lately("guest"), lately(&self.host.log())].concat()
    }
}

fn own_group() -> Result<u32> {
    Ok(process::capture(Command::new("id").arg("-g"))?.trim().parse()?)
}
