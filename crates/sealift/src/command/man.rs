//! `sealift man`: pages made from the help texts.

use clap::CommandFactory;

use crate::cli::{Cli, Man};
use crate::code::Code;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &Man) -> Result<(), Failure> {
    let unwritten = |error| Failure::new(Code::Publish, format!("man page: {error}"));
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(Cli::command(), dir).map_err(unwritten),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(unwritten)?;
            output::print_text(&String::from_utf8_lossy(&page))
        }
    }
}
