//! What the benches share: sizes, models, a store that costs little, and fair rounds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};

use super::sample::{Sample, measure};
use crate::process;
use crate::setup;
use crate::workspace::{Profile, build, root};
use crate::world::{World, free_port};

/// The key that every bench seals for.
pub(super) const RESOURCE: &str = "kbs:///bench/model/key";
/// The name that every bench's model has.
pub(super) const MODEL: &str = "bench";

/// How much data there is. The promises are about 4 GiB; other sizes scale everything.
pub(super) struct Sizes {
    /// Bytes of the model for downloads.
    pub(super) model: u64,
    /// What the promises call 1 GiB.
    pub(super) gib: u64,
}

impl Sizes {
    pub(super) fn of(model: u64) -> Self {
        Self { model, gib: model / 4 }
    }

    /// Too small to say anything of speed: start-up outweighs the work.
    pub(super) fn is_smoke_test(&self) -> bool {
        self.gib < 256 << 20
    }
}

/// A model in the store, as it is and sealed.
pub(super) struct Model {
    pub(super) plain: PathBuf,
    pub(super) sealed: PathBuf,
    /// The buckets' names; the prefix is `model` in both.
    pub(super) plain_bucket: String,
    pub(super) sealed_bucket: String,
}

/// One thing to measure: its name, and the command that fills a directory.
pub(super) type Variant<'a> = (&'a str, &'a dyn Fn(&Lab, &Path) -> Command);

pub(super) struct Lab {
    world: World,
    sizes: Sizes,
    rounds: usize,
    python: PathBuf,
    endpoint: Option<String>,
}

impl Lab {
    /// With what benches of models need, if there are any: they take minutes to build.
    pub(super) fn new(sizes: Sizes, rounds: usize, models: bool) -> Result<Self> {
        let python = setup::python()?;
        let names: &[&str] = if models { &["sealift", "floor", "synth"] } else { &["kubelet"] };
        let programs = build(names, Profile::Release)?;
        let memory_bytes = 13 * sizes.gib + (1 << 30);
        let world = World::new("bench", memory_bytes, programs)?;
        fs::create_dir(world.memory("buckets"))?;
        let lab = Self { world, sizes, rounds, python, endpoint: None };
        if models {
            let mut keygen = lab.world.program("sealift");
            keygen.args(["keygen", "--resource-id", RESOURCE, "--model", MODEL, "--key-file"]);
            process::capture(keygen.arg(lab.key_file()))?;
        }
        Ok(lab)
    }

    pub(super) fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    pub(super) fn rounds(&self) -> usize {
        self.rounds
    }

    pub(super) fn world(&mut self) -> &mut World {
        &mut self.world
    }

    /// Runs `bench` on files with pages of 2 MiB. Allocating small ones costs every program the same,
    /// and more than the work that is to be compared.
    pub(super) fn with_huge_pages<T>(
        &mut self,
        bench: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        if !self.world.huge_pages(true)? {
            println!("huge pages: skipped, as only root can mount a tmpfs with them");
            return Ok(None);
        }
        let result = bench(self);
        self.world.huge_pages(false)?;
        result.map(Some)
    }

    pub(super) fn python(&self) -> &Path {
        &self.python
    }

    pub(super) fn key_file(&self) -> PathBuf {
        self.world.path("key.jwk")
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    pub(super) fn memory(&self, name: &str) -> PathBuf {
        self.world.memory(name)
    }

    pub(super) fn program(&self, name: impl AsRef<Path>) -> Command {
        self.world.program(name)
    }

    /// `sealift init SOURCE DEST` with the bench's key.
    pub(super) fn init(&self, source: &str, destination: &Path) -> Command {
        let mut command = self.sealift();
        command
            .args(["init", source])
            .arg(destination)
            .env("CONFIDENTIAL_ENABLED", "true")
            .env("CONFIDENTIAL_RESOURCE_ID", RESOURCE)
            .env("SEALIFT_KEY_SOURCE", "file")
            .env("SEALIFT_KEY_FILE", self.key_file());
        command
    }

    /// `sealift init SOURCE DEST` of a plain model.
    pub(super) fn init_plain(&self, source: &str, destination: &Path) -> Command {
        let mut command = self.sealift();
        command.args(["init", source]).arg(destination).env("SEALIFT_REQUIRE_SEALED", "false");
        command
    }

    /// `sealift`, able to reach the store.
    pub(super) fn sealift(&self) -> Command {
        let mut command = self.program("sealift");
        command
            .env("SEALIFT_AUDIT_FILE", self.path("audit.jsonl"))
            .env("SEALIFT_TERMINATION_LOG", self.path("termination-log"));
        self.store_settings(&mut command);
        command
    }

    pub(super) fn store_settings(&self, command: &mut Command) {
        command
            .env("AWS_ENDPOINT_URL", self.endpoint())
            .env("AWS_ACCESS_KEY_ID", "bench")
            .env("AWS_SECRET_ACCESS_KEY", "bench")
            .env("AWS_DEFAULT_REGION", "us-east-1");
    }

    /// The store's URL; empty before [`Lab::start_store`].
    pub(super) fn endpoint(&self) -> &str {
        self.endpoint.as_deref().unwrap_or_default()
    }

    /// A random model of `bytes` in `files` equal files, in the store plain and sealed.
    pub(super) fn model(&mut self, bytes: u64, files: u64) -> Result<Model> {
        self.start_store()?;
        let plain_bucket = format!("plain-{bytes}");
        let sealed_bucket = format!("sealed-{bytes}");
        let plain = self.bucket(&plain_bucket)?;
        let sealed = self.bucket(&sealed_bucket)?;
        let each = bytes / files;
        for number in 0..files {
            let file = plain.join(format!("model-{number:05}.safetensors"));
            let mut fill = Command::new("sh");
            fill.args(["-c", r#"head -c "$1" /dev/urandom > "$2""#, "fill", &each.to_string()]);
            process::capture(fill.arg(file))?;
        }
        process::capture(&mut self.seal(&plain, &sealed))?;
        self.list(&plain_bucket)?;
        self.list(&sealed_bucket)?;
        Ok(Model { plain, sealed, plain_bucket, sealed_bucket })
    }

    pub(super) fn seal(&self, plain: &Path, sealed: &Path) -> Command {
        let mut seal = self.sealift();
        seal.arg("seal").arg(plain).arg(sealed);
        seal.args(["--name", MODEL, "--overwrite", "--resource-id", RESOURCE, "--key-file"]);
        seal.arg(self.key_file());
        seal
    }

    /// Frees a model's memory for the next bench.
    pub(super) fn forget(&self, model: Model) -> Result<()> {
        for directory in [model.plain, model.sealed] {
            fs::remove_dir_all(directory)?;
        }
        Ok(())
    }

    /// The directory of prefix `model` in a new bucket.
    pub(super) fn bucket(&self, name: &str) -> Result<PathBuf> {
        let directory = self.memory("buckets").join(name).join("model");
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// Writes the bucket's listing, which the server hands out as a file.
    pub(super) fn list(&self, bucket: &str) -> Result<()> {
        let buckets = self.memory("buckets");
        let mut entries = Vec::new();
        for entry in fs::read_dir(buckets.join(bucket).join("model"))? {
            let entry = entry?;
            let name = entry.file_name();
            let meta = entry.metadata()?;
            let changed = meta.modified()?.duration_since(UNIX_EPOCH)?.as_secs();
            // The ETag is what nginx makes of time and length: a client may hold it against that.
            entries.push(format!(
                "<Contents><Key>model/{}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
                 <ETag>\"{changed:x}-{length:x}\"</ETag><Size>{length}</Size>\
                 <StorageClass>STANDARD</StorageClass></Contents>",
                name.to_string_lossy(),
                length = meta.len(),
            ));
        }
        entries.sort();
        let listing = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>{bucket}</Name>\
             <Prefix>model/</Prefix><KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys>\
             <IsTruncated>false</IsTruncated>{}</ListBucketResult>",
            entries.len(),
            entries.concat(),
        );
        Ok(fs::write(buckets.join(format!("{bucket}.xml")), listing)?)
    }

    pub(super) fn start_store(&mut self) -> Result<()> {
        if self.endpoint.is_some() {
            return Ok(());
        }
        let nginx = setup::nginx()?;
        let port = free_port()?;
        let run = self.path("nginx");
        fs::create_dir(&run)?;
        let user = if setup::is_root()? { "user root;" } else { "" };
        let configuration = fs::read_to_string(root().join("tests/bench/nginx.conf"))?
            .replace("@USER@", user)
            .replace("@PORT@", &port.to_string())
            .replace("@RUN@", &run.to_string_lossy())
            .replace("@ROOT@", &self.memory("buckets").to_string_lossy());
        let file = self.path("nginx.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new(nginx);
        command.arg("-c").arg(file).arg("-e").arg(run.join("error.log"));
        self.world.serve("nginx", &mut command)?;
        self.world.wait_for_port("nginx", port)?;
        self.endpoint = Some(format!("http://127.0.0.1:{port}"));
        Ok(())
    }

    /// Measures the variants in alternating order over all rounds, after a round that warms up and
    /// shows that each of them yields `expected`, file by file. One list of samples a variant.
    pub(super) fn compare(
        &self,
        expected: &Path,
        variants: &[Variant<'_>],
    ) -> Result<Vec<Vec<Sample>>> {
        let mut samples = vec![Vec::new(); variants.len()];
        for round in 0..=self.rounds {
            let mut order: Vec<usize> = (0..variants.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let (name, command) = variants[index];
                let sample = self.fill(
                    |destination| command(self, destination),
                    |destination| {
                        if round == 0 { same_files(expected, destination) } else { Ok(()) }
                    },
                );
                let sample = sample.with_context(|| name.to_owned())?;
                if round > 0 {
                    samples[index].push(sample);
                }
            }
        }
        Ok(samples)
    }

    /// Measures one command into a fresh directory in memory, looks at what it left, removes it.
    pub(super) fn fill(
        &self,
        command: impl Fn(&Path) -> Command,
        check: impl Fn(&Path) -> Result<()>,
    ) -> Result<Sample> {
        let destination = self.memory("destination");
        fs::create_dir(&destination)?;
        self.touch_memory()?;
        let sample = self.measure(None, &command(&destination))?;
        check(&destination)?;
        fs::remove_dir_all(destination)?;
        Ok(sample)
    }

    pub(super) fn measure(&self, watch: Option<&Path>, command: &Command) -> Result<Sample> {
        measure(&self.python, &self.path("sample"), watch, command)
    }

    /// Writes and removes as many bytes as a run is about to, so that no side pays for pages which
    /// the host of a virtual machine has yet to back.
    pub(super) fn touch_memory(&self) -> Result<()> {
        let file = self.memory("touched");
        let mut touch = Command::new("sh");
        touch.args(["-c", r#"head -c "$1" /dev/zero > "$2""#, "touch"]);
        process::capture(touch.arg(self.sizes.gib.to_string()).arg(&file))?;
        Ok(fs::remove_file(file)?)
    }
}

/// Whether `found` has every file of `expected` with the same bytes.
pub(super) fn same_files(expected: &Path, found: &Path) -> Result<()> {
    let mut diff = Command::new("diff");
    diff.args(["--recursive", "--brief", "--exclude=.sealift*"]).arg(expected).arg(found);
    let output = process::output(&mut diff)?;
    if !output.status.success() {
        bail!("the result differs:\n{}", process::said(&output));
    }
    Ok(())
}

/// A size for people.
pub(super) fn size(bytes: u64) -> String {
    let mib = bytes as f64 / (1 << 20) as f64;
    if mib < 1024.0 { format!("{mib:.0} MiB") } else { format!("{:.0} GiB", mib / 1024.0) }
}
