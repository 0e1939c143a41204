//! `sealift keygen`: a key that wraps models' data keys.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use seal::key::{Kek, Purpose};
use seal::pin::{Pin, Pins};
use secret::Secret;
use serde::Serialize;

use crate::cli::{Global, Keygen, ModelPin};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};

#[derive(Serialize)]
struct Made<'a> {
    resource_id: String,
    key_file: &'a Path,
    models: Vec<String>,
}

pub(crate) fn run(args: &Keygen, global: &Global) -> Result<(), Failure> {
    let mut kek = Kek::random(args.resource_id.clone());
    if !args.model.is_empty() {
        kek = kek.with_pins(pins(&args.model)?);
    }
    kek = kek.with_purposes(distinct(&args.purpose)?);
    write_new(&args.key_file, &kek.to_jwk()?)?;
    let made = Made {
        resource_id: args.resource_id.to_string(),
        key_file: &args.key_file,
        models: args.model.iter().map(|model| model.name.to_string()).collect(),
    };
    output::print(global.output, &made, |made| {
        vec![
            row([&"resource id", &made.resource_id]),
            row([&"key file", &made.key_file.display()]),
            row([
                &"models",
                &if made.models.is_empty() { "-".into() } else { made.models.join(" ") },
            ]),
        ]
    })
}

/// The purposes of an argument, each said once.
pub(super) fn distinct(purposes: &[Purpose]) -> Result<Vec<Purpose>, Failure> {
    for (at, purpose) in purposes.iter().enumerate() {
        if purposes[..at].contains(purpose) {
            return Err(Failure::usage(format!("--purpose {purpose} is given twice")));
        }
    }
    Ok(purposes.to_vec())
}

/// What a key file says of the models that it opens.
pub(super) fn pins(models: &[ModelPin]) -> Result<Pins, Failure> {
    let mut pins = Pins::new();
    for model in models {
        let pin = Pin { min_generation: Some(model.min_generation), digests: Vec::new() };
        if pins.insert(model.name.clone(), pin).is_some() {
            return Err(Failure::usage(format!("--model {} is given twice", model.name)));
        }
    }
    Ok(pins)
}

/// Reads a key file, or says what is wrong with it.
pub(crate) fn read(path: &Path) -> Result<Kek, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(Code::NotFound, format!("{}: {error}", path.display()))
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > Secret::BYTES_MAX as u64 {
        return Err(
            Failure::new(Code::KeyUnusable, "the file is too long for a key").at(path.display())
        );
    }
    let mut bytes = std::fs::read(path).map_err(unreadable)?;
    let secret = Secret::take(&mut bytes)
        .map_err(|error| Failure::new(Code::KeyUnusable, error.to_string()))?;
    Kek::parse(&secret).map_err(|error| Failure::from(error).at(path.display()))
}

/// Makes a file of one's own, 0600, where there is none.
pub(super) fn write_new(path: &Path, key: &Secret) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let failure = Failure::new(Code::Publish, format!("{}: {error}", path.display()));
        if error.kind() == std::io::ErrorKind::AlreadyExists {
            failure.hint("A key is never overwritten: what it wrapped would be lost")
        } else {
            failure
        }
    };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(key.expose()).and_then(|()| file.sync_all()).map_err(failed)
}
