//! Each promise, measured.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use super::lab::{Lab, MODEL, Model, RESOURCE, size};
use super::sample::{Sample, median, ratio};
use super::{Bar, Line};
use crate::process;
use crate::setup;
use crate::test;
use crate::world::free_port;

const MIB: f64 = (1 << 20) as f64;

fn wall(sample: &Sample) -> f64 {
    sample.wall
}

fn cpu(sample: &Sample) -> f64 {
    sample.cpu
}

fn line(bench: &'static str, what: &str, measured: f64, bar: Bar) -> Line {
    Line { bench, what: what.into(), measured, unit: "×", bar }
}

/// From the store into memory: what sealing costs, and what our downloading does.
pub(super) fn download(lab: &mut Lab) -> Result<Vec<Line>> {
    let curl = setup::curl()?;
    let model = lab.model(lab.sizes().model, 8)?;
    let samples = lab.compare(
        &model.plain,
        &[
            ("sealed", &|lab, to| lab.init(&format!("s3://{}/model", model.sealed_bucket), to)),
            ("plain", &|lab, to| lab.init_plain(&format!("s3://{}/model", model.plain_bucket), to)),
            ("curl", &|lab, to| four_curls(&curl, lab, &model, to)),
        ],
    )?;
    lab.forget(model)?;
    let [sealed, plain, curl] = &samples[..] else { unreachable!("three variants") };
    let rate = |samples: &[Sample]| {
        lab.sizes().model as f64 / MIB / median(samples.iter().map(wall).collect())
    };
    let at = |what: &str, samples| Line {
        unit: "MiB/s",
        ..line("download", &format!("{what}, rate"), rate(samples), Bar::None)
    };
    Ok(vec![
        line(
            "download",
            "sealed / our plain download, CPU",
            ratio(sealed, plain, cpu),
            Bar::AtMost(1.2),
        ),
        line(
            "download",
            "sealed / our plain download, wall",
            ratio(sealed, plain, wall),
            Bar::AtMost(1.25),
        ),
        line(
            "download",
            "our plain download / 4 parallel curl, wall",
            ratio(plain, curl, wall),
            Bar::AtMost(1.1),
        ),
        line(
            "download",
            "our plain download / 4 parallel curl, CPU",
            ratio(plain, curl, cpu),
            Bar::None,
        ),
        at("sealed", sealed),
        at("plain", plain),
        at("4 parallel curl", curl),
    ])
}

fn four_curls(curl: &Path, lab: &Lab, model: &Model, destination: &Path) -> Command {
    let files: Vec<_> = fs::read_dir(&model.plain)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    let mut script = String::new();
    for group in files.chunks(files.len().div_ceil(4)) {
        script += &format!("{} --silent --fail", curl.display());
        for file in group {
            let (endpoint, bucket) = (lab.endpoint(), &model.plain_bucket);
            let to = destination.join(file);
            script += &format!(" -o {} {endpoint}/{bucket}/model/{file}", to.display());
        }
        script += " &\n";
    }
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{script}wait")]);
    command
}

/// Against the code of upstream's image, on its own encrypted files.
pub(super) fn upstream(lab: &mut Lab) -> Result<Vec<Line>> {
    // Not text in any encoding, so that upstream takes it for the key itself.
    const KEY: &str = "9f9e9d9c9b9a999897969594939291908f8e8d8c8b8a89888786858483828180";
    let python = setup::upstream_python()?;
    let model = lab.model(lab.sizes().gib, 4)?;
    let encrypted = lab.bucket("upstream")?;
    let mut encrypt = test::script(&python, "tests/bench/upstream_encrypt.py");
    process::capture(encrypt.arg(KEY).args([&model.plain, &encrypted]))?;
    lab.list("upstream")?;
    let port = free_port()?;
    let mut hub = test::script(&python, "tests/bench/data_hub.py");
    lab.world().serve("data hub", hub.args([&port.to_string(), KEY]))?;
    lab.world().wait_for_port("data hub", port)?;
    let theirs = |lab: &Lab, to: &Path| {
        let mut command = test::script(&python, "tests/bench/upstream_init.py");
        command
            .arg("s3://upstream/model")
            .arg(to)
            .env("CONFIDENTIAL_ENABLED", "true")
            .env("CONFIDENTIAL_RESOURCE_ID", RESOURCE)
            .env("CDH_ADDR", format!("http://127.0.0.1:{port}"));
        lab.store_settings(&mut command);
        command
    };
    let ours = |lab: &Lab, to: &Path| lab.init(&format!("s3://{}/model", model.sealed_bucket), to);
    let samples = lab.compare(&model.plain, &[("upstream", &theirs), ("ours", &ours)])?;
    let [upstream, sealift] = &samples[..] else { unreachable!("two variants") };
    let memory = |command: &dyn Fn(&Lab, &Path) -> Command| -> Result<f64> {
        let to = lab.memory("destination");
        fs::create_dir(&to)?;
        let sample = lab.measure(Some(&to), &command(lab, &to))?;
        fs::remove_dir_all(&to)?;
        Ok(sample.memory / lab.sizes().gib as f64)
    };
    let (our_memory, their_memory) = (memory(&ours)?, memory(&theirs)?);
    fs::remove_dir_all(encrypted)?;
    let lines = vec![
        line(
            "upstream",
            "kserve-storage with JWE / ours, wall",
            ratio(upstream, sealift, wall),
            Bar::AtLeast(10.0),
        ),
        line(
            "upstream",
            "kserve-storage with JWE / ours, CPU",
            ratio(upstream, sealift, cpu),
            Bar::AtLeast(10.0),
        ),
        // One model, and the budget of its buffers.
        line("upstream", "memory with tmpfs / the model, ours", our_memory, Bar::AtMost(1.07)),
        line("upstream", "memory with tmpfs / the model, kserve-storage", their_memory, Bar::None),
    ];
    lab.forget(model)?;
    Ok(lines)
}

/// From a bundle on this machine, against copying the plain files.
pub(super) fn local(lab: &mut Lab) -> Result<Vec<Line>> {
    let model = lab.model(lab.sizes().gib, 4)?;
    let samples = lab.compare(
        &model.plain,
        &[
            ("ours", &|lab, to| lab.init(&format!("file://{}", model.sealed.display()), to)),
            ("cp", &|_, to| {
                let mut command = Command::new("cp");
                command.arg("--recursive").arg(model.plain.join(".")).arg(to);
                command
            }),
        ],
    )?;
    lab.forget(model)?;
    let [ours, cp] = &samples[..] else { unreachable!("two variants") };
    Ok(vec![
        line(
            "local",
            "from a local bundle / cp of the plain files, wall",
            ratio(ours, cp, wall),
            Bar::AtMost(1.35),
        ),
        line(
            "local",
            "from a local bundle / cp of the plain files, CPU",
            ratio(ours, cp, cpu),
            Bar::None,
        ),
    ])
}

/// Against Tink's Python on the very same sealed objects.
pub(super) fn tink(lab: &mut Lab) -> Result<Vec<Line>> {
    let small = Some(tink_samples(lab)?);
    let huge = lab.with_huge_pages(tink_samples)?;
    let mut lines = Vec::new();
    for (pages, samples, bar) in
        [("4 KiB pages", small, Bar::None), ("huge pages", huge, Bar::AtMost(0.5))]
    {
        let Some([ours, tink]) = samples else { continue };
        let what = format!("ours / Python tink on the same objects, {pages}");
        lines.push(line("tink", &format!("{what}, CPU"), ratio(&ours, &tink, cpu), bar));
        lines.push(line("tink", &format!("{what}, wall"), ratio(&ours, &tink, wall), Bar::None));
    }
    Ok(lines)
}

/// Ours and theirs.
fn tink_samples(lab: &mut Lab) -> Result<[Vec<Sample>; 2]> {
    let model = lab.model(lab.sizes().gib, 4)?;
    let keyset = lab.path("keyset.json");
    let mut export = test::script(lab.python(), "tests/interop/tink_keyset.py");
    export.arg(lab.key_file()).arg(model.sealed.join("sealift.json"));
    let exported = process::capture(&mut export)?;
    let (prefix, json) = exported.split_once('\n').context("tink_keyset.py")?;
    fs::write(&keyset, json)?;
    // The associated data's last line is the path.
    let prefix = prefix.replace("\\n", "\n");
    let samples = lab.compare(
        &model.plain,
        &[
            ("ours", &|lab, to| lab.init(&format!("file://{}", model.sealed.display()), to)),
            ("tink", &|lab, to| {
                let mut command = test::script(lab.python(), "tests/bench/tink_open.py");
                command.arg(&keyset).arg(&prefix).arg(&model.sealed).arg(to);
                command
            }),
        ],
    )?;
    lab.forget(model)?;
    samples.try_into().map_err(|_| anyhow!("two variants"))
}

/// Against rage, file by file.
pub(super) fn rage(lab: &mut Lab) -> Result<Vec<Line>> {
    let rage = setup::rage()?;
    let model = lab.model(lab.sizes().gib, 4)?;
    let (key, encrypted) = (lab.path("rage.key"), lab.memory("rage"));
    fs::create_dir(&encrypted)?;
    process::capture(Command::new(rage.with_file_name("rage-keygen")).arg("-o").arg(&key))?;
    let each = |directory: &Path, verb: &str, from_suffix: &str, to: &Path, to_suffix: &str| {
        let script = format!(
            r#"set -e; for file in "$1"/*{from_suffix}; do
                name=$(basename "$file" {from_suffix})
                "$2" {verb} -i "$3" -o "$4/$name{to_suffix}" "$file"
            done"#
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "rage"]).arg(directory).args([&rage, &key]).arg(to);
        command
    };
    process::capture(&mut each(&model.plain, "-e", "", &encrypted, ".age"))?;
    let samples = lab.compare(
        &model.plain,
        &[
            ("ours", &|lab, to| lab.init(&format!("file://{}", model.sealed.display()), to)),
            ("rage", &|_, to| each(&encrypted, "-d", ".age", to, "")),
        ],
    )?;
    fs::remove_dir_all(encrypted)?;
    lab.forget(model)?;
    let [ours, rage] = &samples[..] else { unreachable!("two variants") };
    Ok(vec![
        line(
            "rage",
            "ours / rage on the same bytes, CPU",
            ratio(ours, rage, cpu),
            Bar::AtMost(0.5),
        ),
        line("rage", "ours / rage on the same bytes, wall", ratio(ours, rage, wall), Bar::None),
    ])
}

/// Sealing, against the cipher and the digest that it cannot do without.
pub(super) fn seal(lab: &mut Lab) -> Result<Vec<Line>> {
    let small = Some(seal_samples(lab)?);
    let huge = lab.with_huge_pages(seal_samples)?;
    let mut lines = Vec::new();
    for (pages, samples, bar) in
        [("4 KiB pages", small, Bar::None), ("huge pages", huge, Bar::AtLeast(0.7))]
    {
        let Some([ours, alone, written]) = samples else { continue };
        let what = format!("sealing / AES-256-GCM and SHA-256 alone, {pages}, rate");
        lines.push(line("seal", &what, ratio(&alone, &ours, wall), bar));
        let what = format!("sealing / the two and tmpfs writes, {pages}, rate");
        lines.push(line("seal", &what, ratio(&written, &ours, wall), Bar::None));
    }
    Ok(lines)
}

/// Ours, the two alone, and the two with the writes.
fn seal_samples(lab: &mut Lab) -> Result<[Vec<Sample>; 3]> {
    let model = lab.model(lab.sizes().gib, 4)?;
    let mut samples = [const { Vec::new() }; 3];
    for round in 0..=lab.rounds() {
        let sealed = lab.fill(|to| lab.seal(&model.plain, to), |_| Ok(()))?;
        let of_round = [sealed, floor(lab, "seal")?, floor(lab, "seal-write")?];
        if round > 0 {
            samples.iter_mut().zip(of_round).for_each(|(all, one)| all.push(one));
        }
    }
    lab.forget(model)?;
    Ok(samples)
}

/// Opening without the network, against the cipher and the file system alone.
pub(super) fn open(lab: &mut Lab) -> Result<Vec<Line>> {
    let mut samples = [Vec::new(), Vec::new()];
    for round in 0..=lab.rounds() {
        for index in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let sample = floor(lab, ["open-ours", "open"][index])?;
            if round > 0 {
                samples[index].push(sample);
            }
        }
    }
    let [ours, alone] = samples;
    let what = "opening / AES-256-GCM and tmpfs writes alone, rate";
    let cpu_what = "AES-256-GCM and tmpfs writes alone / opening, CPU";
    Ok(vec![
        line("open", what, ratio(&alone, &ours, wall), Bar::AtLeast(0.85)),
        line("open", cpu_what, ratio(&alone, &ours, cpu), Bar::None),
    ])
}

/// What the program `floor` needs for 1 GiB on two threads, its preparations left out.
fn floor(lab: &Lab, operation: &str) -> Result<Sample> {
    let directory = lab.memory("floor");
    fs::create_dir(&directory)?;
    lab.touch_memory()?;
    let mut command = lab.program("floor");
    command.args([operation, &lab.sizes().gib.to_string(), "2"]).arg(&directory);
    let printed = process::capture(&mut command)?;
    let (wall, cpu) = printed.trim().split_once(' ').context("floor")?;
    fs::remove_dir_all(directory)?;
    Ok(Sample { wall: wall.parse()?, cpu: cpu.parse()?, rss: 0.0, memory: 0.0 })
}

/// Peak memory, whatever the model's size: into tmpfs, and authenticated and discarded where the
/// model is larger than the machine. The server seals zeros as they are asked for.
pub(super) fn memory(lab: &mut Lab) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (gibs, into_memory) in [(1, true), (12, true), (100, false)] {
        let port = synthesise(lab, gibs)?;
        let endpoint = format!("http://127.0.0.1:{port}");
        let sample = if into_memory {
            lab.fill(
                |to| {
                    let mut init = lab.init("s3://synthetic/model", to);
                    init.env("AWS_ENDPOINT_URL", &endpoint);
                    init
                },
                |_| Ok(()),
            )?
        } else {
            let mut verify = lab.sealift();
            verify.args([
                "verify",
                "s3://synthetic/model",
                "--resource-id",
                RESOURCE,
                "--key-file",
            ]);
            lab.measure(None, verify.arg(lab.key_file()).env("AWS_ENDPOINT_URL", &endpoint))?
        };
        let kind = if into_memory { "into tmpfs" } else { "discarded" };
        let what = format!("peak resident set, {} {kind}", size(gibs * lab.sizes().gib));
        let unit = "MiB";
        let measured = sample.rss / MIB;
        lines.push(Line { unit, ..line("memory", &what, measured, Bar::AtMost(64.0)) });
    }
    Ok(lines)
}

/// Starts a server that has a model of `gibs` GiB (as the bench scales them) in 8 files.
fn synthesise(lab: &mut Lab, gibs: u64) -> Result<u16> {
    let mut server = lab.program("synth");
    let file_bytes = (gibs * lab.sizes().gib / 8).to_string();
    server.args([RESOURCE]).arg(lab.key_file()).args([MODEL, "8", &file_bytes]);
    let name = format!("synth-{gibs}");
    let log = lab.path(&format!("{name}.log"));
    lab.world().serve(&name, &mut server)?;
    lab.world().wait(&name, || fs::read_to_string(&log).ok()?.trim().parse().ok())
}

/// The first thing that anyone sees of it.
pub(super) fn help(lab: &mut Lab) -> Result<Vec<Line>> {
    let mut milliseconds = Vec::new();
    for _ in 0..=4 * lab.rounds() {
        let mut command = lab.program("sealift");
        command.arg("--help").stdout(Stdio::piped()).stderr(Stdio::null());
        let start = Instant::now();
        let mut child = command.spawn()?;
        let mut stdout = child.stdout.take().context("stdout is piped")?;
        stdout.read_exact(&mut [0])?;
        milliseconds.push(start.elapsed().as_secs_f64() * 1000.0);
        std::io::copy(&mut stdout, &mut std::io::sink())?;
        child.wait()?;
    }
    let first = line("help", "first byte of --help", median(milliseconds), Bar::AtMost(20.0));
    Ok(vec![Line { unit: "ms", ..first }])
}
