//! NRI's messages, as far as mounts of pods go. Pure: bytes in, values out. Fields that are not
//! listed are skipped.
//!
//! | message | fields |
//! |---|---|
//! | `RegisterPluginRequest` | 1 `plugin_name`, 2 `plugin_idx` |
//! | `ConfigureRequest` | 2 `runtime_name`, 3 `runtime_version`, 5 `request_timeout` (ms; since 0.7) |
//! | `ConfigureResponse` | 2 `events`, a bit for each `Event` but the 0th |
//! | `SynchronizeRequest` | 1 `pods`, 3 `more` (since 0.7) |
//! | `SynchronizeResponse` | 2 `more` |
//! | `StateChangeEvent` | 1 `event`, 2 `pod` |
//! | `{Run,Stop,Remove}PodSandboxRequest` | 1 `pod`; calls of their own in later releases, `StateChange` until then |
//! | `CreateContainerRequest` | 1 `pod`, 2 `container` |
//! | `PodSandbox` | 1 `id`, 2 `name`, 3 `uid`, 4 `namespace`, 6 `annotations`, 7 `runtime_handler` |
//! | `Container` | 1 `id`, 3 `name`, 9 `mounts` |
//! | `Mount` | 1 `destination`, 2 `type`, 3 `source`, 4 `options` |
//! | `CreateContainerResponse` | 1 `adjust` |
//! | `ContainerAdjustment` | 3 `mounts` |
//!
//! The numbers are the same in every release, from the first that containerd 1.7 has to today's.
//!
//! Source: containerd/nri, `pkg/api/api.proto` (`nri.pkg.api.v1alpha1`), `pkg/api/event.go`; for the
//! mark of removal `pkg/api/helpers.go`.

use volumes::Error;
use volumes::wire::proto::{Encoder, Fields, Value};

/// The service that a plugin is.
pub const PLUGIN_SERVICE: &str = "nri.pkg.api.v1alpha1.Plugin";
/// The service that a runtime is.
pub const RUNTIME_SERVICE: &str = "nri.pkg.api.v1alpha1.Runtime";
/// Most pods in a message, and on a node.
pub const PODS_MAX: usize = 16_384;
/// Most mounts of a container.
pub const MOUNTS_MAX: usize = 4_096;
/// Most annotations of a pod.
const ANNOTATIONS_MAX: usize = 4_096;

/// What a runtime tells plugins, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A pod's sandbox runs.
    RunPodSandbox = 1,
    /// It is stopped.
    StopPodSandbox = 2,
    /// It is gone.
    RemovePodSandbox = 3,
    /// A container is about to be made.
    CreateContainer = 4,
}

impl Event {
    const ALL: [Self; 4] =
        [Self::RunPodSandbox, Self::StopPodSandbox, Self::RemovePodSandbox, Self::CreateContainer];

    /// All that are of interest here.
    pub fn mask() -> u32 {
        Self::ALL.into_iter().fold(0, |mask, event| mask | 1 << (event as u32 - 1))
    }
}

/// `RegisterPluginRequest`.
pub fn register(name: &str, index: &str) -> Vec<u8> {
    Encoder::default().bytes(1, name).bytes(2, index).finish()
}

/// `ConfigureRequest`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configure {
    /// The runtime.
    pub runtime: String,
    /// Its version.
    pub version: String,
    /// How long a request may take, in milliseconds; 0: it does not say.
    pub request_timeout_ms: u64,
}

impl Configure {
    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut message = Self::default();
        for field in Fields::of(bytes) {
            match field? {
                (2, value) => message.runtime = value.text()?.to_owned(),
                (3, value) => message.version = value.text()?.to_owned(),
                (5, value) => message.request_timeout_ms = value.number()?,
                _ => {}
            }
        }
        Ok(message)
    }
}

/// `ConfigureResponse`: what is of interest.
pub fn configured() -> Vec<u8> {
    Encoder::default().number(2, Event::mask()).finish()
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its sandbox.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The name of its directory in kubelet's root.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// The value of [`Pod::ANNOTATION`], if it has that.
    pub annotation: Option<String>,
    /// Which of the runtime's configurations it runs with.
    pub handler: String,
}

impl Pod {
    /// Says `on` or `off`, whatever the runtime handler.
    pub const ANNOTATION: &str = "sealift.dev/volumes";

    fn decode(value: Value<'_>) -> Result<Self, Error> {
        let mut pod = Self::default();
        let mut annotations = 0;
        for field in Fields::of(value.bytes()?) {
            match field? {
                (1, value) => pod.id = value.text()?.to_owned(),
                (2, value) => pod.name = value.text()?.to_owned(),
                (3, value) => pod.uid = value.text()?.to_owned(),
                (4, value) => pod.namespace = value.text()?.to_owned(),
                (6, value) => {
                    count(&mut annotations, ANNOTATIONS_MAX, "annotations")?;
                    let (key, value) = pair(value)?;
                    if key == Self::ANNOTATION {
                        pod.annotation = Some(value.to_owned());
                    }
                }
                (7, value) => pod.handler = value.text()?.to_owned(),
                _ => {}
            }
        }
        Ok(pod)
    }

    /// The only field of the requests that are about a pod.
    pub fn of_request(bytes: &[u8]) -> Result<Self, Error> {
        let mut pod = None;
        for field in Fields::of(bytes) {
            if let (1, value) = field? {
                pod = Some(Self::decode(value)?);
            }
        }
        pod.ok_or(NO_POD)
    }
}

const NO_POD: Error = Error::Message("it is about no pod");

/// `SynchronizeRequest`: pods that are there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Synchronize {
    /// Some of them.
    pub pods: Vec<Pod>,
    /// Whether there is another such request with more.
    pub more: bool,
}

impl Synchronize {
    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut message = Self::default();
        let mut pods = 0;
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => {
                    count(&mut pods, PODS_MAX, "pods")?;
                    message.pods.push(Pod::decode(value)?);
                }
                (3, value) => message.more = value.number()? != 0,
                _ => {}
            }
        }
        Ok(message)
    }

    /// The answer: `more` has to be said back.
    pub fn answer(&self) -> Vec<u8> {
        Encoder::default().number(2, self.more).finish()
    }
}

/// `StateChangeEvent` about a pod; `None`: it is about something else.
pub fn state_change(bytes: &[u8]) -> Result<Option<(Event, Pod)>, Error> {
    let (mut event, mut pod) = (None, None);
    for field in Fields::of(bytes) {
        match field? {
            (1, value) => {
                let number = value.number()?;
                event = Event::ALL.into_iter().find(|event| *event as u64 == number);
            }
            (2, value) => pod = Some(Pod::decode(value)?),
            _ => {}
        }
    }
    match event {
        Some(event) => Ok(Some((event, pod.ok_or(NO_POD)?))),
        None => Ok(None),
    }
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// Where in the container.
    pub destination: String,
    /// Its type.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// How.
    pub options: Vec<String>,
}

impl Mount {
    fn decode(value: Value<'_>) -> Result<Self, Error> {
        let mut mount = Self::default();
        for field in Fields::of(value.bytes()?) {
            match field? {
                (1, value) => mount.destination = value.text()?.to_owned(),
                (3, value) => mount.source = value.text()?.to_owned(),
                // The type and the options are chosen anew.
                _ => {}
            }
        }
        Ok(mount)
    }

    fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::default();
        encoder.bytes(1, &self.destination).bytes(2, &self.kind).bytes(3, &self.source);
        for option in &self.options {
            encoder.element(4, option);
        }
        encoder.finish()
    }
}

/// `CreateContainerRequest`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateContainer {
    /// The container's pod.
    pub pod: Pod,
    /// The container's name.
    pub name: String,
    /// Destination and source of its mounts.
    pub mounts: Vec<Mount>,
}

impl CreateContainer {
    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (mut pod, mut container) = (None, None);
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => pod = Some(Pod::decode(value)?),
                (2, value) => container = Some(value.bytes()?),
                _ => {}
            }
        }
        let container = container.ok_or(Error::Message("it is about no container"))?;
        let mut message = Self { pod: pod.ok_or(NO_POD)?, ..Self::default() };
        let mut mounts = 0;
        for field in Fields::of(container) {
            match field? {
                (3, value) => message.name = value.text()?.to_owned(),
                (9, value) => {
                    count(&mut mounts, MOUNTS_MAX, "mounts")?;
                    message.mounts.push(Mount::decode(value)?);
                }
                _ => {}
            }
        }
        Ok(message)
    }
}

/// `CreateContainerResponse`: each mount replaces the one that has its destination. First all are
/// removed, by a `-` before the destination, then all are added: the same destination may be in the
/// adjustment twice because it is removed in it.
pub fn adjustment(mounts: &[Mount]) -> Vec<u8> {
    if mounts.is_empty() {
        return Vec::new();
    }
    let mut adjust = Encoder::default();
    for mount in mounts {
        let marked = format!("-{}", mount.destination);
        adjust.element(3, Mount { destination: marked, ..Mount::default() }.encode());
    }
    for mount in mounts {
        adjust.element(3, mount.encode());
    }
    Encoder::default().element(1, adjust.finish()).finish()
}

/// ttrpc's response to a request that is refused: 1 `status`, of that 1 `code`, 2 `message`.
pub fn refused(code: Code, what: &str) -> Vec<u8> {
    /// Longer ones are cut.
    const WHAT_BYTES_MAX: usize = 2048;
    let end = what.floor_char_boundary(WHAT_BYTES_MAX);
    let what = what[..end].replace(char::is_control, "\u{fffd}");
    let status = Encoder::default().number(1, code as u32).bytes(2, what).finish();
    Encoder::default().element(1, status).finish()
}

/// `google.rpc.Code`. Never `DEADLINE_EXCEEDED`: a runtime might take that for its own, and drop the
/// plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request breaks a rule.
    InvalidArgument = 3,
    /// What it needs is not there yet.
    FailedPrecondition = 9,
    /// No such call.
    Unimplemented = 12,
}

fn count(seen: &mut usize, limit: usize, what: &'static str) -> Result<(), Error> {
    *seen += 1;
    match *seen > limit {
        true => Err(Error::Limit { what, found: *seen as u64, limit: limit as u64 }),
        false => Ok(()),
    }
}

/// An entry of a map.
fn pair(value: Value<'_>) -> Result<(&str, &str), Error> {
    let (mut key, mut text) = ("", "");
    for field in Fields::of(value.bytes()?) {
        match field? {
            (1, value) => key = value.text()?,
            (2, value) => text = value.text()?,
            _ => {}
        }
    }
    Ok((key, text))
}

#[cfg(test)]
mod tests;
