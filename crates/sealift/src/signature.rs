//! Publishers' signatures: who is believed, and whether a model's files are what they signed.

use std::fs;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use provenance::bundle::{SIGNATURE_BYTES_MAX, Signature, Signed, sign};
use provenance::digest::{Algorithm, Hasher};
use provenance::key::SigningKey;
use provenance::statement::{File, Method, Statement, Task};
use provenance::trust::Trust;
use rustls_pki_types::UnixTime;
use zeroize::Zeroizing;

use crate::cli::{SignatureArgs, SignaturePolicy};
use crate::code::Code;
use crate::failure::Failure;

/// How much one read of a file takes: small enough to be hashed in the cache.
const READ_BYTES: u64 = 256 << 10;
/// Most threads that hash.
const THREADS_MAX: usize = 16;
/// Largest file of keys or certificates, or trusted root.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// What is demanded of a model's signature.
#[derive(Debug)]
pub(crate) struct Check {
    policy: SignaturePolicy,
    trust: Trust,
    file: String,
}

impl Check {
    /// Reads the keys and authorities.
    pub(crate) fn load(args: &SignatureArgs) -> Result<Self, Failure> {
        let mut trust = Trust::default();
        for path in &args.signature_key {
            trust.add_keys(&pem(path)?).map_err(|error| Failure::from(error).at(path.display()))?;
        }
        for path in &args.signature_ca {
            let added = trust.add_authorities(&pem(path)?);
            added.map_err(|error| Failure::from(error).at(path.display()))?;
        }
        match (&args.signature_trusted_root, &args.signature_identity_provider) {
            (None, None) => {}
            (Some(path), Some(provider)) if !args.signature_identity.is_empty() => {
                let set = trust.set_sigstore(&pem(path)?, provider);
                let at = |error| Failure::from(error).recode(Code::Usage).at(path.display());
                set.map_err(at)?;
            }
            _ => {
                return Err(Failure::usage("a keyless signer is believed by three things together")
                    .hint("Name --signature-trusted-root, --signature-identity and --signature-identity-provider"));
            }
        }
        args.signature_identity.iter().for_each(|identity| trust.add_identity(identity));
        let vouched = !args.signature_ca.is_empty() || args.signature_trusted_root.is_some();
        if !vouched && !args.signature_identity.is_empty() {
            return Err(Failure::usage(
                "identities are named, and no authority that vouches for them",
            )
            .hint("Add --signature-ca, or --signature-trusted-root"));
        }
        let policy = args.signature_policy.unwrap_or(match trust.is_empty() {
            true => SignaturePolicy::Off,
            false => SignaturePolicy::Require,
        });
        if policy != SignaturePolicy::Off && trust.is_empty() {
            return Err(Failure::usage("a signature is asked for, and nobody's is believed")
                .hint("Add --signature-key; or --signature-identity with --signature-ca or --signature-trusted-root"));
        }
        Ok(Self { policy, trust, file: args.signature_file.clone() })
    }

    /// Whether anything is asked for.
    pub(crate) fn is_off(&self) -> bool {
        self.policy == SignaturePolicy::Off
    }

    /// Where the signature lies among the model's `files`; `None` if none is there and none must be.
    pub(crate) fn find(&self, files: &[File<'_>]) -> Result<Option<usize>, Failure> {
        let found = files.iter().position(|file| file.path == self.file);
        match found {
            _ if self.is_off() => Ok(None),
            None if self.policy == SignaturePolicy::Require => {
                Err(Failure::new(Code::Signature, format!("there is no {}", self.file))
                    .hint("Sign the model, or name its signature with --signature-file"))
            }
            Some(index) if files[index].bytes > SIGNATURE_BYTES_MAX as u64 => {
                let limit = SIGNATURE_BYTES_MAX as u64;
                let found = files[index].bytes;
                Err(provenance::Error::Limit { what: "signature file", found, limit }.into())
            }
            found => Ok(found),
        }
    }

    /// Whose signature it is, if it is one to believe, and what is to be digested.
    pub(crate) fn read(
        &self,
        signature: &[u8],
        files: &[File<'_>],
    ) -> Result<(Signed, Vec<Task>), Failure> {
        let at = |error| Failure::from(error).at(&self.file);
        let signed = Signature::parse(signature).map_err(at)?;
        let signed = signed.verify(&self.trust, UnixTime::now()).map_err(at)?;
        let tasks = signed.statement.tasks(files, &self.file)?;
        match signed.statement.unsigned(files, &self.file) {
            0 => {}
            number => tracing::warn!(number, "files that the signer left out are not protected"),
        }
        Ok((signed, tasks))
    }

    /// Verifies files that are all there, on several threads, and returns who signed them; `None` if
    /// nobody did and nobody must have.
    pub(crate) fn verify(
        &self,
        files: &[File<'_>],
        open: impl Fn(usize) -> Result<fs::File, Failure> + Sync,
    ) -> Result<Option<String>, Failure> {
        let Some(index) = self.find(files)? else { return Ok(None) };
        let length = usize::try_from(files[index].bytes).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min(SIGNATURE_BYTES_MAX)];
        open(index)?
            .read_exact_at(&mut bytes, 0)
            .map_err(|error| unreadable(&error).at(&self.file))?;
        let (signed, tasks) = self.read(&bytes, files)?;
        drop(bytes);
        let found = digest(signed.statement.algorithm(), files, &tasks, open)?;
        for (task, found) in tasks.iter().zip(found) {
            if task.digest != found {
                let path = files[task.file].path.to_owned();
                return Err(provenance::Error::Changed { path }.into());
            }
        }
        Ok(Some(signed.signer.to_string()))
    }
}

/// Signs `files` as the model `name`: the bytes of the signature file, which is to lie at
/// `signature_file`.
pub(crate) fn make(
    key: &SigningKey,
    name: &str,
    method: Method,
    files: &[File<'_>],
    signature_file: &str,
    open: impl Fn(usize) -> Result<fs::File, Failure> + Sync,
) -> Result<Vec<u8>, Failure> {
    const ALGORITHM: Algorithm = Algorithm::Sha256;
    let usage = |error| Failure::from(error).recode(Code::Usage);
    let mut tasks = Statement::plan(method, files, signature_file).map_err(usage)?;
    let digests = digest(ALGORITHM, files, &tasks, open)?;
    for (task, digest) in tasks.iter_mut().zip(digests) {
        task.digest = digest;
    }
    let statement = Statement::new(name, method, ALGORITHM, files, tasks, signature_file);
    Ok(sign(&statement, key))
}

/// The key to sign with.
pub(crate) fn signing_key(path: &Path) -> Result<SigningKey, Failure> {
    SigningKey::from_pem(&pem(path)?).map_err(|error| Failure::from(error).at(path.display()))
}

/// The tasks' digests, in their order. Memory is one small buffer a thread.
fn digest(
    algorithm: Algorithm,
    files: &[File<'_>],
    tasks: &[Task],
    open: impl Fn(usize) -> Result<fs::File, Failure> + Sync,
) -> Result<Vec<Vec<u8>>, Failure> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(THREADS_MAX).min(tasks.len());
    let next = AtomicUsize::new(0);
    let result = Mutex::new(Ok(vec![Vec::new(); tasks.len()]));
    let work = || {
        let mut buffer = vec![0; usize::try_from(READ_BYTES).expect("it is small")];
        while let Some((index, task)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            tasks.get(index).map(|task| (index, task))
        } {
            let digest = open(task.file)
                .and_then(|file| digest_one(algorithm, &file, task, &mut buffer))
                .map_err(|failure| failure.at(files[task.file].path));
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            match (&mut *result, digest) {
                (Ok(digests), Ok(digest)) => digests[index] = digest,
                (Ok(_), Err(failure)) => {
                    *result = Err(failure);
                    // Nobody starts another.
                    next.store(tasks.len(), Ordering::Relaxed);
                }
                (Err(_), _) => {}
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    result.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn digest_one(
    algorithm: Algorithm,
    file: &fs::File,
    task: &Task,
    buffer: &mut [u8],
) -> Result<Vec<u8>, Failure> {
    let mut hasher = Hasher::new(algorithm);
    let mut offset = task.range.start;
    while offset < task.range.end {
        let count = READ_BYTES.min(task.range.end - offset);
        let part = &mut buffer[..usize::try_from(count).expect("it is small")];
        file.read_exact_at(part, offset).map_err(|error| unreadable(&error))?;
        hasher.update(part);
        offset += count;
    }
    Ok(hasher.finish())
}

/// Digests taken while a model's files stream by, each file in its order.
#[derive(Debug)]
pub(crate) struct Stream {
    algorithm: Algorithm,
    files: Vec<Mutex<Progress>>,
}

/// What is left of one file's tasks, the next one last.
#[derive(Debug)]
struct Progress {
    path: String,
    tasks: Vec<Task>,
    hasher: Hasher,
    position: u64,
    differs: bool,
}

impl Stream {
    /// Prepares for the tasks of [`Check::read`].
    pub(crate) fn new(algorithm: Algorithm, files: &[File<'_>], mut tasks: Vec<Task>) -> Self {
        tasks.sort_by_key(|task| (task.file, std::cmp::Reverse(task.range.start)));
        let mut progress: Vec<_> = files
            .iter()
            .map(|file| Progress {
                path: file.path.to_owned(),
                tasks: Vec::new(),
                hasher: Hasher::new(algorithm),
                position: 0,
                differs: false,
            })
            .collect();
        for task in tasks {
            progress[task.file].tasks.push(task);
        }
        Self { algorithm, files: progress.into_iter().map(Mutex::new).collect() }
    }

    /// Refuses unless every digest was taken, and is the one that was signed.
    pub(crate) fn conclude(&self) -> Result<(), Failure> {
        for file in &self.files {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.finish_full(self.algorithm);
            if file.differs || !file.tasks.is_empty() {
                return Err(provenance::Error::Changed { path: file.path.clone() }.into());
            }
        }
        Ok(())
    }
}

impl crate::transfer::InOrder for Stream {
    fn take(&self, file: usize, mut bytes: &[u8]) {
        let mut file = self.files[file].lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(end) = file.tasks.last().map(|task| task.range.end) {
            let room = usize::try_from(end - file.position).unwrap_or(usize::MAX);
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            file.hasher.update(part);
            file.position += part.len() as u64;
            bytes = rest;
            if file.position < end {
                break;
            }
            file.finish_full(self.algorithm);
        }
    }
}

impl Progress {
    /// Compares the digest of the next task, if all of it was seen.
    fn finish_full(&mut self, algorithm: Algorithm) {
        let full = |task: &mut Task| task.range.end == self.position;
        if let Some(task) = self.tasks.pop_if(full) {
            let hasher = std::mem::replace(&mut self.hasher, Hasher::new(algorithm));
            self.differs |= hasher.finish() != task.digest;
        }
    }
}

/// A file of keys or certificates, or a trusted root. It may be a private one.
fn pem(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let read = || {
        let length = fs::metadata(path)?.len();
        if length > PEM_BYTES_MAX {
            return Err(std::io::Error::other("larger than 1 MiB"));
        }
        fs::read(path)
    };
    read().map(Zeroizing::new).map_err(|error| unreadable(&error).at(path.display()))
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::new(Code::NotFound, error.to_string())
}
