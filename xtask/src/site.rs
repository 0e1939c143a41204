//! `cargo xtask docs`: the site, which mdBook makes of the Markdown files that `docs/SUMMARY.md`
//! lists.
//!
//! Pages link to each other as they lie in the repository, where forges show them; some are not below
//! `docs/`, and some link to sources. So the book is made of a copy below `target/` that has the
//! listed pages, and what they link to, in the repository's own places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::links::{self, Target};
use crate::markdown;
use crate::process;
use crate::setup;
use crate::workspace::{cargo, root, target_dir};

mod html;

const SUMMARY: &str = "docs/SUMMARY.md";

/// Makes the site below `target/site`, and fails if a link of it is broken.
pub(crate) fn run() -> Result<()> {
    let site = target_dir()?.join("site");
    let source = target_dir()?.join("site-source");
    let pages = stage(&source)?;
    let mdbook = match setup::mdbook() {
        Ok(mdbook) => mdbook,
        Err(why) => {
            println!("skipped: the site: no mdBook here: {why:#}");
            return Ok(());
        }
    };
    // Pages that were renamed would stay.
    remove(&site)?;
    let mut build = Command::new(mdbook);
    build.env("RUST_LOG", "warn").arg("build").arg(&source).arg("--dest-dir").arg(&site);
    let said = process::output(&mut build)?;
    if !said.status.success() || process::said(&said).contains("WARN") {
        bail!("{}\n{}", process::line(&build), process::said(&said));
    }
    let links = html::check(&site)?;
    println!("{pages} pages, {links} links: {}", site.join("index.html").display());
    Ok(())
}

/// Writes the pages that are generated from the programs: what a stale one's test asks for.
pub(crate) fn write() -> Result<()> {
    let programs = ["--package", "sealift-broker", "--package", "sealift-host"];
    let programs = [&programs[..], &["--package", "sealift-guest", "--bins"]].concat();
    for tests in [&["--package", "sealift", "--test", "pages"][..], &programs] {
        let mut test = cargo();
        test.args(["test", "--locked", "--quiet"]).args(tests).arg("generated_page");
        process::run(test.env("SEALIFT_GENERATED_PAGES", "write"))?;
    }
    Ok(())
}

/// Lays out the book's source; how many pages it has.
fn stage(source: &Path) -> Result<usize> {
    let summary = fs::read_to_string(root().join(SUMMARY)).context(SUMMARY)?;
    let (summary, pages) = book(&summary)?;
    let unlisted: Vec<String> = documents()?.difference(&pages).map(shown).collect();
    if !unlisted.is_empty() {
        bail!("{SUMMARY} does not list: {}", unlisted.join(", "));
    }
    remove(source)?;
    fs::create_dir_all(source.join("src"))?;
    fs::copy(root().join("docs/book.toml"), source.join("book.toml"))?;
    fs::write(source.join("src/SUMMARY.md"), summary)?;
    for page in &pages {
        let text = fs::read_to_string(root().join(page)).with_context(|| shown(page))?;
        for linked in linked(page, &text, &pages)? {
            copy(&linked, source)?;
        }
        copy(page, source)?;
    }
    Ok(pages.len())
}

/// The summary with paths from the repository's root, and the pages that it lists.
fn book(summary: &str) -> Result<(String, BTreeSet<PathBuf>)> {
    let mut listed: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for line in markdown::lines(summary) {
        let mut text = line.text.to_owned();
        for link in markdown::links(line) {
            let Ok(Some(Target { path, anchor: None })) = links::target(Path::new(SUMMARY), link)
            else {
                bail!("{SUMMARY}:{}: {link} is no page", line.number);
            };
            text = text.replace(&format!("]({link})"), &format!("]({})", path.display()));
            if let Some(earlier) = listed.insert(path, line.number) {
                bail!("{SUMMARY}:{}: {link} is in line {earlier}, too", line.number);
            }
        }
        lines.push(text + "\n");
    }
    Ok((lines.concat(), listed.into_keys().collect()))
}

/// The files below `docs/` that have to be pages.
fn documents() -> Result<BTreeSet<PathBuf>> {
    let mut list = Command::new("git");
    list.current_dir(root()).args(["ls-files", "-z", "--cached", "--others"]);
    list.args(["--exclude-standard", "--", "docs/*.md"]);
    let list = process::capture(&mut list)?;
    let names = list.split('\0').filter(|name| !name.is_empty() && *name != SUMMARY);
    Ok(names.map(PathBuf::from).filter(|name| root().join(name).exists()).collect())
}

/// What `page` links to that is no page. A directory would be shown by a forge, and by no web server.
fn linked(page: &Path, text: &str, pages: &BTreeSet<PathBuf>) -> Result<BTreeSet<PathBuf>> {
    let mut linked = BTreeSet::new();
    for line in markdown::lines(text) {
        for link in markdown::links(line) {
            let Ok(Some(Target { path, .. })) = links::target(page, link) else { continue };
            if pages.contains(&path) {
                continue;
            }
            let at = || format!("{}:{}: links to {link}", page.display(), line.number);
            if !root().join(&path).is_file() {
                bail!("{}, which is no file", at());
            }
            if path.extension().is_some_and(|extension| extension == "md") {
                bail!("{}, which {SUMMARY} does not list", at());
            }
            linked.insert(path);
        }
    }
    Ok(linked)
}

fn copy(file: &Path, source: &Path) -> Result<()> {
    let to = source.join("src").join(file);
    fs::create_dir_all(to.parent().context("a file has a directory")?)?;
    fs::copy(root().join(file), to).with_context(|| shown(file))?;
    Ok(())
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| shown(directory))?;
    }
    Ok(())
}

fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_lists_every_page_once() {
        let (summary, pages) =
            book("- [A](keys.md)\n  - [B](adr/x.md)\n[C](../README.md)\n").unwrap();
        assert_eq!(summary, "- [A](docs/keys.md)\n  - [B](docs/adr/x.md)\n[C](README.md)\n");
        assert_eq!(pages.len(), 3);
        for bad in ["[A](keys.md)\n[B](keys.md)", "[A](https://a.example)", "[A](keys.md#b)"] {
            assert!(book(bad).is_err(), "{bad}");
        }
        let (_, pages) = book(&fs::read_to_string(root().join(SUMMARY)).unwrap()).unwrap();
        assert_eq!(documents().unwrap().difference(&pages).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn what_a_page_links_to_is_a_page_or_a_file() {
        let pages = BTreeSet::from([PathBuf::from("docs/keys.md")]);
        let linked = |link: &str| linked(Path::new("docs/x.md"), &format!("[a]({link})"), &pages);
        assert_eq!(linked("keys.md#a").unwrap().len(), 0);
        assert_eq!(linked("https://a.example").unwrap().len(), 0);
        assert_eq!(linked("../Cargo.toml").unwrap(), [PathBuf::from("Cargo.toml")].into());
        for bad in ["errors", "broker.md", "missing.rs"] {
            assert!(linked(bad).is_err(), "{bad}");
        }
    }
}
