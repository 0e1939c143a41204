//! A kata-agent as far as `AgentService.CopyFile` goes, faults and all, behind the `ttrpc` crate's
//! own server: what a host can do with a guest that has no other agent, and how fast.
//!
//! What it does with a request is what kata-containers 4.1.0 does in `src/agent/src/rpc.rs`:
//!
//! - the parent is made if it is missing, and given to the entry's owner, each time;
//! - a directory that is there stays, with the new mode and owner;
//! - at offset 0 whatever is at the path is removed first, trees too: also before a link is made,
//!   and before one cannot be;
//! - a file is assembled in the path with the extension `tmp`, and renamed when it is as long as the
//!   request says; until then the answer is no error;
//! - nothing is written outside of the shared directory.

pub mod runtime;

use std::collections::HashMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, chown, fchown, lchown, symlink,
};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use ttrpc::proto::{Request, Response};
use ttrpc::{Code, MethodHandler, Server, TtrpcContext, get_status};

use crate::proto::{bytes_of, number_of, text_of};

/// What requests name, wherever this agent really keeps it.
pub const SHARED: &str = "/run/kata-containers/shared/containers";

/// What the guest's policy says of `CopyFile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Everything.
    AllowAll,
    /// What `src/tools/genpolicy/rules.rego` allows.
    Genpolicy,
    /// Nothing.
    DenyAll,
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Below [`SHARED`].
    pub path: String,
    /// `st_mode`.
    pub mode: u32,
    /// Of the whole file.
    pub file_size: u64,
    /// Of this piece.
    pub offset: u64,
    /// Bytes of this piece, or of the link's target.
    pub bytes: usize,
}

/// A running agent. Dropping it ends it; its files stay.
pub struct KataAgent {
    dir: PathBuf,
    shared: Arc<Shared>,
    server: Option<Server>,
}

struct Shared {
    root: PathBuf,
    policy: Mutex<Policy>,
    copied: Mutex<Vec<Copied>>,
}

impl KataAgent {
    /// Starts one whose socket and files are in `dir`.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        let root = dir.join("shared");
        fs::create_dir_all(&root)?;
        let root = root.canonicalize()?;
        let (policy, copied) = (Mutex::new(Policy::AllowAll), Mutex::default());
        let shared = Arc::new(Shared { root, policy, copied });
        let mut methods: HashMap<String, Box<dyn MethodHandler + Send + Sync>> = HashMap::new();
        let copy_file = Box::new(CopyFile(Arc::clone(&shared)));
        methods.insert("/grpc.AgentService/CopyFile".into(), copy_file);
        let address = format!("unix://{}", dir.join(SOCKET).display());
        let mut server = Server::new().bind(&address)?.register_service(methods);
        server.start()?;
        Ok(Self { dir: dir.to_path_buf(), shared, server: Some(server) })
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(SOCKET)
    }

    /// Where what is at a path of the guest's really is.
    pub fn path(&self, guest_path: &str) -> PathBuf {
        let below = guest_path.strip_prefix(SHARED).expect("a path below the shared directory");
        self.shared.root.join(below.trim_start_matches('/'))
    }

    /// From now on.
    pub fn set_policy(&self, policy: Policy) {
        *lock(&self.shared.policy) = policy;
    }

    /// The requests since this was asked last.
    pub fn take_copied(&self) -> Vec<Copied> {
        std::mem::take(&mut *lock(&self.shared.copied))
    }
}

impl std::fmt::Debug for KataAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KataAgent").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Drop for KataAgent {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
        let _ = fs::remove_file(self.socket());
    }
}

const SOCKET: &str = "kata.sock";

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct CopyFile(Arc<Shared>);

impl MethodHandler for CopyFile {
    fn handler(&self, ctx: TtrpcContext, request: Request) -> ttrpc::Result<()> {
        let (code, message) = match self.0.answer(&request.payload) {
            Ok(true) => (Code::OK, String::new()),
            Ok(false) => (Code::PERMISSION_DENIED, "CopyFileRequest is blocked by policy".into()),
            Err(error) => (Code::INTERNAL, format!("{error:#}")),
        };
        let mut response = Response::new();
        response.set_status(get_status(code, message));
        ctx.respond(ctx.mh.stream_id, response)
    }
}

/// `CopyFileRequest` of `src/libs/protocols/protos/agent.proto`; `dir_mode` and what follows.
struct Entry<'a> {
    path: PathBuf,
    file_size: u64,
    mode: u32,
    dir_mode: u32,
    uid: u32,
    gid: u32,
    offset: u64,
    data: &'a [u8],
}

impl Shared {
    /// False: policy says no.
    fn answer(&self, payload: &[u8]) -> anyhow::Result<bool> {
        let path = text_of(payload, 1)?;
        // An `int32` comes as the low half of 64 bits.
        let id =
            |field| Ok::<_, anyhow::Error>(u32::try_from(number_of(payload, field)? % (1 << 32))?);
        let entry = Entry {
            path: PathBuf::from(&path),
            file_size: number_of(payload, 2)?,
            mode: u32::try_from(number_of(payload, 3)?)?,
            dir_mode: u32::try_from(number_of(payload, 4)?)?,
            uid: id(5)?,
            gid: id(6)?,
            offset: number_of(payload, 7)?,
            data: bytes_of(payload, 8)?.pop().unwrap_or_default(),
        };
        let Entry { mode, file_size, offset, data, .. } = &entry;
        lock(&self.copied).push(Copied {
            path: path.strip_prefix(SHARED).unwrap_or(&path).to_owned(),
            mode: *mode,
            file_size: *file_size,
            offset: *offset,
            bytes: data.len(),
        });
        let policy = *lock(&self.policy);
        let allowed = match policy {
            Policy::AllowAll => true,
            Policy::Genpolicy => allowed(&path, *mode, data),
            Policy::DenyAll => false,
        };
        if allowed {
            self.copy(&entry)?;
        }
        Ok(allowed)
    }

    fn copy(&self, entry: &Entry<'_>) -> anyhow::Result<()> {
        let below = entry.path.strip_prefix(SHARED).context("outside of the shared directory")?;
        let clean = below.components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(clean && below.parent().is_some(), "a path that is not clean");
        let path = self.root.join(below);
        let parent = path.parent().context("no parent")?;
        if !parent.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            fs::set_permissions(parent, Permissions::from_mode(entry.dir_mode))?;
        }
        ensure!(parent.canonicalize()?.starts_with(&self.root), "a link leads outside");
        chown(parent, Some(entry.uid), Some(entry.gid)).context("chown parent")?;
        match entry.mode & S_IFMT {
            S_IFDIR => Self::directory(entry, &path),
            S_IFLNK => {
                remove_all(&path)?;
                symlink(std::ffi::OsStr::from_bytes(entry.data), &path)
                    .context("create symlink")?;
                Ok(lchown(&path, Some(entry.uid), Some(entry.gid))?)
            }
            S_IFREG => Self::file(entry, &path),
            _ => bail!("neither a directory, a link nor a file"),
        }
    }

    fn directory(entry: &Entry<'_>, path: &Path) -> anyhow::Result<()> {
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir()) {
            fs::remove_file(path)?;
        }
        ok_if(io::ErrorKind::AlreadyExists, fs::create_dir(path))?;
        fs::set_permissions(path, Permissions::from_mode(entry.mode & 0o777))?;
        Ok(chown(path, Some(entry.uid), Some(entry.gid))?)
    }

    fn file(entry: &Entry<'_>, path: &Path) -> anyhow::Result<()> {
        if entry.offset == 0 {
            remove_all(path)?;
        }
        let temporary = path.with_extension("tmp");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(entry.offset == 0)
            .mode(entry.mode & 0o777)
            .custom_flags(i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits())?)
            .open(&temporary)
            .context("create_file")?;
        file.write_all_at(entry.data, entry.offset)?;
        if file.metadata()?.len() != entry.file_size {
            return Ok(());
        }
        file.set_permissions(Permissions::from_mode(entry.mode & 0o777))?;
        fchown(&file, Some(entry.uid), Some(entry.gid))?;
        Ok(fs::rename(temporary, path)?)
    }
}

const S_IFMT: u32 = 0o170_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

fn ok_if(kind: io::ErrorKind, result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == kind { Ok(()) } else { Err(error) })
}

fn remove_all(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    ok_if(io::ErrorKind::NotFound, removed)
}

/// The rules of genpolicy: `^/run/kata-containers/shared/containers(/passthrough)?/(watchable/)?`
/// `[a-z0-9]{64}-[a-z0-9]{16}-`, links only below that, relative, and nowhere `..` as a component.
fn allowed(path: &str, mode: u32, data: &[u8]) -> bool {
    let climbs = |path: &str| path.split('/').any(|part| part == "..");
    let Some(below) = path.strip_prefix(SHARED) else { return false };
    let below = below.strip_prefix("/passthrough").unwrap_or(below);
    let Some(below) = below.strip_prefix('/') else { return false };
    let below = below.strip_prefix("watchable/").unwrap_or(below);
    let word = |from: usize, to: usize| {
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        below.as_bytes().get(from..to).is_some_and(|word| word.iter().all(plain))
    };
    let dashes = [64, 81].iter().all(|at| below.as_bytes().get(*at) == Some(&b'-'));
    let named = word(0, 64) && word(65, 81) && dashes && !climbs(path);
    match mode & S_IFMT {
        S_IFLNK => {
            let target = String::from_utf8_lossy(data);
            let inside = below.get(82..).and_then(|rest| rest.split_once('/'));
            let inside = inside.is_some_and(|(_, rest)| !rest.is_empty());
            named && inside && !climbs(&target) && !target.starts_with('/')
        }
        _ => named,
    }
}
