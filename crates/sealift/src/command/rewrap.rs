//! `sealift rewrap`: other keys for the same bundle; data, manifest and digest stay.

use audit::Event;
use bytes::Bytes;
use seal::bundle::{Bundle, MANIFEST_BYTES_MAX, MANIFEST_OBJECT, Recipient};
use seal::pin::{Demand, Pin};
use serde::Serialize;
use store::{Rest, Store};

use crate::cli::{Global, Rewrap};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};
use crate::recipients::{Keys, Wrapping};
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
    let log = super::audit::log_beside_result(&args.audit_file)?;
    let keys =
        Keys::new(&args.key, &args.remote, "rewrap", &log).administered(args.admin_key.as_deref());
    let kek = keys.opening(&args.resource_id, args.key.key_file.as_deref(), &bundle).await?;
    let mut wrappings = Vec::with_capacity(args.recipients.len());
    for recipient in &args.recipients {
        wrappings.push(keys.wrapping(recipient, &bundle.claimed().id).await?);
    }
    let recipients: Vec<_> = wrappings.iter().map(Wrapping::recipient).collect();
    let rewrapped = bundle.rewrap(&args.resource_id, &kek, &recipients)?;
    // Read back what is about to replace the only way to the data.
    for Recipient { key: resource, kek, .. } in &recipients {
        let pin = Pin { digests: vec![bundle.digest()], ..Pin::default() };
        let demand = Demand { pin, allow_unpinned: true, ..Demand::default() };
        match Bundle::parse(&rewrapped)?.open(resource, kek, &demand) {
            // A key that is for other models is the broker's business, not a broken rewrap.
            Ok(_)
            | Err(
                seal::Error::ModelNotAllowed { .. }
                | seal::Error::Stale { .. }
                | seal::Error::DigestMismatch { .. },
            ) => {}
            Err(error) => return Err(Failure::from(error).at("the rewrapped bundle")),
        }
    }
    let result = Rewrapped {
        location: source.location.to_string(),
        digest: bundle.digest().to_string(),
        recipients: recipients.iter().map(|recipient| recipient.key.to_string()).collect(),
    };
    log.record(Event::Rewrapped {
        location: result.location.clone(),
        manifest_digest: hex::encode(bundle.digest().as_bytes()),
        recipients: result.recipients.clone(),
    })?;
    match &args.manifest_out {
        Some(path) => std::fs::write(path, &rewrapped)
            .map_err(|error| Failure::new(Code::Publish, format!("{}: {error}", path.display())))?,
        None => {
            let mut writer = store.writer(MANIFEST_OBJECT).await?;
            writer.write(Bytes::from(rewrapped)).await?;
            writer.finish().await?;
            store.commit(Rest::Kept).await?;
        }
    }
    output::print(global.output, &result, |result| {
        vec![
            row([&"bundle", &result.location]),
            row([&"digest", &result.digest]),
            row([&"sealed for", &result.recipients.join(" ")]),
        ]
    })
}
