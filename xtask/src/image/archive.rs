//! [`Archive`]: an image as the OCI image layout in one file, by `tar`, `gzip` and `sha256sum`.
//!
//! The same files give the same bytes: names are sorted, owners are numbers, times are zero, and
//! `gzip` is told to write neither name nor time.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::arch::Arch;
use crate::process;

/// What a runtime does with an image.
pub(super) struct Config<'a> {
    pub(super) name: &'a str,
    pub(super) about: &'a str,
    pub(super) entrypoint: &'a str,
    /// `uid:gid`.
    pub(super) user: &'a str,
    pub(super) arch: Arch,
    /// RFC 3339.
    pub(super) created: &'a str,
    pub(super) version: &'a str,
    pub(super) revision: &'a str,
}

/// A directory that becomes a layer.
pub(super) struct Tree(PathBuf);

impl Tree {
    /// An empty one at `path`, whatever was there.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        let tree = Self(path);
        tree.mode("", 0o755)?;
        Ok(tree)
    }

    /// Adds a directory, and those above it.
    pub(super) fn directory(&self, name: &str, mode: u32) -> Result<()> {
        for (slash, _) in name.match_indices('/') {
            self.above(&name[..slash])?;
        }
        self.above(name)?;
        self.mode(name, mode)
    }

    /// Adds a file.
    pub(super) fn file(&self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        if let Some((above, _)) = name.rsplit_once('/') {
            self.directory(above, 0o755)?;
        }
        fs::write(self.0.join(name), content)?;
        self.mode(name, mode)
    }

    /// Adds another name of a file that is beside it.
    pub(super) fn link(&self, name: &str, beside: &str) -> Result<()> {
        Ok(symlink(beside, self.0.join(name))?)
    }

    fn above(&self, name: &str) -> Result<()> {
        let path = self.0.join(name);
        if !path.is_dir() {
            fs::create_dir(&path)?;
            self.mode(name, 0o755)?;
        }
        Ok(())
    }

    fn mode(&self, name: &str, mode: u32) -> Result<()> {
        Ok(fs::set_permissions(self.0.join(name), fs::Permissions::from_mode(mode))?)
    }
}

/// A blob of an image.
#[derive(Clone)]
pub(super) struct Blob {
    kind: &'static str,
    digest: String,
    size: u64,
}

impl Blob {
    fn json(&self) -> String {
        let Self { kind, digest, size } = self;
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}}}"#
        )
    }
}

/// An image being made.
pub(super) struct Archive {
    dir: PathBuf,
    layers: Vec<(Blob, String)>,
}

impl Archive {
    /// An empty one, put together in `dir`.
    pub(super) fn new(dir: PathBuf) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        for directory in ["blobs", "blobs/sha256"] {
            fs::set_permissions(dir.join(directory), fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { dir, layers: Vec::new() })
    }

    /// Puts a layer on those that there are.
    pub(super) fn layer(&mut self, tree: &Tree) -> Result<()> {
        let (plain, packed) = (self.dir.join("layer.tar"), self.dir.join("layer.tar.gz"));
        process::run(&mut tar(&tree.0, &plain)?)?;
        let difference = process::sha256(&plain)?;
        let mut gzip = Command::new("gzip");
        process::run(gzip.env_remove("GZIP").args(["--no-name", "-9"]).arg(&plain))?;
        let blob = self.blob("layer.v1.tar+gzip", &packed)?;
        self.layers.push((blob, difference));
        Ok(())
    }

    /// Writes the image to `to`, and gives its digest and the bytes that a registry keeps of it.
    pub(super) fn write(self, config: &Config<'_>, to: &Path) -> Result<(String, u64)> {
        let differences: Vec<_> =
            self.layers.iter().map(|(_, digest)| format!(r#""sha256:{digest}""#)).collect();
        let Config { name, about, entrypoint, user, arch, created, version, revision } = config;
        let config = self.text(
            "config.v1+json",
            &format!(
                r#"{{"created":"{created}","architecture":"{}","os":"linux","config":{{"User":"{user}","Entrypoint":["{entrypoint}"],"Env":["PATH=/"],"WorkingDir":"/","Labels":{{"org.opencontainers.image.title":"{name}","org.opencontainers.image.description":"{about}","org.opencontainers.image.version":"{version}","org.opencontainers.image.revision":"{revision}","org.opencontainers.image.licenses":"Apache-2.0"}}}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
                arch.name(),
                differences.join(",")
            ),
        )?;
        let layers: Vec<_> = self.layers.iter().map(|(blob, _)| blob.json()).collect();
        let manifest = self.text(
            "manifest.v1+json",
            &format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
                config.json(),
                layers.join(",")
            ),
        )?;
        let descriptor = manifest.json();
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},"annotations":{{"org.opencontainers.image.ref.name":"{name}:{version}"}}}}]}}"#,
            descriptor.trim_end_matches('}')
        );
        let layout = r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned();
        for (name, text) in [("index.json", index), ("oci-layout", layout)] {
            fs::write(self.dir.join(name), text)?;
            fs::set_permissions(self.dir.join(name), fs::Permissions::from_mode(0o644))?;
        }
        process::run(&mut tar(&self.dir, to)?)?;
        let size = manifest.size
            + config.size
            + self.layers.iter().map(|(blob, _)| blob.size).sum::<u64>();
        fs::remove_dir_all(&self.dir)?;
        Ok((format!("sha256:{}", manifest.digest), size))
    }

    fn text(&self, kind: &'static str, text: &str) -> Result<Blob> {
        let path = self.dir.join("text");
        fs::write(&path, text)?;
        self.blob(kind, &path)
    }

    /// Takes a file in.
    fn blob(&self, kind: &'static str, path: &Path) -> Result<Blob> {
        let (digest, size) = (process::sha256(path)?, fs::metadata(path)?.len());
        let stored = self.dir.join("blobs/sha256").join(&digest);
        fs::rename(path, &stored)?;
        fs::set_permissions(stored, fs::Permissions::from_mode(0o644))?;
        Ok(Blob { kind, digest, size })
    }
}

/// An archive of what is in `tree`.
fn tar(tree: &Path, to: &Path) -> Result<Command> {
    let mut names =
        fs::read_dir(tree)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    let mut tar = Command::new("tar");
    tar.env_remove("TAR_OPTIONS")
        .args(["--create", "--format=ustar", "--sort=name", "--mtime=@0", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--file"])
        .arg(to)
        .arg("--directory")
        .arg(tree)
        .args(names);
    Ok(tar)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config<'static> = Config {
        name: "name",
        about: "about",
        entrypoint: "/a",
        user: "1:1",
        arch: Arch::Aarch64,
        created: "1970-01-01T00:00:00Z",
        version: "1",
        revision: "0",
    };

    /// The digests of an image of these files, and of its archive.
    fn made(place: &str, files: &[(&str, u32, &[u8])]) -> (String, String) {
        let dir = std::env::temp_dir().join(format!("sealift-{place}-{}", std::process::id()));
        let tree = Tree::new(dir.join("tree")).unwrap();
        for (name, mode, content) in files {
            tree.file(name, *mode, content).unwrap();
        }
        let mut archive = Archive::new(dir.join("layout")).unwrap();
        archive.layer(&tree).unwrap();
        let (digest, _) = archive.write(&CONFIG, &dir.join("image.tar")).unwrap();
        let whole = process::sha256(&dir.join("image.tar")).unwrap();
        fs::remove_dir_all(dir).unwrap();
        (digest, whole)
    }

    #[test]
    fn the_same_files_give_the_same_image_wherever_and_whenever_it_is_made() {
        let one = made("one", &[("etc/x", 0o644, b"x"), ("a", 0o755, b"a")]);
        let two = made("another-place", &[("a", 0o755, b"a"), ("etc/x", 0o644, b"x")]);
        assert_eq!(one, two);
        assert_ne!(one, made("mode", &[("etc/x", 0o600, b"x"), ("a", 0o755, b"a")]));
        assert_ne!(one, made("byte", &[("etc/x", 0o644, b"y"), ("a", 0o755, b"a")]));
    }
}
