//! Every public vector (`tests/vectors` of the repository) has the verdict, the reason and the
//! content that it states; and who checks that would notice if it had not.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use seal::Error;
use seal::bundle::{Bundle, MANIFEST_OBJECT};
use seal::key::Kek;
use seal::manifest::FileEntry;
use seal::name::{Digest, KeyUri, ModelName};
use seal::pin::{Demand, Pin};
use seal::segment::{FileKey, HEADER_BYTES};
use secret::Secret;
use serde::Deserialize;

const VECTORS_MIN: usize = 100;

/// As stored; `tests/vectors/README.md` explains the members.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    name: String,
    #[serde(rename = "comment")]
    _comment: String,
    expect: String,
    reason: Option<String>,
    resource: String,
    key: String,
    demand: Asked,
    objects: BTreeMap<String, Stored>,
    files: Option<Files>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    name: Option<String>,
    min_generation: Option<u64>,
    #[serde(default)]
    digests: Vec<String>,
    #[serde(default)]
    allow_unpinned: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Whole(String),
    Slices { of: String, slices: Vec<[usize; 2]> },
}

type Files = BTreeMap<String, Content>;

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Content {
    sha256: String,
    bytes: usize,
    mode: String,
}

/// Why nothing opened: one of the classes of `tests/vectors/README.md`.
#[derive(Debug, PartialEq)]
struct Reason(String);

impl From<Error> for Reason {
    fn from(error: Error) -> Self {
        let reason = match error {
            Error::NotSealed(_) => "not-sealed",
            Error::Malformed { .. } => "malformed",
            Error::Unsupported { .. } => "unsupported",
            Error::Name { .. } => "name",
            Error::KeyUnusable(_) => "key-unusable",
            Error::NoRecipient { .. } => "no-recipient",
            Error::Unwrap => "unwrap",
            Error::ManifestForged => "manifest-forged",
            Error::Segment { .. } => "segment",
            Error::Length { .. } => "length",
            Error::Header { .. } => "header",
            Error::DigestMismatch { .. } => "digest",
            Error::Stale { .. } => "stale",
            Error::ModelNotAllowed { .. } => "model-not-allowed",
            Error::Unpinned { .. } => "unpinned",
            Error::Unvouched { .. } => "unvouched",
            Error::Limit { .. } => "limit",
            other => return Self(format!("of no class: {other}")),
        };
        Self(reason.to_owned())
    }
}

#[test]
fn every_vector_has_the_verdict_that_it_states() {
    let vectors = vectors();
    assert!(vectors.len() >= VECTORS_MIN, "only {} vectors", vectors.len());
    let complaints: Vec<String> = vectors.iter().filter_map(complaint).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_wrong_expectation_is_noticed() {
    type Plant = fn(&mut Vector);
    let planted: [(&str, Plant); 6] = [
        ("recipient_by_a256kw", |vector| vector.expect = "refused".into()),
        ("recipient_by_a256kw", |vector| vector.files.as_mut().unwrap().clear()),
        ("recipient_by_a256kw", |vector| content(vector).sha256 = "0".repeat(64)),
        ("recipient_by_a256kw", |vector| content(vector).mode = "0755".into()),
        ("signature_bit_flipped", |vector| vector.expect = "opens".into()),
        ("signature_bit_flipped", |vector| vector.reason = Some("segment".into())),
    ];
    for (name, plant) in planted {
        let mut vector = read(&directory().join(name).with_extension("json"));
        assert_eq!(complaint(&vector), None);
        plant(&mut vector);
        assert!(complaint(&vector).is_some(), "{name}");
    }
}

fn content(vector: &mut Vector) -> &mut Content {
    vector.files.as_mut().unwrap().get_mut("config.json").unwrap()
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

fn vectors() -> Vec<Vector> {
    let entries = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|kind| kind == "json"))
        .map(|path| read(&path))
        .collect()
}

fn read(path: &Path) -> Vector {
    let vector: Vector = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(path.file_stem().unwrap(), vector.name.as_str());
    vector
}

/// What differs from what the vector states, if anything.
fn complaint(vector: &Vector) -> Option<String> {
    let reason = vector.reason.as_ref().map(|reason| Reason(reason.clone()));
    let holds = match (open(vector), vector.expect.as_str()) {
        (Ok(files), "opens") => reason.is_none() && Some(&files) == vector.files.as_ref(),
        (Err(found), "refused") => reason == Some(found) && vector.files.is_none(),
        _ => false,
    };
    let (name, expect) = (&vector.name, &vector.expect);
    (!holds).then(|| format!("{name}: states {expect} {reason:?}, found {:?}", open(vector)))
}

/// Opens the bundle as an initializer does.
fn open(vector: &Vector) -> Result<Files, Reason> {
    let json = object(vector, MANIFEST_OBJECT).ok_or(Reason("not-sealed".into()))?;
    let bundle = Bundle::parse(&json)?;
    let resource = KeyUri::parse(&vector.resource)?;
    let released = Secret::copy(&STANDARD.decode(&vector.key).unwrap());
    let released = released.map_err(|_| Error::KeyUnusable("too long for a secret"))?;
    let kek = if resource.unwraps() { Kek::unwrapped(released)? } else { Kek::parse(&released)? };
    let opened = bundle.open(&resource, &kek, &demand(&vector.demand)?)?;
    let mut files = Files::new();
    for file in &opened.manifest().files {
        let sealed = object(vector, &file.path.object()).ok_or(Reason("missing".into()))?;
        let plain = open_file(&opened.file_key(file), file, &sealed)?;
        let content = Content {
            sha256: Digest::of(&plain).hex(),
            bytes: plain.len(),
            mode: format!("{:04o}", file.mode.bits()),
        };
        files.insert(file.path.to_string(), content);
    }
    Ok(files)
}

fn open_file(key: &FileKey, file: &FileEntry, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let (path, found) = (file.path.clone(), sealed.len() as u64);
    let expected = file.layout.ciphertext_bytes();
    if found != expected {
        return Err(Error::Length { path, expected, found });
    }
    if sealed[..HEADER_BYTES] != *file.header.as_bytes() {
        return Err(Error::Header { path });
    }
    let mut plain = Vec::new();
    for index in 0..file.layout.segments() {
        let span = file.layout.span(index);
        let (start, end) = (span.ciphertext.start, span.ciphertext.end);
        let mut segment =
            sealed[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].to_vec();
        plain.extend_from_slice(key.open(index, span.last, &mut segment)?);
    }
    Ok(plain)
}

fn demand(asked: &Asked) -> Result<Demand, Error> {
    let name = asked.name.as_deref().map(ModelName::parse).transpose()?;
    let digests = asked.digests.iter().map(|digest| Digest::parse(digest));
    let pin =
        Pin { min_generation: asked.min_generation, digests: digests.collect::<Result<_, _>>()? };
    Ok(Demand { name, pin, allow_unpinned: asked.allow_unpinned, ..Demand::default() })
}

fn object(vector: &Vector, name: &str) -> Option<Vec<u8>> {
    Some(match vector.objects.get(name)? {
        Stored::Whole(base64) => STANDARD.decode(base64).unwrap(),
        Stored::Slices { of, slices } => {
            let shared = std::fs::read(directory().join(of)).unwrap();
            slices.iter().flat_map(|&[start, end]| &shared[start..end]).copied().collect()
        }
    })
}
