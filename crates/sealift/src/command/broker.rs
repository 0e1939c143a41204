//! `sealift broker`: hands over to the program `sealift-broker` beside this one.

use std::os::unix::process::CommandExt;

use crate::Stop;
use crate::cli::Passed;
use crate::code::Code;
use crate::failure::Failure;

/// The command line links neither the broker nor, later, the guest: each is a program of its own.
const PROGRAM: &str = "sealift-broker";

pub(crate) fn exec(args: &Passed) -> Result<(), Stop> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| PROGRAM.into());
    let error = std::process::Command::new(&program).args(&args.arguments).exec();
    Err(Failure::new(Code::NotFound, format!("{}: {error}", program.display()))
        .hint("Install sealift-broker beside sealift, or put it on PATH")
        .into())
}
