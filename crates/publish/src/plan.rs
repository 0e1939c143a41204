//! [`Plan`]: the tree to publish, checked once more.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::receipt::Receipt;

/// Most files in a tree: twice those of a sealed bundle, for plain models of many small files.
pub const FILES_MAX: usize = 32_768;
/// Longest path, in bytes.
pub const PATH_BYTES_MAX: usize = 1_024;
/// Longest component of a path, in bytes: what Linux allows.
pub const COMPONENT_BYTES_MAX: usize = 255;
/// Most components of a path.
pub const DEPTH_MAX: usize = 32;
/// Largest file, in bytes: what `ftruncate` can express.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Most segments in a tree, counted in whole bytes of the bitmap per file: 16 MiB of bitmap.
const BITMAP_BYTES_MAX: u64 = 16 << 20;

/// A complete tree: everything that will be in the destination besides the receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Digest of the manifest that describes the tree. Staged content is only ever resumed for the
    /// same digest.
    pub digest: [u8; 32],
    /// The files. Directories are those that their paths name.
    pub files: Vec<PlannedFile>,
}

/// A file of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedFile {
    /// Path relative to the destination, with `/` between components.
    pub path: String,
    /// Permission bits: `0o644` or `0o755`.
    pub mode: u32,
    /// Size.
    pub bytes: u64,
    /// Number of pieces in which the file is written, each once. An empty file may have one too.
    pub segments: u32,
}

impl Plan {
    /// Refuses what could reach outside the destination, collide in it, or exceed a limit. The
    /// caller has already refused the same: this is the second of two independent checks.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::InvalidPlan(why));
        if self.files.is_empty() {
            return refuse("it has no files".into());
        }
        let bitmap: u64 = self.files.iter().map(|file| u64::from(file.segments.div_ceil(8))).sum();
        if bitmap > BITMAP_BYTES_MAX {
            return refuse("it has too many segments".into());
        }
        for file in &self.files {
            if file.mode != 0o644 && file.mode != 0o755 {
                return refuse(format!("mode {:o} of {:?}", file.mode, file.path));
            }
            if file.bytes > FILE_BYTES_MAX {
                return refuse(format!("size of {:?}", file.path));
            }
            if file.bytes > 0 && file.segments == 0 {
                return refuse(format!("{:?} has bytes but no segments", file.path));
            }
        }
        check_paths(self.files.iter().map(|file| file.path.as_str()))
    }

    /// Refuses a receipt that is not about exactly this tree.
    pub(crate) fn check_receipt(&self, receipt: &Receipt) -> Result<(), Error> {
        let same = receipt.manifest_digest == hex::encode(self.digest)
            && receipt.files.len() == self.files.len()
            && receipt.files.iter().zip(&self.files).all(|(ours, planned)| {
                (&ours.path, ours.bytes, ours.mode) == (&planned.path, planned.bytes, planned.mode)
            });
        match same {
            true => Ok(()),
            false => Err(Error::InvalidPlan("its receipt is about another tree".into())),
        }
    }
}

/// The names that `paths` occupy directly in the destination.
pub(crate) fn tops<'a>(paths: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
    paths.into_iter().map(|path| path.split_once('/').map_or(path, |(top, _)| top)).collect()
}

/// The content of each directory of the tree: path of the directory (`""` is the top) → names.
/// A directory comes after its parent.
pub(crate) fn directories<'a>(
    paths: impl IntoIterator<Item = &'a str>,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut directories = BTreeMap::from([("", BTreeSet::new())]);
    for mut path in paths {
        loop {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let known = !directories.entry(parent).or_default().insert(name);
            if known || parent.is_empty() {
                break;
            }
            path = parent;
        }
    }
    directories
}

/// The rules for paths, also for those in a journal or receipt read back.
pub(crate) fn check_paths<'a>(paths: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut files = BTreeSet::new();
    let mut parents = BTreeSet::new();
    for path in paths {
        check_path(path)?;
        if !files.insert(path) {
            return Err(Error::InvalidPlan(format!("{path:?} twice")));
        }
        if files.len() > FILES_MAX {
            return Err(Error::InvalidPlan(format!("more than {FILES_MAX} files")));
        }
        parents.extend(path.match_indices('/').map(|(slash, _)| &path[..slash]));
    }
    match files.intersection(&parents).next() {
        Some(both) => Err(Error::InvalidPlan(format!("{both:?} is a file and a directory"))),
        None => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), Error> {
    let clean = |component: &str| {
        !matches!(component, "" | "." | "..")
            && component.len() <= COMPONENT_BYTES_MAX
            && !component.chars().any(|c| c.is_control() || c == '\\')
            && !component.get(..8).is_some_and(|start| start.eq_ignore_ascii_case(".sealift"))
    };
    let components = path.split('/').count();
    if path.len() <= PATH_BYTES_MAX && components <= DEPTH_MAX && path.split('/').all(clean) {
        return Ok(());
    }
    // A hostile path may be long.
    let shown: String = path.chars().take(64).collect();
    Err(Error::InvalidPlan(format!("path {shown:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(paths: &[&str]) -> Plan {
        let file = |path: &&str| PlannedFile {
            path: (*path).to_owned(),
            mode: 0o644,
            bytes: 1,
            segments: 1,
        };
        Plan { digest: [0; 32], files: paths.iter().map(file).collect() }
    }

    #[test]
    fn refuses_every_path_that_is_not_plain() {
        let long = "x".repeat(COMPONENT_BYTES_MAX + 1);
        let longer = ["x"; 600].join("/");
        let deep = ["x"; DEPTH_MAX + 1].join("/");
        let bad = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "../a",
            "a/./b",
            "a\0",
            "a\nb",
            "a\\b",
            "\u{85}",
            ".sealift",
            ".sealift-staging/x",
            "a/.SeaLift-receipt.json",
            &long,
            &longer,
            &deep,
        ];
        for path in bad {
            assert!(plan(&[path]).check().is_err(), "{path:?}");
        }
        let good = ["a", "a b", ".a", "...", "..a", "é", "a/b/c", "sealift", ".seal", "lost+found"];
        for path in good {
            plan(&[path]).check().unwrap();
        }
    }

    #[test]
    fn refuses_collisions_and_limits() {
        assert!(plan(&[]).check().is_err());
        assert!(plan(&["a", "b", "a"]).check().is_err());
        assert!(plan(&["a/b", "a"]).check().is_err());
        assert!(plan(&["a/b/c", "a", "a!"]).check().is_err());
        let many: Vec<String> = (0..=FILES_MAX).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(plan(&many).check().is_err());
        plan(&many[1..]).check().unwrap();

        type Change = fn(&mut PlannedFile);
        let changes: [Change; 5] = [
            |file| file.mode = 0o4755,
            |file| file.mode = 0o600,
            |file| file.bytes = FILE_BYTES_MAX + 1,
            |file| file.segments = 0,
            |file| file.segments = u32::MAX,
        ];
        for change in changes {
            let mut plan = plan(&["a"]);
            change(&mut plan.files[0]);
            assert!(plan.check().is_err());
        }
    }

    #[test]
    fn directories_name_every_parent_once_and_first() {
        let found = directories(["a/b/c", "a/b/d", "e", "a/f/g/h"]);
        let names: Vec<&str> = found.keys().copied().collect();
        assert_eq!(names, ["", "a", "a/b", "a/f", "a/f/g"]);
        assert_eq!(found[""], BTreeSet::from(["a", "e"]));
        assert_eq!(found["a"], BTreeSet::from(["b", "f"]));
        assert_eq!(found["a/b"], BTreeSet::from(["c", "d"]));
        assert_eq!(tops(["a/b/c", "e", "a!"]), BTreeSet::from(["a", "a!", "e"]));
    }
}
