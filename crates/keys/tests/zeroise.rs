//! A released key leaves no copy in memory (reliability promise P7).
//!
//! The parent hands a child process (this same program, asked for one ignored test) the canary's
//! complement, so that the canary itself is in the child's memory only by way of a release. The
//! child then looks for it in every private writable mapping of its own: heap, stacks, and the
//! locked pages of `Secret`s.
//!
//! What is not covered is registers. glibc copies with vector registers that little else uses
//! (`ymm16` and up), so a key of 32 bytes may stay in one for long after all its copies were wiped.
//! It gets back into memory when something saves all registers on the stack: a signal, or the
//! dynamic linker binding a function at its first call, which a panic's unwinding does. Our programs
//! are static and abort on panic; the children here are neither, hence `LD_BIND_NOW`.

#![expect(clippy::unwrap_used, reason = "allowed in test functions, and here beside them")]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Duration;

use keys::{Cdh, Error, FileSource, HttpSettings, Kbs, KeySource, SampleAttester};
use seal::jwe::TeeKeyKind;
use seal::name::ResourceUri;
use secret::{Secret, WipeOnFree};
use testkit::kbs::{FakeKbs, Fault, Step};
use zeroize::{Zeroize as _, Zeroizing};

/// As our programs have it.
#[global_allocator]
static ALLOCATOR: WipeOnFree = WipeOnFree;

const CANARY_BYTES: usize = 32;
const PATH: &str = "default/key/canary";
const SOURCE: &str = "SEALIFT_TEST_SOURCE";
const COMPLEMENT: &str = "SEALIFT_TEST_COMPLEMENT";

// ---- The child: what is in memory, and where.

/// Looks for bytes that are themselves not in memory. Allocates before the release only, since an
/// allocation might overwrite what it should find.
struct Scanner {
    complement: Vec<u8>,
    memory: File,
    buffer: Zeroizing<Vec<u8>>,
    maps: String,
}

impl Scanner {
    const CHUNK: usize = 1 << 20;

    fn new() -> Self {
        Self {
            complement: hex::decode(std::env::var(COMPLEMENT).unwrap()).unwrap(),
            memory: File::open("/proc/self/mem").unwrap(),
            buffer: Zeroizing::new(vec![0; Self::CHUNK + CANARY_BYTES - 1]),
            maps: String::with_capacity(1 << 16),
        }
    }

    fn is_canary(&self, bytes: &[u8]) -> bool {
        bytes.iter().zip(&self.complement).all(|(byte, complement)| *byte == !*complement)
    }

    /// The address of every copy in this process, the scanner's own buffer aside.
    fn copies(&mut self) -> Vec<usize> {
        let mut found = Vec::new();
        self.maps.clear();
        File::open("/proc/self/maps").unwrap().read_to_string(&mut self.maps).unwrap();
        let maps = std::mem::take(&mut self.maps);
        for mapping in maps.lines().filter(|line| line.contains(" rw-p ")) {
            let (start, rest) = mapping.split_once('-').unwrap();
            let end = usize::from_str_radix(rest.split_once(' ').unwrap().0, 16).unwrap();
            let start = usize::from_str_radix(start, 16).unwrap();
            for at in (start..end).step_by(Self::CHUNK) {
                self.scan(at, end, &mut found);
            }
        }
        self.maps = maps;
        found
    }

    /// One chunk, and so much more that a copy may begin with its last byte. Pages of zeroes,
    /// which most of memory is, are skipped.
    fn scan(&mut self, at: usize, end: usize, found: &mut Vec<usize>) {
        const PAGE: usize = 4096;
        const REACH: usize = PAGE + CANARY_BYTES - 1;
        let own = self.buffer.as_ptr() as usize..self.buffer.as_ptr() as usize + self.buffer.len();
        let wanted = self.buffer.len().min(end - at);
        let read = self.memory.read_at(&mut self.buffer[..wanted], at as u64).unwrap_or(0);
        for page in (0..read).step_by(PAGE) {
            let reach = &self.buffer[page..read.min(page + REACH)];
            if reach == &[0; REACH][..reach.len()] {
                continue;
            }
            for (offset, window) in reach.windows(CANARY_BYTES).enumerate() {
                let address = at + page + offset;
                let first = window[0] == !self.complement[0];
                if first && self.is_canary(window) && !own.contains(&address) {
                    found.push(address);
                }
            }
        }
    }

    fn assert_gone(&mut self, when: &str) {
        let copies = self.copies();
        if !copies.is_empty() {
            eprintln!("{}", self.maps);
        }
        assert!(copies.is_empty(), "{when}: {copies:x?}");
    }
}

/// `cdh=<url>`, `kbs=<url>`, `kbs-p521=<url>`, `kbs-rsa=<url>` or `file=<path>`.
fn source_from_env() -> keys::Source {
    let spec = std::env::var(SOURCE).unwrap();
    let settings = HttpSettings { timeout: Duration::from_secs(1), ..HttpSettings::default() };
    match spec.split_once('=').unwrap() {
        ("cdh", url) => keys::Source::Cdh(Cdh::new(url, &settings).unwrap()),
        (kind @ ("kbs" | "kbs-p521" | "kbs-rsa"), url) => {
            let kbs = Kbs::new(url, Box::new(SampleAttester), &settings).unwrap();
            keys::Source::Kbs(kbs.with_key_kind(match kind {
                "kbs-p521" => TeeKeyKind::P521,
                "kbs-rsa" => TeeKeyKind::Rsa,
                _ => TeeKeyKind::P256,
            }))
        }
        ("file", path) => keys::Source::File(FileSource::new(path.as_ref())),
        other => panic!("{other:?}"),
    }
}

fn release(runtime: &tokio::runtime::Runtime) -> Result<Secret, Error> {
    let resource = ResourceUri::from_path(PATH).unwrap();
    let source = source_from_env();
    runtime.block_on(async move { source.release(&resource).await })
}

/// Two workers, as a program has them, and not this thread alone.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

#[test]
#[ignore = "a child process of the tests below"]
fn child_releases_and_drops() {
    let (mut scanner, runtime) = (Scanner::new(), runtime());
    scanner.assert_gone("before the release");

    let secret = release(&runtime).unwrap();
    let canary = &secret.expose()[secret.len() - CANARY_BYTES..];
    assert!(scanner.is_canary(canary));
    assert_eq!(scanner.copies(), [canary.as_ptr() as usize], "only in the key's own pages");

    // The scanner finds a copy that somebody forgot: on the heap, and on the stack.
    let on_heap = std::hint::black_box(canary.to_vec());
    assert_eq!(scanner.copies().len(), 2);
    let mut on_stack = [0; CANARY_BYTES];
    on_stack.copy_from_slice(canary);
    std::hint::black_box(&mut on_stack);
    assert_eq!(scanner.copies().len(), 3);
    on_stack.zeroize();

    drop(secret);
    assert_eq!(scanner.copies(), [on_heap.as_ptr() as usize], "the copy on the heap");
    drop(on_heap);
    scanner.assert_gone("after the key was dropped");
    drop(runtime);
    scanner.assert_gone("after the runtime ended");
}

#[test]
#[ignore = "a child process of the tests below"]
fn child_is_refused() {
    let (mut scanner, runtime) = (Scanner::new(), runtime());
    release(&runtime).unwrap_err();
    scanner.assert_gone("after a release that failed");
}

#[test]
#[ignore = "a child process of the tests below"]
fn child_is_cancelled() {
    let (mut scanner, runtime) = (Scanner::new(), runtime());
    let (source, resource) = (source_from_env(), ResourceUri::from_path(PATH).unwrap());
    let limit = Duration::from_millis(300);
    runtime
        .block_on(async { tokio::time::timeout(limit, source.release(&resource)).await })
        .unwrap_err();
    scanner.assert_gone("after a release that was cancelled");
}

#[test]
#[ignore = "a child process of the tests below"]
fn child_panics() {
    let (mut scanner, runtime) = (Scanner::new(), runtime());
    let secret = release(&runtime).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        assert!(secret.is_empty(), "a panic while the key is held");
    }));
    assert!(panicked.is_err());
    scanner.assert_gone("after a panic");
}

// ---- The parent: a canary, and the sources that release it.

struct World {
    fake: FakeKbs,
    canary: Vec<u8>,
    _dir: tempfile::TempDir,
    sources: [String; 5],
}

/// The canary is the end of a key of `bytes`.
async fn world(bytes: usize) -> World {
    let canary = Secret::random_key().expose().to_vec();
    let mut key = vec![b' '; bytes - CANARY_BYTES];
    key.extend(&canary);
    let fake = FakeKbs::start().await.unwrap();
    fake.put(PATH, &key);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, &key).unwrap();
    let url = fake.url();
    let sources = [
        format!("cdh={url}"),
        format!("kbs={url}"),
        format!("kbs-p521={url}"),
        format!("kbs-rsa={url}"),
        format!("file={}", path.display()),
    ];
    World { fake, canary, _dir: dir, sources }
}

impl World {
    fn run(&self, child: &str, source: &str) {
        let complement: Vec<u8> = self.canary.iter().map(|byte| !byte).collect();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", child, "--ignored", "--nocapture"])
            .env(SOURCE, source)
            .env(COMPLEMENT, hex::encode(complement))
            .env("RUST_BACKTRACE", "0")
            // See "what is not covered" above.
            .env("LD_BIND_NOW", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{child} {source}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_key_is_nowhere_in_memory() {
    for bytes in [CANARY_BYTES, 1000] {
        let world = world(bytes).await;
        for source in &world.sources {
            world.run("child_releases_and_drops", source);
            world.run("child_panics", source);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_key_is_nowhere_in_memory_either() {
    let world = world(Secret::BYTES_MAX).await;
    for source in &world.sources {
        world.run("child_releases_and_drops", source);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_release_failed_halfway_is_nowhere_in_memory() {
    let world = world(1000).await;
    // All of the key arrives, but not all that was announced.
    world.fake.fail_next(Step::Cdh, Fault::Announce(1001));
    world.run("child_is_refused", &world.sources[0]);
    world.fake.fail_next(Step::Cdh, Fault::Announce(1001));
    world.run("child_is_cancelled", &world.sources[0]);
}
