//! Plays kubelet for the volume lane's benches.
//!
//! | `kubelet …` | does |
//! |---|---|
//! | `lay-out ROOT VOLUMES` | makes so many Secrets of two keys, 20 to a pod; prints the pods' UIDs |
//! | `large ROOT FILES BYTES` | makes a ConfigMap of so many files, each of so many bytes; prints its pod's UID |
//! | `pace ROOT GUEST VOLUMES ROUNDS SCRATCH` | updates the Secrets of `lay-out`, which are attached, in turn; GUEST is the guest agent's root. Next to them, as many by Kata's Go sequence and one by that of runtime-rs |
//! | `one-key ROOT GUEST SOCKET KEYS ROUNDS SCRATCH ATTACH…` | changes one key of a ConfigMap of 1 MiB, by each of the three; ATTACH is `sealift-host`, its socket, and what else comes before the guest's address |
//!
//! `pace` and `one-key` print a line for each update: by whom; the milliseconds from the switch of
//! `..data` until the guest has all of it; requests, bytes to the guest and bytes back, through a
//! relay, and zeros where there is none.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::kata::runtime::{Runtime, Shared};
use testkit::kata::{KataAgent, SHARED};
use testkit::kubelet::{
    AtomicWriter, Payload, Projection, Step, make_volume, payload, pod_uid, stamp,
};
use testkit::relay::Relay;

const PER_POD: usize = 20;
const KEYS: [&str; 2] = ["tls.crt", "tls.key"];
/// The pod of a ConfigMap that has one of its own.
const LARGE_POD: usize = 0xc0f;
/// An update that takes longer is a failure, not a figure.
const LONGEST: Duration = Duration::from_secs(30);
/// Between two looks at the guest, so that looking takes no processor from who works.
const LOOK: Duration = Duration::from_micros(50);
/// Between an update and the next: in life there are hours, and agents asleep.
const PAUSE: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["lay-out", root, volumes] => lay_out(Path::new(root), volumes.parse()?),
        ["large", root, files, bytes] => large(Path::new(root), files.parse()?, bytes.parse()?),
        ["pace", root, guest, volumes, rounds, scratch] => {
            let (root, guest, scratch) = (Path::new(root), Path::new(guest), Path::new(scratch));
            pace(root, guest, volumes.parse()?, rounds.parse()?, scratch)
        }
        ["one-key", root, guest, socket, keys, rounds, scratch, ref attach @ ..] => {
            let guest = (Path::new(guest), Path::new(socket));
            let (root, scratch) = (Path::new(root), Path::new(scratch));
            one_key(root, guest, keys.parse()?, rounds.parse()?, scratch, attach)
        }
        _ => bail!("usage: kubelet lay-out | large | pace | one-key, see its source"),
    }
}

fn lay_out(root: &Path, volumes: usize) -> Result<()> {
    let secrets = secrets(root, volumes)?;
    let pods: BTreeSet<&str> = secrets.iter().map(|(_, id)| &id[..pod_uid(0).len()]).collect();
    pods.iter().for_each(|pod| println!("{pod}"));
    Ok(())
}

/// Secrets of two keys, each with the name that it gets in a guest.
fn secrets(root: &Path, volumes: usize) -> Result<Vec<(AtomicWriter, String)>> {
    let secret = |number: usize| {
        let (pod, name) = (pod_uid(number / PER_POD), format!("s{}", number % PER_POD));
        let writer = make_volume(root, &pod, "secret", &name)?.writer;
        writer.write(&payload(0, &KEYS))?;
        Ok((writer, format!("{pod}.{name}")))
    };
    (0..volumes).map(secret).collect()
}

fn large(root: &Path, files: usize, bytes: u64) -> Result<()> {
    let pod = pod_uid(LARGE_POD);
    let volume = make_volume(root, &pod, "configmap", "large")?;
    let mut content = Vec::new();
    fs::File::open("/dev/urandom")?.take(bytes).read_to_end(&mut content)?;
    let file = |number: usize| {
        let mut bytes = content.clone();
        bytes.iter_mut().zip(number.to_le_bytes()).for_each(|(byte, other)| *byte ^= other);
        (format!("file-{number:04}"), Projection { bytes, mode: 0o644, uid: None })
    };
    volume.writer.write(&(0..files).map(file).collect())?;
    println!("{pod}");
    Ok(())
}

/// Volumes that are kept current in one way.
struct Lane {
    name: &'static str,
    /// Kubelet's end and the guest's.
    volumes: Vec<(AtomicWriter, PathBuf)>,
    relay: Option<Relay>,
    updates: u64,
}

impl Lane {
    fn ours(volumes: Vec<(AtomicWriter, String)>, guest: &Path) -> Self {
        let data = |id: String| guest.join("volumes").join(id).join("data");
        let volumes = volumes.into_iter().map(|(writer, id)| (writer, data(id))).collect();
        Self { name: "ours", volumes, relay: None, updates: 0 }
    }

    /// A kata-agent's, at `socket`: its own, or a relay's.
    fn kata(
        runtime: Runtime,
        volumes: Vec<AtomicWriter>,
        agent: &KataAgent,
        socket: &Path,
    ) -> Result<Self> {
        let name = match runtime {
            Runtime::Go => "go",
            Runtime::Rs => "runtime-rs",
        };
        let guest = |number| format!("{SHARED}/{number:064x}-0000000000000000-{name}");
        let shared = |(number, writer): (usize, &AtomicWriter)| Shared {
            host: writer.target().to_owned(),
            guest: guest(number),
        };
        runtime.start(socket, volumes.iter().enumerate().map(shared).collect())?;
        let path = |(number, writer)| (writer, agent.path(&guest(number)));
        let volumes = volumes.into_iter().enumerate().map(path).collect();
        Ok(Self { name, volumes, relay: None, updates: 0 })
    }

    /// One volume's update; prints what it took.
    fn update(&mut self, payload: &dyn Fn(u64) -> Payload, changed: &str) -> Result<()> {
        self.updates += 1;
        let index = usize::try_from(self.updates)? % self.volumes.len();
        let (writer, data) = &self.volumes[index];
        let payload = payload(self.updates);
        let before = self.relay.as_ref().map(Relay::counts);
        let mut switched = None;
        writer.write_stepwise(&payload, &mut |step| {
            if step == Step::Switched {
                switched = Some(Instant::now());
            }
        })?;
        let switched = switched.context("kubelet switched nothing")?;
        while !is_visible(data, self.name == "ours", changed, self.updates, payload.len())? {
            ensure!(switched.elapsed() < LONGEST, "{}: not visible in {LONGEST:?}", self.name);
            sleep(LOOK);
        }
        let took = switched.elapsed().as_secs_f64() * 1000.0;
        let [requests, to_guest, to_host] = match (&self.relay, before) {
            (Some(relay), Some(before)) => {
                let after = settled(relay);
                [
                    after.requests - before.requests,
                    after.to_guest - before.to_guest,
                    after.to_host - before.to_host,
                ]
            }
            _ => [0; 3],
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{} {took:.3} {requests} {to_guest} {to_host}", self.name)?;
        sleep(PAUSE);
        Ok(())
    }
}

/// Whether the guest has all of an update. Only with ours is it an error if it has nothing.
fn is_visible(
    data: &Path,
    always: bool,
    changed: &str,
    generation: u64,
    keys: usize,
) -> Result<bool> {
    let gone = |error: &std::io::Error| !always && error.kind() == ErrorKind::NotFound;
    match fs::read(data.join(changed)) {
        Ok(content) if stamp(&content) == Some(generation) => {}
        Err(error) if !gone(&error) => return Err(error).context(data.display().to_string()),
        _ => return Ok(false),
    }
    match fs::read_dir(data.join("..data")) {
        Ok(entries) => Ok(entries.count() >= keys),
        Err(error) if gone(&error) => Ok(false),
        Err(error) => Err(error).context(data.display().to_string()),
    }
}

/// What went through it, when nothing does any more.
fn settled(relay: &Relay) -> testkit::relay::Counts {
    const QUIET: Duration = Duration::from_millis(100);
    loop {
        let counts = relay.counts();
        sleep(QUIET);
        if relay.counts() == counts {
            return counts;
        }
    }
}

fn pace(root: &Path, guest: &Path, volumes: usize, rounds: u64, scratch: &Path) -> Result<()> {
    /// Of ours and Go's for each of runtime-rs, which takes 0.6 s.
    const TURNS: u64 = 20;
    let agent = KataAgent::start(scratch)?;
    let theirs = |name: &str, count| -> Result<Vec<AtomicWriter>> {
        let secrets = secrets(&scratch.join(name), count)?;
        Ok(secrets.into_iter().map(|(writer, _)| writer).collect())
    };
    let mut lanes = [
        (TURNS, Lane::ours(secrets(root, volumes)?, guest)),
        (TURNS, Lane::kata(Runtime::Go, theirs("go", volumes)?, &agent, &agent.socket())?),
        // It takes an inotify instance for each volume, of which a user has 128.
        (1, Lane::kata(Runtime::Rs, theirs("rs", 1)?, &agent, &agent.socket())?),
    ];
    for round in 0..rounds {
        for turn in 0..lanes.len() {
            let (turns, lane) = &mut lanes[(turn + usize::try_from(round)?) % 3];
            for _ in 0..*turns {
                lane.update(&|generation| payload(generation, &KEYS), KEYS[0])?;
            }
        }
        agent.take_copied();
    }
    Ok(())
}

fn one_key(
    root: &Path,
    (guest, socket): (&Path, &Path),
    keys: usize,
    rounds: usize,
    scratch: &Path,
    attach: &[&str],
) -> Result<()> {
    let bytes = (1 << 20) / keys;
    let changed = format!("key-{:04}", keys / 2);
    let content = |generation| -> Payload {
        let key = |number: usize| {
            let key = format!("key-{number:04}");
            let generation = if key == changed { generation } else { 0 };
            let mut bytes_of_key = format!("generation {generation} of {key}\n").into_bytes();
            bytes_of_key.resize(bytes, b'.');
            (key, Projection { bytes: bytes_of_key, mode: 0o644, uid: None })
        };
        (0..keys).map(key).collect()
    };
    let config_map = |root: &Path| -> Result<(AtomicWriter, String)> {
        let (pod, name) = (pod_uid(LARGE_POD), "config");
        let writer = make_volume(root, &pod, "configmap", name)?.writer;
        writer.write(&content(0))?;
        Ok((writer, format!("{pod}.{name}")))
    };
    let agent = KataAgent::start(scratch)?;
    let ours = config_map(root)?;
    let path = scratch.join("ours.sock");
    let relay = Relay::start(&path, socket)?;
    let (program, options) = attach.split_first().context("ATTACH")?;
    let mut command = Command::new(program);
    command.args(options).arg(format!("unix:{}", path.display()));
    command.arg("--path").arg(ours.0.target());
    ensure!(command.stdout(std::io::stderr()).status()?.success(), "attach failed");
    let mut lanes = vec![Lane { relay: Some(relay), ..Lane::ours(vec![ours], guest) }];
    for (runtime, name) in [(Runtime::Go, "go"), (Runtime::Rs, "rs")] {
        let path = scratch.join(format!("{name}.sock"));
        let relay = Relay::start(&path, &agent.socket())?;
        let volumes = vec![config_map(&scratch.join(name))?.0];
        lanes.push(Lane { relay: Some(relay), ..Lane::kata(runtime, volumes, &agent, &path)? });
    }
    for round in 0..rounds {
        for turn in 0..lanes.len() {
            lanes[(turn + round) % 3].update(&content, &changed)?;
        }
        // What one update costs is asked here. Three within the two seconds for which the guest
        // keeps earlier revisions would have it put off the last one, and kubelet takes a minute.
        std::thread::sleep(Duration::from_secs(1));
        agent.take_copied();
    }
    Ok(())
}
