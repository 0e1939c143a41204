//! Which key source the deployer chose, and one audited release from it.

use std::time::Duration;

use audit::Event;
use keys::{Cdh, FileSource, HttpSettings, Kbs, KeySource, Retry, Source};
use seal::jwe::TeeKeyKind;
use seal::key::Kek;
use seal::name::ResourceUri;
use secret::Secret;

use crate::attester;
use crate::cli::{KbsKeyType, KeyArgs, KeySourceKind};
use crate::failure::Failure;
use crate::recording::record;

/// Longest single request to a key source.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// `file`, `kbs` or `cdh`: which the arguments name.
pub(crate) fn kind_of(args: &KeyArgs) -> &'static str {
    match chosen(args) {
        KeySourceKind::File => "file",
        KeySourceKind::Kbs => "kbs",
        KeySourceKind::Cdh => "cdh",
    }
}

fn chosen(args: &KeyArgs) -> KeySourceKind {
    args.key_source.unwrap_or(match (&args.key_file, &args.kbs_url) {
        (Some(_), _) => KeySourceKind::File,
        (None, Some(_)) => KeySourceKind::Kbs,
        (None, None) => KeySourceKind::Cdh,
    })
}

/// Opens the key source that the arguments name.
pub(crate) fn open(args: &KeyArgs) -> Result<Source, Failure> {
    let kind = chosen(args);
    let settings = HttpSettings {
        ca_bundle: args.kbs_ca.clone(),
        timeout: REQUEST_TIMEOUT.min(args.key_timeout),
        insecure_dev: args.insecure_dev,
    };
    match kind {
        KeySourceKind::File => {
            let path = args.key_file.as_ref().ok_or_else(|| {
                Failure::usage("the key source is a file and none is given").hint("Add --key-file")
            })?;
            Ok(Source::File(FileSource::new(path)))
        }
        KeySourceKind::Cdh => Ok(Source::Cdh(Cdh::new(&args.cdh_addr, &settings)?)),
        KeySourceKind::Kbs => {
            let url = args.kbs_url.as_ref().ok_or_else(|| {
                Failure::usage("the key source is a broker and no address is given")
                    .hint("Add --kbs-url")
            })?;
            let attester = attester::open(&args.attester, args.insecure_dev)?;
            let broker = Kbs::new(url, attester, &settings)?;
            Ok(Source::Kbs(broker.with_key_kind(match args.kbs_key_type {
                KbsKeyType::P256 => TeeKeyKind::P256,
                KbsKeyType::P521 => TeeKeyKind::P521,
                KbsKeyType::Rsa => TeeKeyKind::Rsa,
            })))
        }
    }
}

/// Asks for one key and parses it. Both the question and the answer are recorded first.
pub(crate) async fn release(
    source: &Source,
    resource: &ResourceUri,
    purpose: &str,
    args: &KeyArgs,
    log: &audit::Log,
) -> Result<Kek, Failure> {
    let parse = |secret| Kek::parse(&secret).map_err(|error| Failure::from(error).at(resource));
    release_as(source, resource, purpose, args.key_timeout, log, parse).await
}

/// The same for what is no key of ours: its bytes, within `deadline`.
pub(crate) async fn release_bytes(
    source: &Source,
    resource: &ResourceUri,
    purpose: &str,
    deadline: Duration,
    log: &audit::Log,
) -> Result<Secret, Failure> {
    release_as(source, resource, purpose, deadline, log, Ok).await
}

/// The same, and what `parse` makes of them: a refusal of its is recorded as one.
pub(crate) async fn release_as<T>(
    source: &Source,
    resource: &ResourceUri,
    purpose: &str,
    deadline: Duration,
    log: &audit::Log,
    parse: impl FnOnce(Secret) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let retry = Retry { deadline, ..Retry::default() };
    let asked = async {
        let ask = || source.release_signed(resource);
        let released = keys::with_retry(&resource, source.kind(), &retry, ask).await?;
        Ok((parse(released.key)?, released.receipt))
    };
    audited_signed(resource, source.kind(), purpose, log, asked).await
}

/// Asks, with the question recorded before it, and the answer before anybody has it.
pub(crate) async fn audited<T>(
    resource: &impl std::fmt::Display,
    source: &str,
    purpose: &str,
    log: &audit::Log,
    ask: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    audited_signed(resource, source, purpose, log, async { Ok((ask.await?, None)) }).await
}

/// The same, with the receipt that a broker sent.
async fn audited_signed<T>(
    resource: &impl std::fmt::Display,
    source: &str,
    purpose: &str,
    log: &audit::Log,
    ask: impl Future<Output = Result<(T, Option<String>), Failure>>,
) -> Result<T, Failure> {
    let kind = source.to_owned();
    record(
        log,
        Event::KeyRequested {
            resource: resource.to_string(),
            source: kind.clone(),
            purpose: purpose.to_owned(),
        },
    )?;
    match ask.await {
        Ok((key, receipt)) => {
            record(
                log,
                Event::KeyReleased {
                    resource: resource.to_string(),
                    source: kind,
                    model: None,
                    receipt,
                },
            )?;
            Ok(key)
        }
        Err(failure) => {
            record(
                log,
                Event::KeyRefused {
                    resource: resource.to_string(),
                    source: kind,
                    code: failure.code().to_string(),
                    reason: failure.what().to_owned(),
                },
            )?;
            Err(failure)
        }
    }
}
