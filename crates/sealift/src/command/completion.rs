//! `sealift completion`: a script for the user's shell.

use clap::CommandFactory;

use crate::cli::{Cli, Completion};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &Completion) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sealift", &mut script);
    output::print_text(&String::from_utf8_lossy(&script))
}
