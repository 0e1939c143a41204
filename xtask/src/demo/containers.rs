//! [`Podman`]: our images in containers as a namespace of Kubernetes' profile `restricted` runs them,
//! with OpenShift's habit of a user id that no image knows.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::image;
use crate::process;
use crate::setup;
use crate::world::World;

/// Nobody, in the group that OpenShift gives to such users.
const USER: &str = "1000660000:0";
/// What an initializer needs beside the model, which its memory volume is charged for.
const MEMORY_BYTES: u64 = 128 << 20;
/// A name for this machine that only the containers' `/etc/hosts` has.
const STORE: &str = "store.test";

/// A container engine with storage of its own, in which our images are.
pub(super) struct Podman {
    program: PathBuf,
    dir: PathBuf,
    version: String,
}

impl Podman {
    /// Loads the images of `archives`, and makes sure that each has its program and no shell.
    pub(super) fn new(world: &World, archives: &Path) -> Result<Self> {
        let dir = world.path("");
        // The broker's user makes its files in it.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777))?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let podman = Self { program: setup::podman()?, dir, version };
        for (name, program) in image::programs() {
            let program = &format!("/{program}");
            let archive = archives.join(format!("{name}.tar"));
            process::capture(podman.command().args(["load", "--quiet", "--input"]).arg(archive))?;
            process::capture(podman.run(name, &["--entrypoint", program]).arg("--version"))?;
            let mut shell = podman.run(name, &["--entrypoint", "/bin/sh"]);
            if process::output(shell.args(["-c", "true"]))?.status.success() {
                bail!("there is a shell in {name}");
            }
        }
        Ok(podman)
    }

    /// The broker, with its files where they are outside.
    pub(super) fn broker(&self, command: &str) -> Command {
        let volume = format!("{0}:{0}", self.dir.display());
        let mut run = self.run("sealift-broker", &["--volume", &volume]);
        run.arg(command);
        run
    }

    /// The initializer with what KServe gives to it, the store by a name, and no more memory than
    /// the manual says.
    pub(super) fn initializer(
        &self,
        destination: &Path,
        model_bytes: u64,
        store: &[(&str, OsString)],
        settings: &[(&str, OsString)],
        source: &str,
    ) -> Command {
        let memory = (model_bytes + MEMORY_BYTES).to_string();
        let volumes = [
            format!("{0}:{0}", self.dir.display()),
            format!("{}:/mnt/models", destination.display()),
        ];
        let host = format!("{STORE}:127.0.0.1");
        let mut options: Vec<String> = ["--memory", &memory, "--memory-swap", &memory]
            .into_iter()
            .chain(["--add-host", &host])
            .chain(volumes.iter().flat_map(|volume| ["--volume", volume]))
            .map(str::to_owned)
            .collect();
        let mut environment = |name: &str, value: &str| {
            options.extend(["--env".to_owned(), format!("{name}={value}")]);
        };
        for (name, value) in store {
            environment(name, &value.to_string_lossy().replace("127.0.0.1", STORE));
        }
        for (name, value) in settings {
            environment(name, &value.to_string_lossy());
        }
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        let mut run = self.run("sealift-init", &options);
        run.args([source, "/mnt/models"]);
        run
    }

    /// A container of an image, which is gone when it ends.
    fn run(&self, image: &str, options: &[&str]) -> Command {
        let mut run = self.command();
        run.args(["run", "--rm", "--read-only", "--read-only-tmpfs=false", "--user", USER])
            .args(["--cap-drop", "all", "--security-opt", "no-new-privileges"])
            // Podman would raise them, which takes a capability that CI's root does not have.
            .args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"])
            .args(["--network", "host"])
            .args(options)
            .arg(self.reference(image));
        run
    }

    /// For another program that starts podman: where its storage is, and an image's name in it.
    pub(super) fn place_of(&self, image: &str) -> [OsString; 2] {
        [self.dir.clone().into(), self.reference(image).into()]
    }

    fn reference(&self, image: &str) -> String {
        format!("localhost/{image}:{}", self.version)
    }

    fn command(&self) -> Command {
        let mut podman = Command::new(&self.program);
        podman
            .args(["--root".as_ref(), self.dir.join("podman").as_os_str()])
            .args(["--runroot".as_ref(), self.dir.join("podman-run").as_os_str()])
            .args(["--storage-driver", "vfs", "--runtime", "runc"])
            .args(["--cgroup-manager", "cgroupfs"]);
        podman
    }
}
