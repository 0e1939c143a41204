//! An OCI runtime hook that mounts volumes into a container which is being made: `createContainer`,
//! which runs in the container's mount namespace before its root is entered (OCI runtime-spec,
//! config.md, "POSIX-platform Hooks").
//!
//! Which volumes go where, `config.json` says in two ways:
//!
//! - an annotation `volumes.sealift.dev/<any name>` with `<volume>=<absolute path>`;
//! - a mount whose source is one of kubelet's volumes,
//!   `…/pods/<uid>/volumes/kubernetes.io~<kind>/<name>`: the guest's own copy goes over it.
//!
//! The image of the container is not trusted: its links are resolved below its root.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;
use serde::Deserialize;
use volumes::name::{Category, VolumeId};

use crate::bind::{self, bind_at, fail};

/// Longest state, which is a few lines.
const STATE_BYTES_MAX: u64 = 64 << 10;
/// Longest `config.json`.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// What annotations' names begin with.
const ANNOTATION: &str = "volumes.sealift.dev/";
/// How often a volume is looked for that has not come yet.
const LOOK: Duration = Duration::from_millis(20);
/// What [`destination`] opens.
const PLACE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Why a container must not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What the runtime says is not what the specification says.
    #[error("{what}: {why}")]
    Form {
        /// The document, and where in it.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A volume was not mounted.
    #[error(transparent)]
    Bind(#[from] bind::Error),
}

/// A container's state on standard input of its hooks (runtime-spec, runtime.md, "State").
#[derive(Debug, Deserialize)]
struct State {
    bundle: PathBuf,
}

/// What matters of `config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    root: Root,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Mount {
    destination: PathBuf,
    #[serde(default)]
    source: PathBuf,
}

/// Mounts what the container with the given state wants of the store at `root`, and returns what
/// that was. A volume that has not come is waited for until `patience` is over.
pub fn run(
    root: &Path,
    state: impl Read,
    patience: Duration,
) -> Result<Vec<(VolumeId, PathBuf)>, Error> {
    let until = Instant::now() + patience;
    let State { bundle } = parse("the state", state, STATE_BYTES_MAX)?;
    let path = bundle.join("config.json");
    let file = File::open(&path).map_err(|error| form(path.display(), error))?;
    let config: Config = parse(&path.display().to_string(), file, CONFIG_BYTES_MAX)?;
    let rootfs = bundle.join(&config.root.path);
    let wanted = wanted(&config)?;
    if wanted.is_empty() {
        return Ok(wanted);
    }
    let dir = openat(CWD, &rootfs, PLACE, Mode::empty()).map_err(fail("open", &rootfs))?;
    for (volume, path) in &wanted {
        let place = destination(&dir, path)?;
        while !bind::data_dir(root, volume).is_dir() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        bind_at(root, volume, place.as_fd(), path)?;
    }
    Ok(wanted)
}

fn form(what: impl ToString, why: impl ToString) -> Error {
    Error::Form { what: what.to_string(), why: why.to_string() }
}

fn parse<T: for<'a> Deserialize<'a>>(
    what: &str,
    document: impl Read,
    bytes_max: u64,
) -> Result<T, Error> {
    let mut bytes = Vec::new();
    let read = document.take(bytes_max + 1).read_to_end(&mut bytes);
    read.map_err(|error| form(what, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(form(what, format!("longer than {bytes_max} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| form(what, error))
}

/// Volumes and their places, in the order in which they are mounted.
fn wanted(config: &Config) -> Result<Vec<(VolumeId, PathBuf)>, Error> {
    let mut wanted = Vec::new();
    for mount in &config.mounts {
        if let Some(id) = of_kubelet(&mount.source) {
            let volume = VolumeId::parse(&id).map_err(bind::Error::from)?;
            wanted.push((volume, plain(&mount.destination)?));
        }
    }
    for (name, value) in &config.annotations {
        if !name.starts_with(ANNOTATION) {
            continue;
        }
        let (volume, path) = value
            .split_once('=')
            .ok_or_else(|| form(format!("annotation {name}"), "not VOLUME=/PATH"))?;
        let volume = VolumeId::parse(volume).map_err(bind::Error::from)?;
        wanted.push((volume, plain(Path::new(path))?));
    }
    Ok(wanted)
}

/// The volume's name, if `source` is a volume that kubelet keeps current.
fn of_kubelet(source: &Path) -> Option<String> {
    let names: Option<Vec<&str>> = source.iter().map(|name| name.to_str()).collect();
    let [.., "pods", uid, "volumes", plugin, name] = names.as_deref()? else { return None };
    Category::of_plugin(plugin).map(|_| format!("{uid}.{name}"))
}

/// An absolute path without `..`.
fn plain(path: &Path) -> Result<PathBuf, Error> {
    let upwards = path.components().any(|part| part == Component::ParentDir);
    match path.is_absolute() && !upwards {
        true => Ok(path.to_path_buf()),
        false => Err(form(format!("destination {path:?}"), "not an absolute path without `..`")),
    }
}

/// A directory below the container's root, made where it is missing. Links of the image lead
/// nowhere else, also absolute ones.
fn destination(rootfs: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    let open = |path: &Path| {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(rootfs, path, PLACE, Mode::empty(), resolve)
    };
    let mut whole = PathBuf::from("/");
    let mut place = open(&whole).map_err(fail("openat2", path))?;
    for name in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        whole.push(name);
        place = match open(&whole) {
            Err(Errno::NOENT) => {
                match mkdirat(&place, name.as_os_str(), Mode::from(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => Err(fail("mkdirat", &whole)(errno))?,
                }
                open(&whole)
            }
            opened => opened,
        }
        .map_err(fail("openat2", &whole))?;
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "6f5c1d2e-1111-2222-3333-444455556666";

    fn config(json: &str) -> Result<Vec<(VolumeId, PathBuf)>, Error> {
        wanted(&parse("config", json.as_bytes(), CONFIG_BYTES_MAX)?)
    }

    #[test]
    fn annotations_and_kubelets_mounts_name_volumes() {
        let json = format!(
            r#"{{"root":{{"path":"rootfs"}},
            "annotations":{{"volumes.sealift.dev/tls":"x.tls=/etc/tls","other":"a=b"}},
            "mounts":[
              {{"destination":"/proc","type":"proc"}},
              {{"destination":"/etc/db","source":"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~secret/db"}},
              {{"destination":"/e","source":"/var/lib/kubelet/pods/{UID}/volumes/kubernetes.io~empty-dir/e"}},
              {{"destination":"/s","source":"/var/lib/kubelet/pods/{UID}/volume-subpaths/db/c/0"}}]}}"#
        );
        let wanted: Vec<_> = config(&json)
            .unwrap()
            .into_iter()
            .map(|(volume, path)| (volume.to_string(), path.display().to_string()))
            .collect();
        let db = (format!("{UID}.db"), "/etc/db".to_owned());
        assert_eq!(wanted, [db, ("x.tls".to_owned(), "/etc/tls".to_owned())]);
    }

    #[test]
    fn what_is_malformed_keeps_the_container_from_starting() {
        for annotation in ["", "x.tls", "x.tls=etc/tls", "x.tls=/a/../b", "../x=/a", "=/a"] {
            let json = format!(
                r#"{{"root":{{"path":"r"}},"annotations":{{"volumes.sealift.dev/a":"{annotation}"}}}}"#
            );
            assert!(config(&json).is_err(), "{annotation}");
        }
        for json in ["", "{}", "[]", r#"{"root":{}}"#, r#"{"root":{"path":"r"},"mounts":{}}"#] {
            assert!(config(json).is_err(), "{json}");
        }
        let long = vec![b' '; 4 << 20 | 1];
        assert!(parse::<Config>("config", &long[..], CONFIG_BYTES_MAX).is_err());
    }

    #[test]
    fn a_destination_stays_below_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("rootfs");
        std::fs::create_dir_all(root.join("real")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../outside", root.join("upwards")).unwrap();
        std::os::unix::fs::symlink("/real", root.join("link")).unwrap();
        let rootfs = openat(CWD, &root, PLACE, Mode::empty()).unwrap();
        destination(&rootfs, Path::new("/link/made/deep")).unwrap();
        assert!(root.join("real/made/deep").is_dir());
        for path in ["/absolute/x", "/upwards/x"] {
            // A link to what is not below the root dangles there.
            assert!(destination(&rootfs, Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }
}
