//! [`Files`]: what is in a guest when it starts, as the archive that a kernel unpacks into memory,
//! or as a directory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};

/// Path without a leading `/` → bytes. All of them may be executed.
pub(crate) struct Files(BTreeMap<String, Vec<u8>>);

/// Directories that are there before anything is mounted on them.
const DIRECTORIES: [&str; 4] = ["dev", "proc", "run", "sys"];

impl Files {
    pub(crate) fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Adds a copy of a file.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        let bytes = fs::read(from).with_context(|| from.display().to_string())?;
        self.0.insert(path.to_owned(), bytes);
        Ok(())
    }

    /// Adds a text.
    pub(crate) fn script(&mut self, path: &str, text: &str) {
        self.0.insert(path.to_owned(), text.as_bytes().to_vec());
    }

    /// Writes them below `root`, which exists.
    pub(crate) fn write_below(&self, root: &Path) -> Result<()> {
        for directory in DIRECTORIES {
            fs::create_dir(root.join(directory))?;
        }
        for (path, bytes) in &self.0 {
            let path = root.join(path);
            fs::create_dir_all(path.parent().context("a file has a parent")?)?;
            fs::write(&path, bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// The archive, in the format `newc`: Linux, `Documentation/driver-api/early-userspace`.
    pub(crate) fn to_cpio(&self) -> Result<Vec<u8>> {
        let mut archive = Archive(Vec::new());
        for directory in DIRECTORIES {
            archive.directory(directory)?;
        }
        let mut made = Vec::new();
        for (path, bytes) in &self.0 {
            for (slash, _) in path.match_indices('/') {
                let directory = &path[..slash];
                if !made.contains(&directory) {
                    archive.directory(directory)?;
                    made.push(directory);
                }
            }
            archive.entry(path, 0o100_755, bytes)?;
        }
        archive.entry("TRAILER!!!", 0, &[])?;
        Ok(archive.0)
    }
}

struct Archive(Vec<u8>);

impl Archive {
    fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, 0o040_755, &[])
    }

    /// One file or directory of root's.
    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let (size, name_size) = (u32::try_from(bytes.len())?, u32::try_from(path.len() + 1)?);
        // Inode, mode, uid, gid, links, mtime, size, four device numbers, length of the name, check.
        let fields = [0, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.0.extend(b"070701");
        for field in fields {
            self.0.extend(format!("{field:08x}").bytes());
        }
        self.0.extend(path.bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(bytes);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_as_the_kernel_wants_it() {
        let mut archive = Archive(Vec::new());
        archive.entry("ab", 0o100_755, b"hello").unwrap();
        let zeros = "00000000";
        let header = format!(
            "070701{zeros}000081ed{zeros}{zeros}00000001{zeros}00000005{zeros}{zeros}{zeros}{zeros}00000003{zeros}"
        );
        // Of 110 bytes: with a name of 2 and its end, 113, padded to 116.
        let expected = [header.as_bytes(), b"ab\0", &[0; 3], b"hello", &[0; 3]].concat();
        assert_eq!(archive.0, expected);
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let mut files = Files::new();
        files.script("bin/a", "");
        files.script("bin/b", "");
        let cpio = String::from_utf8(files.to_cpio().unwrap()).unwrap();
        let at = |name: &str| cpio.find(&format!("{name}\0"));
        assert!(at("bin") < at("bin/a") && at("bin/a") < at("bin/b"));
        assert_eq!(cpio.matches("bin\0").count(), 1);
        assert!(cpio.trim_end_matches('\0').ends_with("TRAILER!!!"));
        assert_eq!(cpio.len() % 4, 0);
    }
}
