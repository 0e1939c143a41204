//! `cargo xtask demo [MODEL_DIR]`: the whole story in one command, with nothing faked but the
//! hardware: the sample evidence that the broker accepts here proves nothing.
//!
//! A real model is sealed and uploaded to a real S3 server, its key is released by the broker after
//! attestation, it is opened into memory, compared, and loaded by a library that we did not write.
//! Then three things go wrong, each is refused with its code, and nothing is published.
//!
//! `cargo xtask demo images` tells it with the broker and the initializer in containers.

pub(crate) mod arm64;
mod containers;
pub(crate) mod volumes;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use self::containers::Podman;
use crate::arch::Arch;
use crate::image;
use crate::process;
use crate::setup;
use crate::test::script;
use crate::workspace::{Profile, build};
use crate::world::{World, free_port};

const RESOURCE: &str = "kbs:///demo/model/key";
const NAME: &str = "demo";
const BUCKET: &str = "models";
const PREFIX: &str = "demo";
const ACCESS_KEY: &str = "demo-access-key";
const SECRET_KEY: &str = "demo-secret-key";

/// The broker's policy while all is well: for this model's key, what the demo has for evidence.
const ALLOW: &str = r#"package policy
default allow := false
allow if {
    data["resource-path"] == ["demo", "model", "key"]
    input.submods.cpu0["ear.veraison.annotated-evidence"].sample
}
"#;
/// And when it says no.
const DENY: &str = "package policy\ndefault allow := false\n";

/// Tells it, of a model of the user's or of ours.
pub(crate) fn run(model: Option<&Path>, in_containers: bool) -> Result<()> {
    let (source, model) = match model {
        Some(dir) => (dir.display().to_string(), dir.to_owned()),
        None => ("all-MiniLM-L6-v2".into(), setup::model()?),
    };
    let files = files(&model)?;
    let bytes = files.iter().map(|file| file.bytes).sum();
    if files.is_empty() {
        bail!("{} holds no files", model.display());
    }
    let (python, s3s_fs) = (setup::python()?, setup::s3s_fs()?);
    let building = setup::Doing::new("building sealift as it is released");
    let programs = build(&["sealift", "sealift-broker"], Profile::Release)?;
    building.done();

    let start = Instant::now();
    let world = World::new("demo", 3 * bytes + (64 << 20), programs)?;
    let podman = match in_containers {
        true => {
            let images = image::run(Arch::here())?;
            process::run(script(&python, "tests/interop/check_papers.py").arg(&images))?;
            Some(Podman::new(&world, &images)?)
        }
        false => None,
    };
    let (s3, broker) = (String::new(), String::new());
    let mut demo = Demo { world, podman, model, files, bytes, s3, broker };
    demo.start_store(&s3s_fs)?;
    demo.start_broker()?;
    println!("\nSealift: sealed in the bucket, opened only in the guest's memory.\n");
    println!("  model    {source}: {} files, {}", demo.files.len(), megabytes(bytes));
    println!("  store    s3s-fs at {}", demo.s3);
    println!("  broker   sealift-broker at {}, accepting sample evidence", demo.broker);
    println!("  memory   {}\n", demo.world.memory_kind());
    demo.succeeds(&python)?;
    demo.refuses()?;
    demo.audit()?;
    demo.serve(&python, &s3s_fs)?;
    drop(demo);
    println!("\nAll as promised, in {:.1} s; everything is cleaned up.", seconds(start));
    Ok(())
}

struct Demo {
    world: World,
    podman: Option<Podman>,
    model: PathBuf,
    files: Vec<ModelFile>,
    bytes: u64,
    s3: String,
    broker: String,
}

struct ModelFile {
    /// Relative to the model's directory.
    path: PathBuf,
    bytes: u64,
}

impl Demo {
    fn start_store(&mut self, s3s_fs: &Path) -> Result<()> {
        let port = free_port()?;
        fs::create_dir_all(self.world.path("s3").join(BUCKET))?;
        let mut command = Command::new(s3s_fs);
        command
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .arg(self.world.path("s3"));
        self.world.serve("s3s-fs", &mut command)?;
        self.world.wait_for_port("s3s-fs", port)?;
        self.s3 = format!("http://127.0.0.1:{port}");
        Ok(())
    }

    fn start_broker(&mut self) -> Result<()> {
        let data = self.world.path("broker");
        process::capture(self.broker_program("init").arg("--data-dir").arg(&data))?;
        fs::write(self.policy(), ALLOW)?;
        let ready = self.world.path("broker-address");
        let mut serve = self.broker_program("serve");
        serve
            .args(["--insecure-dev", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .arg("--master-key-file")
            .arg(self.broker_key("master.key"))
            .arg("--admin-public-key")
            .arg(self.broker_key("admin.pub"))
            .arg("--policy")
            .arg(self.policy())
            .arg("--audit-file")
            .arg(self.world.path("broker-audit.jsonl"))
            .arg("--ready-file")
            .arg(&ready);
        self.world.serve("broker", &mut serve)?;
        let address = self.world.wait("broker", || fs::read_to_string(&ready).ok())?;
        self.broker = format!("http://{}", address.trim());
        Ok(())
    }

    /// The part that goes well: five steps, each with its time.
    fn succeeds(&self, python: &Path) -> Result<()> {
        let key = self.world.path("key.jwk");
        step("make a key and register it in the broker", None, || {
            let mut keygen = self.sealift(&["keygen", "--resource-id", RESOURCE, "--model", NAME]);
            process::capture(keygen.arg("--key-file").arg(&key))?;
            let mut put = self.sealift(&["key", "put", "--resource-id", RESOURCE, "--key-file"]);
            put.arg(&key).args(["--kbs-url", &self.broker, "--admin-key"]);
            process::capture(put.arg(self.broker_key("admin.key")))
        })?;
        step("seal and upload to S3", Some(self.bytes), || {
            let mut seal = self.sealift(&["seal"]);
            seal.arg(&self.model).args([&source(), "--name", NAME, "--resource-id", RESOURCE]);
            process::capture(seal.arg("--key-file").arg(&key))
        })?;
        let opened = self.world.memory("model");
        self.prepare(&opened)?;
        step("attest, receive the key, open into memory", Some(self.bytes), || {
            process::capture(&mut self.init(&opened))
        })?;
        step("compare every file with the original", Some(self.bytes), || self.compare(&opened))?;
        let mut load = Command::new(python);
        load.args(["-c", include_str!("demo/load.py")]).arg(&opened);
        let tensors = step("load it with safetensors", None, || process::capture(&mut load))?;
        println!();
        indented(&tensors);
        fs::remove_dir_all(opened)?;
        Ok(())
    }

    /// With the initializer's image: a model is served, and not served.
    fn serve(&self, python: &Path, s3s_fs: &Path) -> Result<()> {
        let Some(podman) = &self.podman else { return Ok(()) };
        println!("\nA model that MLServer serves, opened by the image, and then not:\n");
        let mut suite = script(python, "tests/interop/served_interop.py");
        suite
            .args(podman.place_of("sealift-init"))
            .env("SEALIFT_PROGRAMS", self.world.programs())
            .env("SEALIFT_MLSERVER", setup::mlserver()?)
            .env("SEALIFT_S3S_FS", s3s_fs);
        indented(&process::capture(&mut suite)?);
        Ok(())
    }

    /// Prints both chains of records, verified by `sealift audit verify`.
    fn audit(&self) -> Result<()> {
        for who in ["broker", "initializer"] {
            let file = self.world.path(&format!("{who}-audit.jsonl"));
            process::capture(self.sealift(&["audit", "verify"]).arg(&file))?;
            println!("\nAudit records of the {who}, their chain intact:\n");
            for record in fs::read_to_string(file)?.lines() {
                println!("  {}", without_long_words(event(record).unwrap_or(record)));
            }
        }
        Ok(())
    }

    /// The part that goes wrong: three times the same command as before.
    fn refuses(&self) -> Result<()> {
        let bucket = self.world.path("s3").join(BUCKET);
        let prefix = bucket.join(PREFIX);
        println!("\nNow the same command, after …");

        let largest = self.files.iter().max_by_key(|file| file.bytes).context("no file")?;
        let object = prefix.join(format!("{}.sealed", largest.path.display()));
        flip_a_bit(&object)?;
        self.refused("one bit of the largest object flips", 30)?;
        flip_a_bit(&object)?;

        let aside = bucket.join("aside");
        fs::rename(&prefix, &aside)?;
        for file in &self.files {
            let target = prefix.join(&file.path);
            fs::create_dir_all(target.parent().context("a file has a parent")?)?;
            fs::copy(self.model.join(&file.path), target)?;
        }
        self.refused("somebody puts the plain model in its place", 31)?;
        fs::remove_dir_all(&prefix)?;
        fs::rename(&aside, &prefix)?;

        // Replaced, not rewritten: the broker may read it at any moment.
        let new = self.world.path("policy.new");
        fs::write(&new, DENY)?;
        fs::rename(new, self.policy())?;
        self.refused("the broker's policy says no", 21)
    }

    /// Fails unless `init` ends with `code` and leaves nothing behind.
    fn refused(&self, what: &str, code: i32) -> Result<()> {
        let destination = self.world.memory("refused");
        self.prepare(&destination)?;
        let start = Instant::now();
        let output = process::output(&mut self.init(&destination))?;
        let took = seconds(start);
        if output.status.code() != Some(code) {
            bail!("expected exit code {code}, got {}:\n{}", output.status, process::said(&output));
        }
        let left = fs::read_dir(&destination)?.count();
        if left > 0 {
            bail!("{left} entries were left in {}", destination.display());
        }
        println!("\n  … {what}:");
        println!("    exit code {code} after {took:.2} s, files published: {left}");
        println!("    {}", fs::read_to_string(self.termination_log())?.trim());
        Ok(fs::remove_dir(destination)?)
    }

    /// What the kubelet has ready for a container: an empty volume and an empty termination message
    /// that every user can write.
    fn prepare(&self, destination: &Path) -> Result<()> {
        fs::create_dir(destination)?;
        fs::write(self.termination_log(), "")?;
        for (path, mode) in [(destination, 0o777), (&self.termination_log(), 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Every file with the same bytes, and no other file but the receipt.
    fn compare(&self, opened: &Path) -> Result<()> {
        for file in &self.files {
            if fs::read(self.model.join(&file.path))? != fs::read(opened.join(&file.path))? {
                bail!("{} differs", file.path.display());
            }
        }
        let found = files(opened)?;
        let foreign = found.iter().find(|found| {
            !found.path.to_string_lossy().starts_with(".sealift")
                && !self.files.iter().any(|file| file.path == found.path)
        });
        match foreign {
            Some(file) => bail!("{} is not in the model", file.path.display()),
            None => Ok(()),
        }
    }

    /// What KServe would start in the guest.
    fn init(&self, destination: &Path) -> Command {
        let audit = self.world.path("initializer-audit.jsonl");
        let settings = [
            ("CONFIDENTIAL_ENABLED", "true".into()),
            ("CONFIDENTIAL_RESOURCE_ID", RESOURCE.into()),
            ("SEALIFT_KEY_SOURCE", "kbs".into()),
            ("SEALIFT_KBS_URL", self.broker.clone().into()),
            ("SEALIFT_INSECURE_DEV", "true".into()),
            ("SEALIFT_AUDIT_FILE", audit.into_os_string()),
            ("SEALIFT_TERMINATION_LOG", self.termination_log().into_os_string()),
        ];
        let Some(podman) = &self.podman else {
            let mut init = self.sealift(&["init", &source()]);
            init.arg(destination).envs(settings);
            return init;
        };
        podman.initializer(destination, self.bytes, &self.store(), &settings, &source())
    }

    fn broker_program(&self, command: &str) -> Command {
        match &self.podman {
            None => self.sealift(&["broker", command]),
            Some(podman) => podman.broker(command),
        }
    }

    /// How the bucket is reached.
    fn store(&self) -> [(&'static str, OsString); 4] {
        [
            ("AWS_ENDPOINT_URL", self.s3.clone().into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_DEFAULT_REGION", "us-east-1".into()),
        ]
    }

    fn sealift(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.program("sealift");
        command.args(arguments).envs(self.store());
        command
    }

    fn broker_key(&self, name: &str) -> PathBuf {
        self.world.path("broker-keys").join(name)
    }

    fn policy(&self) -> PathBuf {
        self.world.path("policy.rego")
    }

    fn termination_log(&self) -> PathBuf {
        self.world.path("termination-log")
    }
}

fn source() -> String {
    format!("s3://{BUCKET}/{PREFIX}")
}

/// Runs one step and prints its time, and its rate where `bytes` went through it.
fn step<T>(what: &str, bytes: Option<u64>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let value = work().with_context(|| what.to_owned())?;
    let took = seconds(start);
    let rate =
        bytes.map_or(String::new(), |bytes| format!("  {:6.0} MB/s", bytes as f64 / 1e6 / took));
    println!("  {what:44}{took:6.2} s{rate}");
    Ok(value)
}

/// The regular files below `root`, sorted.
fn files(root: &Path) -> Result<Vec<ModelFile>> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(root)?.to_owned();
                found.push(ModelFile { path, bytes: entry.metadata()?.len() });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn flip_a_bit(path: &Path) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(path)?;
    let middle = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle)?;
    byte[0] ^= 1;
    Ok(file.write_all_at(&byte, middle)?)
}

/// The event of a record, without the chain's own members.
fn event(record: &str) -> Option<&str> {
    let (_, event) = record.split_once(r#""event":"#)?;
    event.split_once(r#","hash":"#).map(|(event, _)| event)
}

/// Digests and tokens cut to what a reader compares.
fn without_long_words(text: &str) -> String {
    let mut short = String::new();
    for word in text.split_inclusive('"') {
        let digits = word.trim_end_matches('"');
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if digits.len() >= 64 && digits.bytes().all(token) {
            short += &format!("{}…\"", &digits[..12]);
        } else {
            short += word;
        }
    }
    short
}

fn indented(text: &str) {
    for line in text.lines() {
        println!("  {line}");
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn seconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
