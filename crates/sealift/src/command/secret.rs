//! `sealift secret`: keys that sign, values that are sealed and opened, directories that are kept.

mod open;
mod seal;
mod sync;

use std::io::Read;
use std::path::Path;

use keys::sealed::SigningKey;
use secret::Secret as Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{key, keygen};
use crate::cli::{Global, Secret, SecretKeygen, SecretPut};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};
use crate::{Stop, stop};

pub(crate) fn run(args: &Secret, global: &Global) -> Result<(), Stop> {
    match args {
        Secret::Keygen(args) => Ok(make(args, global)?),
        Secret::Put(args) => stop::in_runtime(put(args, global)),
        Secret::Seal(args) => Ok(seal::run(args, global)?),
        Secret::Unseal(args) => stop::in_runtime(open::unseal(args, global)),
        Secret::Inspect(args) => Ok(open::inspect(args, global)?),
        Secret::Sync(args) => sync::run(args, global),
    }
}

#[derive(Serialize)]
struct Made<'a> {
    signing_key: &'a Path,
    public_key: &'a Path,
}

fn make(args: &SecretKeygen, global: &Global) -> Result<(), Failure> {
    let key = SigningKey::generate()?;
    let public = Bytes::copy((key.public_jwk().to_string() + "\n").as_bytes())
        .map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
    // The one that may be known first: without it the other would be of no use.
    keygen::write_new(&args.public_key, &public)?;
    keygen::write_new(&args.signing_key, &key.to_pem()?)?;
    let made = Made { signing_key: &args.signing_key, public_key: &args.public_key };
    output::print(global.output, &made, |made| {
        vec![
            row([&"signing key", &made.signing_key.display()]),
            row([&"public key", &made.public_key.display()]),
        ]
    })
}

#[derive(Serialize)]
struct Stored {
    resource: String,
    kbs_url: String,
}

async fn put(args: &SecretPut, global: &Global) -> Result<(), Failure> {
    let value = read(&args.file, Bytes::BYTES_MAX)?;
    let value = Bytes::copy(&value)
        .map_err(|error| Failure::usage(error.to_string()).at(args.file.display()))?;
    if value.is_empty() {
        return Err(Failure::usage("it is empty").at(args.file.display()));
    }
    key::store(&args.broker, &args.resource, &value, args.overwrite).await?;
    let kbs_url = args.broker.kbs_url.clone();
    let stored = Stored { resource: args.resource.to_string(), kbs_url };
    output::print(global.output, &stored, |stored| {
        vec![row([&"stored", &stored.resource]), row([&"at", &stored.kbs_url])]
    })
}

/// A file, or stdin for `-`, of at most `bytes_max` bytes. Wiped when dropped, its growth too.
fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(Code::NotFound, error.to_string()).at(path.display());
    let mut from: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let mut piece = Zeroizing::new(vec![0; 64 << 10]);
    loop {
        let count = match from.read(&mut piece) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(failed)?,
        };
        if count == 0 {
            return Ok(bytes);
        }
        if bytes.len() + count > bytes_max {
            let what = format!("longer than {bytes_max} bytes");
            return Err(Failure::usage(what).at(path.display()));
        }
        if bytes.capacity() < bytes.len() + count {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * (bytes.len() + count)));
            larger.extend_from_slice(&bytes);
            bytes = larger;
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}
