//! What the tests of every place share.

#![allow(dead_code, reason = "no test program uses all of it")]

pub(crate) mod cluster;
pub(crate) mod modelscope;
pub(crate) mod share;

use std::ops::Range;

use bytes::Bytes;
use futures::StreamExt;
use store::{Entry, Error, Location, Settings, Store};

pub(crate) const MIB: usize = 1024 * 1024;

/// A store as an environment of these variables has it; a later one wins.
pub(crate) fn open<'a>(
    uri: &str,
    env: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<Store, Error> {
    let env: Vec<_> = env.into_iter().collect();
    let get = |name: &str| {
        let found = env.iter().rev().find(|(set, _)| *set == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let mut settings = Settings::from_env(&get)?;
    for (name, value) in &env {
        if let Some(host) = name.strip_suffix("-headers") {
            settings.set_headers(host, value)?;
        }
    }
    Store::open(&Location::parse(uri)?, &settings)
}

/// Bytes of which no two ranges look alike.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| u8::try_from(i * 31 % 251).unwrap()).collect()
}

/// Writes an object, in pieces that are no whole parts.
pub(crate) async fn put(store: &Store, object: &str, bytes: &[u8]) -> Result<(), Error> {
    let mut writer = store.writer(object).await?;
    for piece in bytes.chunks(MIB + 17) {
        writer.write(Bytes::copy_from_slice(piece)).await?;
    }
    writer.finish().await
}

/// A range of an object, in memory.
pub(crate) async fn range(
    store: &Store,
    object: &str,
    range: Range<u64>,
    etag: Option<&str>,
) -> Result<Vec<u8>, Error> {
    let mut stream = store.stream(object, range, etag).await?;
    let mut bytes = Vec::new();
    while let Some(frame) = stream.next().await {
        bytes.extend_from_slice(&frame?);
    }
    Ok(bytes)
}

/// Names and lengths of a listing.
pub(crate) fn names(entries: Vec<Entry>) -> Vec<(String, u64)> {
    entries.into_iter().map(|entry| (entry.name, entry.bytes)).collect()
}
