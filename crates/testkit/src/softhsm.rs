//! A token in software, SoftHSM 2, made and looked into with OpenSC's `pkcs11-tool`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Where Debian's package has the library.
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// A token of its own, in files of its own.
#[derive(Debug)]
pub struct SoftHsm {
    dir: TempDir,
}

impl SoftHsm {
    /// The token's label.
    pub const TOKEN: &str = "my models";
    /// Its user's PIN.
    pub const PIN: &str = "1234-test";

    /// A token without keys; `None`, and a note, if SoftHSM or OpenSC is not installed.
    ///
    /// # Errors
    /// If there is one and it cannot be made.
    pub fn start() -> Result<Option<Self>> {
        let found = |program| Command::new(program).arg("--help").output().is_ok();
        if !Path::new(MODULE).exists() || !found("softhsm2-util") || !found("pkcs11-tool") {
            crate::skip("softhsm2 or opensc is not installed");
            return Ok(None);
        }
        let hsm = Self { dir: TempDir::new()? };
        let tokens = hsm.dir.path().join("tokens");
        std::fs::create_dir(&tokens)?;
        let settings = format!("directories.tokendir = {}\n", tokens.display());
        std::fs::write(hsm.settings(), settings)?;
        hsm.run(Command::new("softhsm2-util").args(["--init-token", "--free"]).args([
            "--label",
            Self::TOKEN,
            "--pin",
            Self::PIN,
            "--so-pin",
            "5678-test",
        ]))?;
        Ok(Some(hsm))
    }

    /// The library.
    #[must_use]
    pub fn module(&self) -> &'static Path {
        Path::new(MODULE)
    }

    /// The file that `SOFTHSM2_CONF` must name.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.dir.path().join("softhsm2.conf")
    }

    /// A directory for what else a test needs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A program that is `program` with this token.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn with_token(&self, program: &Path) -> Result<PathBuf> {
        let settings = self.settings();
        let line = format!("SOFTHSM2_CONF={} exec {}", settings.display(), program.display());
        self.script("helper", &line)
    }

    /// A shell script.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn script(&self, name: &str, line: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{line}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// `pkcs11-tool` with these arguments, logged in.
    ///
    /// # Errors
    /// If it fails.
    pub fn tool(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        self.run(
            Command::new("pkcs11-tool")
                .args(["--module", MODULE, "--login", "--pin", Self::PIN])
                .args(["--token-label", Self::TOKEN])
                .args(arguments),
        )
    }

    fn run(&self, command: &mut Command) -> Result<Vec<u8>> {
        let output = command.env("SOFTHSM2_CONF", self.settings()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {said}");
        Ok(output.stdout)
    }

    /// An AES key of these bytes.
    ///
    /// # Errors
    /// If the token does not take it.
    pub fn put_aes(&self, label: &str, id: &str, key: &[u8; 32]) -> Result<()> {
        let file = self.dir.path().join(label);
        std::fs::write(&file, key)?;
        let file = file.to_str().context("a path in UTF-8")?;
        let object = ["--write-object", file, "--type", "secrkey", "--key-type", "AES:32"];
        self.tool(&[&object[..], &["--label", label, "--id", id]].concat()).map(drop)
    }
}
