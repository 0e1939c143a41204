//! The program in front of a real containerd with NRI, of each release that is here: pods by the CRI,
//! containers by runc. Only Kata is played, as far as a node sees it: by a script in front of runc,
//! and a guest agent of ours beside it.

mod cri;
mod daemon;
mod policy;

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use cri::{Cri, Sandbox, timed};
use daemon::{Containerd, IMAGE};
use policy::Policy;
use rustix::process::Signal;
use testkit::kubelet::{AtomicWriter, PLUGINS, payload, pod_uid, stamp};

use crate::program::{Program, ask};
use crate::world::{World, until};

const KATA: &str = "kata-qemu";
/// What runtimes give to a plugin when nobody says otherwise.
const PLUGIN_MS: u32 = 2_000;
/// For those whose answers are waited for, however busy this machine is.
const PATIENT_MS: u32 = 20_000;

/// A node: the runtime, the agent, and a guest for all pods.
struct Node {
    // In the order in which they end.
    program: Option<Program>,
    containerd: Containerd,
    world: World,
}

impl Node {
    fn new(programs: &Path, plugin_ms: u32) -> Self {
        let world = World::new(|_| {});
        world.guest("guest");
        world.shim("any", &format!("unix://{}", world.path("front.sock").display()));
        let containerd = Containerd::start(programs, &world.path("containerd"), plugin_ms);
        let mut node = Self { program: None, containerd, world };
        node.front("guest.sock");
        node.start_program();
        node
    }

    /// Starts the agent, and waits until the runtime has told it of all pods.
    fn start_program(&mut self) {
        let root = self.world.path("").display().to_string();
        let flags = ["--nri-guest-root", root.trim_end_matches('/')];
        let greetings = self.greetings();
        self.program = Some(Program::start(&self.world, &self.containerd.nri(), &flags));
        until("registered", || self.greetings() > greetings);
    }

    /// How often the runtime has taken the agent into its row of plugins: after it has told it of all
    /// pods, and not before, so that a container which is made then is one that it asks about.
    fn greetings(&self) -> usize {
        self.containerd.log().matches(r#"50-sealift\" connected"#).count()
    }

    /// Which socket all guests are behind.
    fn front(&self, socket: &str) {
        let _ = fs::remove_file(self.world.path("front.sock"));
        symlink(socket, self.world.path("front.sock")).unwrap();
    }

    fn cri(&self) -> &Cri {
        &self.containerd.cri
    }

    /// A volume of each kind.
    fn volumes(&self, uid: &str) -> Vec<AtomicWriter> {
        PLUGINS.iter().map(|plugin| self.world.make(uid, plugin, plugin, &["key"])).collect()
    }

    /// Whether the guest has all that the host has of a pod, as the agent says.
    fn is_current(&self, uid: &str, volumes: usize) -> bool {
        let status = ask(&self.world, &["status", "-o", "json", "--pod", uid]);
        status.is_ok_and(|status| status.matches("\"current\": true").count() == volumes)
    }

    /// How many the guest has, whatever the agent says.
    fn guest_volumes(&self) -> usize {
        fs::read_dir(self.world.path("guest/volumes")).unwrap().count()
    }

    fn make(
        &self,
        sandbox: &Sandbox,
        name: &str,
        volumes: &[AtomicWriter],
    ) -> Result<String, String> {
        let targets: Vec<_> = (0..volumes.len()).map(|index| format!("/etc/v{index}")).collect();
        let pairs = targets.iter().zip(volumes);
        let mounts: Vec<_> = pairs.map(|(at, volume)| (at.as_str(), volume.target())).collect();
        self.cri().create(sandbox, IMAGE, name, &mounts)
    }

    /// What is mounted at `/etc/v0` and so on in a container.
    fn mounted(&self, container: &str) -> Vec<serde_json::Value> {
        let mut mounts = self.containerd.mounts(container);
        mounts.retain(|mount| mount["destination"].as_str().unwrap().starts_with("/etc/v"));
        mounts.sort_by_key(|mount| mount["destination"].to_string());
        mounts
    }

    fn sources(&self, container: &str) -> Vec<String> {
        let source = |mount: serde_json::Value| mount["source"].as_str().unwrap().to_owned();
        self.mounted(container).into_iter().map(source).collect()
    }

    /// The revision that a program in a container reads.
    fn reads(&self, container: &str, volume: usize) -> Option<u64> {
        let path = format!("/etc/v{volume}/key");
        let said = self.cri().exec(container, &["/bin/busybox", "cat", &path]);
        stamp(&said.unwrap())
    }

    /// That of a guest whose containers have so many volumes, as docs/kubernetes.md sets it.
    fn policy(&self, volumes: usize) -> Policy {
        let destinations: Vec<_> = (0..volumes).map(|index| format!("/etc/v{index}")).collect();
        Policy::new(self.world.path("guest").to_str().unwrap(), &copied(), &destinations)
    }

    fn of_guest(&self, uid: &str, volume: &str) -> String {
        let volumes = self.world.path("guest/volumes");
        format!("/proc/1/root{}/{uid}.{volume}/data", volumes.display())
    }
}

/// What the host may still copy, as docs/kubernetes.md says it.
fn copied() -> String {
    const DOCS: &str = include_str!("../../../../docs/kubernetes.md");
    let said = DOCS.split_once("\"CopyFileRequest\": [\"$(sfprefix)").expect("it is said").1;
    said.split_once("\"]").expect("an end").0.replace(r"\\", r"\")
}

fn of_host(volume: &AtomicWriter) -> String {
    volume.target().display().to_string()
}

#[test]
fn containers_of_a_real_containerd_read_the_guests_volumes() {
    for programs in Containerd::installed() {
        let node = Node::new(&programs, PATIENT_MS);
        let uid = pod_uid(1);
        let volumes = node.volumes(&uid);
        let (sandbox, running) = timed(|| node.cri().run_pod(&uid, KATA).unwrap());
        // On their way before there is a container.
        let ((), committed) =
            timed(|| until("prefetched", || node.is_current(&uid, volumes.len())));
        let (container, created) = timed(|| node.make(&sandbox, "app", &volumes).unwrap());
        let wanted = PLUGINS.iter().enumerate().map(|(index, plugin)| {
            let mut options = vec!["rbind", "ro", "nosuid", "nodev"];
            options.extend((*plugin != "configmap").then_some("noexec"));
            serde_json::json!({
                "destination": format!("/etc/v{index}"),
                "type": "bind",
                "source": node.of_guest(&uid, plugin),
                "options": options,
            })
        });
        assert_eq!(node.mounted(&container), wanted.collect::<Vec<_>>());
        let mut policy = node.policy(volumes.len());
        assert!(policy.mounts(&container, &node.mounted(&container)));
        node.cri().start(&container).unwrap();
        for (index, volume) in volumes.iter().enumerate() {
            assert_eq!(node.reads(&container, index), Some(1));
            volume.write(&payload(2, &["key"])).unwrap();
            until("an update", || node.reads(&container, index) == Some(2));
        }
        // A pod of this machine's own is as if there were no plugin.
        let other = pod_uid(2);
        let theirs = node.volumes(&other);
        let sandbox = node.cri().run_pod(&other, "runc").unwrap();
        let (container, plain) = timed(|| node.make(&sandbox, "app", &theirs).unwrap());
        let sources: Vec<_> = theirs.iter().map(of_host).collect();
        assert_eq!(node.sources(&container), sources);
        assert!(node.is_current(&other, 0));
        println!(
            "containerd {}: RunPodSandbox {running:?}, committed {committed:?} later, \
             CreateContainer {created:?}, without the plugin {plain:?}",
            node.containerd.version()
        );
        for pod in node.cri().pods().unwrap() {
            node.cri().remove_pod(&pod).unwrap();
        }
        until("detached", || node.is_current(&uid, 0) && node.guest_volumes() == 0);
    }
}

#[test]
fn either_side_of_a_real_runtime_may_restart() {
    for programs in Containerd::installed() {
        let mut node = Node::new(&programs, PATIENT_MS);
        // Made while nobody listens, and told later.
        node.program = None;
        let uid = pod_uid(1);
        let volumes = node.volumes(&uid);
        let sandbox = node.cri().run_pod(&uid, KATA).unwrap();
        node.start_program();
        until("prefetched", || node.is_current(&uid, volumes.len()));
        let wanted = PLUGINS.map(|plugin| node.of_guest(&uid, plugin));
        let container = node.make(&sandbox, "app", &volumes).unwrap();
        assert_eq!(node.sources(&container), wanted);
        // The runtime goes without a word, and pods go on. The one that it makes before the plugin is
        // back is an unadjusted one, so it is waited for.
        let greetings = node.greetings();
        node.containerd.restart();
        until("back", || node.greetings() > greetings);
        let container = node.make(&sandbox, "sidecar", &volumes).unwrap();
        assert_eq!(node.sources(&container), wanted);
        // A pod goes away while nobody listens: its volumes leave the guest.
        node.program = None;
        node.cri().remove_pod(&sandbox.id).unwrap();
        fs::remove_dir_all(node.world.path(&format!("kubelet/pods/{uid}"))).unwrap();
        node.start_program();
        until("given up", || node.is_current(&uid, 0) && node.guest_volumes() == 0);
    }
}

#[test]
fn a_real_runtime_refuses_a_container_and_says_why_when_the_guest_has_not_its_volumes() {
    for programs in Containerd::installed() {
        let node = Node::new(&programs, PLUGIN_MS);
        let uid = pod_uid(1);
        let volumes = node.volumes(&uid);
        // A guest that takes connections and never answers.
        let deaf = UnixListener::bind(node.world.path("deaf.sock")).unwrap();
        node.front("deaf.sock");
        let sandbox = node.cri().run_pod(&uid, KATA).unwrap();
        let refused = node.make(&sandbox, "app", &volumes).unwrap_err();
        let (volume, guest) = (format!("sealift: {uid}."), node.world.path("front.sock"));
        for says in [&volume, "not current in the guest at unix:", guest.to_str().unwrap()] {
            assert!(refused.contains(says), "{refused}");
        }
        // It was in time, or the container would be there; and the plugin still is.
        drop(deaf);
        node.front("guest.sock");
        until("in the guest", || node.is_current(&uid, volumes.len()));
        let container = node.make(&sandbox, "app", &volumes).unwrap();
        assert_eq!(node.sources(&container), PLUGINS.map(|plugin| node.of_guest(&uid, plugin)));
        assert_eq!(node.greetings(), 1, "the plugin was dropped");
    }
}

/// What a runtime does with a plugin that is late is why the guest has to refuse the host's paths.
#[test]
fn a_real_runtime_drops_a_stalled_plugin_and_makes_the_container_with_the_hosts_paths() {
    for programs in Containerd::installed() {
        let node = Node::new(&programs, PLUGIN_MS);
        let uid = pod_uid(1);
        let volumes = node.volumes(&uid);
        let sandbox = node.cri().run_pod(&uid, KATA).unwrap();
        let program = node.program.as_ref().unwrap();
        program.signal(Signal::STOP);
        let made = node.make(&sandbox, "app", &volumes);
        let greetings = node.greetings();
        program.signal(Signal::CONT);
        let container = made.unwrap();
        let hosts: Vec<_> = volumes.iter().map(of_host).collect();
        assert_eq!(node.sources(&container), hosts);
        // A guest has nothing at the host's paths. Kata would copy them, and say where to.
        let mut policy = node.policy(volumes.len());
        let mut mounts = node.mounted(&container);
        assert!(!policy.mounts(&container, &mounts));
        let shared = format!("/run/kata-containers/shared/containers/{container}-0123456789abcdef");
        for (index, mount) in mounts.iter_mut().enumerate() {
            let copy = format!("{shared}-v{index}");
            for path in ["", "/..data", "/key"] {
                assert!(!policy.copies(&format!("{copy}{path}")), "{copy}{path}");
            }
            mount["source"] = copy.into();
        }
        assert!(policy.mounts(&container, &mounts), "it is the copy that is refused");
        assert!(policy.copies(&format!("{shared}-resolv.conf")), "or no container could be made");
        // It comes back, and then containers are what they should be.
        until("back", || node.greetings() > greetings);
        until("prefetched", || node.is_current(&uid, volumes.len()));
        let container = node.make(&sandbox, "later", &volumes).unwrap();
        assert_eq!(node.sources(&container), PLUGINS.map(|plugin| node.of_guest(&uid, plugin)));
    }
}
