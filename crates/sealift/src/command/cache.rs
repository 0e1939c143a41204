//! `sealift cache`: a sealed bundle onto a node, as it is.
//!
//! KServe's `localModelDownloadJob` runs where nothing may be decrypted: on the host. What can be
//! known without a key is verified before it is there under its name: the manifest's form, pins of
//! the URI, the set of objects, each object's SHA-256. `sealift.json` comes last, so that a bundle is
//! there as a whole or not at all. What an interrupted run has finished stays, object by object. Of
//! several runs into one directory one works, and the others wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use audit::Event;
use aws_lc_rs::digest;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use seal::bundle::{Bundle, MANIFEST_OBJECT};
use seal::manifest::FileEntry;
use seal::name::Digest;
use serde::Serialize;
use store::{Location, ObjectWriter, Store};

use super::verify;
use crate::cli::{Cache, Global};
use crate::code::Code;
use crate::failure::{Failure, chain};
use crate::objects::Objects;
use crate::opening;
use crate::output::{self, row};
use crate::progress::{self, Progress, size};
use crate::retry::Backoff;
use crate::source::Source;
use crate::transfer::Limits;
use crate::width::Width;

mod directory;

/// The byte budget of `init`, so that both behave alike.
const MEMORY: u64 = 64 << 20;

#[derive(Serialize)]
struct Cached {
    source: String,
    destination: String,
    model: String,
    generation: u64,
    digest: String,
    files: usize,
    /// Bytes of the sealed objects, and how many of them were there already.
    bytes: u64,
    kept_bytes: u64,
}

pub(crate) async fn run(args: &Cache, global: &Global) -> Result<(), Failure> {
    let log = super::audit::log_beside_result(&args.audit)?;
    let cached = cache(args, global, &log).await;
    if let Err(failure) = &cached {
        log.record(Event::ModelRefused {
            source: Source::parse(&args.source)
                .map_or_else(|_| String::new(), |source| source.location.to_string()),
            destination: args.dest.display().to_string(),
            code: failure.code().to_string(),
            reason: failure.what().to_owned(),
        })?;
    }
    output::print(global.output, &cached?, |cached| {
        vec![
            row([&"cached", &cached.destination]),
            row([&"model", &cached.model]),
            row([&"generation", &cached.generation]),
            row([&"digest", &cached.digest]),
            row([&"files", &cached.files]),
            row([&"size", &size(cached.bytes)]),
            row([&"there already", &size(cached.kept_bytes)]),
        ]
    })
}

async fn cache(args: &Cache, global: &Global, log: &audit::Log) -> Result<Cached, Failure> {
    let source = Source::parse(&args.source)?;
    let settings = crate::settings::store(&args.store, Some(&args.patience))?;
    let from = Store::open(&source.location, &settings)?;
    let to = args.dest.to_str().map(Location::parse).transpose()?;
    let to = to
        .filter(|to| to.local_path().is_some())
        .ok_or_else(|| Failure::usage("a cache is a directory of this machine"))?;
    let to = Store::open(&to, &settings)?;
    let limits = opening::limits(&args.patience, MEMORY);
    let objects = Objects { store: &from, limits: &limits };
    let at = |failure: Failure| failure.at(&source.location);
    let json = objects.manifest().await?.ok_or_else(|| at(not_sealed()))?;
    let bundle = Bundle::parse(&json).map_err(|error| at(error.into()))?;
    verify::demanded(&source, &bundle).map_err(at)?;
    objects.check(bundle.claimed()).await.map_err(at)?;
    let manifest = bundle.claimed();
    let at_dest = |failure: Failure| failure.at(args.dest.display());
    let _alone = directory::alone(&args.dest, limits.total).await.map_err(at_dest)?;
    directory::vacant(&to, &bundle, &limits).await.map_err(at_dest)?;
    directory::room(&args.dest, &to, manifest).await.map_err(at_dest)?;

    let progress =
        Progress::new("cache", manifest.ciphertext_bytes(), manifest.files.len() as u64, 0);
    let style = if global.quiet { progress::Style::None } else { global.progress };
    let shown = progress::show(&progress, style, global.progress_interval);
    to.remove_unfinished().await?;
    let width = Width::new(limits.workers);
    let copy = Arc::new(Copy { from, to, limits, progress, kept: AtomicU64::new(0), width });
    copy.all(&manifest.files).await?;
    drop(shown);
    log.record(Event::ModelCached {
        source: source.location.to_string(),
        destination: args.dest.display().to_string(),
        model: manifest.name.to_string(),
        generation: manifest.generation,
        manifest_digest: hex::encode(bundle.digest().as_bytes()),
        files: manifest.files.len() as u64,
        bytes: manifest.ciphertext_bytes(),
    })?;
    let mut writer = copy.to.writer(MANIFEST_OBJECT).await?;
    writer.write(Bytes::from(json)).await?;
    writer.finish().await?;
    Ok(Cached {
        source: source.location.to_string(),
        destination: args.dest.display().to_string(),
        model: manifest.name.to_string(),
        generation: manifest.generation,
        digest: bundle.digest().to_string(),
        files: manifest.files.len(),
        bytes: manifest.ciphertext_bytes(),
        kept_bytes: copy.kept.load(Ordering::Relaxed),
    })
}

/// Objects on their way.
struct Copy {
    from: Store,
    to: Store,
    limits: Limits,
    progress: Arc<Progress>,
    kept: AtomicU64,
    width: Width,
}

impl Copy {
    async fn all(self: &Arc<Self>, files: &[FileEntry]) -> Result<(), Failure> {
        let tasks = files.iter().cloned().map(|file| {
            let copy = Arc::clone(self);
            async move {
                let task = tokio::spawn(async move { copy.one(&file).await });
                task.await.unwrap_or_else(|error| {
                    Err(Failure::new(Code::Bug, format!("a worker ended: {error}")))
                })
            }
        });
        let all = futures::stream::iter(tasks).buffer_unordered(self.limits.workers);
        let total = self.limits.total;
        tokio::time::timeout(total, all.try_collect()).await.unwrap_or_else(|_| {
            Err(Failure::new(Code::Network, format!("not finished within {} s", total.as_secs()))
                .hint("Run it again: it goes on with what is missing"))
        })
    }

    /// One object, unless it is there already, byte for byte.
    async fn one(&self, file: &FileEntry) -> Result<(), Failure> {
        let (object, bytes) = (file.path.object(), file.layout.ciphertext_bytes());
        let there = self.to.stat(&object).await.is_ok_and(|meta| meta.bytes == bytes);
        if there && verify::digest_one(&self.to, file, &self.progress).await.is_ok() {
            self.kept.fetch_add(bytes, Ordering::Relaxed);
            return Ok(());
        }
        let mut writer = self.to.writer_sized(&object, bytes).await?;
        match self.fetch(file, &object, bytes, &mut writer).await {
            Ok(()) => {
                writer.finish().await?;
                self.progress.piece_done(true);
                Ok(())
            }
            Err(failure) => {
                if let Err(error) = writer.abort().await {
                    tracing::warn!(error = %chain(&error), "an unfinished object may be left behind");
                }
                Err(failure)
            }
        }
    }

    /// All bytes of an object, over as many attempts as it takes while each brings something, held
    /// against its digest.
    async fn fetch(
        &self,
        file: &FileEntry,
        object: &str,
        bytes: u64,
        writer: &mut ObjectWriter,
    ) -> Result<(), Failure> {
        let mut hash = digest::Context::new(&digest::SHA256);
        let (mut backoff, mut fruitless, mut at) = (Backoff::new(), 0, 0);
        while at < bytes {
            let before = at;
            let turn = self.width.enter().await;
            let Err(error) = self.attempt(object, &mut at, bytes, writer, &mut hash).await else {
                turn.went_well();
                break;
            };
            let wish = error.overload();
            match wish {
                Some(wish) => turn.was_too_much(wish),
                None => drop(turn),
            }
            if at > before {
                (backoff, fruitless) = (Backoff::new(), 0);
            }
            fruitless += 1;
            if !error.is_transient() || fruitless > self.limits.retries {
                return Err(error.into());
            }
            self.progress.retried();
            tokio::time::sleep(backoff.next_delay(wish.unwrap_or_default())).await;
        }
        let mut found = [0; 32];
        found.copy_from_slice(hash.finish().as_ref());
        let found = Digest::from_bytes(found);
        match found == file.sha256 {
            true => Ok(()),
            false => Err(seal::Error::DigestMismatch {
                what: object.to_owned(),
                expected: file.sha256.to_string(),
                found: found.to_string(),
            }
            .into()),
        }
    }

    async fn attempt(
        &self,
        object: &str,
        at: &mut u64,
        bytes: u64,
        writer: &mut ObjectWriter,
        hash: &mut digest::Context,
    ) -> Result<(), store::Error> {
        let mut stream = self.from.stream(object, *at..bytes, None).await?;
        while let Some(frame) = stream.next().await {
            let frame = frame?;
            let length = frame.len() as u64;
            hash.update(&frame);
            writer.write(frame).await?;
            *at += length;
            self.progress.add(length);
        }
        Ok(())
    }
}

fn not_sealed() -> Failure {
    Failure::new(Code::NotSealed, format!("there is no {MANIFEST_OBJECT}")).hint(
        "Only sealed bundles are cached: seal the model (sealift seal, with --from-jwe for KServe's \
         JWE files). Plain models are for KServe's own storage container",
    )
}
