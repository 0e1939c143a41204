//! `sealift broker|host|guest|status`: hands over to the program of that name beside this one. The
//! command line links none of them: each is a program with a trust of its own.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use crate::Stop;
use crate::cli::Passed;
use crate::code::Code;
use crate::failure::Failure;

/// Becomes `program`, with `verb` before what was passed.
pub(crate) fn exec(program: &str, verb: Option<&str>, args: &Passed) -> Result<(), Stop> {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(program));
    let path = beside.filter(|path| path.exists()).unwrap_or_else(|| program.into());
    let verb = verb.map(OsString::from);
    let error = std::process::Command::new(&path).args(verb).args(&args.arguments).exec();
    Err(Failure::new(Code::NotFound, format!("{}: {error}", path.display()))
        .hint(format!("Install {program} beside sealift, or put it on PATH"))
        .into())
}
