//! Both programs, run on the same sources with the same variables.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use testkit::server::named_by;

use crate::common::{self, text};

/// Names a file for the results, one JSON object a line.
const COMPARED: &str = "SEALIFT_COMPARED";
/// Names a Python that has upstream's package.
const UPSTREAM: &str = "SEALIFT_UPSTREAM";

pub(crate) type Variables = Vec<(&'static str, String)>;
/// Contents by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Nothing, or our code, or upstream's last line.
    pub(crate) refused: Option<String>,
    /// What lies in each destination, through links, without either side's own files.
    pub(crate) found: Vec<Files>,
    pub(crate) said: String,
    /// The largest resident set of one of its processes.
    pub(crate) peak_bytes: u64,
}

impl Ran {
    /// The only destination's files, of a run that ended well.
    #[track_caller]
    pub(crate) fn files(&self) -> &Files {
        assert_eq!(self.refused, None, "{}", self.said);
        &self.found[0]
    }

    #[track_caller]
    pub(crate) fn names(&self) -> Vec<&str> {
        self.files().keys().map(String::as_str).collect()
    }

    /// Requires a refusal that left nothing; gives what a table says of it.
    #[track_caller]
    pub(crate) fn refused_whole(&self) -> String {
        let code = self.refused.as_ref().unwrap_or_else(|| panic!("accepted: {self:?}"));
        assert!(self.found.iter().all(BTreeMap::is_empty), "{self:?}");
        format!("refused ({code})")
    }
}

/// Both sides, and a directory in memory that they share.
pub(crate) struct Sides {
    pub(crate) dir: TempDir,
    python: PathBuf,
    runs: AtomicUsize,
}

impl Sides {
    /// `None`, and a note, without upstream's package.
    pub(crate) fn new() -> Option<Self> {
        let python = named_by(UPSTREAM)?;
        Some(Self { dir: common::memory(), python, runs: AtomicUsize::new(0) })
    }

    /// A script of `tests/bench` under upstream's Python, in a clean environment.
    pub(crate) fn script(&self, name: &str) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut command = Command::new(&self.python);
        command.arg(root.join("tests/bench").join(name)).env_clear();
        // Where its libraries keep what they like to keep.
        command.env("HOME", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command
    }

    pub(crate) fn upstream(&self, sources: &[&str], variables: &Variables) -> Ran {
        self.run(self.script("upstream_init.py"), sources, variables, |last| {
            last.chars().take(200).collect()
        })
    }

    pub(crate) fn ours(&self, sources: &[&str], variables: &Variables) -> Ran {
        let mut command = common::sealift();
        command.arg("init").env("SEALIFT_REQUIRE_SEALED", "false");
        self.run(command, sources, variables, |last| {
            last.split(' ').next().unwrap_or_default().to_owned()
        })
    }

    fn run(
        &self,
        mut command: Command,
        sources: &[&str],
        variables: &Variables,
        reason: impl Fn(&str) -> String,
    ) -> Ran {
        let mut destinations = Vec::new();
        for source in sources {
            let number = self.runs.fetch_add(1, Ordering::Relaxed);
            let destination = self.dir.path().join("destinations").join(number.to_string());
            std::fs::create_dir_all(&destination).unwrap();
            command.args([source, text(&destination)]);
            destinations.push(destination);
        }
        let cost = self.dir.path().join(format!("cost-{}", self.runs.load(Ordering::Relaxed)));
        let mut measured = self.script("measure.py");
        measured.arg(&cost).arg("--").arg(command.get_program()).args(command.get_args());
        measured.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = measured.envs(variables.iter().cloned()).output().unwrap();
        let cost = std::fs::read_to_string(cost).unwrap();
        let peak_bytes = cost.split(' ').nth(4).unwrap().parse().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let refused = match output.status.success() {
            true => None,
            false => Some(reason(said.lines().last().unwrap_or_default())),
        };
        Ran {
            refused,
            found: destinations.iter().map(|dir| arrived(dir)).collect(),
            said,
            peak_bytes,
        }
    }

    pub(crate) fn both(&self, sources: &[&str], variables: &Variables) -> [Ran; 2] {
        [self.upstream(sources, variables), self.ours(sources, variables)]
    }

    /// Both bring the same, and something; the result is recorded.
    #[track_caller]
    pub(crate) fn agree(
        &self,
        place: &str,
        case: &str,
        sources: &[&str],
        variables: &Variables,
    ) -> Vec<Files> {
        let [upstream, ours] = self.both(sources, variables);
        assert_eq!(upstream.refused, None, "upstream, {place}, {case}: {}", upstream.said);
        assert_eq!(ours.refused, None, "ours, {place}, {case}: {}", ours.said);
        for (theirs, ours) in upstream.found.iter().zip(&ours.found) {
            let names = |files: &Files| files.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(theirs), names(ours), "{place}, {case}");
            assert!(theirs == ours, "{place}, {case}: other bytes");
            assert!(!ours.is_empty(), "{place}, {case}: nothing");
        }
        record(place, case, "arrives", "the same");
        ours.found
    }
}

/// Adds what both sides were seen to do to the results, if anybody collects them.
pub(crate) fn record(source: &str, case: &str, upstream: &str, ours: &str) {
    let Some(path) = std::env::var_os(COMPARED) else { return };
    let line = serde_json::json!({
        "source": source, "case": case, "upstream": upstream, "ours": ours,
    });
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    // One call, so that lines of several threads do not mix.
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// The files below `dir`, through links; without our receipt and what upstream's library for the hub
/// remembers.
fn arrived(dir: &Path) -> Files {
    fn walk(root: &Path, dir: &Path, found: &mut Files) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.metadata() {
                Ok(meta) if meta.is_dir() => walk(root, &path, found),
                Ok(_) => {
                    let name = text(path.strip_prefix(root).unwrap()).to_owned();
                    found.insert(name, std::fs::read(&path).unwrap());
                }
                // A link that leads nowhere.
                Err(_) => {}
            }
        }
    }
    let mut found = Files::new();
    walk(dir, dir, &mut found);
    found.retain(|name, _| name != ".sealift-receipt.json" && !name.starts_with(".cache/"));
    found
}
