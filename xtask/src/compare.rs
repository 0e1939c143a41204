//! `cargo xtask compare`: README.md's table of upstream's initializer and ours, made from what tests
//! saw both do, so that it says nothing that nobody has seen.
//!
//! Tests that compare append lines of JSON to the file that [`RESULTS`] names: flat objects of
//! strings without escapes, `{"source":…,"case":…,"upstream":…,"ours":…}`. Lines without `upstream`
//! are other suites'.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::test;
use crate::workspace::{cargo, root};

/// The variable that names the file of results.
pub(crate) const RESULTS: &str = "SEALIFT_COMPARED";

const README: &str = "README.md";
const BEGIN: &str = "<!-- from here on: cargo xtask compare -->\n";
const END: &str = "<!-- up to here: cargo xtask compare -->\n";

/// Runs the tests that compare, and writes the table.
pub(crate) fn run() -> Result<()> {
    let results = root().join("target/compared.jsonl");
    fs::write(&results, "")?;
    let mut tests = cargo();
    tests.args(["test", "--locked", "--package", "sealift", "--test", "side_by_side"]);
    process::run(test::environment(&mut tests)?.env(RESULTS, &results))?;
    let readme = with_table(&fs::read_to_string(&results)?)?;
    Ok(fs::write(root().join(README), readme)?)
}

/// Fails if the table is not what these results make it.
pub(crate) fn check(results: &Path) -> Result<()> {
    let expected = with_table(&fs::read_to_string(results)?)?;
    if fs::read_to_string(root().join(README))? != expected {
        bail!("{README}: its table is not what tests saw. Run: cargo xtask compare");
    }
    Ok(())
}

/// The document with the table that the results make.
fn with_table(results: &str) -> Result<String> {
    let readme = fs::read_to_string(root().join(README))?;
    let (before, rest) = readme.split_once(BEGIN).context("README.md: no table begins")?;
    let (_, after) = rest.split_once(END).context("README.md: no table ends")?;
    let pinned = fs::read_to_string(root().join("tests/bench/requirements-upstream.txt"))?;
    let version = pinned
        .lines()
        .find_map(|line| line.strip_prefix("kserve-storage=="))
        .context("kserve-storage is not pinned")?;
    Ok(format!("{before}{BEGIN}{}{END}{after}", table(results, version)?))
}

/// What both do alike comes first. Cases of one outcome share a row, and so do places of the same
/// cases.
fn table(results: &str, version: &str) -> Result<String> {
    let mut cases: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for line in results.lines() {
        let mut line = parse(line)?;
        let mut take = |name: &str| line.remove(name);
        let (Some(upstream), Some(ours)) = (take("upstream"), take("ours")) else { continue };
        let (source, case) = (take("source").context("source")?, take("case").context("case")?);
        cases.entry((source, upstream, ours)).or_default().insert(case);
    }
    if cases.is_empty() {
        bail!("no test has compared anything");
    }
    let mut rows: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for ((source, upstream, ours), cases) in cases {
        let first = source.trim_start_matches('`').to_lowercase();
        let differs = ours != "the same";
        let key = match differs {
            // A row of its own, among those of its place.
            true => (differs, first, cases, upstream, ours),
            false => (differs, String::new(), cases, upstream, ours),
        };
        rows.entry(key).or_default().insert(source);
    }
    let joined =
        |texts: &BTreeSet<String>| texts.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut table =
        format!("| from | what | `kserve-storage` {version} | Sealift |\n|---|---|---|---|\n");
    for ((_, _, cases, upstream, ours), sources) in &rows {
        let (sources, cases) = (joined(sources), joined(cases));
        table += &format!("| {sources} | {cases} | {upstream} | {ours} |\n");
    }
    Ok(table)
}

/// One flat object of strings.
fn parse(line: &str) -> Result<BTreeMap<String, String>> {
    let mut parts = line.split('"');
    let mut members = BTreeMap::new();
    let well_formed = !line.contains('\\') && line.starts_with('{') && line.ends_with("\"}");
    while let (true, Some(_)) = (well_formed, parts.next()) {
        let Some(name) = parts.next() else { return Ok(members) };
        let (Some(":"), Some(value)) = (parts.next(), parts.next()) else { break };
        members.insert(name.to_owned(), value.to_owned());
    }
    bail!("not a result: {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_flat_and_plain() {
        let members = parse(r#"{"case":"a, b: {c}","ours":""}"#).unwrap();
        assert_eq!(members["case"], "a, b: {c}");
        assert_eq!(members["ours"], "");
        for bad in ["", "{}", r#"{"a":1}"#, r#"{"a":"\"b"}"#, r#"{"a":"b"#, r#"{"a":{"b":"c"}}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rows_are_of_one_outcome() {
        let results = r#"
{"source":"`s3://`","case":"folders","upstream":"arrives","ours":"the same"}
{"source":"`s3://`","case":"archives","upstream":"arrives","ours":"the same"}
{"source":"`s3://`","case":"archives","upstream":"arrives","ours":"the same"}
{"source":"`gs://`","case":"archives","upstream":"arrives","ours":"the same"}
{"source":"`gs://`","case":"folders","upstream":"arrives","ours":"the same"}
{"source":"`hf://`","case":"folders","upstream":"arrives","ours":"the same"}
{"source":"archives","case":"links","upstream":"unpacked","ours":"refused (E30)"}
{"source":"s3","server":"x","case":"y","result":"z"}"#;
        let expected = "\
| from | what | `kserve-storage` 1.2 | Sealift |
|---|---|---|---|
| `gs://`, `s3://` | archives, folders | arrives | the same |
| `hf://` | folders | arrives | the same |
| archives | links | unpacked | refused (E30) |
";
        assert_eq!(table(results.trim(), "1.2").unwrap(), expected);
        assert!(table("", "1.2").is_err());
    }

    #[test]
    fn the_document_has_a_place_for_it() {
        let results = r#"{"source":"a","case":"b","upstream":"c","ours":"d"}"#;
        assert!(with_table(results).unwrap().contains("| a | b | c | d |\n"));
    }
}
