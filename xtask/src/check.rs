//! `cargo xtask check`: everything that can be said of the code without running it.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::links;
use crate::process;
use crate::promises;
use crate::setup;
use crate::translation;
use crate::workspace::{cargo, root};

/// How a step ended, if nothing is wrong.
enum Verdict {
    Ok,
    /// Could not be done here, and why.
    Skipped(String),
}

/// Runs every step, also after a failure, and ends with the list of those that failed.
pub(crate) fn run() -> Result<()> {
    let deny = setup::cargo_deny()?;
    let mut failed = Vec::new();
    let mut step = |name: &'static str, check: &dyn Fn() -> Result<Verdict>| {
        print!("{name:12}");
        let _ = std::io::stdout().flush();
        let start = Instant::now();
        let verdict = check();
        let seconds = start.elapsed().as_secs_f64();
        match verdict {
            Ok(Verdict::Ok) => println!("ok      {seconds:6.1} s"),
            Ok(Verdict::Skipped(why)) => println!("skipped {seconds:6.1} s  {why}"),
            Err(error) => {
                println!("FAILED  {seconds:6.1} s\n{error:#}\n");
                failed.push(name);
            }
        }
    };
    step("format", &|| passes(cargo().args(["fmt", "--all", "--check"])));
    step("lints", &|| {
        let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet"];
        passes(cargo().args(arguments).args(["--", "-D", "warnings"]))
    });
    step("docs", &|| {
        let arguments = ["doc", "--workspace", "--no-deps", "--locked", "--quiet"];
        passes(cargo().args(arguments).env("RUSTDOCFLAGS", "-D warnings"))
    });
    step("licences", &|| {
        let which = ["check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
        passes(Command::new(&deny).current_dir(root()).args(which))
    });
    step("advisories", &|| advisories(&deny));
    step("files", &files);
    step("promises", &|| promises::check().map(|()| Verdict::Ok));
    step("translation", &|| translation::check().map(|()| Verdict::Ok));
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed: {}", failed.join(", "))
}

fn passes(command: &mut Command) -> Result<Verdict> {
    process::capture(command).map(|_| Verdict::Ok)
}

/// Known vulnerabilities. Their database comes from the network, which a build machine may not have.
fn advisories(deny: &Path) -> Result<Verdict> {
    let mut command = Command::new(deny);
    command.current_dir(root()).args(["check", "--hide-inclusion-graph", "advisories"]);
    let output = process::output(&mut command)?;
    let said = process::said(&output);
    if output.status.success() {
        Ok(Verdict::Ok)
    } else if said.contains("failed to fetch advisory database") {
        Ok(Verdict::Skipped("the advisory database cannot be fetched from here".into()))
    } else {
        bail!("{said}")
    }
}

/// Rules for every file that is, or is about to be, in the repository.
fn files() -> Result<Verdict> {
    let mut list = Command::new("git");
    list.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let list = process::capture(&mut list)?;
    let machine = machine_paths();
    let mut found = Vec::new();
    let mut anchors = links::Anchors::default();
    for name in list.split('\0').filter(|name| !name.is_empty()) {
        // Deleted but not yet committed, or not text: nothing to read.
        let Ok(text) = fs::read_to_string(root().join(name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(rule) = broken_rule(name, line, &machine) {
                found.push(format!("{name}:{}: {rule}", number + 1));
            }
        }
        if name.ends_with(".md") {
            let faults = links::faults(name, &text, &mut anchors);
            found.extend(faults.into_iter().map(|(line, what)| format!("{name}:{line}: {what}")));
        }
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(Verdict::Ok)
}

/// Hosts that only a package manager should know: whoever builds may use a mirror. In two halves,
/// so that this file keeps its own rule.
const REGISTRIES: [(&str, &str); 5] = [
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("registry.npmjs", ".org"),
    ("deb.debian", ".org"),
];

fn broken_rule(name: &str, line: &str, machine: &[String]) -> Option<String> {
    if let Some(path) = machine.iter().find(|path| names_path(line, path)) {
        return Some(format!("names {path}, a path of this machine"));
    }
    let names_registry = |(host, domain): &(&str, &str)| line.contains(&format!("{host}{domain}"));
    if name != "Cargo.lock" && REGISTRIES.iter().any(names_registry) {
        return Some("names a package registry's host".into());
    }
    if name.ends_with(".rs") && line.contains(concat!("todo", "!(")) {
        return Some("unfinished code".into());
    }
    None
}

/// Where this clone and this user live, and the directory that holds the clone.
fn machine_paths() -> Vec<String> {
    let home = std::env::var("HOME").unwrap_or_default();
    [Some(root()), root().parent(), Some(Path::new(&home))]
        .into_iter()
        .flatten()
        .filter(|path| path.components().count() > 1)
        .map(|path| format!("{}/", path.display()))
        .collect()
}

/// Whether `line` holds `path` as the beginning of a path, not in the middle of another.
fn names_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || "_.-/}>".contains(before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_keeps_the_rules_and_no_link_is_broken() {
        files().unwrap();
    }

    #[test]
    fn finds_each_planted_fault() {
        let machine = ["/srv/build/".to_owned()];
        let rule = |name, line: &str| broken_rule(name, line, &machine);
        assert!(rule("a.md", "see /srv/build/x").is_some());
        assert!(rule("a.md", "see <https://crates.example/x>").is_none());
        assert!(rule("a.md", &format!("see {}{}", REGISTRIES[1].0, REGISTRIES[1].1)).is_some());
        assert!(rule("a.rs", concat!("fn x() { todo", "!() }")).is_some());
    }

    #[test]
    fn a_path_inside_another_path_is_not_this_machines() {
        assert!(names_path("cd /srv/x", "/srv/"));
        assert!(names_path("'/srv/x'", "/srv/"));
        assert!(!names_path("/mnt/srv/x", "/srv/"));
    }
}
