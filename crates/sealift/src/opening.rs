//! From a sealed bundle in a store to a published model in memory: the job of `init` and `open`.
//!
//! Phases, each with its own failure codes: plan (destination, manifest, objects, room) → release
//! the keys → stream into staging → record → publish. No byte of a model is asked for before its
//! key was released, and nothing is visible at a final name before every model of the run is
//! complete and its audit record was accepted.

mod archive;
mod layers;
mod plain;
mod plan;
mod rehearsal;
mod upstream;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use audit::Event;
use publish::{PlannedFile, Receipt, ReceiptFile, Staging};
use seal::bundle::Opened;
use seal::key::{Kek, Purpose};
use seal::name::KeyUri;
use seal::pin::{Demand, Pin};
use store::Settings;

use crate::cli::{Global, Opening};
use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::patterns::Patterns;
use crate::progress::{self, Progress};
use crate::recipients::Keys;
use crate::recording::record;
use crate::signature;
use crate::source::Source;
use crate::trace::Trace;
use crate::transfer::{self, Content, Item, Limits, Sink};
use archive::{Archive, Image};
use plan::{Planned, Work};
pub(crate) use rehearsal::rehearse;
pub(crate) use upstream::{TOKEN_BYTES_MAX, open_token, strip_jwe, too_large};

/// What may be opened besides sealed bundles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accept {
    /// Nothing plain.
    Sealed {
        /// But upstream's `*.jwe` files (`--accept-jwe`).
        jwe: bool,
        /// But encrypted container images (`--accept-encrypted-images`).
        images: bool,
    },
    /// Plain models (`SEALIFT_REQUIRE_SEALED=false`): of them the files that these patterns take.
    Plain(Patterns),
}

impl Accept {
    /// Bundles alone: the default.
    pub const SEALED_ONLY: Self = Self::Sealed { jwe: false, images: false };
}

/// One model to open.
#[derive(Debug)]
pub struct Target {
    /// Where its bundle lies.
    pub source: Source,
    /// Where it goes.
    pub dest: PathBuf,
}

/// What became of one target.
#[derive(Debug, serde::Serialize)]
pub struct Outcome {
    /// The bundle, without what the store should not be told again.
    pub source: String,
    /// Where the model is.
    pub destination: PathBuf,
    /// The model's name and generation; absent for what is not sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// See `model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The digest that pins name.
    pub digest: String,
    /// Who signed the files, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signer: Option<String>,
    /// Number of files.
    pub files: usize,
    /// Sum of the files' sizes.
    pub bytes: u64,
    /// The same model was there already: nothing was fetched.
    pub unchanged: bool,
    /// Bytes that an interrupted run had fetched before.
    pub resumed_bytes: u64,
    /// Ranges asked for again.
    pub retries: u32,
    /// Milliseconds of streaming.
    pub stream_ms: u128,
}

/// Opens every target, or none: see the module's documentation.
pub async fn open_all(
    targets: &[Target],
    accept: Accept,
    options: &Opening,
    global: &Global,
    settings: &Settings,
    log: &audit::Log,
) -> Result<Vec<Outcome>, Failure> {
    open_traced(targets, accept, options, global, settings, log, &Trace::OFF).await
}

/// The same, and `trace` tells of it.
pub(crate) async fn open_traced(
    targets: &[Target],
    accept: Accept,
    options: &Opening,
    global: &Global,
    settings: &Settings,
    log: &audit::Log,
    trace: &Trace,
) -> Result<Vec<Outcome>, Failure> {
    let limits = limits(&options.patience, options.max_memory);
    let result = match signature::Check::load(&options.signature) {
        Ok(check) => {
            let check = Arc::new(check);
            Run { accept, options, global, settings, log, limits, check, trace }.all(targets).await
        }
        Err(failure) => Err(failure),
    };
    if let Err(failure) = &result {
        for target in targets {
            record(
                log,
                Event::ModelRefused {
                    source: target.source.location.to_string(),
                    destination: target.dest.display().to_string(),
                    code: failure.code().to_string(),
                    reason: failure.what().to_owned(),
                },
            )?;
        }
    }
    result
}

struct Run<'a> {
    accept: Accept,
    options: &'a Opening,
    global: &'a Global,
    settings: &'a Settings,
    log: &'a audit::Log,
    limits: Limits,
    check: Arc<signature::Check>,
    trace: &'a Trace,
}

/// A model whose bytes are all staged and authentic.
struct Staged<'a> {
    target: &'a Target,
    staging: Option<Arc<Staging>>,
    receipt: Receipt,
    outcome: Outcome,
}

impl Run<'_> {
    async fn all(&self, targets: &[Target]) -> Result<Vec<Outcome>, Failure> {
        refuse_nested(targets)?;
        let keys = Keys::new(&self.options.key, &self.options.remote, "open", self.log);
        let mut planned = Vec::with_capacity(targets.len());
        for target in targets {
            let place = &target.source.location;
            self.say(format_args!("plan {place} -> {}", target.dest.display()));
            let span = self.trace.span("plan");
            span.set("sealift.source", place.to_string());
            let plan = self.plan(target, &keys).await;
            planned.push(span.end(plan).map_err(|failure| failure.at(place))?);
        }
        let keks = self.release(&keys, &planned).await?;
        let mut demands = Vec::with_capacity(targets.len());
        for (target, planned) in targets.iter().zip(&planned) {
            // What is not sealed has no name or generation to compare.
            let sealed = matches!(planned.work, Work::Sealed { .. });
            let demand = if sealed { self.demand(target, &keys).await? } else { Demand::default() };
            demands.push(demand);
        }
        let mut staged = Vec::with_capacity(targets.len());
        for (((target, planned), kek), demand) in
            targets.iter().zip(planned).zip(&keks).zip(&demands)
        {
            match self.stage(target, planned, kek.as_deref(), demand).await {
                Ok(one) => staged.push(one),
                Err(failure) => {
                    discard(staged);
                    return Err(failure.at(&target.source.location));
                }
            }
        }
        for one in &staged {
            let span = self.trace.span("record");
            let recorded = record(
                self.log,
                Event::ModelOpened {
                    source: one.outcome.source.clone(),
                    destination: one.target.dest.display().to_string(),
                    model: one.receipt.model.clone(),
                    generation: one.receipt.generation,
                    manifest_digest: one.receipt.manifest_digest.clone(),
                    key: one.receipt.key.clone(),
                    signer: one.outcome.signer.clone(),
                    files: one.outcome.files as u64,
                    bytes: one.outcome.bytes,
                },
            );
            if let Err(failure) = span.end(recorded.map_err(Failure::from)) {
                discard(staged);
                return Err(failure);
            }
        }
        let publish = |one: Staged<'_>| {
            let span = self.trace.span("publish");
            span.set("sealift.destination", one.target.dest.display().to_string());
            span.end(one.publish())
        };
        staged.into_iter().map(publish).collect()
    }

    /// The key of each target, before any byte of any model. A key that is released is asked for
    /// once, one that unwraps once for each bundle.
    async fn release(
        &self,
        keys: &Keys<'_>,
        planned: &[Planned],
    ) -> Result<Vec<Option<Arc<Kek>>>, Failure> {
        let mut released: BTreeMap<&KeyUri, Arc<Kek>> = BTreeMap::new();
        let mut keks = Vec::with_capacity(planned.len());
        for planned in planned {
            let Some(name) = planned.work.resource() else {
                keks.push(None);
                continue;
            };
            if let Some(kek) = released.get(name) {
                keks.push(Some(Arc::clone(kek)));
                continue;
            }
            self.say(format_args!("key {name} from {}", keys.holder(name)));
            let span = self.trace.span("key");
            let kek = match &planned.work {
                Work::Sealed { bundle, .. } => keys.opening(name, None, bundle).await,
                _ => keys.released(name).await.and_then(|kek| {
                    kek.permits(Purpose::Open)?;
                    Ok(kek)
                }),
            };
            let kek = Arc::new(span.end(kek)?);
            if !name.unwraps() {
                released.insert(name, Arc::clone(&kek));
            }
            keks.push(Some(kek));
        }
        Ok(keks)
    }

    /// Verifies the manifest with its key and fetches what is missing into staging.
    async fn stage<'a>(
        &self,
        target: &'a Target,
        planned: Planned,
        kek: Option<&'a Kek>,
        demand: &Demand,
    ) -> Result<Staged<'a>, Failure> {
        let Planned { mut store, destination, plan, work, unchanged } = planned;
        let started = jiff::Timestamp::now().to_string();
        let kek = || kek.expect("all that is encrypted was given its key");
        let (fetch, identity) = match work {
            Work::Sealed { bundle, resource } => {
                let opened = bundle.open(&resource, kek(), demand)?;
                let identity = Identity::of(&opened, &resource);
                (Fetch::Items(sealed_items(&opened)), identity)
            }
            Work::Jwe { tokens, resource } => {
                (Fetch::Tokens(tokens, kek()), Identity::unsealed(resource.to_string()))
            }
            Work::Archive(archive) => (Fetch::Archive(archive), Identity::unsealed(String::new())),
            Work::Image(image, key) => {
                let key = key.map(|key| key.to_string()).unwrap_or_default();
                (Fetch::Image(image), Identity::unsealed(key))
            }
            Work::Plain { items, store: from } => {
                store = from;
                (Fetch::Items(items), Identity::unsealed(String::new()))
            }
        };
        let bytes = plan.files.iter().map(|file| file.bytes).sum();
        let receipt = Receipt {
            version: Receipt::VERSION,
            manifest_digest: hex::encode(plan.digest),
            bundle_id: identity.bundle_id,
            model: identity.model.clone().unwrap_or_default(),
            generation: identity.generation.unwrap_or_default(),
            key: identity.key,
            source: target.source.location.to_string(),
            files: plan.files.iter().map(receipt_file).collect(),
            bytes,
            started,
            finished: String::new(),
        };
        let mut outcome = Outcome {
            source: target.source.location.to_string(),
            destination: target.dest.clone(),
            model: identity.model,
            generation: identity.generation,
            digest: format!("sha256:{}", receipt.manifest_digest),
            signer: None,
            files: plan.files.len(),
            bytes,
            unchanged,
            resumed_bytes: 0,
            retries: 0,
            stream_ms: 0,
        };
        if unchanged {
            // Whoever published it may have asked for no signature.
            let published = target.dest.clone();
            outcome.signer = self
                .signer(plan.files, move |path, _| {
                    let opened = std::fs::File::open(published.join(path));
                    opened.map_err(|error| Failure::new(Code::Publish, error.to_string()))
                })
                .await?;
            return Ok(Staged { target, staging: None, receipt, outcome });
        }
        let staging = Arc::new(destination.stage(&plan)?);
        outcome.resumed_bytes = staging.resumed_bytes();
        let progress =
            Progress::new("stream", bytes, plan.files.len() as u64, outcome.resumed_bytes);
        let shown = progress::show(&progress, self.style(), self.global.progress_interval);
        let span = self.trace.span("fetch");
        let begun = Instant::now();
        let result = match fetch {
            Fetch::Items(items) => {
                let sink = Sink::Staging(Arc::clone(&staging));
                let limits = self.limits.clone();
                if self.trace.is_on() {
                    progress.time(items.iter().map(|item| item.object.clone()).collect());
                }
                transfer::run(store, items, sink, limits, Arc::clone(&progress)).await
            }
            Fetch::Archive(archive) => {
                archive.unpack(Arc::clone(&staging), &self.limits, Arc::clone(&progress)).await
            }
            Fetch::Image(image) => {
                image.unpack(Arc::clone(&staging), &self.limits, Arc::clone(&progress)).await
            }
            Fetch::Tokens(tokens, kek) => {
                let objects = Objects { store: &store, limits: &self.limits };
                upstream::open(&objects, &tokens, kek, &staging, &progress).await
            }
        };
        drop(shown);
        outcome.stream_ms = begun.elapsed().as_millis();
        outcome.retries = progress.retries();
        span.set("sealift.source", outcome.source.clone())
            .count("sealift.files", outcome.files as u64)
            .count("sealift.bytes", outcome.bytes)
            .count("sealift.resumed_bytes", outcome.resumed_bytes)
            .count("sealift.retries", outcome.retries.into())
            .objects(progress.timed());
        let result = span.end(result);
        let result = match result {
            Ok(()) => {
                let staged = Arc::clone(&staging);
                self.signer(plan.files, move |_, index| Ok(staged.read_file(index)?)).await
            }
            Err(failure) => Err(failure),
        };
        match result {
            Ok(signer) => {
                outcome.signer = signer;
                Ok(Staged { target, staging: Some(staging), receipt, outcome })
            }
            Err(failure) => {
                // What a cut connection leaves of a bundle is authentic and in memory: the next run
                // resumes it.
                if failure.is_transient() && outcome.generation.is_some() {
                    sole(staging).keep();
                } else {
                    wipe(staging);
                }
                Err(failure)
            }
        }
    }

    /// Who signed the files that `open` gives, by path and index, on threads that may block.
    async fn signer(
        &self,
        files: Vec<PlannedFile>,
        open: impl Fn(&str, usize) -> Result<std::fs::File, Failure> + Send + Sync + 'static,
    ) -> Result<Option<String>, Failure> {
        if self.check.is_off() {
            return Ok(None);
        }
        self.say(format_args!("verify the publisher's signature"));
        let check = Arc::clone(&self.check);
        let task = tokio::task::spawn_blocking(move || {
            let shown: Vec<_> = files.iter().map(signed_file).collect();
            check.verify(&shown, |index| open(&files[index].path, index))
        });
        task.await.unwrap_or_else(|error| {
            Err(Failure::new(Code::Bug, format!("a worker ended: {error}")))
        })
    }

    /// What `target` must be to be opened, documents of pins included: they are asked for here.
    async fn demand(&self, target: &Target, keys: &Keys<'_>) -> Result<Demand, Failure> {
        let options = self.options;
        let pin = &target.source.pin;
        let mut listed = Vec::new();
        for resource in options.pin_resource.iter().chain(&target.source.pins) {
            self.say(format_args!("pins {resource}"));
            listed.push(keys.pins(resource).await?);
        }
        Ok(Demand {
            name: target.source.name.clone().or_else(|| options.name.clone()),
            pin: Pin {
                min_generation: pin.min_generation.max(options.min_generation),
                digests: if pin.digests.is_empty() {
                    options.digest.clone()
                } else {
                    pin.digests.clone()
                },
            },
            listed,
            allow_unpinned: options.allow_unpinned,
        })
    }

    fn style(&self) -> progress::Style {
        if self.global.quiet { progress::Style::None } else { self.global.progress }
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        if !self.global.quiet {
            eprintln!("{line}");
        }
    }
}

impl Staged<'_> {
    fn publish(self) -> Result<Outcome, Failure> {
        if let Some(staging) = self.staging {
            let finished = jiff::Timestamp::now().to_string();
            sole(staging).publish(&Receipt { finished, ..self.receipt })?;
        }
        Ok(self.outcome)
    }
}

/// How the bytes of one target come.
enum Fetch<'a> {
    /// By ranges of segments.
    Items(Vec<Item>),
    /// By whole tokens.
    Tokens(Vec<upstream::Token>, &'a Kek),
    /// Out of one archive.
    Archive(Archive),
    /// Out of layers.
    Image(Image),
}

/// What a model is called in receipts and records.
struct Identity {
    bundle_id: String,
    model: Option<String>,
    generation: Option<u64>,
    key: String,
}

impl Identity {
    fn of(opened: &Opened, resource: &KeyUri) -> Self {
        let manifest = opened.manifest();
        Self {
            bundle_id: manifest.id.to_string(),
            model: Some(manifest.name.to_string()),
            generation: Some(manifest.generation),
            key: resource.to_string(),
        }
    }

    fn unsealed(key: String) -> Self {
        Self { bundle_id: String::new(), model: None, generation: None, key }
    }
}

fn signed_file(file: &PlannedFile) -> provenance::statement::File<'_> {
    provenance::statement::File { path: &file.path, bytes: file.bytes }
}

fn receipt_file(file: &PlannedFile) -> ReceiptFile {
    ReceiptFile { path: file.path.clone(), bytes: file.bytes, mode: file.mode }
}

/// One transfer item per file of a verified manifest.
pub fn sealed_items(opened: &Opened) -> Vec<Item> {
    let files = &opened.manifest().files;
    files
        .iter()
        .map(|file| Item {
            object: file.path.object(),
            content: Content::Sealed {
                path: file.path.clone(),
                key: opened.file_key(file),
                header: file.header,
                layout: file.layout,
            },
        })
        .collect()
}

/// The transfer's limits: as many workers as the byte budget has room for.
pub fn limits(patience: &crate::cli::Patience, max_memory: u64) -> Limits {
    /// The program itself, the manifest and the HTTP client at rest.
    const BASE_BYTES: u64 = 24 << 20;
    /// One segment buffer and what the client holds of one connection.
    const WORKER_BYTES: u64 = (1 << 20) + (3 << 19);
    let room = max_memory.saturating_sub(BASE_BYTES) / WORKER_BYTES;
    let fitting = usize::try_from(room.clamp(1, 16)).unwrap_or(16);
    Limits {
        workers: patience.concurrency.map_or(fitting, usize::from),
        retries: patience.retries,
        segment: patience.stall_timeout * 10,
        total: patience.timeout,
    }
}

/// Wipes what other targets of the run had staged.
fn discard(staged: Vec<Staged<'_>>) {
    staged.into_iter().filter_map(|one| one.staging).for_each(wipe);
}

/// Wipes what is staged. The failure that led here is the one to report; the next run wipes again.
fn wipe(staging: Arc<Staging>) {
    if let Err(error) = sole(staging).discard() {
        tracing::error!(error = %crate::failure::chain(&error), "staged bytes were not wiped");
    }
}

/// The staging after its workers have ended.
fn sole(staging: Arc<Staging>) -> Staging {
    Arc::into_inner(staging).expect("every worker was joined or aborted before")
}

/// Destinations inside each other would see each other's files as foreign.
fn refuse_nested(targets: &[Target]) -> Result<(), Failure> {
    for (index, target) in targets.iter().enumerate() {
        for other in &targets[..index] {
            let (a, b): (&Path, &Path) = (&target.dest, &other.dest);
            if a.starts_with(b) || b.starts_with(a) {
                return Err(Failure::new(
                    Code::Usage,
                    format!("{} and {} lie inside each other", a.display(), b.display()),
                )
                .hint("Give each model a directory of its own"));
            }
        }
    }
    Ok(())
}
