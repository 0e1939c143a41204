//! The links of a site that was made: what browsers are given, which is not always what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A page's own names, and where it leads.
#[derive(Debug, Default)]
struct Page {
    ids: BTreeSet<String>,
    links: Vec<String>,
}

/// How many links of the pages below `site` lead to a file of it; an error names those that lead
/// nowhere.
pub(super) fn check(site: &Path) -> Result<usize> {
    let mut pages = BTreeMap::new();
    let mut files = BTreeSet::new();
    walk(site, Path::new(""), &mut files)?;
    for file in files.iter().filter(|file| file.extension().is_some_and(|name| name == "html")) {
        let text = fs::read_to_string(site.join(file)).context("a page")?;
        pages.insert(file.clone(), parse(&text));
    }
    // Its links begin at the site's root, wherever that is put.
    pages.remove(Path::new("404.html"));
    let (links, broken) = follow(&pages, &files);
    if !broken.is_empty() {
        bail!("{}", broken.join("\n"));
    }
    Ok(links)
}

fn walk(site: &Path, below: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(site.join(below))? {
        let entry = entry?;
        let name = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => walk(site, &name, files)?,
            false => drop(files.insert(name)),
        }
    }
    Ok(())
}

fn parse(text: &str) -> Page {
    let mut page = Page::default();
    for tag in text.split('<').skip(1) {
        let Some((tag, _)) = tag.split_once('>') else { continue };
        page.ids.extend(attribute(tag, "id").map(decode));
        let link = match tag.split_whitespace().next() {
            Some("a" | "link") => attribute(tag, "href"),
            Some("img" | "script") => attribute(tag, "src"),
            _ => None,
        };
        page.links.extend(link.map(decode));
    }
    page
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = tag.split_once(&format!(" {name}=\""))?;
    value.split('"').next()
}

/// `%41` and `&amp;`.
fn decode(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).replace("&amp;", "&")
}

fn follow(pages: &BTreeMap<PathBuf, Page>, files: &BTreeSet<PathBuf>) -> (usize, Vec<String>) {
    let (mut good, mut broken) = (0, Vec::new());
    for (name, page) in pages {
        for link in &page.links {
            if link.contains("://") || link.starts_with("mailto:") || link.starts_with("data:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path.split('?').next().unwrap_or_default() {
                "" => name.clone(),
                path => resolve(name, path),
            };
            let leads = match pages.get(&target) {
                Some(page) => anchor.is_empty() || page.ids.contains(anchor),
                None => files.contains(&target),
            };
            match leads {
                true => good += 1,
                false => broken.push(format!("{}: {link} leads nowhere", name.display())),
            }
        }
    }
    (good, broken)
}

fn resolve(page: &Path, path: &str) -> PathBuf {
    let mut resolved = page.parent().unwrap_or(Path::new("")).to_owned();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(resolved.pop()),
            name => resolved.push(name),
        }
    }
    if path.ends_with('/') { resolved.join("index.html") } else { resolved }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_broken_link_is_found() {
        let page = |text: &str| {
            let good = "<h1 id=\"top\"><a class=\"x\" href=\"#top\">A</a></h1>";
            let a = parse(&format!("{good}{text}"));
            let b = parse("<h2 id=\"中\">B</h2><a href=\"../a.html#top\">");
            let pages = BTreeMap::from([("a.html".into(), a), ("d/b.html".into(), b)]);
            let files = ["a.html", "d/b.html", "s.css"].map(PathBuf::from).into();
            follow(&pages, &files).1.len()
        };
        let good = "<a href=\"d/b.html#%E4%B8%AD\"><link href=\"s.css?v=1\"><a href=\"https://x.example\">";
        assert_eq!(page(good), 0);
        assert_eq!(page("<p>a &lt;a href=\"missing.html\"&gt;</p>"), 0);
        for broken in ["b.html", "d/b.html#x", "#bottom", "../s.cs", "d/"] {
            assert_eq!(page(&format!("<a href=\"{broken}\">")), 1, "{broken}");
        }
        assert_eq!(page("<script async src=\"s.js\">"), 1);
    }
}
