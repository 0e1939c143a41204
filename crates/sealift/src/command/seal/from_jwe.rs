//! `sealift seal --from-jwe`: upstream's encrypted models into bundles, by way of memory alone.
//!
//! Each file is read twice. The first time every token is authenticated and forgotten, so that a bad
//! one is refused before anything is written; the second time it is sealed, and must be the same. A
//! token is one AEAD message: while it is opened it and its plaintext are in memory, one file at a
//! time, about 2.4 times the file.

use std::sync::Arc;

use bytes::Bytes;
use seal::key::{Kek, Purpose};
use seal::manifest::{Manifest, Mode};
use seal::name::{BundlePath, Digest, ModelName, check_set};
use store::{Location, Store};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::{Found, Input, changed, ended};
use crate::cli::{KeyArgs, KeySourceKind, NamedKey, Seal};
use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::opening::{TOKEN_BYTES_MAX, open_token, strip_jwe, too_large};
use crate::recipients::Keys;
use crate::transfer::Limits;

/// Attempts at one object.
const RETRIES: u32 = 5;

/// A file of upstream's, where it lies.
pub(super) struct Stored {
    store: Store,
    object: String,
    /// Of the object, when it was authenticated.
    sha256: Digest,
    kek: Arc<Kek>,
}

impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.store.location(), self.object)
    }
}

impl Stored {
    /// Its plaintext, wiped when it is dropped.
    pub(super) async fn plaintext(self) -> Result<Bytes, Failure> {
        let read = read(&self.store, &self.object, self.kek).await?;
        if read.sha256 != self.sha256 {
            return Err(changed());
        }
        Ok(Bytes::from_owner(read.plaintext))
    }
}

/// The key that the tokens are opened with. `--key-file` is the new key's, so it is asked for
/// elsewhere, unless it has a file of its own.
pub(super) async fn key(
    named: &NamedKey,
    args: &Seal,
    log: &audit::Log,
) -> Result<Arc<Kek>, Failure> {
    let key_source = match (&named.file, args.key.key_source) {
        (Some(_), _) => Some(KeySourceKind::File),
        (None, Some(KeySourceKind::File)) => None,
        (None, other) => other,
    };
    let apart = KeyArgs { key_file: named.file.clone(), key_source, ..args.key.clone() };
    let kek = Keys::new(&apart, &args.remote, "convert", log).released(&named.key).await?;
    kek.permits(Purpose::Open).map_err(|error| Failure::from(error).at(&named.key))?;
    Ok(Arc::new(kek))
}

/// What the bundle is called, if nobody says it: as the last component of the place.
pub(super) fn name_of(source: &Location) -> Result<ModelName, Failure> {
    let place = source.to_string();
    let last = place.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    ModelName::parse(last).map_err(|error| {
        Failure::from(error).recode(Code::Usage).hint("Name the model with --name")
    })
}

/// Every file at `source`, each authenticated, sorted.
pub(super) async fn find(
    source: &Location,
    settings: &store::Settings,
    kek: &Arc<Kek>,
    accept_plain: bool,
) -> Result<Vec<Found>, Failure> {
    let store = Store::open(source, settings)?;
    let limits = limits();
    let objects = Objects { store: &store, limits: &limits };
    if objects.manifest().await?.is_some() {
        return Err(Failure::usage("this is a sealed bundle").at(source).hint(
            "Other keys for a bundle: sealift rewrap. A bundle that moves is copied as it is",
        ));
    }
    let listed = objects.list().await?.ok_or_else(|| {
        Failure::usage("this place does not tell what it holds")
            .at(source)
            .hint("Convert from a bucket, a registry or a directory")
    })?;
    if listed.is_empty() {
        return Err(Failure::new(Code::NotFound, "there is no file to convert").at(source));
    }
    if listed.len() > Manifest::FILES_MAX {
        let what = format!("more than {} files", Manifest::FILES_MAX);
        return Err(Failure::usage(what).at(source));
    }
    if let Some((object, meta)) = listed.iter().find(|(_, meta)| meta.bytes > TOKEN_BYTES_MAX) {
        return Err(too_large(object, meta.bytes));
    }
    let mut found = Vec::with_capacity(listed.len());
    for object in listed.into_keys() {
        let read = read(&store, &object, Arc::clone(kek)).await.map_err(|it| it.at(&object))?;
        if !read.encrypted && !accept_plain {
            return Err(Failure::new(Code::NotSealed, format!("{object} is not encrypted")).hint(
                "Whoever can write there could have put it in place of an encrypted file. If you \
                 know it as yours, --accept-plain takes such files as they are",
            ));
        }
        let path = strip_jwe(&object).unwrap_or(&object);
        found.push(Found {
            path: BundlePath::parse(path)?,
            mode: Mode::Plain,
            bytes: read.plaintext.len() as u64,
            source: Input::Stored(Stored {
                store: store.clone(),
                object,
                sha256: read.sha256,
                kek: Arc::clone(kek),
            }),
        });
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    check_set(found.iter().map(|file| &file.path))
        .map_err(|error| Failure::from(error).recode(Code::Usage).at(source))?;
    Ok(found)
}

/// One object, whole.
struct Read {
    plaintext: Zeroizing<Vec<u8>>,
    sha256: Digest,
    encrypted: bool,
}

async fn read(store: &Store, object: &str, kek: Arc<Kek>) -> Result<Read, Failure> {
    let limits = limits();
    let objects = Objects { store, limits: &limits };
    let bytes = objects.retried(|| store.read(object, TOKEN_BYTES_MAX)).await?;
    // Upstream's own rule.
    let encrypted = strip_jwe(object).is_some() || bytes.starts_with(b"eyJ");
    let task = spawn_blocking(move || {
        let sha256 = Digest::of(&bytes);
        let plaintext = match encrypted {
            true => open_token(bytes, &kek)?,
            false => Zeroizing::new(bytes),
        };
        Ok(Read { plaintext, sha256, encrypted })
    });
    ended(task.await)
}

fn limits() -> Limits {
    let unused = std::time::Duration::MAX;
    Limits { workers: 1, retries: RETRIES, segment: unused, total: unused }
}
