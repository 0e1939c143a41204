//! `sealift rewrap`: other keys for the same bundle; data, manifest and digest stay.

use audit::Event;
use bytes::Bytes;
use seal::bundle::{Bundle, MANIFEST_BYTES_MAX, MANIFEST_OBJECT, Recipient};
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
    let log = super::audit::log_beside_result(&args.audit)?;
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
    let read_back = Bundle::parse(&rewrapped)?;
    for Recipient { key, kek, .. } in &recipients {
        let checked = read_back.check_wrapped(key, kek);
        checked.map_err(|error| Failure::from(error).at("the rewrapped bundle"))?;
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
