//! One run of the real publisher, as the initializer makes it, and ways to end it early.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use publish::{Call, Destination, Error, Policy, Steps, System};
use rustix::io::Errno;
use testkit::kills::{Outcome, Publisher};
use testkit::oracle::{Model, segments};

/// Where tests publish: memory, as nearly every machine has it.
pub fn memory() -> &'static Path {
    let path = Path::new("/dev/shm");
    match Destination::open(path, &Policy::default()) {
        Ok(_) => path,
        Err(error) => panic!("the tests need a tmpfs at /dev/shm: {error}"),
    }
}

/// Opens, recovers, stages what is missing, publishes: all that a run does.
pub fn run(destination: &Path, model: &Model, system: System) -> Result<(), Error> {
    run_under(destination, model, system, &Policy::default())
}

pub fn run_under(
    destination: &Path,
    model: &Model,
    system: System,
    policy: &Policy,
) -> Result<(), Error> {
    let destination = Destination::open_with(destination, policy, system)?;
    destination.recover(Some(model.digest))?;
    if let Some(receipt) = destination.receipt()?
        && receipt == model.receipt()
        && destination.holds(&receipt)?
    {
        return Ok(());
    }
    let plan = model.plan();
    destination.preflight(&plan)?;
    let staging = destination.stage(&plan)?;
    match fill(&staging, model) {
        Ok(()) => staging.publish(&model.receipt()),
        Err(error) => {
            // As the initializer does: the first error is reported.
            let _ = staging.discard();
            Err(error)
        }
    }
}

/// Writes every segment that is not there yet.
pub fn fill(staging: &publish::Staging, model: &Model) -> Result<(), Error> {
    for (index, (_, content)) in model.files.values().enumerate() {
        let file = staging.open_file(index)?;
        for (segment, offset, bytes) in segments(content) {
            if !staging.is_done(index, segment) {
                file.write_segment(segment, offset, bytes)?;
            }
        }
    }
    Ok(())
}

/// Calls `at` before the `n`th call that counts, from 1.
pub struct AtCall<F> {
    pub n: u64,
    pub mutating_only: bool,
    pub seen: AtomicU64,
    pub at: F,
}

impl<F: Fn(&Call<'_>) -> Result<(), Errno> + Send + Sync> Steps for AtCall<F> {
    fn before(&self, call: &Call<'_>) -> Result<(), Errno> {
        if self.mutating_only && !call.mutates {
            return Ok(());
        }
        match self.seen.fetch_add(1, Ordering::Relaxed) + 1 == self.n {
            true => (self.at)(call),
            false => Ok(()),
        }
    }
}

pub fn at_call<F>(n: u64, mutating_only: bool, at: F) -> Arc<AtCall<F>> {
    Arc::new(AtCall { n, mutating_only, seen: AtomicU64::new(0), at })
}

/// Asks at every call.
pub struct Every<F>(pub F);

impl<F: Fn(&Call<'_>) -> Result<(), Errno> + Send + Sync> Steps for Every<F> {
    fn before(&self, call: &Call<'_>) -> Result<(), Errno> {
        (self.0)(call)
    }
}

pub fn system(steps: Arc<dyn Steps>) -> System {
    System { steps: Some(steps), ..System::default() }
}

/// Ends a run by unwinding, with nothing but closing of descriptors on the way: as good as a kill,
/// and a hundred times as fast.
pub struct Unwinding {
    /// Also onto a disk.
    pub policy: Policy,
}

impl Unwinding {
    pub const IN_MEMORY: Self = Self { policy: Policy { allow_disk: false } };
    pub const ON_DISK: Self = Self { policy: Policy { allow_disk: true } };
}

/// What unwinds.
struct Killed;

impl Publisher for Unwinding {
    fn run(&self, destination: &Path, new: &Model, kill_at: Option<u64>) -> Outcome {
        let kill = |_: &Call<'_>| resume_unwind(Box::new(Killed));
        let steps = at_call(kill_at.unwrap_or(u64::MAX), true, kill);
        match catch_unwind(AssertUnwindSafe(|| {
            run_under(destination, new, system(steps), &self.policy)
        })) {
            Ok(Ok(())) => Outcome::Done,
            Ok(Err(error)) => Outcome::Failed(describe(&error)),
            Err(panic) if panic.is::<Killed>() => Outcome::Killed,
            Err(panic) => resume_unwind(panic),
        }
    }
}

/// An error with its causes.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A run in a process of its own, which is this test's program running only the test `child`.
pub struct Child {
    /// Put before the program: `strace` and its arguments.
    pub wrapper: Vec<String>,
    /// Which [`testkit::kills::shapes`].
    pub shape: &'static str,
}

pub const CHILD_DESTINATION: &str = "SEALIFT_TEST_DESTINATION";
pub const CHILD_SHAPE: &str = "SEALIFT_TEST_SHAPE";
pub const CHILD_KILL_AT: &str = "SEALIFT_TEST_KILL_AT";

impl Child {
    pub fn plain(shape: &'static str) -> Self {
        Self { wrapper: Vec::new(), shape }
    }

    pub fn output(&self, destination: &Path, kill_at: Option<u64>) -> std::process::Output {
        let program = std::env::current_exe().unwrap();
        let mut words = self.wrapper.iter().map(PathBuf::from).chain([program]);
        std::process::Command::new(words.next().unwrap())
            .args(words)
            .args(["--exact", "child", "--quiet", "--nocapture"])
            .env(CHILD_DESTINATION, destination)
            .env(CHILD_SHAPE, self.shape)
            .env(CHILD_KILL_AT, kill_at.map_or(String::new(), |n| n.to_string()))
            .output()
            .unwrap()
    }
}

impl Publisher for Child {
    fn run(&self, destination: &Path, _: &Model, kill_at: Option<u64>) -> Outcome {
        use std::os::unix::process::ExitStatusExt;
        let output = self.output(destination, kill_at);
        match (output.status.success(), output.status.signal()) {
            (true, _) => Outcome::Done,
            (_, Some(9)) => Outcome::Killed,
            _ => Outcome::Failed(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// The body of the test `child`: nothing, unless this process was started by [`Child`].
pub fn child() {
    let Ok(destination) = std::env::var(CHILD_DESTINATION) else { return };
    let name = std::env::var(CHILD_SHAPE).unwrap();
    let shape = testkit::kills::shapes().into_iter().find(|shape| shape.name == name).unwrap();
    let kill_at = std::env::var(CHILD_KILL_AT).unwrap().parse().unwrap_or(u64::MAX);
    let steps = at_call(kill_at, true, |_: &Call<'_>| {
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
        loop {
            std::thread::park();
        }
    });
    run(Path::new(&destination), &shape.new, system(steps)).map_err(|e| describe(&e)).unwrap();
}
