//! Pages of the documentation that are made from this program: its command line, and its exit codes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use clap::CommandFactory as _;
use sealift::cli::Cli;
use sealift::code::Code;
use testkit::pages::{hold, reference};

const TROUBLESHOOTING: &str = "docs/troubleshooting.md";
const BEGIN: &str = "<!-- from here on: cargo xtask docs --write -->\n";

#[test]
fn its_reference_is_the_generated_page() {
    hold("docs/reference/sealift.md", &reference(Cli::command())).unwrap();
}

/// Below what is written by hand: each code, with the first sentence of what `sealift explain` says.
#[test]
fn its_codes_are_on_the_generated_page() {
    let page = include_str!("../../../docs/troubleshooting.md");
    let (by_hand, _) = page.split_once(BEGIN).unwrap();
    let rows: String = Code::ALL.iter().map(|&code| row(code)).collect();
    let text = format!("{by_hand}{BEGIN}| exit code | | |\n|---|---|---|\n{rows}");
    hold(TROUBLESHOOTING, &text).unwrap();
}

fn row(code: Code) -> String {
    let text = code.page().split("\n\n").nth(1).unwrap();
    // Of a name like `sealift.json` the dot is none that ends a sentence.
    let what = text.split_once(". ").map_or(text.trim_end_matches('.'), |(first, _)| first);
    let (number, slug) = (code.exit(), code.slug());
    format!("| {number} | [{code} {slug}](errors/{slug}.md) | {what} |\n")
}
