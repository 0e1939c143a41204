//! The manifest's spelling: an in-toto Statement v1 with a predicate of our own.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{FileEntry, Manifest, Mode};
use crate::Error;
use crate::json::{excerpt, is_canonical, malformed, refused};
use crate::name::{BundleId, BundlePath, Digest, ModelName};
use crate::segment::{Header, Layout};

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
const PREDICATE_TYPE: &str = "urn:sealift:bundle:v1";
pub(crate) const FORMAT: &str = "sealift/v1";
const CIPHER: &str = "AES256_GCM_HKDF_1MB";

/// Reads a DSSE payload. It must be spelled exactly as [`write`] would spell it, so what every
/// member says is also what any other reader of the same bytes sees.
pub(crate) fn read(payload: &[u8]) -> Result<Manifest, Error> {
    let statement: Statement<'_> =
        serde_json::from_slice(payload).map_err(|error| refused("manifest", &error))?;
    let predicate = &statement.predicate;
    known("statement", &statement.kind, STATEMENT_TYPE)?;
    known("predicate", &statement.predicate_type, PREDICATE_TYPE)?;
    known("format", &predicate.format, FORMAT)?;
    known("cipher", &predicate.cipher, CIPHER)?;
    let manifest = Manifest {
        id: BundleId::parse(&predicate.bundle_id)?,
        name: ModelName::parse(&predicate.name)?,
        generation: predicate.generation,
        created: predicate.created.to_string(),
        files: predicate
            .files
            .iter()
            .zip(&statement.subject)
            .map(|(file, subject)| file.read(subject))
            .collect::<Result<_, _>>()?,
    };
    manifest.check()?;
    // Also what refuses subjects that are not the files', unusual escapes, spaces, member order.
    if !is_canonical(&Statement::of(&manifest), payload) {
        return Err(malformed("manifest", "not in its canonical spelling"));
    }
    Ok(manifest)
}

/// The DSSE payload.
pub(crate) fn write(manifest: &Manifest) -> Vec<u8> {
    serde_json::to_vec(&Statement::of(manifest)).expect("strings and numbers into memory")
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement<'a> {
    #[serde(rename = "_type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    subject: Vec<Subject<'a>>,
    #[serde(rename = "predicateType", borrow)]
    predicate_type: Cow<'a, str>,
    #[serde(borrow)]
    predicate: Predicate<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    digest: DigestSet<'a>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DigestSet<'a> {
    #[serde(borrow)]
    sha256: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Predicate<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    #[serde(borrow)]
    bundle_id: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    generation: u64,
    #[serde(borrow)]
    cipher: Cow<'a, str>,
    #[serde(borrow)]
    created: Cow<'a, str>,
    #[serde(borrow)]
    files: Vec<File<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    mode: Cow<'a, str>,
    size: u64,
    #[serde(borrow)]
    object: Cow<'a, str>,
    #[serde(borrow)]
    header: Cow<'a, str>,
}

impl<'a> Statement<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        Self {
            kind: STATEMENT_TYPE.into(),
            subject: manifest.files.iter().map(Subject::of).collect(),
            predicate_type: PREDICATE_TYPE.into(),
            predicate: Predicate {
                format: FORMAT.into(),
                bundle_id: manifest.id.to_string().into(),
                name: manifest.name.as_str().into(),
                generation: manifest.generation,
                cipher: CIPHER.into(),
                created: manifest.created.as_str().into(),
                files: manifest.files.iter().map(File::of).collect(),
            },
        }
    }
}

impl<'a> Subject<'a> {
    fn of(file: &'a FileEntry) -> Self {
        let digest = DigestSet { sha256: file.sha256.hex().into() };
        Self { name: file.path.object().into(), digest }
    }
}

impl<'a> File<'a> {
    fn of(file: &'a FileEntry) -> Self {
        Self {
            path: file.path.as_str().into(),
            mode: spell(file.mode).into(),
            size: file.layout.plaintext_bytes(),
            object: file.path.object().into(),
            header: STANDARD.encode(file.header.as_bytes()).into(),
        }
    }

    fn read(&self, subject: &Subject<'_>) -> Result<FileEntry, Error> {
        let header = STANDARD
            .decode(self.header.as_bytes())
            .map_err(|_| malformed("header", "not canonical base64"))?;
        let mode =
            [Mode::Plain, Mode::Executable].into_iter().find(|&mode| spell(mode) == self.mode);
        Ok(FileEntry {
            path: BundlePath::parse(&self.path)?,
            mode: mode.ok_or_else(|| malformed("mode", "neither 0644 nor 0755"))?,
            layout: Layout::of_plaintext(self.size)?,
            header: Header::parse(&header)?,
            sha256: Digest::from_hex(&subject.digest.sha256)?,
        })
    }
}

fn spell(mode: Mode) -> &'static str {
    match mode {
        Mode::Plain => "0644",
        Mode::Executable => "0755",
    }
}

fn known(what: &'static str, found: &str, expected: &str) -> Result<(), Error> {
    if found != expected {
        return Err(Error::Unsupported { what, found: excerpt(found) });
    }
    Ok(())
}
