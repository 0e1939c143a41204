//! [`Plugin`]: what is done about pods and their containers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use volumes::chain;
use volumes::name::{Category, VolumeId};

use super::message::{CreateContainer, Mount, PODS_MAX, Pod};
use super::shim;
use crate::agent::{self, Agent};
use crate::guest::{Guest, Protocol};
use crate::kata;
use crate::kubelet::{FoundVolume, Kubelet, PodUid, Source};
use crate::lock;
use link::dial::Address;

/// What is done for which pods.
#[derive(Debug, Clone)]
pub struct Options {
    /// Kubelet's `--root-dir`.
    pub kubelet_root: PathBuf,
    /// Runtime handlers whose pods run in a guest; none: those whose name begins with `kata`.
    pub handlers: Vec<String>,
    /// Where shims keep their sandboxes.
    pub shim_dirs: Vec<PathBuf>,
    /// What is spoken to guests.
    pub protocol: Protocol,
    /// The port of our agent in each guest. Kata's own is where its shim says.
    pub port: u32,
    /// Where our agent in a guest keeps volumes. A guest that names another place is not believed:
    /// on the host, what is below `/proc/1/root` is the host's.
    pub guest_root: PathBuf,
    /// Whether a container with a `subPath` of a volume is refused, instead of given what Kata makes
    /// of it.
    pub refuse_subpaths: bool,
}

/// Why a container is not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pod's own data make no sense.
    #[error("pod {pod}: {why}")]
    Pod {
        /// Its name.
        pod: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Its guest is not known: no shim has a management socket for it.
    #[error("sandbox {0} has no shim-monitor.sock: is it one of Kata's? See --nri-shim-dir")]
    NoShim(String),
    /// The shim does not say where its guest is.
    #[error("where the guest of sandbox {sandbox} is cannot be learnt")]
    Shim {
        /// The sandbox.
        sandbox: String,
        /// The socket's or the shim's answer.
        #[source]
        source: io::Error,
    },
    /// A part of a volume is mounted, and that is not allowed here.
    #[error("{destination:?} is a subPath of volume {volume}, which would never be updated")]
    SubPath {
        /// Where in the container.
        destination: String,
        /// The volume.
        volume: String,
    },
    /// Something is mounted in a volume, where kubelet makes a directory for it beside the files. The
    /// guest has only the files.
    #[error(
        "{destination:?} is mounted below {volume}, where the guest has no directory for it; \
         mount the two beside each other"
    )]
    Nested {
        /// Where in the container.
        destination: String,
        /// The volume that is mounted above it.
        volume: VolumeId,
    },
    /// The guest names a place where it should have nothing to show.
    #[error("the guest has volume {volume} at {path:?}, which is not below {root:?}")]
    Place {
        /// The volume.
        volume: VolumeId,
        /// Where the guest says it is.
        path: String,
        /// Where it may be.
        root: PathBuf,
    },
    /// Kubelet is somewhere else.
    #[error("{mount:?} is a volume of kubelet's, and not below {root:?}; see --kubelet-root")]
    OtherRoot {
        /// Where the volume is.
        mount: String,
        /// Where kubelet is said to be.
        root: PathBuf,
    },
    /// The guest has not got the volume.
    #[error(transparent)]
    Agent(#[from] agent::Error),
    /// Kubelet's directory.
    #[error(transparent)]
    Kubelet(#[from] crate::Error),
}

/// A pod whose volumes are ours.
#[derive(Debug, Clone)]
struct Sandbox {
    uid: PodUid,
    /// Once it is known.
    guest: Option<Guest>,
}

/// The plugin.
#[derive(Debug, Clone)]
pub struct Plugin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    agent: Agent,
    options: Options,
    /// By sandbox id.
    sandboxes: Mutex<BTreeMap<String, Sandbox>>,
    /// Pods that are being prepared.
    preparing: AtomicUsize,
}

/// Pods that are prepared at a time, each by a thread. The others are when their containers are made.
const PREPARING_MAX: usize = 64;
/// How long a pod is prepared for.
const PREPARING: Duration = Duration::from_secs(60);
/// How long a shim may take to answer.
const SHIM_PATIENCE: Duration = Duration::from_secs(1);
/// The pause between two attempts, as there is no news to wait for.
const PAUSE: Duration = Duration::from_millis(20);

impl Plugin {
    /// One that has `agent` keep volumes current.
    pub fn new(agent: Agent, options: Options) -> Self {
        let (sandboxes, preparing) = (Mutex::default(), AtomicUsize::new(0));
        Self(Arc::new(Inner { agent, options, sandboxes, preparing }))
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.0.agent
    }

    /// A sandbox runs: its volumes are on their way before its containers are.
    pub fn started(&self, pod: &Pod) {
        let Some(uid) = self.0.ours(pod) else { return };
        {
            let mut sandboxes = lock(&self.0.sandboxes);
            if sandboxes.len() >= PODS_MAX {
                tracing::warn!(pod = %uid, "more pods than a node has");
                return;
            }
            sandboxes.entry(pod.id.clone()).or_insert(Sandbox { uid, guest: None });
        }
        let pod = pod.clone();
        self.in_background(move |inner| inner.prepare(&pod, Instant::now() + PREPARING));
    }

    /// It does not any more.
    pub fn stopped(&self, pod: &Pod) {
        let Some(uid) = self.0.ours(pod) else { return };
        let mut sandboxes = lock(&self.0.sandboxes);
        let gone = sandboxes.remove(&pod.id);
        let alone = !sandboxes.values().any(|other| other.uid == uid);
        drop(sandboxes);
        // A pod's next sandbox may be there before its last one is removed.
        self.0.release(&uid, |attached| match gone.as_ref().and_then(|gone| gone.guest.as_ref()) {
            Some(guest) => attached == guest.to_string(),
            None => alone,
        });
    }

    /// These pods are there, and no others: what belongs to one that went away unnoticed is given up.
    pub fn synchronized(&self, pods: Vec<Pod>) {
        {
            let mut sandboxes = lock(&self.0.sandboxes);
            sandboxes.retain(|id, _| pods.iter().any(|pod| pod.id == *id));
            for pod in &pods {
                if let Some(uid) = self.0.ours(pod) {
                    sandboxes.entry(pod.id.clone()).or_insert(Sandbox { uid, guest: None });
                }
            }
        }
        self.in_background(move |inner| {
            inner.give_up_all_but(&pods);
            for pod in pods.iter().filter(|pod| inner.ours(pod).is_some()) {
                // One attempt each: containers that are made later ask again.
                inner.prepare(pod, Instant::now());
            }
        });
    }

    /// What is mounted in a container instead of the host's volumes, once the guest has them all;
    /// an error before `until`, if it has not got them then.
    pub fn mounts(&self, request: &CreateContainer, until: Instant) -> Result<Vec<Mount>, Error> {
        self.0.mounts(request, until)
    }

    fn in_background(&self, work: impl FnOnce(&Inner) + Send + 'static) {
        let inner = Arc::clone(&self.0);
        if inner.preparing.fetch_add(1, Ordering::SeqCst) >= PREPARING_MAX {
            inner.preparing.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let own = Arc::clone(&inner);
        let spawned = std::thread::Builder::new().name("nri-pod".into()).spawn(move || {
            work(&own);
            own.preparing.fetch_sub(1, Ordering::SeqCst);
        });
        if let Err(error) = spawned {
            inner.preparing.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(%error, "no thread for a pod");
        }
    }
}

impl Inner {
    /// Whether a pod's shared filesystem is ours to replace: its UID then.
    fn ours(&self, pod: &Pod) -> Option<PodUid> {
        self.wanted(pod).ok().flatten()
    }

    fn wanted(&self, pod: &Pod) -> Result<Option<PodUid>, Error> {
        let fail = |why| Error::Pod { pod: format!("{}/{}", pod.namespace, pod.name), why };
        let handlers = &self.options.handlers;
        let wanted = match pod.annotation.as_deref() {
            Some("on") => true,
            Some("off") => false,
            Some(_) => return Err(fail("annotation sealift.dev/volumes is neither on nor off")),
            None if handlers.is_empty() => pod.handler.starts_with("kata"),
            None => handlers.contains(&pod.handler),
        };
        match (wanted, PodUid::parse(&pod.uid)) {
            (false, _) => Ok(None),
            (true, Some(uid)) => Ok(Some(uid)),
            (true, None) => Err(fail("its UID is none of kubelet's")),
        }
    }

    /// Attaches a pod's volumes, trying until then; at least once.
    fn prepare(&self, pod: &Pod, until: Instant) {
        /// The longest pause: the guest's agent may not be up yet.
        const PAUSE_MAX: Duration = Duration::from_secs(1);
        let Some(uid) = self.ours(pod) else { return };
        let mut pause = PAUSE;
        loop {
            let attempt = || {
                let volumes = self.kubelet()?.of_pod(&uid)?;
                if volumes.is_empty() {
                    return Ok(());
                }
                let guest = self.guest(pod, Instant::now() + SHIM_PATIENCE)?;
                self.agent.attach(&volumes, &guest)?;
                if !lock(&self.sandboxes).contains_key(&pod.id) {
                    // It was stopped meanwhile, and who stopped it found nothing to detach.
                    let guest = guest.to_string();
                    self.release(&uid, |of| of == guest);
                }
                Ok(())
            };
            match attempt() {
                Ok(()) => return,
                Err::<(), Error>(error) if Instant::now() >= until => {
                    tracing::warn!(pod = %uid, error = %chain(&error), "not prepared");
                    return;
                }
                Err(_) if !lock(&self.sandboxes).contains_key(&pod.id) => return,
                Err(_) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn kubelet(&self) -> Result<Kubelet, crate::Error> {
        Kubelet::open(&self.options.kubelet_root)
    }

    /// Where a pod's guest is.
    fn guest(&self, pod: &Pod, until: Instant) -> Result<Guest, Error> {
        let known = lock(&self.sandboxes).get(&pod.id).and_then(|sandbox| sandbox.guest.clone());
        if let Some(guest) = known {
            return Ok(guest);
        }
        let socket = shim::socket(&self.options.shim_dirs, &pod.id);
        let socket = socket.ok_or_else(|| Error::NoShim(pod.id.clone()))?;
        let address = shim::agent_address(&socket, until);
        let address = address.map_err(|source| Error::Shim { sandbox: pod.id.clone(), source })?;
        let protocol = self.options.protocol;
        let address = match protocol {
            Protocol::Sealift => at_port(address, self.options.port),
            Protocol::Kata => address,
        };
        let guest = Guest { protocol, address };
        if let Some(sandbox) = lock(&self.sandboxes).get_mut(&pod.id) {
            sandbox.guest = Some(guest.clone());
        }
        Ok(guest)
    }

    fn mounts(&self, request: &CreateContainer, until: Instant) -> Result<Vec<Mount>, Error> {
        let Some(uid) = self.wanted(&request.pod)? else { return Ok(Vec::new()) };
        let kubelet = self.kubelet()?;
        let mut wanted: Vec<(&Mount, FoundVolume)> = Vec::new();
        for mount in &request.mounts {
            match kubelet.classify(Path::new(&mount.source)) {
                Source::Volume(volume) if volume.pod_uid == uid => wanted.push((mount, volume)),
                Source::SubPath { pod_uid, volume, .. } if pod_uid == uid => {
                    self.part(&kubelet, request, mount, &uid, &volume)?;
                }
                // By its form it is this pod's, and where kubelet is said to be it is not: a wrong
                // --kubelet-root must not have every container made with what Kata copies.
                _ if is_kubelets(&mount.source, &uid) => {
                    return Err(Error::OtherRoot {
                        mount: mount.source.clone(),
                        root: self.options.kubelet_root.clone(),
                    });
                }
                // Another pod's, which only a hostPath can be.
                _ => {}
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        for (above, volume) in &wanted {
            let mut others = request.mounts.iter();
            if let Some(mount) = others.find(|mount| is_mounted_in(mount, above)) {
                let (destination, volume) = (mount.destination.clone(), volume.id.clone());
                return Err(Error::Nested { destination, volume });
            }
        }
        let volumes: Vec<FoundVolume> = wanted.iter().map(|(_, volume)| volume.clone()).collect();
        self.attach(&request.pod, &volumes, until)?;
        wanted.into_iter().map(|(mount, volume)| self.replace(mount, &volume, until)).collect()
    }

    /// A part of a volume stays as it was when the container began, with or without us: Kubernetes
    /// does not update it. Other volumes' parts are none of our business.
    fn part(
        &self,
        kubelet: &Kubelet,
        request: &CreateContainer,
        mount: &Mount,
        uid: &PodUid,
        volume: &str,
    ) -> Result<(), Error> {
        let id = format!("{uid}.{volume}");
        if !kubelet.of_pod(uid)?.iter().any(|found| found.id.as_str() == id) {
            return Ok(());
        }
        let destination = mount.destination.clone();
        if self.options.refuse_subpaths {
            return Err(Error::SubPath { destination, volume: id });
        }
        let container = &request.name;
        tracing::warn!(volume = id, container, destination, "a subPath: it will not be updated");
        Ok(())
    }

    /// Attaches volumes to the pod's guest, as soon as that is possible: its last sandbox may still
    /// have them, and its shim may not answer yet.
    fn attach(&self, pod: &Pod, volumes: &[FoundVolume], until: Instant) -> Result<(), Error> {
        loop {
            let attempt = self.guest(pod, until.min(Instant::now() + SHIM_PATIENCE));
            let attempt = attempt.and_then(|guest| {
                let there = |volume: &FoundVolume| {
                    let report = self.agent.report(&volume.id);
                    report.is_some_and(|report| report.guest == guest.to_string())
                };
                // Prepared before, as a rule: then nothing has to be written down.
                match volumes.iter().all(there) {
                    true => Ok(()),
                    false => Ok(self.agent.attach(volumes, &guest)?),
                }
            });
            match attempt {
                Err(_) if Instant::now() + PAUSE < until => std::thread::sleep(PAUSE),
                done => return done,
            }
        }
    }

    /// A mount of the guest's directory, once that is current. Both of Kata's runtimes pass a source
    /// below `/proc` to the guest as it is, and there it is resolved.
    fn replace(&self, mount: &Mount, volume: &FoundVolume, until: Instant) -> Result<Mount, Error> {
        self.agent.sync(&volume.id, until.saturating_duration_since(Instant::now()))?;
        let unknown = || agent::Error::Unknown(volume.id.clone());
        let report = self.agent.report(&volume.id).ok_or_else(unknown)?;
        let path = report.guest_path.ok_or_else(unknown)?;
        let root = match self.options.protocol {
            Protocol::Sealift => &self.options.guest_root,
            Protocol::Kata => Path::new(kata::SHARED),
        };
        if !is_below(&path, root) {
            let (volume, root) = (volume.id.clone(), root.to_path_buf());
            return Err(Error::Place { volume, path, root });
        }
        let noexec = report.noexec.then_some("noexec");
        let options = ["rbind", "ro", "nosuid", "nodev"].into_iter().chain(noexec);
        Ok(Mount {
            destination: mount.destination.clone(),
            kind: "bind".into(),
            source: format!("/proc/1/root{path}"),
            options: options.map(String::from).collect(),
        })
    }

    /// Detaches a pod's volumes from the guests that match, without waiting: they are gone, or are
    /// going.
    fn release(&self, uid: &PodUid, of: impl Fn(&str) -> bool) {
        let prefix = format!("{uid}.");
        let volumes: Vec<VolumeId> = self
            .agent
            .status()
            .into_iter()
            .filter(|report| report.volume.starts_with(&prefix) && of(&report.guest))
            .filter_map(|report| VolumeId::parse(&report.volume).ok())
            .collect();
        if volumes.is_empty() {
            return;
        }
        if let Err(error) = self.agent.detach_within(&volumes, Duration::ZERO) {
            tracing::warn!(pod = %uid, error = %chain(&error), "not detached");
        }
    }

    /// Detaches what belongs to pods that the runtime does not know and kubelet has removed.
    fn give_up_all_but(&self, pods: &[Pod]) {
        let Ok(kubelet) = self.kubelet() else { return };
        let mut gone: Vec<PodUid> = self
            .agent
            .status()
            .iter()
            .filter_map(|report| PodUid::parse(report.volume.split('.').next()?))
            .filter(|uid| !pods.iter().any(|pod| pod.uid == uid.as_str()))
            .filter(|uid| kubelet.of_pod(uid).is_ok_and(|volumes| volumes.is_empty()))
            .collect();
        gone.dedup();
        gone.iter().for_each(|uid| self.release(uid, |_| true));
    }
}

/// By name alone, and with no name that means another place.
fn is_below(path: &str, root: &Path) -> bool {
    let clean = |name: &str| !matches!(name, "" | "." | "..");
    Path::new(path).starts_with(root) && path.split('/').skip(1).all(clean)
}

/// By name alone; components, so that `/etc/a` is not above `/etc/ab`.
fn is_mounted_in(mount: &Mount, above: &Mount) -> bool {
    let [mount, above] = [mount, above].map(|mount| Path::new(&mount.destination));
    mount != above && mount.starts_with(above)
}

/// Whether a mount's source has the form of a volume that kubelet keeps current for this pod, or of
/// a part of one, wherever kubelet is.
fn is_kubelets(source: &str, uid: &PodUid) -> bool {
    let names: Vec<&str> = source.split('/').filter(|name| !name.is_empty()).collect();
    names.windows(4).any(|names| match names {
        ["pods", pod, "volumes", plugin] => {
            *pod == uid.as_str() && Category::of_plugin(plugin).is_some()
        }
        ["pods", pod, "volume-subpaths", _] => *pod == uid.as_str(),
        _ => false,
    })
}

/// The same machine, another port.
fn at_port(address: Address, port: u32) -> Address {
    match address {
        Address::Vsock { cid, .. } => Address::Vsock { cid, port },
        Address::Hybrid { path, .. } => Address::Hybrid { path, port },
        // Where guests are namespaces there are no ports. No shim names a network's address.
        other @ (Address::Unix(_) | Address::Tls { .. }) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_name_what_is_the_hosts() {
        let root = Path::new("/run/sealift");
        assert!(is_below("/run/sealift/volumes/a/data", root));
        for bad in [
            "/etc/kubernetes",
            "/run/sealifted/a",
            "/run/sealift/../../etc",
            "/run/sealift/./a",
            "/run/sealift//a",
            "/run/sealift/a/",
            "run/sealift/a",
            "",
        ] {
            assert!(!is_below(bad, root), "{bad}");
        }
    }

    #[test]
    fn only_the_port_is_another() {
        let at = |address: &str| at_port(address.parse().expect(address), 1027).to_string();
        assert_eq!(at("vsock://3:1024"), "vsock:3:1027");
        assert_eq!(at("hvsock:///run/vc/clh.sock:1024"), "hvsock:/run/vc/clh.sock:1027");
        assert_eq!(at("unix:///run/agent.sock"), "unix:/run/agent.sock");
    }
}
