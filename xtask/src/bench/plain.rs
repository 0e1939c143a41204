//! Plain models, as other downloaders fetch them too: few large files, and many small ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::lab::{Lab, Variant};
use super::sample::{self, Sample, ratio};
use super::{Bar, Line};
use crate::process;
use crate::setup;
use crate::test;

/// What the promise is about, of the size that it is about.
const SMALL_FILES: u64 = 20_000;
const SMALL_BYTES: usize = 4 << 10;
const MIB: f64 = (1 << 20) as f64;

fn line(bench: &'static str, what: &str, measured: f64, bar: Bar) -> Line {
    Line { bench, what: what.into(), measured, unit: "×", bar }
}

/// Few large files, from a bucket and from a registry.
pub(super) fn plain(lab: &mut Lab) -> Result<Vec<Line>> {
    let model = lab.model(lab.sizes().model, 8)?;
    let mut lines = against_others(lab, "plain", &model.plain, &model.plain_bucket)?;
    let (plain, sealed) = (push(lab, "plain", &model.plain)?, push(lab, "sealed", &model.sealed)?);
    let samples = lab.compare(
        &model.plain,
        &[
            ("sealed, S3", &|lab, to| lab.init(&format!("s3://{}/model", model.sealed_bucket), to)),
            ("sealed, OCI", &|lab, to| lab.init(&sealed, to)),
            ("plain, S3", &|lab, to| {
                lab.init_plain(&format!("s3://{}/model", model.plain_bucket), to)
            }),
            ("plain, OCI", &|lab, to| lab.init_plain(&plain, to)),
        ],
    )?;
    fs::remove_dir_all(lab.memory("buckets").join("v2"))?;
    lab.forget(model)?;
    let [s3, oci, plain_s3, plain_oci] = &samples[..] else { unreachable!("four variants") };
    let wall = |sample: &Sample| sample.wall;
    lines.push(line("plain", "sealed: OCI / S3, wall", ratio(oci, s3, wall), Bar::AtMost(1.1)));
    // Its digests have to be made, and those of S3 do not.
    let what = "plain: OCI with its SHA-256 / S3, wall";
    lines.push(line("plain", what, ratio(plain_oci, plain_s3, wall), Bar::None));
    Ok(lines)
}

/// Many small files.
pub(super) fn small(lab: &mut Lab) -> Result<Vec<Line>> {
    lab.start_store()?;
    let directory = lab.bucket("small")?;
    let files = (SMALL_FILES * (lab.sizes().model >> 20)).div_ceil(4 << 10);
    for number in 0..files {
        let name = format!("{:03}-{number:05}.json", number % 100);
        fs::write(directory.join(name), number.to_le_bytes().repeat(SMALL_BYTES / 8))?;
    }
    lab.list("small")?;
    let lines = against_others(lab, "small", &directory, "small")?;
    fs::remove_dir_all(directory)?;
    Ok(lines)
}

/// Ours, upstream's initializer, s5cmd and the AWS CRT, in one run.
fn against_others(
    lab: &Lab,
    bench: &'static str,
    expected: &Path,
    bucket: &str,
) -> Result<Vec<Line>> {
    let python = setup::upstream_python()?;
    let s5cmd = python.with_file_name("s5cmd");
    let uri = format!("s3://{bucket}/model");
    let script = |lab: &Lab, name: &str, to: &Path| {
        let mut command = test::script(&python, name);
        command.arg(&uri).arg(to);
        lab.store_settings(&mut command);
        command
    };
    let upstream = |lab: &Lab, to: &Path| script(lab, "tests/bench/upstream_init.py", to);
    let crt = |lab: &Lab, to: &Path| script(lab, "tests/bench/crt_download.py", to);
    let s5 = |lab: &Lab, to: &Path| {
        let mut command = Command::new(&s5cmd);
        lab.store_settings(&mut command);
        command.args(["--log", "error", "--endpoint-url", lab.endpoint(), "cp"]);
        command.arg(format!("{uri}/*")).arg(format!("{}/", to.display()));
        command
    };
    let ours = |lab: &Lab, to: &Path| lab.init_plain(&uri, to);
    let variants: [Variant<'_>; 4] =
        [("ours", &ours), ("upstream", &upstream), ("s5cmd", &s5), ("crt", &crt)];
    let samples = lab.compare(expected, &variants)?;
    let [ours, upstream, s5cmd, crt] = &samples[..] else { unreachable!("four variants") };
    let wall = |sample: &Sample| sample.wall;
    // The better one of each round.
    let best: Vec<Sample> =
        s5cmd.iter().zip(crt).map(|(a, b)| if a.wall <= b.wall { *a } else { *b }).collect();
    let rss = ours.iter().map(|sample| sample.rss).fold(0.0, f64::max) / MIB;
    let ratio = |what: &str, other: &[Sample], bar| {
        line(bench, &format!("ours / {what}, wall"), ratio(ours, other, wall), bar)
    };
    // On a machine with other work, the wall time is also how many processes ask for a share.
    let cpu_ratio = |what: &str, other: &[Sample]| {
        let measured = sample::ratio(ours, other, |sample| sample.cpu);
        line(bench, &format!("ours / {what}, CPU"), measured, Bar::None)
    };
    Ok(vec![
        ratio("kserve-storage", upstream, Bar::AtMost(0.5)),
        ratio("the better of s5cmd and AWS CRT", &best, Bar::AtMost(1.0)),
        ratio("s5cmd", s5cmd, Bar::None),
        ratio("AWS CRT", crt, Bar::None),
        cpu_ratio("kserve-storage", upstream),
        cpu_ratio("s5cmd", s5cmd),
        Line { unit: "MiB", ..line(bench, "resident memory, ours", rss, Bar::AtMost(64.0)) },
    ])
}

/// The files of `directory` as an artifact of the registry that the bucket's server plays too, so
/// that only what is asked for differs. Gives its URI.
fn push(lab: &Lab, name: &str, directory: &Path) -> Result<String> {
    let repository = lab.memory("buckets").join("v2").join(name);
    let (blobs, manifests) = (repository.join("blobs"), repository.join("manifests"));
    fs::create_dir_all(&blobs)?;
    fs::create_dir_all(&manifests)?;
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut layers = Vec::new();
    for file in files {
        let digest = format!("sha256:{}", process::sha256(&file)?);
        fs::hard_link(&file, blobs.join(&digest))?;
        layers.push(format!(
            r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{},"annotations":{{"org.opencontainers.image.title":"{}"}}}}"#,
            fs::metadata(&file)?.len(),
            file.file_name().context("a file")?.to_string_lossy(),
        ));
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/x-bench","layers":[{}]}}"#,
        layers.join(","),
    );
    fs::write(manifests.join("v1"), manifest)?;
    Ok(format!("{}/{name}:v1", lab.endpoint().replacen("http://", "oci://", 1)))
}
