//! Plays kubelet for the volume lane's benches.
//!
//! | `kubelet …` | does |
//! |---|---|
//! | `lay-out ROOT VOLUMES` | makes so many Secrets of two keys, 20 to a pod; prints the pods' UIDs |
//! | `latency ROOT GUEST VOLUMES UPDATES PAUSE_MS` | updates one after the other, taking turns; prints for each the milliseconds from the switch of `..data` to its being visible below GUEST |

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::kubelet::{AtomicWriter, Step, make_volume, payload, pod_uid, stamp};

const PER_POD: usize = 20;
const KEYS: [&str; 2] = ["tls.crt", "tls.key"];
/// An update that takes longer is a failure, not a figure.
const LONGEST: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["lay-out", root, volumes] => lay_out(Path::new(root), volumes.parse()?),
        ["latency", root, guest, volumes, updates, pause] => {
            let pause = Duration::from_millis(pause.parse()?);
            latency(Path::new(root), Path::new(guest), volumes.parse()?, updates.parse()?, pause)
        }
        _ => bail!(
            "usage: kubelet lay-out ROOT VOLUMES | latency ROOT GUEST VOLUMES UPDATES PAUSE_MS"
        ),
    }
}

fn name(volume: usize) -> (String, String) {
    (pod_uid(volume / PER_POD), format!("s{}", volume % PER_POD))
}

fn lay_out(root: &Path, volumes: usize) -> Result<()> {
    let mut pods = BTreeSet::new();
    for number in 0..volumes {
        let (pod, name) = name(number);
        let volume = make_volume(root, &pod, "secret", &name)?;
        volume.writer.write(&payload(0, &KEYS))?;
        pods.insert(pod);
    }
    pods.iter().for_each(|pod| println!("{pod}"));
    Ok(())
}

fn latency(root: &Path, guest: &Path, volumes: usize, updates: u64, pause: Duration) -> Result<()> {
    for update in 1..=updates {
        let number = usize::try_from(update)? % volumes;
        let (pod, name) = name(number);
        let host = root.join(format!("pods/{pod}/volumes/kubernetes.io~secret/{name}"));
        let visible = guest.join(format!("{pod}.{name}/data/{}", KEYS[0]));
        let took = one(&AtomicWriter::new(host)?, &visible, update)?;
        println!("{:.3}", took.as_secs_f64() * 1000.0);
        std::thread::sleep(pause);
    }
    Ok(())
}

fn one(writer: &AtomicWriter, visible: &Path, generation: u64) -> Result<Duration> {
    let mut switched = None;
    let mut switch = |step: Step| {
        if step == Step::Switched {
            switched = Some(Instant::now());
        }
    };
    writer.write_stepwise(&payload(generation, &KEYS), &mut switch)?;
    let switched = switched.context("kubelet switched nothing")?;
    loop {
        let content = fs::read(visible).with_context(|| visible.display().to_string())?;
        let seen = switched.elapsed();
        if stamp(&content) == Some(generation) {
            return Ok(seen);
        }
        ensure!(seen < LONGEST, "not visible after {seen:?}");
    }
}
