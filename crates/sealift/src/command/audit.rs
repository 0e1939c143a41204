//! `sealift audit verify`, and the log that the other commands write.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::{self, AuditArgs, Global};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};

/// What is read of a file of public keys: more is no such file.
const BROKER_KEYS_BYTES_MAX: u64 = 1 << 20;

/// The log that is asked for, in [`audit::Target`]'s words.
pub(super) fn log(args: &AuditArgs) -> Result<audit::Log, Failure> {
    Ok(audit::Target::parse(&args.audit_file).open(args.audit_part_bytes)?)
}

/// The same for commands whose result is on stdout: there `-` is stderr.
pub(super) fn log_beside_result(args: &AuditArgs) -> Result<audit::Log, Failure> {
    match args.audit_file == Path::new("-") {
        true => Ok(audit::Log::stream(Box::new(std::io::stderr()))),
        false => log(args),
    }
}

#[derive(Serialize)]
struct Verified {
    records: u64,
    /// Number of the last: with `head` it is what the next file's `--after` says.
    seq: u64,
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
    let cli::Audit::Verify { files, after, broker_keys, .. } = args;
    let is_stdin = files.iter().any(|file| file == Path::new("-"));
    if is_stdin && (files.len() > 1 || after.is_some() || broker_keys.is_some()) {
        return Err(Failure::usage("standard input is read once, as a whole log")
            .hint("Save it to a file first"));
    }
    let summary = match is_stdin {
        true => audit::verify(std::io::stdin().lock()),
        false => parts(args)?.verify(),
    };
    let summary = summary.map_err(broken)?;
    let verified = Verified {
        records: summary.records,
        seq: summary.seq,
        first: summary.first,
        last: summary.last,
        head: summary.head,
        receipts: receipts(args)?,
    };
    output::print(global.output, &verified, |verified| {
        let mut rows = vec![
            row([&"records", &verified.records]),
            row([&"seq", &verified.seq]),
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
    let cli::Audit::Verify { files, broker_keys, require_receipts, broker_log, .. } = args;
    let Some(keys) = broker_keys else { return Ok(None) };
    let mut jwks = Vec::new();
    let read = open(keys)?.take(BROKER_KEYS_BYTES_MAX).read_to_end(&mut jwks);
    read.map_err(|error| Failure::new(Code::NotFound, format!("{}: {error}", keys.display())))?;
    let keys = audit::BrokerKeys::parse(&jwks).ok_or_else(|| {
        let what = format!("{} is not a broker's public keys", keys.display());
        Failure::usage(what).hint("Take them from the broker: GET /.well-known/jwks.json")
    })?;
    let broker_log = match &broker_log[..] {
        [] => None,
        files => Some(find(files)?),
    };
    let found =
        audit::verify_receipts(&parts(args)?, &keys, *require_receipts, broker_log.as_ref());
    let found = found.map_err(|wrong| {
        Failure::new(Code::Mismatch, format!("{}: {wrong}", files[0].display()))
            .hint("The log, or the broker that released the key, is not the one it is taken for")
    })?;
    Ok(Some(Receipts { broker_releases: found.releases, countersigned: found.countersigned }))
}

/// The log's files.
fn parts(args: &cli::Audit) -> Result<audit::Parts, Failure> {
    let cli::Audit::Verify { files, after, .. } = args;
    let parts = find(files)?;
    Ok(after.clone().map_or(parts.clone(), |after| parts.after(after)))
}

fn find(files: &[PathBuf]) -> Result<audit::Parts, Failure> {
    audit::Parts::of(files).map_err(|error| Failure::new(Code::NotFound, error.to_string()))
}

fn broken(broken: audit::Broken) -> Failure {
    let failure = Failure::new(Code::Mismatch, format!("{broken}: {}", broken.why));
    match broken.why {
        audit::Why::WrongSequence { expected: 1, found } => failure.hint(format!(
            "Records before number {found} are not here: if their parts are kept elsewhere, verify \
             them too, or say with --after which record the last of them is"
        )),
        _ => failure.hint("Records up to that line are intact; what follows cannot be trusted"),
    }
}

fn open(path: &Path) -> Result<BufReader<std::fs::File>, Failure> {
    let file = std::fs::File::open(path)
        .map_err(|error| Failure::new(Code::NotFound, format!("{}: {error}", path.display())))?;
    Ok(BufReader::new(file))
}
