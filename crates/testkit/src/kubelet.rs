//! Kubelet as far as volumes go: [`AtomicWriter`], which writes a volume as the one of that name in
//! upstream's `pkg/volume/util` does today, step for step, and a [whole root](lay_out).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail, ensure};

/// One file of a volume: upstream's `FileProjection`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Its permission bits, whatever the umask.
    pub mode: u32,
    /// Its owner, as for a service account's token in a pod with one `runAsUser`.
    pub uid: Option<u32>,
}

/// Path in the volume → file.
pub type Payload = BTreeMap<String, Projection>;

/// Files at `paths`, mode 0644, each of which says which generation it is of: see [`stamp`].
pub fn payload(generation: u64, paths: &[&str]) -> Payload {
    let file = |path: &&str| {
        let bytes = format!("generation {generation} of {path}\n").into_bytes();
        ((*path).to_owned(), Projection { bytes, mode: 0o644, uid: None })
    };
    paths.iter().map(file).collect()
}

/// The generation that a file of [`payload`] is of.
pub fn stamp(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.strip_prefix("generation ")?.split_once(' ')?.0.parse().ok()
}

/// What a write has just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// (5) The new timestamped directory is there, and empty.
    Created,
    /// (6) One more file is in it.
    Written,
    /// (7) Permissions are set.
    Owned,
    /// (8) `..data_tmp` points to it.
    Linked,
    /// (9) `..data` points to it.
    Switched,
    /// (10) New names are visible.
    Visible,
    /// (11) Old names are not.
    Pruned,
    /// (12) The old timestamped directory is gone.
    Removed,
}

impl Step {
    /// All that a write of one file does when it replaces another.
    pub const ALL: [Self; 8] = [
        Self::Created,
        Self::Written,
        Self::Owned,
        Self::Linked,
        Self::Switched,
        Self::Visible,
        Self::Pruned,
        Self::Removed,
    ];
}

/// Writes revisions of one volume.
#[derive(Debug, Clone)]
pub struct AtomicWriter {
    target: PathBuf,
    fs_group: Option<u32>,
}

impl AtomicWriter {
    /// Of the volume at `target`, which must exist.
    pub fn new(target: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let target = target.into();
        fs::metadata(&target).with_context(|| target.display().to_string())?;
        Ok(Self { target, fs_group: None })
    }

    /// The same for a pod with this `fsGroup`. Needs root.
    pub fn fs_group(self, gid: u32) -> Self {
        Self { fs_group: Some(gid), ..self }
    }

    /// The volume's directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes `payload` the volume's content. False: it is already, so nothing was switched.
    pub fn write(&self, payload: &Payload) -> anyhow::Result<bool> {
        self.write_stepwise(payload, &mut |_| {})
    }

    /// The same, telling after each step.
    pub fn write_stepwise(
        &self,
        payload: &Payload,
        told: &mut dyn FnMut(Step),
    ) -> anyhow::Result<bool> {
        // (1)
        let payload = validate(payload)?;
        // (2)
        let data = self.target.join("..data");
        let old = match fs::read_link(&data) {
            Ok(name) => Some(self.target.join(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).context("..data"),
        };
        // (3), (4)
        let (mut stale, mut changed) = (BTreeSet::new(), true);
        if let Some(old) = &old {
            stale = stale_paths(&payload, old)?;
            changed = !stale.is_empty() || differs(&payload, old)?;
        }
        if changed {
            // (5)
            let (name, new) = self.timestamp_dir()?;
            told(Step::Created);
            // (6)
            for (path, file) in &payload {
                write_file(&new, path, file)?;
                told(Step::Written);
            }
            // (7) The callbacks of all four plugins set the whole volume's permissions, and not
            // only the new directory's.
            if let Some(gid) = self.fs_group {
                set_ownership(&self.target, gid)?;
            }
            told(Step::Owned);
            // (8)
            let link = self.target.join("..data_tmp");
            symlink(&name, &link).context("..data_tmp")?;
            told(Step::Linked);
            // (9)
            fs::rename(&link, &data).context("..data")?;
            told(Step::Switched);
        }
        // (10) After the switch: in older releases new names came before it, and pointed to nothing
        // for a moment. Also without a switch, since an earlier write may have been interrupted here.
        for path in payload.keys() {
            let top = path.split('/').next().unwrap_or(path);
            let link = self.target.join(top);
            let there = fs::read_link(&link);
            if there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                symlink(Path::new("..data").join(top), &link).context("visible name")?;
            }
        }
        told(Step::Visible);
        // (11)
        for path in stale.iter().filter(|path| !path.contains('/')) {
            fs::remove_file(self.target.join(path)).context("stale name")?;
        }
        told(Step::Pruned);
        // (12)
        if let Some(old) = old.filter(|_| changed) {
            fs::remove_dir_all(old).context("old revision")?;
        }
        told(Step::Removed);
        Ok(changed)
    }

    /// Go's `MkdirTemp` of the current time. The time here stands still, which makes of every two
    /// writes ones in the same second; the number after it is never used again.
    fn timestamp_dir(&self) -> anyhow::Result<(String, PathBuf)> {
        static NEXT: AtomicU64 = AtomicU64::new(123_456_789);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("..2026_11_22_10_00_00.{number}");
            let path = self.target.join(&name);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                    return Ok((name, path));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context("timestamped directory"),
            }
        }
    }
}

/// A copy with clean paths.
fn validate(payload: &Payload) -> anyhow::Result<Payload> {
    let mut clean = Payload::new();
    for (path, file) in payload {
        ensure!(!path.is_empty(), "invalid path: empty");
        ensure!(!path.starts_with('/'), "invalid path: absolute: {path:?}");
        ensure!(path.len() <= 4_096, "invalid path: longer than 4096 bytes");
        for item in path.split('/') {
            ensure!(item != "..", "invalid path: contains `..`: {path:?}");
            ensure!(item.len() <= 255, "invalid path: a name longer than 255 bytes");
        }
        ensure!(!path.starts_with(".."), "invalid path: begins with `..`: {path:?}");
        let normal = Path::new(path).components().filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        });
        clean.insert(normal.collect::<Vec<_>>().join("/"), file.clone());
    }
    Ok(clean)
}

/// Whether any content differs. A mode or owner that does, does not count.
fn differs(payload: &Payload, old: &Path) -> anyhow::Result<bool> {
    for (path, file) in payload {
        match fs::read(old.join(path)) {
            Ok(bytes) if bytes == file.bytes => {}
            Ok(_) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error).context("old revision"),
        }
    }
    Ok(false)
}

/// What is in the old revision and neither a file of the payload nor a directory above one.
fn stale_paths(payload: &Payload, old: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut paths = BTreeSet::new();
    let mut pending = vec![String::new()];
    while let Some(directory) = pending.pop() {
        let entries = match fs::read_dir(old.join(&directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(error).context("old revision"),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { bail!("a name is not UTF-8") };
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            if entry.file_type()?.is_dir() {
                pending.push(path.clone());
            }
            paths.insert(path);
        }
    }
    for file in payload.keys() {
        paths.remove(file);
        for (slash, _) in file.match_indices('/') {
            paths.remove(&file[..slash]);
        }
    }
    Ok(paths)
}

fn write_file(new: &Path, path: &str, file: &Projection) -> anyhow::Result<()> {
    for (slash, _) in path.match_indices('/') {
        let directory = new.join(&path[..slash]);
        if !directory.is_dir() {
            fs::create_dir(&directory)?;
            // Upstream asks for 0777 below kubelet's umask, which is 022 as systemd starts it.
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o755))?;
        }
    }
    let at = new.join(path);
    fs::write(&at, &file.bytes)?;
    fs::set_permissions(&at, fs::Permissions::from_mode(file.mode))?;
    if let Some(uid) = file.uid {
        chown(&at, Some(uid), None)?;
    }
    Ok(())
}

/// Upstream's `SetVolumeOwnership` for a read-only volume, as all of these are: the group may read
/// everything, enter directories, and owns what is made in them. Links stay as they are.
fn set_ownership(path: &Path, gid: u32) -> anyhow::Result<()> {
    const READ: u32 = 0o440;
    const ENTER: u32 = 0o2110;
    let found = fs::symlink_metadata(path)?;
    if found.is_symlink() {
        return Ok(());
    }
    lchown(path, Some(found.uid()), Some(gid))?;
    let more = if found.is_dir() { READ | ENTER } else { READ };
    fs::set_permissions(path, fs::Permissions::from_mode(found.mode() & 0o7777 | more))?;
    if found.is_dir() {
        for entry in fs::read_dir(path)? {
            set_ownership(&entry?.path(), gid)?;
        }
    }
    Ok(())
}

/// The plugins that write their volumes with an [`AtomicWriter`].
pub const PLUGINS: [&str; 4] = ["secret", "configmap", "projected", "downward-api"];

/// A volume of [`lay_out`].
#[derive(Debug, Clone)]
pub struct Volume {
    /// The pod's UID.
    pub pod_uid: String,
    /// One of [`PLUGINS`].
    pub plugin: &'static str,
    /// The volume's name in the pod.
    pub name: String,
    /// Writes it.
    pub writer: AtomicWriter,
}

/// The UID of the `index`th pod.
pub fn pod_uid(index: usize) -> String {
    format!("{index:08x}-1111-4222-8333-444455556666")
}

/// An empty volume of a pod below kubelet's root.
pub fn make_volume(
    root: &Path,
    pod_uid: &str,
    plugin: &'static str,
    name: &str,
) -> anyhow::Result<Volume> {
    let volumes = root.join("pods").join(pod_uid).join("volumes");
    let target = volumes.join(format!("kubernetes.io~{plugin}")).join(name);
    fs::create_dir_all(&target)?;
    let writer = AtomicWriter::new(target)?;
    Ok(Volume { pod_uid: pod_uid.to_owned(), plugin, name: name.to_owned(), writer })
}

/// Kubelet's root with `pods` pods of `volumes` volumes each, in turn of each plugin, with the first
/// [`payload`] at `paths`, among what else kubelet keeps there.
pub fn lay_out(
    root: &Path,
    pods: usize,
    volumes: usize,
    paths: &[&str],
) -> anyhow::Result<Vec<Volume>> {
    let mut laid_out = Vec::with_capacity(pods * volumes);
    fs::create_dir_all(root.join("pods"))?;
    for other in ["plugins", "plugins_registry", "pod-resources", "device-plugins"] {
        fs::create_dir_all(root.join(other))?;
    }
    for pod in 0..pods {
        let uid = pod_uid(pod);
        let directory = root.join("pods").join(&uid);
        fs::create_dir_all(directory.join("containers/app"))?;
        fs::create_dir_all(directory.join("plugins/kubernetes.io~empty-dir/wrapped_v0"))?;
        fs::create_dir_all(directory.join("volumes/kubernetes.io~empty-dir/cache"))?;
        fs::write(directory.join("etc-hosts"), "127.0.0.1 localhost\n")?;
        for index in 0..volumes {
            let plugin = PLUGINS[index % PLUGINS.len()];
            let volume = make_volume(root, &uid, plugin, &format!("v{index}"))?;
            volume.writer.write(&payload(0, paths))?;
            laid_out.push(volume);
        }
    }
    Ok(laid_out)
}
