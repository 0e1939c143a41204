//! What SPECIFICATION.md and docs/threats.md say is shown by tests that exist; what pages whose examples
//! are run do not run, by others, too, where they name them; and each claim of the threat model on one
//! page leads to a promise.
//!
//! A test is named `crate::test` or `crate::file::test`, where `file` is the test program or module;
//! anything else in backticks that has a `/` is a path from the root.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::root;

/// Instead of a test's name, where none could fail.
const BY_CONSTRUCTION: &str = "by construction: ";

/// Pages whose examples are run.
const RUN: [&str; 6] = [
    "docs/keys.md",
    "docs/kubernetes.md",
    "docs/operations.md",
    "docs/quickstart-cluster.md",
    "docs/quickstart-laptop.md",
    "docs/scenarios/node-operator.md",
];

const ONE_PAGE: &str = "docs/threat-model-one-page.md";

/// Every fault of these documents, or nothing.
pub(crate) fn check() -> Result<()> {
    let tests = Tests::of_the_workspace()?;
    let read = |name: &str| fs::read_to_string(root().join(name));
    let mut faults = specification(&read("SPECIFICATION.md")?, &tests);
    faults.extend(threats(&read("docs/threats.md")?, &tests));
    for page in RUN {
        faults.extend(examples(page, &read(page)?, &tests));
    }
    faults.extend(claims(&read(ONE_PAGE)?, &read("SPECIFICATION.md")?));
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// Each row of each table may name tests in its last cell; those exist.
fn specification(text: &str, tests: &Tests) -> Vec<String> {
    let cells = text.lines().zip(1..).filter(|(line, _)| line.starts_with("| "));
    let named = cells.flat_map(|(row, number)| {
        row.rsplit('|').nth(1).into_iter().flat_map(quoted).map(move |name| (name, number))
    });
    missing("SPECIFICATION.md", named, tests)
}

/// Whoever is hostile has a section (`### …`) of items that begin with `- can` and `- cannot`;
/// each of the latter, and each row of a table whose last column is `shown by`, names a test or says
/// `by construction: ` and why.
fn threats(text: &str, tests: &Tests) -> Vec<String> {
    const NAME: &str = "docs/threats.md";
    let mut faults = Vec::new();
    let (mut shown, mut party) = (false, None);
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with('#') {
            party = line.strip_prefix("### ");
        }
        let cannot = line.starts_with("- cannot");
        if party.is_some() && line.starts_with("- ") && !line.starts_with("- can") {
            faults.push(format!("{NAME}:{number}: neither `can` nor `cannot`"));
        }
        shown = line.starts_with('|') && (shown || line.ends_with("| shown by |"));
        let row = shown && !line.ends_with("| shown by |") && !line.starts_with("|---");
        if (cannot || row) && !is_shown(line) {
            faults.push(format!("{NAME}:{number}: no test, and not `{BY_CONSTRUCTION}…`: {line}"));
        }
    }
    let lines = text.lines().zip(1..);
    let named = lines.flat_map(|(line, number)| quoted(line).map(move |name| (name, number)));
    faults.extend(missing(NAME, named.filter(|(name, _)| name.contains("::")), tests));
    faults
}

/// Why an example is not run may be that a test does as much.
fn examples(page: &str, text: &str, tests: &Tests) -> Vec<String> {
    let lines = text.lines().zip(1..).filter(|(line, _)| line.starts_with("<!-- not run: "));
    let named = lines.flat_map(|(line, number)| {
        line.split(' ')
            .filter(|word| word.contains("::"))
            .map(|word| word.trim_end_matches([',', ';']))
            .map(move |name| (name, number))
    });
    missing(page, named, tests)
}

/// Each `- cannot` ends in a dash and links: to promises, by their numbers, or to a section of
/// docs/threats.md.
fn claims(text: &str, specification: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (line, number) in text.lines().zip(1..).filter(|(line, _)| line.starts_with("- cannot")) {
        let basis = line.rsplit_once(" – ").map_or("", |(_, basis)| basis);
        let promises =
            basis.split('[').filter_map(|link| link.split_once("](../SPECIFICATION.md)"));
        let unknown = |name: &str| {
            let rows = [format!("| {name} |"), format!("| **{name}** |")];
            !specification.lines().any(|line| rows.iter().any(|row| line.starts_with(row)))
        };
        let fault = |what: &str| format!("{ONE_PAGE}:{number}: {what}");
        faults.extend(
            promises
                .clone()
                .filter(|(name, _)| unknown(name))
                .map(|(name, _)| fault(&format!("there is no promise {name}"))),
        );
        if promises.count() == 0 && !basis.contains("](threats.md#") {
            faults.push(fault("rests on nothing"));
        }
    }
    faults
}

fn is_shown(line: &str) -> bool {
    let reason = line.split_once(BY_CONSTRUCTION).map(|(_, reason)| reason);
    quoted(line).any(|name| name.contains("::"))
        || reason.is_some_and(|reason| reason.starts_with(char::is_alphanumeric))
}

fn missing<'a>(
    document: &str,
    named: impl Iterator<Item = (&'a str, usize)>,
    tests: &Tests,
) -> Vec<String> {
    let absent = named.filter(|(name, _)| !tests.has(name));
    absent.map(|(name, line)| format!("{document}:{line}: {name} is not there")).collect()
}

/// What stands in backticks and has no space.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|name| !name.contains(' '))
}

/// The names of all tests below `crates/`.
#[derive(Debug, Default)]
struct Tests {
    tests: BTreeSet<String>,
}

impl Tests {
    fn of_the_workspace() -> Result<Self> {
        let mut list = Command::new("git");
        list.current_dir(root()).args(["ls-files", "-z", "--cached", "--others"]);
        list.args(["--exclude-standard", "--", "crates/*.rs"]);
        let list = process::capture(&mut list)?;
        let mut tests = Self::default();
        for name in list.split('\0').filter(|name| !name.is_empty()) {
            // Deleted but not yet committed.
            let Ok(text) = fs::read_to_string(root().join(name)) else { continue };
            tests.add(Path::new(name), &text);
        }
        Ok(tests)
    }

    fn add(&mut self, path: &Path, text: &str) {
        let mut components = path.iter().filter_map(|component| component.to_str()).skip(1);
        let package = components.next().unwrap_or_default();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let parent = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let file = if ["main", "tests"].contains(&stem) { parent.unwrap_or(stem) } else { stem };
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line.starts_with("#[test]") || line.contains("::test");
            } else if let Some((_, function)) = line.split_once("fn ") {
                let name = function.split('(').next().unwrap_or_default();
                if is_test {
                    self.tests.insert(format!("{package}::{name}"));
                    self.tests.insert(format!("{package}::{file}::{name}"));
                }
                is_test = false;
            }
        }
    }

    /// Whether there is this test, or this path.
    fn has(&self, name: &str) -> bool {
        if name.contains("::") { self.tests.contains(name) } else { root().join(name).exists() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests() -> Tests {
        let mut tests = Tests::default();
        let text = "fn helper() {}\n#[test]\n#[ignore]\nfn it_holds() {\n fn inner() {}\n}\n\
                    #[tokio::test(start_paused = true)]\nasync fn it_waits() {}\n";
        tests.add(Path::new("crates/keys/src/kbs/tests.rs"), text);
        tests
    }

    #[test]
    fn tests_are_functions_that_are_marked_as_such() {
        let tests = tests();
        for name in ["keys::it_holds", "keys::kbs::it_holds", "keys::it_waits", "xtask/Cargo.toml"]
        {
            assert!(tests.has(name), "{name}");
        }
        for name in
            ["keys::helper", "keys::inner", "seal::it_holds", "keys::tests::it_holds", "x/y"]
        {
            assert!(!tests.has(name), "{name}");
        }
        assert!(Tests::of_the_workspace().unwrap().has("secret::taking_wipes_the_original"));
    }

    #[test]
    fn the_documents_keep_what_they_say() {
        check().unwrap();
    }

    #[test]
    fn a_promise_without_its_test_is_noticed() {
        let row =
            "| P1 | it | `keys::it_holds`, `xtask/Cargo.toml` and `cargo xtask bench memory` |";
        assert_eq!(specification(row, &tests()), [""; 0]);
        let faults = specification("| P1 | it | `keys::it_held`, `x/y` |", &tests());
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn an_excuse_without_its_test_is_noticed() {
        let excuse = |test: &str| format!("<!-- not run: needs a cluster; {test} has it -->\n");
        assert_eq!(examples("x.md", &excuse("keys::it_holds"), &tests()), [""; 0]);
        assert_eq!(examples("x.md", &excuse("keys::it_held"), &tests()).len(), 1);
    }

    #[test]
    fn a_claim_without_its_promise_is_noticed() {
        let specification = "| # | promise |\n| **P1** | it |\n| P1.1 | it |\n";
        let claim = |basis: &str| claims(&format!("- cannot do it{basis}\n"), specification);
        let good = " – [P1](../SPECIFICATION.md), [P1.1](../SPECIFICATION.md)";
        assert_eq!(claim(good), [""; 0]);
        assert_eq!(claim(" – [by construction](threats.md#x)"), [""; 0]);
        for bad in ["", " – [P2](../SPECIFICATION.md)", " – [x](keys.md)"] {
            assert_eq!(claim(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_threat_without_its_test_is_noticed() {
        let good = "### The network\n- can delay\n- cannot read: `keys::kbs::it_holds`\n\
                    - cannot guess: by construction: 256 bits\n\n\
                    | attack | shown by |\n|---|---|\n| a | `keys::it_waits` |\n\n| b |\n";
        assert_eq!(threats(good, &tests()), [""; 0]);
        for (from, to) in [
            ("`keys::kbs::it_holds`", "`keys::kbs::it_held`"),
            ("`keys::kbs::it_holds`", "a MAC"),
            (": by construction: 256 bits", ""),
            ("construction: 256 bits", "construction: "),
            ("- can delay", "- delays"),
            ("- can delay", "- cannot, as a peer, write"),
            ("`keys::it_waits`", "AES"),
            ("`keys::it_waits`", "`keys::helper`"),
        ] {
            let faults = threats(&good.replacen(from, to, 1), &tests());
            assert_eq!(faults.len(), 1, "{from} to {to}: {faults:?}");
        }
    }
}
