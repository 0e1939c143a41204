//! Developer and CI recipes: `cargo xtask setup|check|test|docs|compare|image|demo|bench`.
//!
//! Each recipe runs on a fresh machine: what it needs beyond Rust and Python it installs first,
//! below the repository (`.venv`, `.tools`), and says so. It depends on nothing but the standard
//! library, so that the first word of output comes after seconds.

mod bench;
mod check;
mod compare;
mod demo;
mod image;
mod links;
mod markdown;
mod process;
mod promises;
mod setup;
mod site;
mod test;
mod translation;
mod vm;
mod workspace;
mod world;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask RECIPE

  setup                 install what check, test and demo need; `setup --bench`: what bench needs, too
  check                 format, lints, licences, documentation, files
  test                  every test, and the interoperability suites
  docs                  the documentation as a site, below target/site; no link of it is broken
  docs --write          the pages that are generated from the programs
  docs --translated     notes that the translations say what their originals say now
  compare               upstream's initializer beside ours, and README.md's table of it
  image                 OCI images, their bills of materials, and what they were built from
  demo [MODEL_DIR]      the whole story: seal, upload, attest, open into memory, refuse
  demo images           the same, in containers of the images as a restricted namespace runs them
  demo volumes [--namespaces]
                        a Secret, a ConfigMap and a token, kept current in a virtual machine
  bench [--quick] [--size BYTES] [--rounds N] [NAME…]
                        the speed promises as ratios; --quick runs the code, not the clock
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["setup"] => setup::all(false),
        ["setup", "--bench"] => setup::all(true),
        ["check"] => check::run(),
        ["test"] => test::run(),
        ["docs"] => site::run(),
        ["docs", "--write"] => site::write(),
        ["docs", "--translated"] => translation::record(),
        ["compare"] => compare::run(),
        ["image"] => image::run().map(drop),
        ["demo", "images"] => demo::run(None, true),
        ["demo", "volumes"] => demo::volumes::run(true),
        ["demo", "volumes", "--namespaces"] => demo::volumes::run(false),
        ["demo"] => demo::run(None, false),
        ["demo", dir] if !dir.starts_with('-') => demo::run(Some(dir.as_ref()), false),
        ["bench", options @ ..] => bench::run(options),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
