//! Plain models, as KServe's own storage initializer fetches them. Only where the deployer allows
//! them.

use std::collections::BTreeMap;

use publish::{Plan, PlannedFile};
use seal::name::{BundlePath, Digest};
use store::{Location, ObjectMeta, Settings, Store};

use super::archive::{Archive, Format, Object};
use super::plan::Work;
use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::patterns::Patterns;
use crate::transfer::{Content, Item, PIECE_BYTES, plain_segments};

/// Longest names of all files together, in bytes. They are held a few times over, and the receipt
/// has room for these.
const NAMES_BYTES_MAX: usize = 6 << 20;

/// What the location names: every object below it that the patterns take, else the one of its name.
pub(super) async fn plan(
    location: &Location,
    objects: &Objects<'_>,
    patterns: &Patterns,
    settings: &Settings,
) -> Result<(Plan, Work), Failure> {
    let listed = objects.list_up_to(publish::FILES_MAX).await;
    let (mut whole, mut total) = (false, 0);
    let (store, found) = match listed {
        Ok(Some(mut found)) if !found.is_empty() => {
            total = found.len();
            found.retain(|name, _| patterns.take(name));
            (objects.store.clone(), found)
        }
        // A folder that is empty, a file, or a server that lists nothing. Patterns choose among the
        // files of a folder: who names one wants it.
        listed => match single(location, objects, settings).await {
            Ok(Some((store, name, meta))) => {
                whole = meta.bytes > PIECE_BYTES && !store.has_ranges(&name).await?;
                (store, BTreeMap::from([(name, meta)]))
            }
            Ok(None) => (objects.store.clone(), listed?.unwrap_or_default()),
            // Of a folder that cannot be listed, that is the reason.
            Err(error) => return Err(listed.err().unwrap_or(error)),
        },
    };
    if found.is_empty() {
        let what = match total {
            0 => "there is no object of this name, and none below it".to_owned(),
            total => format!("the patterns take none of the {total} files"),
        };
        return Err(Failure::new(Code::NotFound, what)
            .hint("Compare the URI, STORAGE_ALLOW_PATTERNS and STORAGE_IGNORE_PATTERNS"));
    }
    if let [(name, meta)] = &found.iter().collect::<Vec<_>>()[..]
        && let Some(format) = Format::of(name)
        // What was pushed as a file is one, and is held against its digest as such.
        && !store.is_snapshot()
    {
        let (name, bytes, etag) = ((*name).clone(), meta.bytes, meta.etag.clone());
        let object = Object { store, name, bytes, etag };
        let archive = Archive::index(format, object, objects.limits).await?;
        return Ok((unpacked("archive\n", &archive.files), Work::Archive(archive)));
    }
    if found.keys().map(String::len).sum::<usize>() > NAMES_BYTES_MAX {
        let what = format!("the names of its {} files are too long in all", found.len());
        return Err(Failure::new(Code::Tampered, what));
    }
    let mut files = Vec::with_capacity(found.len());
    let mut identity = String::from("plain\n");
    for (name, meta) in &found {
        let path = BundlePath::parse(name)?;
        identity.push_str(&format!("{} {path}\n", meta.bytes));
        files.push(PlannedFile {
            path: path.as_str().to_owned(),
            mode: 0o644,
            bytes: meta.bytes,
            segments: plain_segments(meta.bytes),
        });
    }
    let mut items = Vec::with_capacity(found.len());
    for (object, ObjectMeta { bytes, etag }) in found {
        let sha256 = store.sha256(&object).await?.map(Digest::from_bytes);
        items.push(Item { object, content: Content::Plain { bytes, etag, whole, sha256 } });
    }
    let work = Work::Plain { items, store };
    Ok((Plan { digest: *Digest::of(identity.as_bytes()).as_bytes(), files }, work))
}

/// What an archive or an image unpacks to. It is taken whole: upstream's patterns are for objects.
pub(super) fn unpacked(kind: &str, files: &[PlannedFile]) -> Plan {
    let mut identity = String::from(kind);
    for file in files {
        identity.push_str(&format!("{} {}\n", file.bytes, file.path));
    }
    Plan { digest: *Digest::of(identity.as_bytes()).as_bytes(), files: files.to_vec() }
}

/// The location as one object.
async fn single(
    location: &Location,
    objects: &Objects<'_>,
    settings: &Settings,
) -> Result<Option<(Store, String, ObjectMeta)>, Failure> {
    let Some((folder, name)) = location.as_object() else { return Ok(None) };
    let store = Store::open(&folder, settings)?;
    let beside = Objects { store: &store, limits: objects.limits };
    match beside.retried(|| store.stat(&name)).await {
        Ok(meta) => Ok(Some((store, name, meta))),
        Err(store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
