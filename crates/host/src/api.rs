//! The agent's own socket: one JSON request a line, one JSON answer a line. Only root and the agent's
//! own user are heard.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use link::dial::Address;
use link::local;
use serde::{Deserialize, Serialize};
use volumes::chain;
use volumes::name::VolumeId;
use volumes::report::GuestVolume;

use crate::agent::{Agent, Change, Error, VolumeReport};
use crate::guest::Guest;
use crate::kubelet::{FoundVolume, Kubelet, PodUid, Source};

/// Longest request.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Requests at a time; most of them wait.
const REQUESTS_MAX: usize = 64;
/// Longest wait.
const WAIT_SECONDS_MAX: u64 = 24 * 60 * 60;
/// How long a peer may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Keep the volumes of a pod, or one volume, current in a guest.
    Attach {
        /// The guest's address, after `kata:` if only Kata's agent is there.
        guest: String,
        /// All volumes of this pod.
        pod: Option<String>,
        /// The volume at this path.
        path: Option<PathBuf>,
        /// Seconds to wait until the guest has them; 0: do not wait.
        wait_seconds: u64,
    },
    /// No longer.
    Detach {
        /// The volumes of this pod.
        pod: Option<String>,
        /// This volume.
        volume: Option<String>,
    },
    /// Look now, and wait until the guest has what the host has.
    Sync {
        /// This volume; without it all.
        volume: Option<String>,
        /// Seconds to wait.
        wait_seconds: u64,
    },
    /// What the host has and the guest has not.
    Diff {
        /// This volume.
        volume: String,
    },
    /// How they are.
    Status,
    /// How a guest says that they are.
    GuestStatus {
        /// The guest's address.
        guest: String,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// How volumes are.
    Volumes(Vec<VolumeReport>),
    /// What differs.
    Changes(Vec<Change>),
    /// What a guest says of its volumes.
    Guest(Vec<GuestVolume>),
    /// It was not done.
    Failed {
        /// Why.
        what: String,
        /// What to do next, if anything is known to help.
        hint: Option<String>,
    },
}

/// The agent's socket file.
#[derive(Debug)]
pub struct Api {
    listener: UnixListener,
    kubelet_root: PathBuf,
}

impl Api {
    /// Listens at `path`. A socket file that nobody listens to any more is replaced.
    pub fn bind(path: &Path, kubelet_root: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(Self { listener: local::bind(path)?, kubelet_root: kubelet_root.to_path_buf() })
    }

    /// Answers for ever, each request on a thread of its own.
    pub fn serve(self, agent: &Agent) -> ! {
        let threads = Arc::new(AtomicUsize::new(0));
        loop {
            let stream = match local::accept(&self.listener) {
                Ok(Some(stream)) if threads.load(Ordering::SeqCst) < REQUESTS_MAX => stream,
                Ok(_) => continue,
                Err(error) => {
                    // Out of descriptors or memory: volumes are kept current all the same.
                    tracing::warn!(%error, "a request on the agent's socket");
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            let (agent, root) = (agent.clone(), self.kubelet_root.clone());
            let thread = std::thread::Builder::new().name("api".into());
            threads.fetch_add(1, Ordering::SeqCst);
            let own = Arc::clone(&threads);
            let spawned = thread.spawn(move || {
                if let Err(error) = converse(&stream, &agent, &root) {
                    tracing::debug!(%error, "a request on the agent's socket");
                }
                own.fetch_sub(1, Ordering::SeqCst);
            });
            if let Err(error) = spawned {
                tracing::warn!(%error, "no thread for a request");
                threads.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

fn converse(stream: &UnixStream, agent: &Agent, root: &Path) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => answer(request, agent, root),
        Err(error) => failed(format!("not a request: {error}"), None),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    (&*stream).write_all(&bytes)
}

/// Asks the agent at `socket`.
pub fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    /// The status of every volume that a node can have.
    const ANSWER_BYTES_MAX: u64 = 256 << 20;
    let stream = UnixStream::connect(socket)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    let mut text = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn failed(what: String, hint: Option<&str>) -> Answer {
    Answer::Failed { what, hint: hint.map(Into::into) }
}

fn answer(request: Request, agent: &Agent, root: &Path) -> Answer {
    let done = match request {
        Request::Status => return Answer::Volumes(agent.status()),
        Request::Diff { volume } => match id(&volume).and_then(|id| Ok(agent.diff(&id)?)) {
            Ok(changes) => return Answer::Changes(changes),
            Err(failure) => Err(failure),
        },
        Request::GuestStatus { guest } => match guest_status(agent, &guest) {
            Ok(volumes) => return Answer::Guest(volumes),
            Err(failure) => Err(failure),
        },
        Request::Attach { guest, pod, path, wait_seconds } => {
            attach(agent, root, &guest, pod.as_deref(), path.as_deref(), wait_seconds)
        }
        Request::Detach { pod, volume } => chosen(agent, pod.as_deref(), volume.as_deref())
            .and_then(|volumes| {
                agent.detach(&volumes)?;
                Ok(volumes)
            }),
        Request::Sync { volume, wait_seconds } => {
            chosen(agent, None, volume.as_deref()).and_then(|volumes| {
                let patience = patience(wait_seconds);
                volumes.iter().try_for_each(|volume| agent.sync(volume, patience))?;
                Ok(volumes)
            })
        }
    };
    match done {
        Ok(volumes) => {
            let about =
                |report: &VolumeReport| volumes.iter().any(|id| id.as_str() == report.volume);
            Answer::Volumes(agent.status().into_iter().filter(about).collect())
        }
        Err(Failure(what, hint)) => failed(what, hint),
    }
}

/// What and, where something is known to help, how to go on.
struct Failure(String, Option<&'static str>);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = match error {
            Error::Unknown(_) => Some("Attach it first: sealift host attach"),
            Error::Elsewhere { .. } => Some("Detach it there first: sealift host detach"),
            Error::NoTls(_) => Some("Start the agent with --tls-ca, --tls-cert and --tls-key"),
            Error::Leaving(_) => Some("Try again in a moment"),
            _ => None,
        };
        Self(chain(&error), hint)
    }
}

fn guest_status(agent: &Agent, guest: &str) -> Result<Vec<GuestVolume>, Failure> {
    let guest: Address = guest.parse().map_err(|error| Failure(error, None))?;
    agent.ask(&guest).map_err(|error| {
        let what = format!("guest {guest}: {}", chain(&error));
        Failure(what, Some("Check that `sealift guest run` listens there"))
    })
}

fn id(volume: &str) -> Result<VolumeId, Failure> {
    VolumeId::parse(volume).map_err(|error| Failure(error.to_string(), None))
}

fn attach(
    agent: &Agent,
    root: &Path,
    guest: &str,
    pod: Option<&str>,
    path: Option<&Path>,
    wait_seconds: u64,
) -> Result<Vec<VolumeId>, Failure> {
    let guest: Guest = guest.parse().map_err(|error| Failure(error, None))?;
    let kubelet = Kubelet::open(root).map_err(|error| {
        Failure(chain(&error), Some("Name kubelet's directory with --kubelet-root"))
    })?;
    let volumes = match (pod, path) {
        (Some(pod), None) => of_pod(&kubelet, pod)?,
        (None, Some(path)) => vec![at_path(&kubelet, path)?],
        _ => return Err(Failure("name either a pod or a path".into(), None)),
    };
    agent.attach(&volumes, &guest)?;
    let volumes: Vec<VolumeId> = volumes.into_iter().map(|volume| volume.id).collect();
    if wait_seconds > 0 {
        let patience = patience(wait_seconds);
        volumes.iter().try_for_each(|volume| agent.settle(volume, patience))?;
    }
    Ok(volumes)
}

fn of_pod(kubelet: &Kubelet, pod: &str) -> Result<Vec<FoundVolume>, Failure> {
    let uid =
        PodUid::parse(pod).ok_or_else(|| Failure(format!("{pod:?} is no pod's UID"), None))?;
    let found = kubelet.find().map_err(|error| Failure(chain(&error), None))?;
    let of_pod: Vec<_> = found.volumes.into_iter().filter(|volume| volume.pod_uid == uid).collect();
    match of_pod.is_empty() {
        true => Err(Failure(format!("pod {pod} has no volume that kubelet keeps current"), None)),
        false => Ok(of_pod),
    }
}

fn at_path(kubelet: &Kubelet, path: &Path) -> Result<FoundVolume, Failure> {
    match kubelet.classify(path) {
        Source::Volume(volume) => Ok(volume),
        Source::SubPath { volume, .. } => Err(Failure(
            format!("{} is a subPath of volume {volume}", path.display()),
            Some("Kubernetes does not update subPath mounts; mount the volume whole"),
        )),
        Source::Other => Err(Failure(
            format!("{} is no Secret, ConfigMap, projected or downward-API volume", path.display()),
            None,
        )),
    }
}

fn chosen(
    agent: &Agent,
    pod: Option<&str>,
    volume: Option<&str>,
) -> Result<Vec<VolumeId>, Failure> {
    if let Some(volume) = volume {
        return Ok(vec![id(volume)?]);
    }
    let all = agent.status().into_iter().filter_map(|report| VolumeId::parse(&report.volume).ok());
    let Some(pod) = pod else { return Ok(all.collect()) };
    let prefix = format!("{pod}.");
    let of_pod: Vec<_> = all.filter(|id| id.as_str().starts_with(&prefix)).collect();
    match of_pod.is_empty() {
        true => Err(Failure(format!("no volume of pod {pod} is attached"), None)),
        false => Ok(of_pod),
    }
}

fn patience(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(WAIT_SECONDS_MAX))
}
