//! `sealift rewrap`: other keys for the same bundle; data, manifest and digest stay.

use bytes::Bytes;
use seal::bundle::{Bundle, MANIFEST_BYTES_MAX, MANIFEST_OBJECT};
use serde::Serialize;
use store::Store;

use super::keygen;
use crate::cli::{Global, Rewrap};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};
use crate::source::Source;

#[derive(Serialize)]
struct Rewrapped {
    location: String,
    digest: String,
    recipients: Vec<String>,
}

pub(crate) async fn run(args: &Rewrap, global: &Global) -> Result<(), Failure> {
    let source = Source::parse(&args.location)?;
    let store = Store::open(&source.location, &crate::settings::store(&args.store, None)?)?;
    let json = store.read(MANIFEST_OBJECT, MANIFEST_BYTES_MAX as u64).await?;
    let bundle = Bundle::parse(&json)?;
    let kek = keygen::read(&args.key_file)?;
    let mut keks = Vec::with_capacity(args.recipients.len());
    for recipient in &args.recipients {
        keks.push((&recipient.resource, keygen::read(&recipient.file)?));
    }
    let recipients: Vec<_> = keks.iter().map(|(resource, kek)| (*resource, kek)).collect();
    let rewrapped = bundle.rewrap(&args.resource_id, &kek, &recipients)?;
    // Read back what is about to replace the only way to the data.
    for (resource, kek) in &recipients {
        let demand = seal::pin::Demand { allow_unpinned: true, ..Default::default() };
        match Bundle::parse(&rewrapped)?.open(resource, kek, &demand) {
            // A key that is for other models is the broker's business, not a broken rewrap.
            Ok(_) | Err(seal::Error::ModelNotAllowed { .. } | seal::Error::Stale { .. }) => {}
            Err(error) => return Err(Failure::from(error).at("the rewrapped bundle")),
        }
    }
    match &args.manifest_out {
        Some(path) => std::fs::write(path, &rewrapped)
            .map_err(|error| Failure::new(Code::Publish, format!("{}: {error}", path.display())))?,
        None => {
            let mut writer = store.writer(MANIFEST_OBJECT).await?;
            writer.write(Bytes::from(rewrapped)).await?;
            writer.finish().await?;
        }
    }
    let result = Rewrapped {
        location: source.location.to_string(),
        digest: bundle.digest().to_string(),
        recipients: recipients.iter().map(|(resource, _)| resource.to_string()).collect(),
    };
    output::print(global.output, &result, |result| {
        vec![
            row([&"bundle", &result.location]),
            row([&"digest", &result.digest]),
            row([&"sealed for", &result.recipients.join(" ")]),
        ]
    })
}
