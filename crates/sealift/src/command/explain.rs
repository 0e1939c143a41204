//! `sealift explain`: the page of an error code, offline.

use crate::cli::Explain;
use crate::code::Code;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(args: &Explain) -> Result<(), Failure> {
    let Some(text) = &args.code else {
        let lines = Code::ALL.iter().map(|code| format!("{code}  {}\n", code.slug()));
        return output::print_text(&lines.collect::<String>());
    };
    let code = Code::parse(text).ok_or_else(|| {
        Failure::usage(format!("there is no code {text:?}"))
            .hint("`sealift explain` without a code lists them")
    })?;
    output::print_text(code.page())
}
