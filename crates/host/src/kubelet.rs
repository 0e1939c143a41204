//! [`Kubelet`]: where the volumes are, and which one a mount's source means.
//!
//! | below kubelet's root | is |
//! |---|---|
//! | `pods/<uid>/volumes/kubernetes.io~<plugin>/<name>` | a volume that kubelet keeps current |
//! | `pods/<uid>/volume-subpaths/<volume>/<container>/<index>` | a `subPath` mount, which stays as it was |
//!
//! with `<plugin>` one of `secret`, `configmap`, `projected` and `downward-api`. Which is which is
//! decided component by component, each parsed by its own rule.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::io::Errno;
use volumes::name::{Category, VolumeId};

use crate::Error;
use crate::dir::{Calls, Dir, Mounts};

/// A pod's name in kubelet's tree: a UUID, or of a static pod 32 hex digits. Lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(String);

impl PodUid {
    /// Checks the form. `None`: it is of neither.
    pub fn parse(uid: &str) -> Option<Self> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let dash = |index: usize| matches!(index, 8 | 13 | 18 | 23);
        let formed = match uid.len() {
            32 => uid.bytes().all(hex),
            36 => uid.bytes().enumerate().all(|(index, byte)| match dash(index) {
                true => byte == b'-',
                false => hex(byte),
            }),
            _ => false,
        };
        formed.then(|| Self(uid.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A volume that kubelet keeps current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVolume {
    /// Its name between host and guest: `<pod uid>.<volume name>`.
    pub id: VolumeId,
    /// The pod that it belongs to.
    pub pod_uid: PodUid,
    /// What kubelet fills it with.
    pub category: Category,
    /// Its directory, below the root as that was given.
    pub path: PathBuf,
}

/// What a mount's source means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A volume that kubelet keeps current.
    Volume(FoundVolume),
    /// A part of a volume that was mounted with `subPath`: Kubernetes does not update it. The volume
    /// may be of any kind.
    SubPath {
        /// The pod that it belongs to.
        pod_uid: PodUid,
        /// The volume's name in the pod.
        volume: String,
        /// The container that it is for.
        container: String,
    },
    /// None of ours, which includes anything within a volume.
    Other,
}

/// What [`Kubelet::find`] saw.
#[derive(Debug, Default)]
pub struct Found {
    /// The volumes, by name.
    pub volumes: Vec<FoundVolume>,
    /// Entries where a pod or a volume of ours should be that are neither: another form of name,
    /// another kind of file, or a name that the pod has in another category already. Volumes of
    /// other plugins are not counted.
    pub ignored: u64,
    /// Pods of which nothing was taken, because they could not be listed or hold too much.
    pub failed: Vec<Error>,
}

/// Kubelet's root directory.
#[derive(Debug, Clone)]
pub struct Kubelet {
    root: PathBuf,
    /// The same without links: mounts name one or the other.
    real: PathBuf,
}

impl Kubelet {
    /// Most pods on a node. Kubelet's own default is 110.
    pub const PODS_MAX: usize = 4_096;
    /// Most volumes of one category in a pod.
    pub const VOLUMES_PER_CATEGORY_MAX: usize = 256;
    /// Most volumes on a node: what is held and watched at once.
    pub const VOLUMES_MAX: usize = 65_536;

    /// Kubelet's `--root-dir`, which may be a link. Open it again if it was moved.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Io { call: "realpath", path: root.to_path_buf(), source };
        let real = root.canonicalize().map_err(fail)?;
        Ok(Self { root: root.to_path_buf(), real })
    }

    /// All volumes that are there now.
    pub fn find(&self) -> Result<Found, Error> {
        let path = self.root.join(PODS);
        let fail = |call| {
            let path = path.clone();
            move |errno| Error::io(call, &path, errno)
        };
        let pods = Dir::open(&path, true, Calls::UNSEEN).map_err(fail("openat"))?;
        let names = pods.names(Self::PODS_MAX + 1).map_err(fail("getdents64"))?;
        if names.len() > Self::PODS_MAX {
            return Err(Error::TooMany { path, what: "pods", limit: Self::PODS_MAX });
        }
        let mut found = Found::default();
        for name in &names {
            let uid = name.to_str().and_then(PodUid::parse);
            let Some(uid) = uid.filter(|_| is_directory(&pods, name)) else {
                found.ignored += 1;
                continue;
            };
            match find_in_pod(&pods, &path, &uid) {
                Ok((volumes, ignored)) => {
                    found.volumes.extend(volumes);
                    found.ignored += ignored;
                }
                Err(error) => found.failed.push(error),
            }
            if found.volumes.len() > Self::VOLUMES_MAX {
                return Err(Error::TooMany { path, what: "volumes", limit: Self::VOLUMES_MAX });
            }
        }
        found.volumes.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// The volumes of one pod that are there now; none, if the pod is not.
    pub fn of_pod(&self, uid: &PodUid) -> Result<Vec<FoundVolume>, Error> {
        let path = self.root.join(PODS);
        let pods = Dir::open(&path, true, Calls::UNSEEN);
        let pods = pods.map_err(|errno| Error::io("openat", &path, errno))?;
        Ok(find_in_pod(&pods, &path, uid)?.0)
    }

    /// What `source` means, by its name alone: nothing is looked at.
    pub fn classify(&self, source: &Path) -> Source {
        let below = source.strip_prefix(&self.root).or_else(|_| source.strip_prefix(&self.real));
        let Some(components) = below.ok().and_then(components) else { return Source::Other };
        match components[..] {
            [PODS, uid, VOLUMES, plugin, name] => {
                let volume = PodUid::parse(uid).zip(Category::of_plugin(plugin));
                let volume = volume.and_then(|(uid, category)| {
                    found(&self.root.join(PODS), &uid, category, OsStr::new(name))
                });
                volume.map_or(Source::Other, Source::Volume)
            }
            [PODS, uid, SUBPATHS, volume, container, index] => match PodUid::parse(uid) {
                Some(pod_uid)
                    if is_subdomain(volume)
                        && is_label(container)
                        && !index.is_empty()
                        && index.bytes().all(|byte| byte.is_ascii_digit()) =>
                {
                    let (volume, container) = (volume.to_owned(), container.to_owned());
                    Source::SubPath { pod_uid, volume, container }
                }
                _ => Source::Other,
            },
            _ => Source::Other,
        }
    }
}

/// A pod's volumes, and how many entries were ignored.
fn find_in_pod(
    pods: &Dir<'_>,
    path: &Path,
    uid: &PodUid,
) -> Result<(Vec<FoundVolume>, u64), Error> {
    let (mut volumes, mut ignored) = (Vec::<FoundVolume>::new(), 0);
    for category in Category::ALL {
        let below = format!("{uid}/{VOLUMES}/{}", category.plugin());
        let at = path.join(&below);
        let directory = match pods.dir(OsStr::new(&below), Mounts::Entered) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => continue,
            Err(Errno::LOOP | Errno::NOTDIR) => {
                ignored += 1;
                continue;
            }
            Err(errno) => return Err(Error::io("openat2", &at, errno)),
        };
        let limit = Kubelet::VOLUMES_PER_CATEGORY_MAX;
        let names = match directory.names(limit + 1) {
            Ok(names) if names.len() > limit => {
                return Err(Error::TooMany { path: at, what: "volumes", limit });
            }
            Ok(names) => names,
            Err(errno) => return Err(Error::io("getdents64", &at, errno)),
        };
        for name in &names {
            let volume = found(path, uid, category, name)
                .filter(|volume| volumes.iter().all(|other| other.id != volume.id))
                .filter(|_| is_directory(&directory, name));
            match volume {
                Some(volume) => volumes.push(volume),
                None => ignored += 1,
            }
        }
    }
    Ok((volumes, ignored))
}

/// The volume `name` of a pod, if that can be one's name.
fn found(pods: &Path, uid: &PodUid, category: Category, name: &OsStr) -> Option<FoundVolume> {
    let name = name.to_str().filter(|name| is_label(name))?;
    let id = VolumeId::parse(&format!("{uid}.{name}")).ok()?;
    let mut path = pods.to_path_buf();
    path.extend([uid.as_str(), VOLUMES, category.plugin(), name]);
    Some(FoundVolume { id, pod_uid: uid.clone(), category, path })
}

/// The components of a path, `None` if one is not UTF-8. Upwards is not sorted out here: `..` is no
/// name that any place accepts.
fn components(path: &Path) -> Option<Vec<&str>> {
    let components = path.components().take(COMPONENTS_MAX + 1);
    components.map(|component| component.as_os_str().to_str()).collect()
}

fn is_directory(dir: &Dir<'_>, name: &OsStr) -> bool {
    let kind = dir.stat_at(name).map(|stat| FileType::from_raw_mode(stat.st_mode));
    kind == Ok(FileType::Directory)
}

/// RFC 1123 label: what Kubernetes allows as the name of a pod's volume or container.
fn is_label(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}

/// RFC 1123 subdomain: kubelet names a `subPath` of a claim after its persistent volume.
fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}

const PODS: &str = "pods";
const VOLUMES: &str = "volumes";
const SUBPATHS: &str = "volume-subpaths";
/// Below the root: `pods/<uid>/volume-subpaths/<volume>/<container>/<index>`.
const COMPONENTS_MAX: usize = 6;
