//! `sealift audit verify`, and the log that the other commands write.

use std::io::BufReader;
use std::path::Path;

use serde::Serialize;

use crate::cli::{self, Global};
use crate::code::Code;
use crate::failure::Failure;
use crate::output::{self, row};

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
}

pub(crate) fn run(args: &cli::Audit, global: &Global) -> Result<(), Failure> {
    let cli::Audit::Verify { file } = args;
    let summary = if file == Path::new("-") {
        audit::verify(std::io::stdin().lock())
    } else {
        let open = std::fs::File::open(file).map_err(|error| {
            Failure::new(Code::NotFound, format!("{}: {error}", file.display()))
        })?;
        audit::verify(BufReader::new(open))
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
    };
    output::print(global.output, &verified, |verified| {
        vec![
            row([&"records", &verified.records]),
            row([&"first", &verified.first.as_deref().unwrap_or("-")]),
            row([&"last", &verified.last.as_deref().unwrap_or("-")]),
            row([&"head", &verified.head]),
        ]
    })
}
