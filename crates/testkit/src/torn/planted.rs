//! Writers with one bug each, as seen in the field: a checker that misses one is no checker.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{ALWAYS, ODD, What, Writer, contents, each_file};

/// The bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// Writes over the files that are being read.
    InPlace,
    /// Removes `..data`, then makes it again: Kata's Go runtime, through its agent.
    DeleteThenCreate,
    /// Switches `..data`, then writes the files that it leads to: Kata's runtime-rs.
    LinkBeforeData,
    /// Replaces each file in one step, one after the other.
    FileByFile,
    /// Switches first, then removes from the new directory what does not belong there.
    LateDelete,
}

impl Planted {
    /// Each bug, with the rules of which it breaks at least one.
    pub const ALL: [(Self, &'static [What]); 5] = [
        (Self::InPlace, &[What::Torn, What::Mixed, What::Backwards]),
        (Self::DeleteThenCreate, &[What::Missing]),
        (Self::LinkBeforeData, &[What::Missing, What::Torn]),
        (Self::FileByFile, &[What::Mixed, What::Backwards]),
        (Self::LateDelete, &[What::Mixed]),
    ];
}

/// A writer as Kubernetes has it, but for the bug.
#[derive(Debug)]
pub struct Plain {
    data: PathBuf,
    bug: Option<Planted>,
    grace: Duration,
    /// What was replaced, and when.
    previous: VecDeque<(PathBuf, Instant)>,
}

impl Plain {
    /// Makes the volume `data`, with a first generation.
    pub fn begin(
        data: &Path,
        bug: Option<Planted>,
        grace: Duration,
        first: u64,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(data)?;
        let mut writer =
            Self { data: data.to_path_buf(), bug: None, grace, previous: VecDeque::new() };
        writer.publish(first)?;
        writer.bug = bug;
        Ok(writer)
    }

    fn switch(&self, name: &str) -> anyhow::Result<()> {
        let (current, new) = (self.data.join("..data"), self.data.join("..data_tmp"));
        let two_calls = [Planted::DeleteThenCreate, Planted::LinkBeforeData];
        if self.bug.is_some_and(|bug| two_calls.contains(&bug)) {
            fs::remove_file(&current)?;
            return Ok(symlink(name, &current)?);
        }
        symlink(name, &new)?;
        Ok(fs::rename(new, current)?)
    }

    fn links(&self, generation: u64) -> anyhow::Result<()> {
        for name in ALWAYS.into_iter().chain([ODD]) {
            let top = name.split('/').next().unwrap_or(name);
            let link = self.data.join(top);
            match (contents(generation).contains_key(name), link.symlink_metadata().is_ok()) {
                (true, false) => symlink(Path::new("..data").join(top), link)?,
                (false, true) => fs::remove_file(link)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn expire(&mut self) -> anyhow::Result<()> {
        while let Some((old, since)) = self.previous.front() {
            if since.elapsed() < self.grace {
                break;
            }
            fs::remove_dir_all(old)?;
            self.previous.pop_front();
        }
        Ok(())
    }
}

impl Writer for Plain {
    fn publish(&mut self, generation: u64) -> anyhow::Result<()> {
        let current = self.data.join("..data");
        match self.bug {
            Some(Planted::InPlace) => {
                return each_file(&current, generation, |path, content| {
                    Ok(fs::write(path, content)?)
                })
                .and_then(|()| self.links(generation));
            }
            Some(Planted::FileByFile) => {
                return each_file(&current, generation, |path, content| {
                    let new = path.with_extension("new");
                    fs::write(&new, content)?;
                    fs::rename(new, path)?;
                    pause();
                    Ok(())
                })
                .and_then(|()| self.links(generation));
            }
            _ => {}
        }
        let name = format!("..{generation}");
        let revision = self.data.join(&name);
        let old = fs::canonicalize(&current).ok();
        fs::create_dir(&revision)?;
        if self.bug == Some(Planted::LinkBeforeData) {
            self.switch(&name)?;
            pause();
        }
        each_file(&revision, generation, |path, content| Ok(fs::write(path, content)?))?;
        let late = old.as_ref().map(|old| old.join(ODD)).filter(|odd| odd.exists());
        let late = late.filter(|_| self.bug == Some(Planted::LateDelete));
        if let Some(odd) = &late {
            fs::copy(odd, revision.join(ODD))?;
        }
        if self.bug != Some(Planted::LinkBeforeData) {
            self.switch(&name)?;
        }
        if late.is_some() && !contents(generation).contains_key(ODD) {
            pause();
            fs::remove_file(revision.join(ODD))?;
        }
        self.links(generation)?;
        self.previous.extend(old.map(|old| (old, Instant::now())));
        self.expire()
    }
}

/// In the field a call to another machine lies between one file and the next.
fn pause() {
    thread::sleep(Duration::from_micros(200));
}
