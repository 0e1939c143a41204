//! No link of a Markdown file leads nowhere: not to a file that is not there, nor to a heading that
//! its page does not have. Links to other sites are looked at, and not followed.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::markdown::{self, lines};
use crate::workspace::root;

/// A link's target, from the root of the repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) anchor: Option<String>,
}

/// Where `link`, written in `document`, leads; `None`: to another site.
pub(crate) fn target(document: &Path, link: &str) -> Result<Option<Target>, String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return if is_address(link) { Ok(None) } else { Err("is no address".into()) };
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor.to_owned())),
        None => (link, None),
    };
    if link.is_empty() || link.contains(' ') || path.starts_with('/') {
        return Err("is no relative path".into());
    }
    let mut resolved = match path {
        "" => return Ok(Some(Target { path: document.to_owned(), anchor })),
        _ => document.parent().unwrap_or(Path::new("")).to_owned(),
    };
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir if !resolved.pop() => return Err("leaves the repository".into()),
            Component::Normal(name) => resolved.push(name),
            _ => {}
        }
    }
    Ok(Some(Target { path: resolved, anchor }))
}

/// What one would type into a browser: a scheme, a host, no space or bracket.
fn is_address(link: &str) -> bool {
    let rest = ["https://", "http://"].iter().find_map(|scheme| link.strip_prefix(scheme));
    let host = rest.and_then(|rest| rest.split(['/', '#', '?']).next()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_graphic() && !"<>\"{}|\\^`".contains(c);
    link.chars().all(plain) && (host.contains('.') || link.starts_with("mailto:"))
}

/// The pages whose headings were asked for, by their paths.
#[derive(Debug, Default)]
pub(crate) struct Anchors(HashMap<PathBuf, Vec<String>>);

impl Anchors {
    fn has(&mut self, page: &Path, anchor: &str) -> bool {
        let read = || fs::read_to_string(root().join(page)).unwrap_or_default();
        let known = self.0.entry(page.to_owned());
        known.or_insert_with(|| markdown::anchors(&read())).iter().any(|known| known == anchor)
    }
}

/// What is wrong with the links of `document`, whose text is `text`: line by line.
pub(crate) fn faults(document: &str, text: &str, anchors: &mut Anchors) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    for line in lines(text) {
        for link in markdown::links(line) {
            let why = match target(Path::new(document), link) {
                Ok(None) => continue,
                Ok(Some(target)) => wrong(document, text, &target, anchors),
                Err(why) => Some(why),
            };
            faults.extend(why.map(|why| (line.number, format!("links to {link}, which {why}"))));
        }
    }
    faults
}

fn wrong(document: &str, text: &str, target: &Target, anchors: &mut Anchors) -> Option<String> {
    let here = target.path == Path::new(document);
    if !here && !root().join(&target.path).exists() {
        return Some("is not there".into());
    }
    let anchor = target.anchor.as_deref()?;
    let known = match here {
        true => markdown::anchors(text).iter().any(|known| known == anchor),
        false => anchors.has(&target.path, anchor),
    };
    (!known).then(|| "is no heading of that page".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> usize {
        faults("docs/x.md", text, &mut Anchors::default()).len()
    }

    #[test]
    fn a_planted_broken_link_is_found() {
        assert_eq!(
            found("[a](keys.md) [b](../Cargo.toml) [c](keys.md#the-examples) [d](#x)\n# X"),
            0
        );
        for broken in [
            "keyz.md",
            "keys.md#the-exampels",
            "#y",
            "../Cargo.toml#dependencies",
            "/docs/keys.md",
            "../../x",
            "",
            "https://",
            "https://exa mple.org",
            "https://example",
            "ftp://example.org",
        ] {
            assert_eq!(found(&format!("# X\nsee [it]({broken})")), 1, "{broken}");
        }
        assert_eq!(found("[a](https://example.org/x?y#z) [b](mailto:a@b.example)"), 0);
        assert_eq!(found("`[a](missing.md)`\n```\n[a](missing.md)\n```"), 0);
    }
}
