//! `sealift verify`: the objects against the manifest, and with the key the manifest itself.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use futures::{StreamExt, TryStreamExt};
use provenance::statement::File;
use seal::bundle::{Bundle, Opened};
use seal::manifest::FileEntry;
use seal::name::{Digest, KeyUri};
use seal::pin::Demand;
use serde::Serialize;
use store::Store;

use super::inspect;
use crate::cli::{Global, KeyArgs, Verify};
use crate::failure::Failure;
use crate::objects::Objects;
use crate::opening;
use crate::output::{self, row};
use crate::progress::{self, Progress, size};
use crate::recipients::Keys;
use crate::signature;
use crate::source::Source;
use crate::transfer::{self, InOrder, Limits, Sink};

/// The byte budget of `init`, so that both behave alike.
const MEMORY: u64 = 64 << 20;

#[derive(Serialize)]
struct Verified {
    location: String,
    model: String,
    generation: u64,
    digest: String,
    files: usize,
    bytes: u64,
    /// `digests`: every object is the one that the manifest names, and whoever wrote the manifest
    /// is unknown. `key`: a holder of the key wrote the manifest and every segment.
    authenticated_by: &'static str,
    /// Who signed the files, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    signer: Option<String>,
}

pub(crate) async fn run(args: &Verify, global: &Global) -> Result<(), Failure> {
    let source = Source::parse(&args.source)?;
    let check = signature::Check::load(&args.signature)?;
    let store =
        Store::open(&source.location, &crate::settings::store(&args.store, Some(&args.patience))?)?;
    let limits = opening::limits(&args.patience, MEMORY);
    let bundle = inspect::read(&store).await.map_err(|failure| failure.at(&source.location))?;
    demanded(&source, &bundle)?;
    Objects { store: &store, limits: &limits }.check(bundle.claimed()).await?;
    let with_key = key_to_use(args)?;
    let manifest = bundle.claimed().clone();
    let progress = Progress::new(
        "verify",
        match with_key {
            Some(_) => manifest.plaintext_bytes(),
            None => manifest.ciphertext_bytes(),
        },
        manifest.files.len() as u64,
        0,
    );
    let style = if global.quiet { progress::Style::None } else { global.progress };
    let shown = progress::show(&progress, style, global.progress_interval);
    let mut verified = Verified {
        location: source.location.to_string(),
        model: manifest.name.to_string(),
        generation: manifest.generation,
        digest: bundle.digest().to_string(),
        files: manifest.files.len(),
        bytes: manifest.plaintext_bytes(),
        authenticated_by: "digests",
        signer: None,
    };
    if let Some(resource) = with_key {
        let log = super::audit::log_beside_result(&args.audit)?;
        let keys = Keys::new(&args.key, &args.remote, "verify", &log);
        let kek = keys.opening(resource, args.key.key_file.as_deref(), &bundle).await?;
        // Freshness is the opener's question; here only authenticity is.
        let pin = source.pin.clone();
        let demand = Demand { pin, allow_unpinned: true, ..Demand::default() };
        let opened = bundle.open(resource, &kek, &demand)?;
        verified.signer = authenticate(store, &opened, &check, limits, progress).await?;
        verified.authenticated_by = "key";
    } else if !check.is_off() {
        return Err(Failure::usage("a signature is over plaintext, and no key is named")
            .hint("Add --resource-id and a way to the key"));
    } else {
        digests(&store, &manifest.files, &limits, &progress).await?;
    }
    drop(shown);
    output::print(global.output, &verified, |verified| {
        let mut rows = vec![
            row([&"model", &verified.model]),
            row([&"generation", &verified.generation]),
            row([&"digest", &verified.digest]),
            row([&"files", &verified.files]),
            row([&"size", &size(verified.bytes)]),
            row([&"authenticated by", &verified.authenticated_by]),
        ];
        rows.extend(verified.signer.as_ref().map(|signer| row([&"signed by", signer])));
        rows
    })
}

/// Opens every segment and forgets it; the publisher's signature is verified on the way.
async fn authenticate(
    store: Store,
    opened: &Opened,
    check: &signature::Check,
    limits: Limits,
    progress: Arc<Progress>,
) -> Result<Option<String>, Failure> {
    let manifest = opened.manifest();
    let file = |file: &'_ FileEntry| (file.path.as_str().to_owned(), file.layout.plaintext_bytes());
    let files: Vec<(String, u64)> = manifest.files.iter().map(file).collect();
    let files: Vec<_> = files.iter().map(|(path, bytes)| File { path, bytes: *bytes }).collect();
    let items = opening::sealed_items(opened);
    let Some(index) = check.find(&files)? else {
        transfer::run(store, items, Sink::Discard, limits, progress).await?;
        return Ok(None);
    };
    let bytes = Arc::new(Collected::default());
    let item = opening::sealed_items(opened).swap_remove(index);
    let aside = Progress::new("signature", files[index].bytes, 1, 0);
    let sink = Sink::InOrder(Arc::clone(&bytes) as _);
    transfer::run(store.clone(), vec![item], sink, limits.clone(), aside).await?;
    let bytes = std::mem::take(&mut *bytes.0.lock().unwrap_or_else(PoisonError::into_inner));
    let (signed, tasks) = check.read(&bytes, &files)?;
    let stream = Arc::new(signature::Stream::new(signed.statement.algorithm(), &files, tasks));
    let sink = Sink::InOrder(Arc::clone(&stream) as _);
    transfer::run(store, items, sink, limits, progress).await?;
    stream.conclude()?;
    Ok(Some(signed.signer.to_string()))
}

/// The bytes of one small file.
#[derive(Debug, Default)]
struct Collected(Mutex<Vec<u8>>);

impl InOrder for Collected {
    fn take(&self, _: usize, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

/// The key to authenticate with, if there is a way to it. A broker's key is not asked for just
/// because it is named: without a way to the broker, digests are checked, as ever.
fn key_to_use(args: &Verify) -> Result<Option<&KeyUri>, Failure> {
    let KeyArgs { key_file, kbs_url, key_source, .. } = &args.key;
    let way = key_file.is_some() || kbs_url.is_some() || key_source.is_some();
    match &args.resource_id {
        None if key_file.is_some() => {
            Err(Failure::usage("a key and no name for it").hint("Add --resource-id"))
        }
        Some(KeyUri::Kbs(_)) if !way => Ok(None),
        named => Ok(named.as_ref()),
    }
}

/// The fragment's digest and name, which need no key to be compared.
pub(super) fn demanded(source: &Source, bundle: &Bundle) -> Result<(), Failure> {
    if source.pins.is_some() {
        return Err(Failure::usage("a document of pins is asked for by init, open and doctor")
            .hint("Leave #pins= out: freshness is for the opener to judge"));
    }
    let claimed = bundle.claimed();
    let demand = Demand {
        name: source.name.clone(),
        pin: source.pin.clone(),
        allow_unpinned: true,
        ..Demand::default()
    };
    Ok(demand.check(None, &claimed.name, claimed.generation, &bundle.digest())?)
}

/// Every object's SHA-256 against the manifest's subjects, several objects at a time.
async fn digests(
    store: &Store,
    files: &[FileEntry],
    limits: &Limits,
    progress: &Arc<Progress>,
) -> Result<(), Failure> {
    let tasks = files.iter().cloned().map(|file| {
        let (store, progress) = (store.clone(), Arc::clone(progress));
        async move {
            let task = tokio::spawn(async move { digest_one(&store, &file, &progress).await });
            task.await.unwrap_or_else(|error| {
                Err(Failure::new(crate::code::Code::Bug, format!("a worker ended: {error}")))
            })
        }
    });
    futures::stream::iter(tasks).buffer_unordered(limits.workers).try_collect().await
}

/// One object's SHA-256 against the manifest's subject.
pub(super) async fn digest_one(
    store: &Store,
    file: &FileEntry,
    progress: &Progress,
) -> Result<(), Failure> {
    let object = file.path.object();
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut stream = store.stream(&object, 0..file.layout.ciphertext_bytes(), None).await?;
    while let Some(frame) = stream.next().await {
        let frame = frame?;
        hash.update(&frame);
        progress.add(frame.len() as u64);
    }
    let mut found = [0; 32];
    found.copy_from_slice(hash.finish().as_ref());
    let found = Digest::from_bytes(found);
    if found != file.sha256 {
        return Err(seal::Error::DigestMismatch {
            what: object,
            expected: file.sha256.to_string(),
            found: found.to_string(),
        }
        .into());
    }
    progress.piece_done(true);
    Ok(())
}
