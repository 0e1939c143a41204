//! The program itself, with its flags, in front of Kata's own agent.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};
use testkit::kata::{KataAgent, Policy};
use testkit::kubelet::{payload, pod_uid, stamp};

use crate::runtime::{Runtime, about, adjusted, container, create, pod};
use crate::world::{World, until};

/// `sealift-host`, which ends with the test.
pub struct Program(Child);

impl Program {
    /// Looks for a runtime at `nri`, for shims and for kubelet in `world`.
    pub fn start(world: &World, nri: &Path, more: &[&str]) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(world.path("host.log"));
        let program = Command::new(env!("CARGO_BIN_EXE_sealift-host"))
            .arg("run")
            .arg("--socket")
            .arg(world.path("host.sock"))
            .arg(format!("--nri={}", nri.display()))
            .arg("--kubelet-root")
            .arg(world.path("kubelet"))
            .arg("--state-dir")
            .arg(world.path("program-state"))
            .arg("--nri-shim-dir")
            .arg(world.path("sbs"))
            .args(more)
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        Self(program)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// What `sealift-host` answers to these words.
pub fn ask(world: &World, arguments: &[&str]) -> Result<String, String> {
    let asked = Command::new(env!("CARGO_BIN_EXE_sealift-host"))
        .arg("--socket")
        .arg(world.path("host.sock"))
        .args(arguments)
        .output()
        .unwrap();
    match asked.status.success() {
        true => Ok(String::from_utf8(asked.stdout).unwrap()),
        false => Err(String::from_utf8_lossy(&asked.stderr).into_owned()),
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_is_a_plugin_also_for_guests_with_katas_agent_alone() {
    if !rustix::process::geteuid().is_root() {
        testkit::skip("only root may give files away, as kata-agent does");
        return;
    }
    // Its plugin looks for a runtime elsewhere.
    let world = World::new(|_| {});
    let dir = world.path("kata");
    std::fs::create_dir(&dir).unwrap();
    let kata = KataAgent::start(&dir).unwrap();
    kata.set_policy(Policy::Genpolicy);
    world.shim("s", &format!("unix://{}", kata.socket().display()));
    let token = world.make(&pod_uid(1), "projected", "kube-api-access", &["token", "ca.crt"]);
    let runtime = Runtime::start(&world.path("other.sock"));
    let flags = ["--agent", "kata", "--nri-runtime", "vm", "--nri-index", "50"];
    let _program = Program::start(&world, &world.path("other.sock"), &flags);
    let mut connection = runtime.greet(60_000, &[]);
    let pod = pod("s", &pod_uid(1), "vm", None);
    connection.call("RunPodSandbox", &about(&pod)).unwrap();
    let request = create(&pod, &container("app", &[("/var/run/secrets", token.target())]));
    let (_, added) = adjusted(&connection.call("CreateContainer", &request).unwrap());
    let source = added[0].2.strip_prefix("/proc/1/root").unwrap();
    let found = kata.path(source).join("token");
    assert_eq!(stamp(&std::fs::read(&found).unwrap()), Some(1));
    token.write(&payload(2, &["token", "ca.crt"])).unwrap();
    until("an update", || std::fs::read(&found).is_ok_and(|bytes| stamp(&bytes) == Some(2)));
    // By hand the same, and what it is worth is said.
    let ask = |arguments: &[&str]| ask(&world, arguments).unwrap();
    ask(&["detach", "--pod", &pod_uid(1)]);
    assert!(!found.exists());
    let guest = format!("unix:{}", kata.socket().display());
    ask(&["attach", "--agent", "kata", "--guest", &guest, "--pod", &pod_uid(1)]);
    assert_eq!(stamp(&std::fs::read(&found).unwrap()), Some(2));
    let status = ask(&["status", "-o", "json"]);
    assert!(status.contains(r#""atomic": false"#) && status.contains("kata:unix:"), "{status}");
    assert!(ask(&["status"]).contains("not atomic, not verified"));
}
