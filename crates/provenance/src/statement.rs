//! What is signed: an in-toto Statement v1 with the predicate `model_signing/signature/v1.0`.

mod stored;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use aws_lc_rs::digest as sha2;

use crate::Error;
use crate::digest::Algorithm;
use crate::error::{excerpt, known, limit, malformed};
use crate::json;
use stored::{DigestSet, Document, Predicate, Serialization, StoredResource, Subject};

/// Most files or shards of a statement.
pub const RESOURCES_MAX: usize = 65_536;
/// Most paths that a signature leaves out.
pub const IGNORED_MAX: usize = 1_024;
/// Bytes of a shard, as Python's `model-signing` cuts by default.
pub const SHARD_BYTES: u64 = 1_000_000_000;

const WHAT: &str = "statement";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

/// What a digest is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Each file as a whole.
    Files,
    /// Runs of at most so many bytes of each file. An empty file has none, and is not protected.
    Shards(u64),
}

/// A file of the model, as the caller has it.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Below the model's root, with `/`.
    pub path: &'a str,
    /// Its length.
    pub bytes: u64,
}

/// A file, or a part of it, to be digested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Index of the file among those that the caller gave.
    pub file: usize,
    /// Which of its bytes.
    pub range: Range<u64>,
    /// The digest that it must have; empty for one that is to be signed.
    pub digest: Vec<u8>,
}

/// Digests of a model's files, whoever made them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    name: String,
    method: Method,
    algorithm: Algorithm,
    ignored: Vec<String>,
    resources: Vec<Resource>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Resource {
    path: String,
    /// Of a shard.
    range: Option<Range<u64>>,
    digest: Vec<u8>,
}

impl Statement {
    /// Reads a payload whose signature was verified. As in-toto asks, members that are not known are
    /// passed over.
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, Error> {
        let document: Document<'_> = json::read(WHAT, payload)?;
        known("statement", &document.kind, STATEMENT_TYPE)?;
        known("predicate", &document.predicate_type, PREDICATE_TYPE)?;
        let [subject] = &document.subject[..] else {
            return Err(malformed(WHAT, "not exactly one subject"));
        };
        let Predicate { serialization, resources } = document.predicate;
        let algorithm = Algorithm::parse(&serialization.hash_type).ok_or_else(|| {
            let found = excerpt(&serialization.hash_type);
            Error::Unsupported { what: "hash", found }
        })?;
        let method = serialization.method()?;
        limit("number of resources", resources.len(), RESOURCES_MAX)?;
        limit("number of ignored paths", serialization.ignore_paths.len(), IGNORED_MAX)?;
        if resources.is_empty() {
            return Err(malformed(WHAT, "it names no file"));
        }
        let spelled = method.algorithm(algorithm);
        let resources: Vec<Resource> = resources
            .iter()
            .map(|resource| resource.read(method, algorithm, &spelled))
            .collect::<Result<_, _>>()?;
        if subject.digest.sha256 != root(&resources) {
            return Err(malformed(WHAT, "its digest is not that of its resources"));
        }
        let ignored = serialization.ignore_paths.into_iter().map(Cow::into_owned).collect();
        let name = excerpt(&subject.name);
        Ok(Self { name, method, algorithm, ignored, resources })
    }

    /// What has to be digested to sign `files` but `signature_file`, in the order of the statement.
    pub fn plan(
        method: Method,
        files: &[File<'_>],
        signature_file: &str,
    ) -> Result<Vec<Task>, Error> {
        let mut order: Vec<usize> =
            (0..files.len()).filter(|&file| files[file].path != signature_file).collect();
        // As Python orders paths: component by component.
        order.sort_by(|&a, &b| files[a].path.split('/').cmp(files[b].path.split('/')));
        let mut tasks = Vec::new();
        for file in order {
            let File { path, bytes } = files[file];
            if matches!(method, Method::Shards(_)) && path.contains(':') {
                let why = format!("{path}: the names of shards hold no other colons");
                return Err(malformed("name", excerpt(&why)));
            }
            for range in method.ranges(bytes) {
                tasks.push(Task { file, range, digest: Vec::new() });
                limit("number of resources", tasks.len(), RESOURCES_MAX)?;
            }
        }
        if tasks.is_empty() {
            return Err(malformed("model", "it holds no file to sign"));
        }
        Ok(tasks)
    }

    /// The statement about [planned](Self::plan) tasks, whose digests are known now.
    pub fn new(
        name: &str,
        method: Method,
        algorithm: Algorithm,
        files: &[File<'_>],
        tasks: Vec<Task>,
        signature_file: &str,
    ) -> Self {
        let resource = |task: Task| Resource {
            path: files[task.file].path.to_owned(),
            range: matches!(method, Method::Shards(_)).then_some(task.range),
            digest: task.digest,
        };
        Self {
            name: name.to_owned(),
            method,
            algorithm,
            ignored: vec![signature_file.to_owned()],
            resources: tasks.into_iter().map(resource).collect(),
        }
    }

    /// How its digests are made.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The model's name, which proves nothing about the files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many of `files` the signature leaves out, the signature itself not counted.
    pub fn unsigned(&self, files: &[File<'_>], signature_file: &str) -> usize {
        let listed: HashSet<&str> = self.resources.iter().map(|resource| &*resource.path).collect();
        let unsigned =
            |file: &&File<'_>| file.path != signature_file && !listed.contains(file.path);
        files.iter().filter(unsigned).count()
    }

    /// Compares the set of `files` and their lengths with what was signed, and says what is to be
    /// digested, and to what. `signature_file` itself is no file of the model.
    pub fn tasks(&self, files: &[File<'_>], signature_file: &str) -> Result<Vec<Task>, Error> {
        let present: HashMap<&str, usize> = files
            .iter()
            .enumerate()
            .filter(|(_, file)| file.path != signature_file)
            .map(|(index, file)| (file.path, index))
            .collect();
        let mut found = vec![0_u64; files.len()];
        let mut tasks = Vec::with_capacity(self.resources.len());
        let mut seen = HashSet::new();
        for resource in &self.resources {
            let path = || excerpt(&resource.path);
            let Some(&file) = present.get(&*resource.path) else {
                return Err(Error::Missing { path: path() });
            };
            let range = match (&resource.range, self.method) {
                (Some(range), Method::Shards(size)) => {
                    let end = range.start.saturating_add(size).min(files[file].bytes);
                    if range.start % size != 0 || range.start >= range.end || range.end != end {
                        return Err(Error::Changed { path: path() });
                    }
                    range.clone()
                }
                _ => 0..files[file].bytes,
            };
            if !seen.insert((file, range.start)) {
                return Err(malformed(WHAT, format!("{} stands twice", path())));
            }
            found[file] += 1;
            tasks.push(Task { file, range, digest: resource.digest.clone() });
        }
        for (file, found) in files.iter().zip(found) {
            let (path, expected) = (file.path, self.method.parts(file.bytes));
            if path == signature_file || found == expected || (found == 0 && self.ignores(path)) {
                continue;
            }
            let path = path.to_owned();
            return Err(match found {
                0 => Error::Extra { path },
                _ => Error::Changed { path },
            });
        }
        Ok(tasks)
    }

    /// The payload.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let spelled = self.method.algorithm(self.algorithm);
        let resources = self.resources.iter().map(|resource| StoredResource {
            name: match &resource.range {
                Some(range) => format!("{}:{}:{}", resource.path, range.start, range.end).into(),
                None => (&*resource.path).into(),
            },
            algorithm: (&*spelled).into(),
            digest: hex::encode(&resource.digest).into(),
        });
        let document = Document {
            kind: STATEMENT_TYPE.into(),
            subject: vec![Subject {
                name: (&*self.name).into(),
                digest: DigestSet { sha256: root(&self.resources).into() },
            }],
            predicate_type: PREDICATE_TYPE.into(),
            predicate: Predicate {
                serialization: Serialization {
                    method: match self.method {
                        Method::Files => "files",
                        Method::Shards(_) => "shards",
                    }
                    .into(),
                    hash_type: self.algorithm.name().into(),
                    allow_symlinks: false,
                    ignore_paths: self.ignored.iter().map(|path| (&**path).into()).collect(),
                    shard_size: match self.method {
                        Method::Files => None,
                        Method::Shards(size) => Some(size.into()),
                    },
                },
                resources: resources.collect(),
            },
        };
        serde_json::to_vec(&document).expect("strings and numbers into memory")
    }

    fn ignores(&self, path: &str) -> bool {
        let below = |folder: &String| {
            let rest = path.strip_prefix(folder.as_str());
            !folder.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.ignored.iter().any(below)
    }
}

impl Method {
    /// As resources spell their algorithm.
    fn algorithm(self, algorithm: Algorithm) -> String {
        match self {
            Self::Files => algorithm.name().to_owned(),
            Self::Shards(size) => format!("{}-sharded-{size}", algorithm.name()),
        }
    }

    fn parts(self, bytes: u64) -> u64 {
        match self {
            Self::Files => 1,
            Self::Shards(size) => bytes.div_ceil(size),
        }
    }

    fn ranges(self, bytes: u64) -> impl Iterator<Item = Range<u64>> {
        let size = match self {
            Self::Files => u64::MAX,
            Self::Shards(size) => size,
        };
        (0..self.parts(bytes)).map(move |part| {
            let start = part * size;
            start..start.saturating_add(size).min(bytes)
        })
    }
}

/// The root digest: SHA-256 over all digests, in their order.
fn root(resources: &[Resource]) -> String {
    let mut context = sha2::Context::new(&sha2::SHA256);
    resources.iter().for_each(|resource| context.update(&resource.digest));
    hex::encode(context.finish())
}
