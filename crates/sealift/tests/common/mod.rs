//! What the tests of the command line share: a model, its bundle, a destination in memory, and the
//! initializer's core run in this process, so that thousands of bad inputs take seconds.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

pub(crate) mod broker;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::Parser;
use sealift::cli::{self, Cli};
use sealift::code::Code;
use sealift::failure::Failure;
use sealift::opening::{self, Accept, Outcome, Target};
use sealift::source::Source;
use tempfile::TempDir;

pub(crate) const RESOURCE: &str = "kbs:///team/model/v1";

/// A directory in memory, removed at the end of the test.
pub(crate) fn memory() -> TempDir {
    TempDir::new_in("/dev/shm").expect("/dev/shm is a tmpfs on every Linux that we test on")
}

/// The program under test.
pub(crate) fn sealift() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealift"));
    command.env_clear().args(["--progress", "none"]);
    command
}

/// A Python interpreter with the packages of `tests/requirements.txt`.
pub(crate) fn python() -> Option<PathBuf> {
    let python = std::env::var_os("SEALIFT_PYTHON").map(PathBuf::from);
    if python.is_none() {
        testkit::skip("no SEALIFT_PYTHON: run `cargo xtask test`");
    }
    python
}

/// Runs to the end and requires success.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\nstdout: {}\nstderr: {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs to the end and requires just this code: as exit code, and in the last line of stderr.
pub(crate) fn refuse(command: &mut Command, code: Code) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code.exit().into()), "{command:?}\nstderr: {stderr}");
    let last = stderr.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with(&format!("{code} {}: ", code.slug())), "last line: {last}");
    last
}

/// Writes files below `dir`.
pub(crate) fn write_tree(dir: &Path, files: &[(&str, &[u8])]) {
    for (path, bytes) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Every file below `dir` with its content, links and empty directories told apart.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let kind = path.symlink_metadata().unwrap().file_type();
            if kind.is_dir() {
                found.insert(name + "/", Vec::new());
                walk(root, &path, found);
            } else if kind.is_file() {
                found.insert(name, std::fs::read(&path).unwrap());
            } else {
                found.insert(name + " (special)", Vec::new());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

/// The tree without the receipt.
pub(crate) fn model_tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = tree(dir);
    found.remove(".sealift-receipt.json");
    found
}

/// Makes `to` the same as `from`.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    for (name, bytes) in tree(from) {
        match name.strip_suffix('/') {
            Some(dir) => std::fs::create_dir_all(to.join(dir)).unwrap(),
            None => write_tree(to, &[(&name, &bytes)]),
        }
    }
}

/// A sealed model, its key and its plaintext, in memory.
pub(crate) struct Sealed {
    pub(crate) dir: TempDir,
    pub(crate) key: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) bundle: PathBuf,
}

impl Sealed {
    /// Seals `files` as generation 1 of `model` for [`RESOURCE`].
    pub(crate) fn new(files: &[(&str, &[u8])]) -> Self {
        let dir = memory();
        let (key, model, bundle) =
            (dir.path().join("key.jwk"), dir.path().join("model"), dir.path().join("bundle"));
        write_tree(&model, files);
        keygen(&key, RESOURCE, "model@1");
        seal(&model, &bundle, RESOURCE, &key, 1);
        Self { dir, key, model, bundle }
    }

    /// Two files of a few bytes: a bundle small enough to try every bit of it.
    pub(crate) fn tiny() -> Self {
        Self::new(&[("a", b"alpha"), ("sub/b", b"beta")])
    }

    /// Several segments, several files, an empty one.
    pub(crate) fn small() -> Self {
        let large: Vec<u8> = (0..(5_u32 << 19)).map(|i| (i / 7).to_le_bytes()[0]).collect();
        Self::new(&[("config.json", b"{}"), ("empty", b""), ("sub/w.bin", &large)])
    }

    /// A fresh destination beside the bundle.
    pub(crate) fn dest(&self, name: &str) -> PathBuf {
        let dest = self.dir.path().join(name);
        std::fs::create_dir_all(&dest).unwrap();
        dest
    }

    /// Opens `bundle` into `dest` with this model's key.
    pub(crate) fn open(&self, source: &str, dest: &Path) -> Result<Vec<Outcome>, Failure> {
        open(&[(source, dest)], &["--resource-id", RESOURCE, "--key-file", text(&self.key)])
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn keygen(file: &Path, resource: &str, model: &str) {
    succeed(
        sealift().args(["keygen", "--resource-id", resource, "--model", model, "-f"]).arg(file),
    );
}

pub(crate) fn seal(model: &Path, bundle: &Path, resource: &str, key: &Path, generation: u64) {
    succeed(
        sealift()
            .arg("seal")
            .args([model, bundle])
            .args(["--resource-id", resource, "--name", "model", "--key-file", text(key)])
            .args(["--generation", &generation.to_string()]),
    );
}

/// `init` in this process: the same code that the program runs, without its start.
pub(crate) fn open(pairs: &[(&str, &Path)], flags: &[&str]) -> Result<Vec<Outcome>, Failure> {
    open_as(Accept::SEALED_ONLY, pairs, flags)
}

/// The same with what may be accepted.
pub(crate) fn open_as(
    accept: Accept,
    pairs: &[(&str, &Path)],
    flags: &[&str],
) -> Result<Vec<Outcome>, Failure> {
    open_edited(accept, pairs, flags, |_| {})
}

/// The same with settings that the command line has no words for.
pub(crate) fn open_edited(
    accept: Accept,
    pairs: &[(&str, &Path)],
    flags: &[&str],
    edit: impl FnOnce(&mut cli::Opening),
) -> Result<Vec<Outcome>, Failure> {
    let mut line = vec!["sealift", "--quiet", "init"];
    line.extend(pairs.iter().flat_map(|(source, dest)| [*source, text(dest)]));
    line.extend(flags);
    let cli = Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{error}"));
    let cli::Command::Init(mut init) = cli.command else { unreachable!("the line says init") };
    edit(&mut init.opening);
    let target = |(source, dest): &(&str, &Path)| {
        Ok(Target { source: Source::parse(source)?, dest: dest.to_path_buf() })
    };
    let targets: Vec<_> = pairs.iter().map(target).collect::<Result<_, Failure>>()?;
    let settings = settings(&init.opening);
    let log = audit::Log::stream(Box::new(std::io::sink()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let opened = opening::open_all(&targets, accept, &init.opening, &cli.global, &settings, &log);
    runtime.block_on(opened)
}

fn settings(opening: &cli::Opening) -> store::Settings {
    let mut settings = store::Settings::default();
    settings.endpoint_url = opening.store.endpoint_url.clone();
    settings.read_timeout = opening.patience.stall_timeout;
    settings.anonymous = true;
    settings
}

/// Requires a refusal with `code` that left the destination as it was: empty, or the same.
#[track_caller]
pub(crate) fn refused_untouched<T: std::fmt::Debug>(
    result: Result<T, Failure>,
    code: Code,
    dest: &Path,
    before: &BTreeMap<String, Vec<u8>>,
) -> Failure {
    let failure = result.expect_err("must be refused");
    assert_eq!(failure.code(), code, "{failure}");
    let mut after = tree(dest);
    if failure.is_transient() {
        // What a cut connection leaves waits, unpublished, for the next run.
        after.retain(|name, _| !name.starts_with(".sealift-staging/"));
    }
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{failure}");
    assert!(after == *before, "the content of the destination changed: {failure}");
    assert_memory_is_bounded(&failure);
    failure
}

/// Whatever the input claimed, no test that ran in this process has made it exceed what its tests,
/// one on each thread, may use, and their fixtures.
fn assert_memory_is_bounded(failure: &Failure) {
    const BUDGET_KIB: usize = 64 << 10;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let threads = std::thread::available_parallelism().unwrap().get();
    assert!(peak_kib <= BUDGET_KIB * (threads + 1), "{peak_kib} KiB at most after: {failure}");
}

/// A tmpfs of 1 MiB on a directory, until it is dropped.
pub(crate) struct SmallTmpfs(PathBuf);

impl SmallTmpfs {
    /// `None`, said aloud, where nothing can be mounted.
    pub(crate) fn mount(dir: &Path) -> Option<Self> {
        let mount = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", text(dir)];
        let mounted = rustix::process::geteuid().is_root()
            && Command::new("mount").args(mount).status().unwrap().success();
        if !mounted {
            testkit::skip("the place that is too small, since mounting is not allowed here");
        }
        mounted.then(|| Self(dir.to_owned()))
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(&self.0).status().unwrap().success());
    }
}
