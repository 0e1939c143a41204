//! The oracle: what does a destination hold, judged without any code of `publish`?
//!
//! It knows what the old and the new model look like, walks the destination by path, and says which
//! of them is there. It allows what SPECIFICATION P1, P2 and P6 allow, at any moment:
//!
//! - a receipt only beside its whole model, byte for byte, with nothing else there;
//! - without a receipt, names of a model only once the whole new model is verified, and the whole
//!   old one is still somewhere (the moment of the switch);
//! - what is not published, only where nobody but its owner can read it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use publish::{Plan, PlannedFile, Receipt, ReceiptFile};

/// Bytes of a segment in these tests.
pub const SEGMENT_BYTES: usize = 4_096;

const RECEIPT: &str = ".sealift-receipt.json";
const STAGING: &str = ".sealift-staging";

/// A model whose every byte is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its manifest digest.
    pub digest: [u8; 32],
    /// Path → mode and content.
    pub files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Model {
    /// Files of these paths and sizes, stamped so that no two models or paths share a content. A
    /// path that ends in `*` is an executable.
    pub fn new(stamp: u8, files: &[(&str, usize)]) -> Self {
        let file = |(path, size): &(&str, usize)| {
            let (path, mode) = match path.strip_suffix('*') {
                Some(path) => (path, 0o755),
                None => (*path, 0o644),
            };
            let line = format!("model {stamp} file {path}\n");
            (path.to_owned(), (mode, line.bytes().cycle().take(*size).collect()))
        };
        Self { digest: [stamp; 32], files: files.iter().map(file).collect() }
    }

    /// What `publish` is asked for.
    pub fn plan(&self) -> Plan {
        let file = |(path, (mode, content)): (&String, &(u32, Vec<u8>))| PlannedFile {
            path: path.clone(),
            mode: *mode,
            bytes: content.len() as u64,
            segments: u32::try_from(segments(content).count()).expect("tests are small"),
        };
        Plan { digest: self.digest, files: self.files.iter().map(file).collect() }
    }

    /// What `publish` is given to write last.
    pub fn receipt(&self) -> Receipt {
        let file = |(path, (mode, content)): (&String, &(u32, Vec<u8>))| ReceiptFile {
            path: path.clone(),
            bytes: content.len() as u64,
            mode: *mode,
        };
        let files: Vec<ReceiptFile> = self.files.iter().map(file).collect();
        Receipt {
            version: Receipt::VERSION,
            manifest_digest: self.digest_hex(),
            bundle_id: "00".repeat(16),
            model: "oracle".into(),
            generation: 1,
            key: "kbs:///default/key/oracle".into(),
            source: "memory:".into(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            files,
            started: "2026-01-01T00:00:00Z".into(),
            finished: "2026-01-01T00:00:01Z".into(),
        }
    }

    /// Writes the whole model with its receipt, as if it had been published.
    pub fn write(&self, destination: &Path) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for (path, (mode, content)) in &self.files {
            let path = destination.join(path);
            fs::create_dir_all(path.parent().expect("it is below the destination"))?;
            fs::write(&path, content)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
        }
        fs::write(destination.join(RECEIPT), serde_json::to_vec(&self.receipt())?)
    }

    fn digest_hex(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn directories(&self) -> BTreeSet<String> {
        let above = |path: &String| {
            let ends: Vec<usize> = path.match_indices('/').map(|(slash, _)| slash).collect();
            ends.into_iter().map(|end| path[..end].to_owned()).collect::<Vec<_>>()
        };
        self.files.keys().flat_map(above).collect()
    }
}

/// A file's segments, with index and offset; an empty file has one, which is empty.
pub fn segments(content: &[u8]) -> impl Iterator<Item = (u32, u64, &[u8])> {
    let empty = content.is_empty().then_some(content);
    let offsets = (0_u64..).step_by(SEGMENT_BYTES);
    let numbered =
        (0_u32..).zip(offsets).zip(empty.into_iter().chain(content.chunks(SEGMENT_BYTES)));
    numbered.map(|((segment, offset), bytes)| (segment, offset, bytes))
}

/// What is known of a destination: the model before, and the one being published.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// What was published before.
    pub old: Option<&'a Model>,
    /// What is to be published.
    pub new: &'a Model,
}

/// What a destination holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No model.
    Absent,
    /// No receipt, some of the names, and both models whole between here and staging.
    Switching,
    /// The whole old model with its receipt.
    Old,
    /// The whole new model with its receipt.
    New,
}

/// What the oracle found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What there is.
    pub state: State,
    /// Whether there is more: a staging directory.
    pub residue: bool,
}

/// Looks at a destination. An error says which promise is broken.
pub fn look(destination: &Path, expected: Expected<'_>) -> Result<Finding, String> {
    let visible = walk(destination, &[RECEIPT, STAGING, "lost+found"])?;
    let staging = destination.join(STAGING);
    let residue = match fs::symlink_metadata(&staging) {
        Ok(found) if found.is_dir() && found.mode() & 0o077 != 0 => {
            return Err(format!("staging has mode {:o}: anybody can read it", found.mode()));
        }
        found => found.is_ok(),
    };
    let state = match fs::read(destination.join(RECEIPT)) {
        Ok(json) => with_receipt(&json, &visible, expected)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            without_receipt(&visible, &staging, expected)?
        }
        Err(error) => return Err(format!("receipt: {error}")),
    };
    Ok(Finding { state, residue })
}

fn with_receipt(json: &[u8], visible: &Tree, expected: Expected<'_>) -> Result<State, String> {
    let receipt: Receipt =
        serde_json::from_slice(json).map_err(|error| format!("receipt: {error}"))?;
    let (state, model) = match expected.old {
        Some(old) if receipt == old.receipt() => (State::Old, old),
        _ if receipt == expected.new.receipt() => (State::New, expected.new),
        _ => return Err("a receipt of no model that was ever published".into()),
    };
    if let Some(path) = model.files.keys().find(|path| !visible.files.contains_key(*path)) {
        return Err(format!("a receipt, but {path} is missing"));
    }
    for (path, found) in &visible.files {
        if model.files.get(path) != Some(found) {
            return Err(format!("a receipt, but {path} is not of its model"));
        }
    }
    if visible.directories != model.directories() {
        return Err("a receipt, but other directories than its model's".into());
    }
    Ok(state)
}

fn without_receipt(
    visible: &Tree,
    staging: &Path,
    expected: Expected<'_>,
) -> Result<State, String> {
    if visible.files.is_empty() && visible.directories.is_empty() && expected.old.is_none() {
        return Ok(State::Absent);
    }
    let models: Vec<&Model> = expected.old.into_iter().chain([expected.new]).collect();
    for (path, found) in &visible.files {
        if !models.iter().any(|model| model.files.get(path) == Some(found)) {
            return Err(format!("{path} is of no whole model"));
        }
    }
    let whole = |model: &Model, hidden: &Tree| {
        let there = |(path, content): (&String, &(u32, Vec<u8>))| {
            visible.files.get(path) == Some(content) || hidden.files.get(path) == Some(content)
        };
        model.files.iter().all(there)
    };
    if !whole(expected.new, &walk(&staging.join("tree"), &[])?) {
        return Err("names changed before the whole new model was there".into());
    }
    match expected.old {
        Some(old) if !whole(old, &walk(&staging.join("old"), &[])?) => {
            Err("the old model is gone and the new one has no receipt".into())
        }
        _ => Ok(State::Switching),
    }
}

#[derive(Debug, Default)]
struct Tree {
    files: BTreeMap<String, (u32, Vec<u8>)>,
    directories: BTreeSet<String>,
}

/// Everything below `top` but the names `except` directly in it. Nothing there is an empty tree.
fn walk(top: &Path, except: &[&str]) -> Result<Tree, String> {
    let mut tree = Tree::default();
    let mut pending = vec![String::new()];
    while let Some(directory) = pending.pop() {
        let path = top.join(&directory);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        for entry in entries {
            let entry = entry.map_err(|error| error.to_string())?;
            let name = entry.file_name().into_string().map_err(|name| format!("{name:?}"))?;
            if directory.is_empty() && except.contains(&name.as_str()) {
                continue;
            }
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let found = entry.metadata().map_err(|error| format!("{path}: {error}"))?;
            if found.is_dir() {
                pending.push(path.clone());
                tree.directories.insert(path);
            } else if found.is_file() {
                let content = fs::read(entry.path()).map_err(|error| format!("{path}: {error}"))?;
                tree.files.insert(path, (found.mode() & 0o7777, content));
            } else {
                return Err(format!("{path} is neither a file nor a directory"));
            }
        }
    }
    Ok(tree)
}

/// Everything below a directory that nobody may touch: path → inode, mode, size, times and content.
pub type Census = BTreeMap<String, (u64, u32, u64, i64, i64, Vec<u8>)>;

/// Takes the census of a directory, following no link.
pub fn census(top: &Path) -> io::Result<Census> {
    let mut census = Census::new();
    let mut pending = vec![top.to_path_buf()];
    while let Some(path) = pending.pop() {
        let found = fs::symlink_metadata(&path)?;
        let mut content = Vec::new();
        if found.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        } else if found.is_file() {
            content = fs::read(&path)?;
        }
        let times = (found.mtime(), found.mtime_nsec());
        let name = path.display().to_string();
        census.insert(name, (found.ino(), found.mode(), found.size(), times.0, times.1, content));
    }
    Ok(census)
}
