//! What a reader of an image asks of it: the parts that it is made of (CycloneDX 1.5), and what it
//! was built from (an in-toto statement with SLSA's provenance 1.0, not signed).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::arch::Arch;
use crate::process;
use crate::setup;
use crate::workspace::{cargo, root};

/// What all images have in common.
pub(super) struct Source {
    pub(super) version: String,
    /// The commit, and `-dirty` if files differ from it.
    pub(super) revision: String,
    /// Of the commit, RFC 3339.
    pub(super) created: String,
    /// What the programs are built for.
    pub(super) arch: Arch,
    rustc: String,
    /// Debian packages of which something is in the images: name and version.
    debian: Vec<(String, String)>,
    /// SHA-256 of each crate's archive, by name and version.
    checksums: BTreeMap<(String, String), String>,
}

impl Source {
    /// This repository, as it lies here.
    pub(super) fn here(arch: Arch) -> Result<Self> {
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            process::capture(git.current_dir(root()).env("TZ", "UTC").args(arguments))
        };
        let commit =
            git(&["log", "-1", "--format=%H %cd", "--date=format-local:%Y-%m-%dT%H:%M:%SZ"])?;
        let (commit, created) = commit.trim().split_once(' ').context("git log says no date")?;
        let dirty = if git(&["status", "--porcelain"])?.is_empty() { "" } else { "-dirty" };
        let package = process::capture(cargo().args(["pkgid", "--package", "sealift"]))?;
        let version =
            package.trim().rsplit(['@', '#']).next().context("cargo pkgid says no version")?;
        let rustc = process::capture(Command::new("rustc").arg("--version"))?;
        let mut debian = Vec::new();
        if arch != Arch::here() {
            setup::compiler(arch)?;
        }
        let mut libgcc = Command::new(arch.compiler());
        let libgcc = process::capture(libgcc.arg("-print-libgcc-file-name"))?;
        let libgcc = owner(libgcc.trim()).unwrap_or_else(|_| "libgcc-dev".to_owned());
        let libc = match arch == Arch::here() {
            true => "libc6-dev".to_owned(),
            false => format!("libc6-dev-{}-cross", arch.name()),
        };
        for package in [libc, libgcc, "ca-certificates".to_owned()] {
            let mut query = Command::new("dpkg-query");
            query.args(["--show", "--showformat=${Version}", &package]);
            let version = process::capture(&mut query).unwrap_or_else(|_| "unknown".to_owned());
            debian.push((package, version));
        }
        Ok(Self {
            version: version.to_owned(),
            revision: format!("{commit}{dirty}"),
            created: created.to_owned(),
            arch,
            rustc: rustc.split(' ').nth(1).unwrap_or("unknown").to_owned(),
            debian,
            checksums: checksums(&fs::read_to_string(root().join("Cargo.lock"))?),
        })
    }

    /// The bill of materials of the image `name`, which holds the program of `package`.
    pub(super) fn bill(&self, name: &str, package: &str, digest: &str) -> Result<String> {
        let mut tree = cargo();
        tree.args([
            "tree",
            "--locked",
            "--target",
            &self.arch.target(),
            "--edges",
            "normal,no-proc-macro",
            "--prefix",
            "none",
            "--no-dedupe",
        ]);
        tree.args(["--package", package, "--format", "{p}|{l}"]);
        let tree = process::capture(&mut tree)?;
        let mut components: BTreeSet<String> =
            tree.lines().map(|line| self.component(line)).collect::<Result<_>>()?;
        for (package, version) in &self.debian {
            components.insert(format!(
                r#"{{"type":"library","bom-ref":"deb-{package}","name":"{package}","version":"{version}","purl":"pkg:deb/debian/{package}@{}"}}"#,
                version.replace('+', "%2B")
            ));
        }
        components.insert(format!(
            r#"{{"type":"library","bom-ref":"rust-std","name":"rust-std","version":"{0}","purl":"pkg:generic/rust-std@{0}"}}"#,
            self.rustc
        ));
        let components: Vec<_> = components.into_iter().collect();
        let Self { version, created, .. } = self;
        Ok(format!(
            r#"{{"bomFormat":"CycloneDX","specVersion":"1.5","version":1,"metadata":{{"timestamp":"{created}","component":{{"type":"container","bom-ref":"image","name":"{name}","version":"{version}","hashes":[{{"alg":"SHA-256","content":"{}"}}]}}}},"components":[{}]}}"#,
            digest.trim_start_matches("sha256:"),
            components.join(",\n")
        ) + "\n")
    }

    /// One line of `cargo tree`: `name vVERSION (where)|licence`.
    fn component(&self, line: &str) -> Result<String> {
        let (package, licence) =
            line.split_once('|').with_context(|| format!("cargo tree: {line}"))?;
        let mut words = package.split(' ');
        let (name, version) = words.next().zip(words.next()).context("a package has a version")?;
        let version = version.trim_start_matches('v');
        let purl = format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"));
        let mut component = format!(
            r#"{{"type":"library","bom-ref":"{purl}","name":"{name}","version":"{version}""#
        );
        if !licence.is_empty() {
            // Before SPDX's expressions, a slash meant `or`.
            let licence = licence.replace('/', " OR ");
            write!(component, r#","licenses":[{{"expression":"{licence}"}}]"#)?;
        }
        if let Some(checksum) = self.checksums.get(&(name.to_owned(), version.to_owned())) {
            // Without a checksum it is ours, and of no registry.
            write!(component, r#","purl":"{purl}""#)?;
            write!(component, r#","hashes":[{{"alg":"SHA-256","content":"{checksum}"}}]"#)?;
        }
        component.push('}');
        Ok(component)
    }

    /// What images (name, digest) were built from, and how.
    pub(super) fn provenance(&self, images: &[(String, String)]) -> Result<String> {
        let subjects: Vec<_> = images
            .iter()
            .map(|(name, digest)| {
                let digest = digest.trim_start_matches("sha256:");
                format!(r#"{{"name":"{name}","digest":{{"sha256":"{digest}"}}}}"#)
            })
            .collect();
        let lock = process::sha256(&root().join("Cargo.lock"))?;
        // Of what is in no commit, nobody can say where it came from.
        let source = match self.revision.strip_suffix("-dirty") {
            Some(_) => String::new(),
            None => format!(r#"{{"name":"source","digest":{{"gitCommit":"{}"}}}},"#, self.revision),
        };
        let packages: String = self
            .debian
            .iter()
            .map(|(name, version)| {
                format!(
                    r#",{{"name":"{name}","uri":"pkg:deb/debian/{name}@{}"}}"#,
                    version.replace('+', "%2B")
                )
            })
            .collect();
        Ok(format!(
            r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{}],"predicateType":"https://slsa.dev/provenance/v1","predicate":{{"buildDefinition":{{"buildType":"urn:sealift:xtask-image:1","externalParameters":{{"recipe":"cargo xtask image --arch {}","revision":"{}"}},"resolvedDependencies":[{source}{{"name":"Cargo.lock","digest":{{"sha256":"{lock}"}}}},{{"name":"rustc","uri":"pkg:generic/rustc@{}"}}{packages}]}},"runDetails":{{"builder":{{"id":"urn:sealift:local"}}}}}}}}"#,
            subjects.join(","),
            self.arch.name(),
            self.revision,
            self.rustc,
        ) + "\n")
    }
}

/// The Debian package that a file is of.
fn owner(file: &str) -> Result<String> {
    let said = process::capture(Command::new("dpkg-query").args(["--search", file]))?;
    Ok(said.split(':').next().context("dpkg-query says no package")?.to_owned())
}

/// The crates' checksums in a `Cargo.lock`.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut checksums = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let field = |key: &str| {
            let value =
                package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            value.map(|value| value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (field("name"), field("version"), field("checksum"))
        {
            checksums.insert((name, version), checksum);
        }
    }
    checksums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_has_the_licence_and_the_checksum_that_cargo_knows_and_no_path_of_this_machine() {
        let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0+b\"\nchecksum = \"00ff\"\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n";
        let source = Source {
            version: String::new(),
            revision: String::new(),
            created: String::new(),
            arch: Arch::here(),
            rustc: String::new(),
            debian: Vec::new(),
            checksums: checksums(lock),
        };
        assert_eq!(
            source.component("a v1.0.0+b|MIT/Apache-2.0").unwrap(),
            r#"{"type":"library","bom-ref":"pkg:cargo/a@1.0.0%2Bb","name":"a","version":"1.0.0+b","licenses":[{"expression":"MIT OR Apache-2.0"}],"purl":"pkg:cargo/a@1.0.0%2Bb","hashes":[{"alg":"SHA-256","content":"00ff"}]}"#
        );
        assert_eq!(
            source.component("ours v0.1.0 (/somewhere/ours)|").unwrap(),
            r#"{"type":"library","bom-ref":"pkg:cargo/ours@0.1.0","name":"ours","version":"0.1.0"}"#
        );
        assert!(source.component("").is_err());
    }
}
