//! `sealift audit verify`, and the log that the other commands write.

use std::io::{BufReader, Read};
use std::path::Path;

use serde::Serialize;

use crate::cli::{self, Global};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};

/// What is read of a file of public keys: more is no such file.
const BROKER_KEYS_BYTES_MAX: u64 = 1 << 20;

/// The log that `path` names, in [`audit::Target`]'s words.
pub(super) fn log(path: &Path) -> Result<audit::Log, Failure> {
    Ok(audit::Target::parse(path).open()?)
}

/// The same for commands whose result is on stdout: there `-` is stderr.
pub(super) fn log_beside_result(path: &Path) -> Result<audit::Log, Failure> {
    match path == Path::new("-") {
        true => Ok(audit::Log::stream(Box::new(std::io::stderr()))),
        false => log(path),
    }
}

#[derive(Serialize)]
struct Verified {
    records: u64,
    first: Option<String>,
    last: Option<String>,
    head: String,
    #[serde(flatten)]
    receipts: Option<Receipts>,
}

#[derive(Serialize)]
struct Receipts {
    broker_releases: u64,
    countersigned: u64,
}

pub(crate) fn run(args: &cli::Audit, global: &Global) -> Result<(), Failure> {
    let cli::Audit::Verify { file, broker_keys, .. } = args;
    if broker_keys.is_some() && file == Path::new("-") {
        return Err(Failure::usage("a log whose receipts are checked is read twice")
            .hint("Save it to a file first"));
    }
    let summary = if file == Path::new("-") {
        audit::verify(std::io::stdin().lock())
    } else {
        audit::verify(open(file)?)
    };
    let summary = summary.map_err(|broken| {
        Failure::new(Code::Mismatch, format!("{}: {broken}", file.display()))
            .hint("Records up to that line are intact; what follows cannot be trusted")
    })?;
    let verified = Verified {
        records: summary.records,
        first: summary.first,
        last: summary.last,
        head: summary.head,
        receipts: receipts(args)?,
    };
    output::print(global.output, &verified, |verified| {
        let mut rows = vec![
            row([&"records", &verified.records]),
            row([&"first", &verified.first.as_deref().unwrap_or("-")]),
            row([&"last", &verified.last.as_deref().unwrap_or("-")]),
            row([&"head", &verified.head]),
        ];
        if let Some(receipts) = &verified.receipts {
            rows.push(row([&"broker releases", &receipts.broker_releases]));
            rows.push(row([&"countersigned", &receipts.countersigned]));
        }
        rows
    })
}

/// What the receipts show, if they are to be checked.
fn receipts(args: &cli::Audit) -> Result<Option<Receipts>, Failure> {
    let cli::Audit::Verify { file, broker_keys, require_receipts, broker_log } = args;
    let Some(keys) = broker_keys else { return Ok(None) };
    let mut jwks = Vec::new();
    let read = open(keys)?.take(BROKER_KEYS_BYTES_MAX).read_to_end(&mut jwks);
    read.map_err(|error| Failure::new(Code::NotFound, format!("{}: {error}", keys.display())))?;
    let keys = audit::BrokerKeys::parse(&jwks).ok_or_else(|| {
        let what = format!("{} is not a broker's public keys", keys.display());
        Failure::usage(what).hint("Take them from the broker: GET /.well-known/jwks.json")
    })?;
    let broker_log = broker_log.as_deref().map(open).transpose()?;
    let found = audit::verify_receipts(open(file)?, &keys, *require_receipts, broker_log);
    let found = found.map_err(|wrong| {
        let what = format!("{}: {wrong}", file.display());
        Failure::new(Code::Mismatch, what)
            .hint("The log, or the broker that released the key, is not the one it is taken for")
    })?;
    Ok(Some(Receipts { broker_releases: found.releases, countersigned: found.countersigned }))
}

fn open(path: &Path) -> Result<BufReader<std::fs::File>, Failure> {
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::new(Code::NotFound, format!("{}: {error}", path.display())))?;
    Ok(BufReader::new(file))
}
