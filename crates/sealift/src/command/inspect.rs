//! `sealift inspect`: what a bundle says of itself.

use seal::bundle::{Bundle, MANIFEST_BYTES_MAX, MANIFEST_OBJECT};
use serde::Serialize;
use store::Store;

use crate::cli::{Global, Inspect};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};
use crate::progress::size;
use crate::source::Source;

#[derive(Serialize)]
struct Inspected {
    location: String,
    /// `false`: without the key, nothing here is proven.
    verified: bool,
    model: String,
    generation: u64,
    created: String,
    bundle_id: String,
    digest: String,
    recipients: Vec<String>,
    bytes: u64,
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: String,
    mode: String,
    bytes: u64,
    object: String,
    sha256: String,
}

pub(crate) async fn run(args: &Inspect, global: &Global) -> Result<(), Failure> {
    let source = Source::parse(&args.source)?;
    let store = Store::open(&source.location, &crate::settings::store(&args.store, None)?)?;
    let bundle = read(&store).await.map_err(|failure| failure.at(&source.location))?;
    let manifest = bundle.claimed();
    let inspected = Inspected {
        location: source.location.to_string(),
        verified: false,
        model: manifest.name.to_string(),
        generation: manifest.generation,
        created: manifest.created.clone(),
        bundle_id: manifest.id.to_string(),
        digest: bundle.digest().to_string(),
        recipients: bundle.recipients().map(ToString::to_string).collect(),
        bytes: manifest.plaintext_bytes(),
        files: manifest
            .files
            .iter()
            .map(|file| File {
                path: file.path.to_string(),
                mode: format!("{:04o}", file.mode.bits()),
                bytes: file.layout.plaintext_bytes(),
                object: file.path.object(),
                sha256: file.sha256.hex(),
            })
            .collect(),
    };
    if !global.quiet {
        eprintln!("not verified: whoever can write the bundle could have written this");
    }
    output::print(global.output, &inspected, |inspected| {
        let mut rows = vec![
            row([&"model", &inspected.model]),
            row([&"generation", &inspected.generation]),
            row([&"created", &inspected.created]),
            row([&"digest", &inspected.digest]),
            row([&"sealed for", &inspected.recipients.join(" ")]),
            row([&"size", &size(inspected.bytes)]),
            row([&"files", &inspected.files.len()]),
        ];
        rows.extend(inspected.files.iter().map(|file| {
            row([&format!("  {}", file.mode), &format!("{}  {}", size(file.bytes), file.path)])
        }));
        rows
    })
}

/// The bundle at `store`; a missing `sealift.json` means that there is none.
pub(super) async fn read(store: &Store) -> Result<Bundle, Failure> {
    match store.read(MANIFEST_OBJECT, MANIFEST_BYTES_MAX as u64).await {
        Ok(json) => Ok(Bundle::parse(&json)?),
        Err(store::Error::NotFound { .. }) => {
            Err(Failure::new(Code::NotSealed, format!("there is no {MANIFEST_OBJECT}"))
                .hint("Seal the model with `sealift seal`, or check the URI"))
        }
        Err(error) => Err(error.into()),
    }
}
