//! Kills a publisher at its every step and asks the [oracle](crate::oracle) each time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};

use crate::oracle::{Expected, Finding, Model, State, census, look};

/// How one run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It says that the model is published.
    Done,
    /// It was killed.
    Killed,
    /// It gave up by itself, and says why.
    Failed(String),
}

/// Something that brings a destination from whatever state it is in to the new model.
pub trait Publisher {
    /// One run, killed before its `kill_at`th step, counted from 1.
    fn run(&self, destination: &Path, new: &Model, kill_at: Option<u64>) -> Outcome;
}

/// A publication to try: from what to what.
#[derive(Debug, Clone)]
pub struct Shape {
    /// For messages.
    pub name: &'static str,
    /// What is there before.
    pub old: Option<Model>,
    /// What is to be published.
    pub new: Model,
    /// Our staging directory's name is taken by a link that leads outside.
    pub hostile: bool,
}

/// The shapes that matter: each moves, replaces or removes names in another way.
pub fn shapes() -> Vec<Shape> {
    let shape = |name, old: Option<&[(&str, usize)]>, new: &[(&str, usize)]| Shape {
        name,
        old: old.map(|files| Model::new(1, files)),
        new: Model::new(2, new),
        hostile: false,
    };
    let nested = [("a/b/c/weights.bin", 9_000), ("a/b/d.json", 10), ("a/e.txt", 4_096), ("f", 1)];
    let flat = [("config.json", 700), ("model.bin", 40_000), ("run.sh*", 50)];
    vec![
        shape("first", None, &flat),
        shape("first-nested-and-empty", None, &[&nested[..], &[("empty", 0)]].concat()),
        shape("changed", Some(&flat), &flat),
        shape("added-and-removed", Some(&flat), &[("config.json", 700), ("other.bin", 5_000)]),
        shape("file-to-directory", Some(&[("a", 100), ("b", 5_000)]), &nested),
        shape("directory-to-file", Some(&nested), &[("a", 100), ("f/g", 1), ("h", 0)]),
        Shape { hostile: true, ..shape("hostile", None, &[("config.json", 700), ("b/c", 10)]) },
    ]
}

/// A destination in the state that a shape begins with, beside a directory that nobody may touch.
#[derive(Debug)]
pub struct Scene {
    /// Holds both; removed with this.
    _top: tempfile::TempDir,
    /// Where to publish.
    pub destination: PathBuf,
    /// What must stay as it is.
    pub outside: PathBuf,
}

impl Scene {
    /// Sets a scene below `top`.
    pub fn set(top: &Path, shape: &Shape) -> anyhow::Result<Self> {
        let top = tempfile::tempdir_in(top)?;
        let destination = top.path().join("destination");
        let outside = top.path().join("outside");
        fs::create_dir(&destination)?;
        fs::create_dir(&outside)?;
        fs::write(outside.join("config.json"), "not yours")?;
        if let Some(old) = &shape.old {
            old.write(&destination)?;
        }
        if shape.hostile {
            symlink(&outside, destination.join(".sealift-staging"))?;
        }
        Ok(Self { _top: top, destination, outside })
    }
}

/// Kills `publisher` at step 1, 2, … until a run completes, each time in a fresh scene; after each
/// kill asks the oracle, then runs it again undisturbed. Returns how many kills there were.
pub fn enumerate(publisher: &dyn Publisher, shape: &Shape, top: &Path) -> anyhow::Result<u64> {
    for step in 1.. {
        let scene = Scene::set(top, shape)?;
        let before = census(&scene.outside)?;
        let at = || format!("{}, killed at step {step}", shape.name);
        let outcome = publisher.run(&scene.destination, &shape.new, Some(step));
        if let Outcome::Failed(why) = &outcome {
            return Err(anyhow!("failed undisturbed: {why}").context(at()));
        }
        check(&scene.destination, shape).with_context(at)?;
        rerun(publisher, &scene.destination, shape).with_context(at)?;
        ensure!(census(&scene.outside)? == before, "{}: something outside was touched", at());
        if outcome == Outcome::Done {
            return Ok(step - 1);
        }
    }
    unreachable!("steps are counted from 1 without end")
}

/// Asks the oracle about a destination.
pub fn check(destination: &Path, shape: &Shape) -> anyhow::Result<Finding> {
    let expected = Expected { old: shape.old.as_ref(), new: &shape.new };
    look(destination, expected).map_err(|broken| anyhow!(broken))
}

/// Runs undisturbed, after whatever came before: then the new model must be there and nothing else.
pub fn rerun(publisher: &dyn Publisher, destination: &Path, shape: &Shape) -> anyhow::Result<()> {
    let outcome = publisher.run(destination, &shape.new, None);
    ensure!(outcome == Outcome::Done, "did not converge: {outcome:?}");
    let finding = check(destination, shape).context("after running again")?;
    ensure!(finding.state == State::New, "after running again there is {:?}", finding.state);
    ensure!(!finding.residue, "after running again there is residue");
    Ok(())
}
