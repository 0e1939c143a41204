//! `sealift-broker export|import`: everything in the clear, for moving to Trustee or from it.
//!
//! An export is a directory of its own, 0700: `resources/<repository>/<type>/<tag>` with the bytes of
//! each resource, 0600, and `policy.rego` if an administrator has posted one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use audit::{Event, Log};
use seal::name::ResourceUri;

use crate::clock::system_clock;
use crate::error::Error;
use crate::files::{self, Existing};
use crate::master::MasterKey;
use crate::policy::{Compiled, Policy};
use crate::rego::POLICY_BYTES_MAX;
use crate::resources::{LISTED_MAX, Listed, RESOURCE_BYTES_MAX, Resources};

/// Who it is, in the audit log: whoever has the master key's file.
const OPERATOR: &str = "operator";
const RESOURCES: &str = "resources";
const POLICY: &str = "policy.rego";

/// Writes all resources and the posted policy of a data directory to `out`, which must not exist. Each
/// is recorded first. How many resources; on an error nothing is left in `out`.
pub fn export(data_dir: &Path, master: &MasterKey, out: &Path, log: &Log) -> Result<usize, Error> {
    // Opening would make one.
    fs::read_dir(data_dir).map_err(|source| Error::file(data_dir, source))?;
    let resources = Resources::open(data_dir, master)?;
    let listed = resources.list()?;
    if listed.len() >= LISTED_MAX {
        return Err(Error::Settings("there are too many resources for one export"));
    }
    // Not `create_dir_all`: what is there already is not ours to fill, or to remove.
    fs::create_dir(out).map_err(|source| Error::file(out, source))?;
    let posted = Policy::open(data_dir, master, None, false).and_then(|policy| policy.posted());
    let written = posted.and_then(|policy| write_all(&resources, &listed, policy, out, log));
    if written.is_err() {
        fs::remove_dir_all(out).map_err(|source| Error::file(out, source))?;
    }
    written.map(|()| listed.len())
}

fn write_all(
    resources: &Resources,
    listed: &[Listed],
    policy: Option<Arc<Compiled>>,
    out: &Path,
    log: &Log,
) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(out, fs::Permissions::from_mode(0o700))
        .map_err(|source| Error::file(out, source))?;
    let write = |path: &Path, bytes: &[u8]| {
        let dir = path.parent().unwrap_or(out);
        files::create_dir(dir)
            .and_then(|()| files::write(path, bytes, Existing::Keep))
            .map_err(|source| Error::file(path, source))
    };
    for listed in listed {
        let resource = ResourceUri::from_path(&listed.resource)
            .map_err(|_| Error::Settings("a resource has no name"))?;
        log.record(Event::ResourceExported {
            resource: resource.to_string(),
            destination: out.display().to_string(),
        })
        .map_err(Error::Audit)?;
        let path = out.join(RESOURCES).join(resource.path());
        if let Some(value) = resources.read(&resource)? {
            write(&path, &value)?;
        }
    }
    match policy {
        Some(policy) => write(&out.join(POLICY), policy.text().as_bytes()),
        None => Ok(()),
    }
}

/// Stores what [`export`] has written, or somebody else in the same form. A resource that exists
/// already is an error unless `existing` says otherwise; those before it are stored by then.
pub fn import(
    data_dir: &Path,
    master: &MasterKey,
    from: &Path,
    replace: bool,
    log: &Log,
) -> Result<usize, Error> {
    files::create_dir(data_dir).map_err(|source| Error::file(data_dir, source))?;
    let store = Resources::open(data_dir, master)?;
    let existing = if replace { Existing::Replace } else { Existing::Keep };
    let mut found = Vec::new();
    names(&from.join(RESOURCES), "", 0, &mut found)?;
    found.sort_unstable();
    let policy = policy(&from.join(POLICY))?;
    let now = system_clock();
    for name in &found {
        let path = from.join(RESOURCES).join(name);
        let resource =
            ResourceUri::from_path(name).map_err(|_| Error::NotAResource(path.clone()))?;
        let value = files::read_own(&path, RESOURCE_BYTES_MAX)
            .map_err(|source| Error::file(&path, source))?;
        if existing == Existing::Keep && store.exists(&resource) {
            return Err(Error::Exists(resource.path()));
        }
        let admin = OPERATOR.to_owned();
        log.record(Event::ResourceStored { resource: resource.to_string(), admin })
            .map_err(Error::Audit)?;
        store.write(&resource, &value, existing, now())?;
    }
    if let Some(policy) = policy {
        let digest = policy.digest().to_owned();
        log.record(Event::PolicyChanged { digest }).map_err(Error::Audit)?;
        Policy::open(data_dir, master, None, false)?.store(&policy)?;
    }
    Ok(found.len())
}

/// The policy to import, if there is one.
fn policy(path: &Path) -> Result<Option<Compiled>, Error> {
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let text =
        files::read_own(path, POLICY_BYTES_MAX).map_err(|source| Error::file(path, source))?;
    Compiled::from_bytes(&text).map(Some)
}

/// Everything below `resources/`: files at the third level and nothing else.
fn names(dir: &Path, prefix: &str, depth: usize, found: &mut Vec<String>) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|source| Error::file(dir, source))? {
        let entry = entry.map_err(|source| Error::file(dir, source))?;
        let kind = entry.file_type().map_err(|source| Error::file(&entry.path(), source))?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|_| Error::NotAResource(entry.path()))?;
        match depth {
            0 | 1 if kind.is_dir() => {
                names(&entry.path(), &format!("{prefix}{name}/"), depth + 1, found)?;
            }
            2 if kind.is_file() && found.len() < LISTED_MAX => {
                found.push(prefix.to_owned() + &name)
            }
            _ => return Err(Error::NotAResource(entry.path())),
        }
    }
    Ok(())
}
