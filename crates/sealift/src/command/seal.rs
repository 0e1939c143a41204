//! `sealift seal`: a model directory into a bundle.
//!
//! A few files at a time, each by a thread that reads, seals and hashes one segment after the other;
//! what goes over a network is sent by another task, through a channel of a few segments. Memory
//! does not grow with the model. `sealift.json` is written last, so that a bundle is there as a
//! whole or not at all.

mod from_jwe;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use audit::Event;
use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use provenance::key::SigningKey;
use seal::bundle::{MANIFEST_OBJECT, Sealing};
use seal::manifest::{FileEntry, Manifest, Mode};
use seal::name::{BundlePath, Digest, ModelName, check_set};
use seal::segment::{FileKey, HEADER_BYTES, Header, Layout, TAG_BYTES};
use serde::Serialize;
use store::{LocalAppender, Location, ObjectWriter, Rest, Store};
use tokio::sync::mpsc;
use tokio::task::{JoinError, spawn_blocking};

use crate::cli::{Global, NamedKey, Seal, SigningArgs};
use crate::code::Code;
use crate::failure::{Failure, chain};
use crate::output::{self, row};
use crate::progress::{self, Progress, size};
use crate::recipients::{Keys, Wrapping};
use crate::signature;
use crate::source::Source;

/// Sealed segments that may wait for the store, per file.
const SEGMENTS_WAITING: usize = 4;

/// Deepest directory that is walked; a bundle's paths are shorter still.
const DEPTH_MAX: usize = BundlePath::DEPTH_MAX;

#[derive(Serialize)]
struct Sealed {
    bundle: String,
    model: String,
    generation: u64,
    digest: String,
    sealed_for: String,
    files: usize,
    bytes: u64,
    seal_ms: u128,
}

pub(crate) async fn run(args: &Seal, global: &Global) -> Result<(), Failure> {
    let log = super::audit::log_beside_result(&args.audit)?;
    let keys =
        Keys::new(&args.key, &args.remote, "seal", &log).administered(args.admin_key.as_deref());
    let dest = Source::parse(&args.dest)?;
    let settings = crate::settings::store(&args.store, None)?;
    let tokens = tokens(args, &dest.location)?;
    let name = match (&args.name, &tokens) {
        (Some(name), _) => name.clone(),
        (None, Some((tokens, _))) => from_jwe::name_of(tokens)?,
        (None, None) => name_of(&args.dir)?,
    };
    let signing = &args.signing;
    let sign_key = signing.sign_key.as_deref().map(signature::signing_key).transpose()?;
    let store = Store::open(&dest.location, &settings)?;
    refuse_existing(&store, args).await?;
    let converted_from = tokens.as_ref().map(|(place, _)| place.to_string());
    let mut found = match tokens {
        None => walk(&args.dir)?,
        Some((tokens, key)) => {
            let kek = from_jwe::key(key, args, &log).await?;
            from_jwe::find(&tokens, &settings, &kek, args.accept_plain).await?
        }
    };

    let sealing = Sealing::new(name.clone(), args.generation, jiff::Timestamp::now().to_string())?;
    // Before any byte is sealed: hours of work should not end at a key that is not there.
    let first = args.resource_id.clone();
    let first = first.map(|key| NamedKey { key, file: args.key.key_file.clone() });
    let mut wrappings = Vec::new();
    for named in first.iter().chain(&args.recipients) {
        wrappings.push(keys.wrapping(named, &sealing.id()).await?);
    }
    if let Some(key) = sign_key {
        found = sign(found, key, name.to_string(), signing.clone()).await?;
    }
    let recipients: Vec<_> = wrappings.iter().map(Wrapping::recipient).collect();
    let bytes = found.iter().map(|file| file.bytes).sum();
    let files = found.len();
    let progress = Progress::new("seal", bytes, files as u64, 0);
    let style = if global.quiet { progress::Style::None } else { global.progress };
    let shown = progress::show(&progress, style, global.progress_interval);
    let tasks = found.into_iter().map(|file| {
        let (header, key) = sealing.file(&file.path);
        let (store, progress) = (store.clone(), Arc::clone(&progress));
        async move {
            let place = file.source.to_string();
            let task = tokio::spawn(seal_file(file, header, key, store, progress));
            ended(task.await).map_err(|failure| failure.at(place))
        }
    });
    let entries: Vec<FileEntry> = futures::stream::iter(tasks)
        // A token is in memory whole.
        .buffer_unordered(if args.from_jwe { 1 } else { usize::from(args.concurrency) })
        .try_collect()
        .await?;
    let (json, digest) = sealing.finish(entries, &recipients)?;
    let sealed_for: Vec<String> = recipients.iter().map(|one| one.key.to_string()).collect();
    // Without its manifest there is no bundle yet.
    log.record(Event::ModelSealed {
        destination: dest.location.to_string(),
        model: name.to_string(),
        generation: args.generation,
        manifest_digest: hex::encode(digest.as_bytes()),
        recipients: sealed_for.clone(),
        converted_from,
        files: files as u64,
        bytes,
    })?;
    let mut writer = store.writer(MANIFEST_OBJECT).await?;
    writer.write(Bytes::from(json)).await?;
    writer.finish().await?;
    store.commit(Rest::Gone).await?;
    let seal_ms = progress.elapsed().as_millis();
    drop(shown);

    let sealed = Sealed {
        bundle: dest.location.to_string(),
        model: name.to_string(),
        generation: args.generation,
        digest: digest.to_string(),
        sealed_for: sealed_for.join(" "),
        files,
        bytes,
        seal_ms,
    };
    output::print(global.output, &sealed, |sealed| {
        vec![
            row([&"bundle", &sealed.bundle]),
            row([&"model", &sealed.model]),
            row([&"generation", &sealed.generation]),
            row([&"digest", &sealed.digest]),
            row([&"sealed for", &sealed.sealed_for]),
            row([&"files", &sealed.files]),
            row([&"size", &size(sealed.bytes)]),
        ]
    })
}

/// Where upstream's files are and the key that opens them, if they are to be converted.
fn tokens<'a>(
    args: &'a Seal,
    dest: &Location,
) -> Result<Option<(Location, &'a NamedKey)>, Failure> {
    let (true, Some(key)) = (args.from_jwe, &args.jwe_key) else { return Ok(None) };
    let source = args.dir.to_str().ok_or_else(|| Failure::usage("the source is not UTF-8"))?;
    let source = Location::parse(source)?;
    if source == *dest {
        return Err(Failure::usage("the bundle would lie among the files that it is made of")
            .hint("Convert to a prefix of its own"));
    }
    Ok(Some((source, key)))
}

/// Puts a signature over the files beside them. A file that changes before it is sealed is noticed
/// when the bundle is opened.
async fn sign(
    found: Vec<Found>,
    key: SigningKey,
    model: String,
    args: SigningArgs,
) -> Result<Vec<Found>, Failure> {
    let path = BundlePath::parse(&args.signature_file)
        .map_err(|error| Failure::from(error).recode(Code::Usage))?;
    if found.iter().any(|file| file.path == path) {
        return Err(Failure::usage(format!("the model holds {path} already"))
            .hint("Seal it as it is, without --sign-key; or remove the old signature"));
    }
    let task = spawn_blocking(move || {
        let files: Vec<_> = found
            .iter()
            .map(|file| provenance::statement::File { path: file.path.as_str(), bytes: file.bytes })
            .collect();
        let open = |index: usize| match &found[index].source {
            Input::File(path) => std::fs::File::open(path)
                .map_err(|error| Failure::new(Code::NotFound, error.to_string())),
            Input::Memory(_) | Input::Stored(_) => {
                Err(Failure::new(Code::Bug, "only files are signed"))
            }
        };
        let method = args.sign_method.method();
        let bytes = signature::make(&key, &model, method, &files, path.as_str(), open)?;
        drop(files);
        Ok((found, path, bytes))
    });
    let (mut found, path, bytes) = ended(task.await)?;
    let length = bytes.len() as u64;
    let source = Input::Memory(Bytes::from(bytes));
    found.push(Found { source, path, mode: Mode::Plain, bytes: length });
    found.sort_by(|a, b| a.path.cmp(&b.path));
    check_set(found.iter().map(|file| &file.path))
        .map_err(|error| Failure::from(error).recode(Code::Usage))?;
    Ok(found)
}

/// Where a file's bytes come from.
enum Input {
    File(PathBuf),
    Memory(Bytes),
    Stored(from_jwe::Stored),
}

impl std::fmt::Display for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory(_) => f.write_str("the new signature"),
            Self::Stored(stored) => stored.fmt(f),
        }
    }
}

/// A file to seal.
struct Found {
    source: Input,
    path: BundlePath,
    mode: Mode,
    bytes: u64,
}

/// Every file below `dir`, sorted. Links to files are followed, as model hubs' caches are made of
/// them; anything that is neither file nor directory is refused rather than left out.
fn walk(dir: &Path) -> Result<Vec<Found>, Failure> {
    let mut found = Vec::new();
    walk_into(dir, dir, 0, &mut found)?;
    if found.is_empty() {
        return Err(Failure::new(Code::NotFound, "there is no file to seal").at(dir.display()));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    check_set(found.iter().map(|file| &file.path))
        .map_err(|error| Failure::from(error).recode(Code::Usage).at(dir.display()))?;
    Ok(found)
}

fn walk_into(root: &Path, dir: &Path, depth: usize, found: &mut Vec<Found>) -> Result<(), Failure> {
    let unreadable = |path: &Path, error: std::io::Error| {
        let code = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Code::AccessDenied,
            _ => Code::NotFound,
        };
        Failure::new(code, error.to_string()).at(path.display())
    };
    if depth > DEPTH_MAX {
        return Err(Failure::usage("directories are nested too deeply").at(dir.display()));
    }
    for entry in std::fs::read_dir(dir).map_err(|error| unreadable(dir, error))? {
        let entry = entry.map_err(|error| unreadable(dir, error))?;
        let source = entry.path();
        let kind = entry.file_type().map_err(|error| unreadable(&source, error))?;
        if kind.is_dir() {
            walk_into(root, &source, depth + 1, found)?;
            continue;
        }
        let metadata = std::fs::metadata(&source).map_err(|error| unreadable(&source, error))?;
        if !metadata.is_file() {
            return Err(Failure::usage("is neither a file nor a directory, nor a link to a file")
                .at(source.display()));
        }
        if found.len() == Manifest::FILES_MAX {
            return Err(Failure::usage(format!("more than {} files", Manifest::FILES_MAX))
                .at(root.display()));
        }
        let relative = source.strip_prefix(root).expect("every entry lies below the root");
        let relative = relative
            .to_str()
            .ok_or_else(|| Failure::usage("the name is not UTF-8").at(source.display()))?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        found.push(Found {
            path: BundlePath::parse(relative)
                .map_err(|error| Failure::from(error).recode(Code::Usage))?,
            mode: Mode::from_bits(mode),
            bytes: metadata.len(),
            source: Input::File(source),
        });
    }
    Ok(())
}

fn name_of(dir: &Path) -> Result<ModelName, Failure> {
    let full = dir
        .canonicalize()
        .map_err(|error| Failure::new(Code::NotFound, error.to_string()).at(dir.display()))?;
    let name = full.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ModelName::parse(name).map_err(|error| {
        Failure::from(error).recode(Code::Usage).hint("Name the model with --name")
    })
}

async fn refuse_existing(store: &Store, args: &Seal) -> Result<(), Failure> {
    if args.overwrite {
        return Ok(());
    }
    match store.stat(MANIFEST_OBJECT).await {
        Err(store::Error::NotFound { .. }) if store.is_taken().await? => {
            Err(Failure::usage(format!("{} is something else already", args.dest))
                .hint("Seal to a tag of its own, or say --overwrite"))
        }
        Err(store::Error::NotFound { .. }) => Ok(()),
        Ok(_) => Err(Failure::usage(format!("{} holds a bundle already", args.dest)).hint(
            "Seal a new generation to a prefix of its own, so that pods that start meanwhile find \
             the old one whole; or say --overwrite",
        )),
        Err(error) => Err(error.into()),
    }
}

/// Seals one file. What cannot be finished is removed, and its first failure is the one to report.
async fn seal_file(
    file: Found,
    header: Header,
    key: FileKey,
    store: Store,
    progress: Arc<Progress>,
) -> Result<FileEntry, Failure> {
    let layout = Layout::of_plaintext(file.bytes)?;
    let source = match file.source {
        Input::Stored(stored) => Input::Memory(stored.plaintext().await?),
        source => source,
    };
    let mut writer = store.writer_sized(&file.path.object(), layout.ciphertext_bytes()).await?;
    let sealer = Sealer { source, layout, header, key };
    let sealed = match writer.local_appender() {
        Some(local) => sealer.into_local(local, Arc::clone(&progress)).await,
        None => sealer.into_store(&mut writer, &progress).await,
    };
    match sealed {
        Ok(sha256) => {
            writer.finish().await?;
            progress.piece_done(true);
            Ok(FileEntry { path: file.path, mode: file.mode, layout, header, sha256 })
        }
        Err(failure) => {
            if let Err(error) = writer.abort().await {
                tracing::warn!(error = %chain(&error), "an unfinished object may be left behind");
            }
            Err(failure)
        }
    }
}

/// One file on its way to its object.
struct Sealer {
    source: Input,
    layout: Layout,
    header: Header,
    key: FileKey,
}

impl Sealer {
    /// All on one thread: a segment is written while it is still in the cache.
    async fn into_local(
        self,
        local: LocalAppender,
        progress: Arc<Progress>,
    ) -> Result<Digest, Failure> {
        let task = spawn_blocking(move || {
            self.run(|segment| {
                local.append(segment)?;
                progress.add(segment.len() as u64);
                Ok(())
            })
        });
        ended(task.await)
    }

    /// A thread reads, seals and hashes while this task sends. Segments that were sent go back to
    /// be filled again, since fresh memory costs as much as the cipher does.
    async fn into_store(
        self,
        writer: &mut ObjectWriter,
        progress: &Progress,
    ) -> Result<Digest, Failure> {
        let (sender, mut segments) = mpsc::channel::<Bytes>(SEGMENTS_WAITING);
        let (spent, mut buffers) = mpsc::channel(SEGMENTS_WAITING + 2);
        let task = spawn_blocking(move || {
            self.run(|segment| {
                let next = buffers.try_recv().unwrap_or_default();
                let sealed = std::mem::replace(segment, next).freeze();
                // If the writer has failed, it says why before anyone looks at this.
                sender
                    .blocking_send(sealed)
                    .map_err(|_| Failure::new(Code::Bug, "nobody takes the sealed segments"))
            })
        });
        let mut written = Ok(());
        while let Some(segment) = segments.recv().await {
            written = writer.write(segment.clone()).await;
            if written.is_err() {
                break;
            }
            progress.add(segment.len() as u64);
            // A store that still sends it keeps it.
            if let Ok(buffer) = segment.try_into_mut() {
                let _ = spent.try_send(buffer);
            }
        }
        drop(segments);
        let sealed = ended(task.await);
        // What the store says comes first: its failure is why the sealer could not go on.
        written.map_err(Failure::from).and(sealed)
    }

    /// Hands the object's segments to `emit`, in order, and returns its digest.
    fn run(
        self,
        mut emit: impl FnMut(&mut BytesMut) -> Result<(), Failure>,
    ) -> Result<Digest, Failure> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(),
            _ => Failure::new(Code::NotFound, error.to_string()),
        };
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut input: Box<dyn Read> = match self.source {
            Input::File(path) => Box::new(std::fs::File::open(path).map_err(failed)?),
            Input::Memory(bytes) => Box::new(std::io::Cursor::new(bytes)),
            Input::Stored(_) => return Err(Failure::new(Code::Bug, "it was not opened")),
        };
        let mut segment = BytesMut::new();
        for index in 0..self.layout.segments() {
            let span = self.layout.span(index);
            let plaintext = usize::try_from(span.plaintext.end - span.plaintext.start)
                .expect("a segment is at most 1 MiB");
            let start = if index == 0 { HEADER_BYTES } else { 0 };
            segment.resize(start + plaintext + TAG_BYTES, 0);
            segment[..start].copy_from_slice(&self.header.as_bytes()[..start]);
            input.read_exact(&mut segment[start..start + plaintext]).map_err(failed)?;
            self.key.seal(index, span.last, &mut segment[start..])?;
            hash.update(&segment);
            emit(&mut segment)?;
        }
        match input.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(changed()),
            Err(error) => return Err(failed(error)),
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(hash.finish().as_ref());
        Ok(Digest::from_bytes(sha256))
    }
}

fn ended<T>(task: Result<Result<T, Failure>, JoinError>) -> Result<T, Failure> {
    task.unwrap_or_else(|error| Err(Failure::new(Code::Bug, format!("a worker ended: {error}"))))
}

fn changed() -> Failure {
    Failure::new(Code::Mismatch, "changed while it was sealed").hint("Seal a model at rest")
}
