//! `sealift manifest`: YAML on stdout; no cluster is touched.

use crate::cli::Manifest;
use crate::failure::Failure;
use crate::{manifest, output};

pub(crate) fn run(args: &Manifest) -> Result<(), Failure> {
    let text = manifest::render(args.kind, &args.namespace, &args.values, &args.set)?;
    output::print_text(&text)
}
