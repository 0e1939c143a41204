//! Makes the public vectors of the bundle format: `vectors DIRECTORY` (`tests/vectors`, whose README
//! says what a vector is).
//!
//! Each case begins with the same good bundle, breaks one rule, and forges whatever else is needed
//! so that this rule is the only one broken: whoever breaks a rule of the manifest holds the data
//! key and signs it again. Nothing here is random: the same program makes the same files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

mod cases;
mod crypto;
mod forge;

use crypto::base64;
use forge::{Bundle, Case, File, Object};

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: vectors DIRECTORY")?;
    let mut set = Set { directory: directory.into(), base: Bundle::small(), written: 0 };
    set.clear()?;
    cases::document::add(&mut set)?;
    cases::manifest::add(&mut set)?;
    cases::paths::add(&mut set)?;
    cases::envelope::add(&mut set)?;
    cases::recipients::add(&mut set)?;
    cases::wrapped::add(&mut set)?;
    cases::keys::add(&mut set)?;
    cases::pins::add(&mut set)?;
    cases::segments::add(&mut set)?;
    println!("{} vectors", set.written);
    Ok(())
}

/// The vectors, written as they are made.
struct Set {
    directory: PathBuf,
    base: Bundle,
    written: usize,
}

/// As stored; `tests/vectors/README.md` explains the members.
#[derive(Serialize)]
struct Vector<'a> {
    name: &'a str,
    comment: &'a str,
    expect: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    resource: &'a str,
    key: String,
    demand: &'a serde_json::Value,
    objects: BTreeMap<&'a str, &'a Object>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<BTreeMap<&'a str, Opened<'a>>>,
}

/// What a file is once opened.
#[derive(Serialize)]
struct Opened<'a> {
    sha256: String,
    bytes: usize,
    mode: &'a str,
}

impl Set {
    /// A bundle that must open, to the files that it was made of.
    fn opens(&mut self, name: &str, comment: &str, edit: impl FnOnce(&mut Case)) -> Result<()> {
        self.add(name, comment, None, edit)
    }

    /// A bundle, key or pin that must be refused, for the one `reason`.
    fn refused(
        &mut self,
        reason: &'static str,
        name: &str,
        comment: &str,
        edit: impl FnOnce(&mut Case),
    ) -> Result<()> {
        self.add(name, comment, Some(reason), edit)
    }

    fn add(
        &mut self,
        name: &str,
        comment: &str,
        reason: Option<&'static str>,
        edit: impl FnOnce(&mut Case),
    ) -> Result<()> {
        let mut case = Case::new(self.base.clone());
        edit(&mut case);
        let document = Object::Bytes(case.document());
        let mut objects: BTreeMap<&str, &Object> = case
            .bundle
            .files
            .iter()
            .filter(|file| file.stored)
            .map(|file| (file.object.as_str(), &file.sealed))
            .collect();
        objects.insert("sealift.json", case.replaced.as_ref().unwrap_or(&document));
        objects.extend(case.stray.as_ref().map(|stray| ("stray.sealed", stray)));
        if case.nothing_stored {
            objects.clear();
        }
        let opened = |file: &File| Opened {
            sha256: hex::encode(crypto::sha256(&file.plain)),
            bytes: file.plain.len(),
            mode: if file.executable { "0755" } else { "0644" },
        };
        let files = || case.bundle.files.iter().map(|file| (file.path.as_str(), opened(file)));
        let vector = Vector {
            name,
            comment,
            expect: if reason.is_none() { "opens" } else { "refused" },
            reason,
            resource: &case.resource,
            key: base64(&case.key),
            demand: &case.demand,
            objects,
            files: reason.is_none().then(|| files().collect()),
        };
        let path = self.directory.join(name).with_extension("json");
        ensure!(!path.exists(), "two vectors of the name {name}");
        let mut json = serde_json::to_vec_pretty(&vector)?;
        json.push(b'\n');
        self.written += 1;
        write(&path, &json)
    }

    /// An object that several vectors share.
    fn share(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write(&self.directory.join(name), bytes)
    }

    /// What an earlier run wrote.
    fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.directory).context(self.directory.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|kind| kind == "json" || kind == "sealed") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| path.display().to_string())
}
