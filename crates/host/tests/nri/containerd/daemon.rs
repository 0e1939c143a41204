//! A containerd of its own, with NRI, all its files in one directory, and runc behind two runtime
//! handlers: `runc`, and `kata-qemu`, in front of which a script plays the part of Kata that a node
//! sees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use aws_lc_rs::digest::{SHA256, digest};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::cri::{Cri, cgroup};
use crate::world::until;

/// The image of pods and of containers.
pub const IMAGE: &str = "sealift.test/pause:1";

pub struct Containerd {
    dir: PathBuf,
    programs: PathBuf,
    child: Child,
    pub cri: Cri,
}

impl Containerd {
    /// All that are here, as directories of programs; none, having said why.
    pub fn installed() -> Vec<PathBuf> {
        if !rustix::process::geteuid().is_root() {
            testkit::skip("containerd makes containers as root alone");
            return Vec::new();
        }
        let named = std::env::var_os("SEALIFT_CONTAINERD").unwrap_or_default();
        let found: Vec<_> =
            std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect();
        if found.is_empty() {
            testkit::skip(
                "SEALIFT_CONTAINERD names no directory with a containerd of 1.7 or later",
            );
        }
        found
    }

    /// Starts one in `dir`. `../sbs` is where Kata's shims are looked for, and `any` in it answers
    /// for all sandboxes. A plugin has `plugin_ms` for an answer.
    pub fn start(programs: &Path, dir: &Path, plugin_ms: u32) -> Self {
        fs::create_dir(dir).unwrap();
        let at = dir.display();
        fs::write(dir.join("config.toml"), config(dir, plugin_ms)).unwrap();
        let kata = dir.join("kata");
        fs::write(&kata, KATA.replace("DIR", &at.to_string())).unwrap();
        fs::set_permissions(kata, fs::Permissions::from_mode(0o755)).unwrap();
        let child = spawn(programs, dir);
        let programs = programs.to_path_buf();
        let cri = Cri::new(dir.join("containerd.sock"));
        let new = Self { dir: dir.to_path_buf(), programs, child, cri };
        new.is_ready();
        let archive = dir.join("image.tar");
        image(&archive);
        new.ctr(&["images", "import", &archive.display().to_string()]);
        new
    }

    pub fn version(&self) -> String {
        let version = Command::new(self.programs.join("containerd")).arg("--version").output();
        let version = String::from_utf8(version.unwrap().stdout).unwrap();
        version.split_whitespace().nth(2).unwrap_or("?").to_owned()
    }

    /// Where plugins of NRI register.
    pub fn nri(&self) -> PathBuf {
        self.dir.join("nri.sock")
    }

    /// Ends it without a word and starts it again. Pods go on.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.programs, &self.dir);
        self.is_ready();
    }

    /// The mounts of a container as the runtime below was told, in the words of OCI.
    pub fn mounts(&self, container: &str) -> Vec<serde_json::Value> {
        let info: serde_json::Value =
            serde_json::from_str(&self.ctr(&["containers", "info", container])).unwrap();
        info["Spec"]["mounts"].as_array().expect("a specification").clone()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    fn is_ready(&self) {
        until("containerd serves", || self.cri.is_ready());
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        let done = Command::new(self.programs.join("ctr"))
            .arg("--address")
            .arg(self.dir.join("containerd.sock"))
            .args(["--namespace", "k8s.io"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Containerd {
    /// Nothing outlives a test, failed ones included.
    fn drop(&mut self) {
        for pod in self.cri.pods().unwrap_or_default() {
            let _ = self.cri.remove_pod(&pod);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let own = self.dir.display().to_string();
        // Shims name their daemon's socket.
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&line).contains(&own) {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
        let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounted.lines().rev() {
            if let Some(at) = line.split(' ').nth(4).filter(|at| at.starts_with(&own)) {
                let _ = unmount(at, UnmountFlags::DETACH);
            }
        }
        // Version 2 has one hierarchy, version 1 has one for each controller. Whoever is last finds
        // them empty.
        let groups = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_dir(groups).into_iter().flatten().flatten();
        for above in controllers.map(|entry| entry.path()).chain([groups.to_path_buf()]) {
            let _ = fs::remove_dir(above.join(cgroup()));
        }
    }
}

fn spawn(programs: &Path, dir: &Path) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
    // Where the shim is looked for.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [programs.to_path_buf()].into_iter().chain(std::env::split_paths(&path));
    Command::new(programs.join("containerd"))
        .arg("--config")
        .arg(dir.join("config.toml"))
        .env("PATH", std::env::join_paths(path).unwrap())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Version 2, which both 1.7 and 2.x read.
fn config(dir: &Path, plugin_ms: u32) -> String {
    let dir = dir.display();
    format!(
        r#"
version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
address = "{dir}/containerd.sock"
[ttrpc]
address = "{dir}/ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{IMAGE}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/cni"
conf_dir = "{dir}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.kata-qemu.options]
BinaryName = "{dir}/kata"
[plugins."io.containerd.nri.v1.nri"]
disable = false
disable_connections = false
plugin_path = "{dir}/plugins"
plugin_config_path = "{dir}/plugins.d"
socket_path = "{dir}/nri.sock"
plugin_request_timeout = "{plugin_ms}ms"
"#
    )
}

/// What a node sees of Kata: there is a management socket as soon as there is a sandbox, and a
/// mount's source below `/proc` is resolved in the guest, which is this machine here.
const KATA: &str = r#"#!/bin/sh
before= bundle= id=
for word; do
  [ "$before" = --bundle ] && bundle=$word
  before=$word id=$word
done
case " $* " in *" create "*)
  mkdir -p DIR/../sbs/$id
  ln -s ../any/shim-monitor.sock DIR/../sbs/$id/shim-monitor.sock
  sed -i 's,"/proc/1/root/,"/,g' $bundle/config.json
esac
exec runc "$@"
"#;

/// An image of busybox, which sleeps.
fn image(archive: &Path) {
    let busybox =
        std::env::var_os("SEALIFT_BUSYBOX").expect("SEALIFT_BUSYBOX: one without libraries");
    let layer = tar(&[("bin/busybox", &fs::read(busybox).unwrap())]);
    let name = |bytes: &[u8]| hex::encode(digest(&SHA256, bytes).as_ref());
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", name(&layer))]},
    });
    let config = config.to_string().into_bytes();
    let blob = |kind: &str, bytes: &[u8]| {
        serde_json::json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", name(bytes)),
            "size": bytes.len(),
        })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", &config),
        "layers": [blob("layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = blob("manifest.v1+json", &manifest);
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": IMAGE});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let path = |bytes: &[u8]| format!("blobs/sha256/{}", name(bytes));
    let files = [
        ("oci-layout".to_owned(), &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
        ("index.json".to_owned(), index.as_bytes()),
        (path(&manifest), &manifest),
        (path(&config), &config),
        (path(&layer), &layer),
    ];
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
    fs::write(archive, tar(&files)).unwrap();
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}
