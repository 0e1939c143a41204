//! Translations are of what their originals say now: the same headings, code, links and tables, and
//! below each heading the digest of the section that it was translated from.
//!
//! That a section was translated well, no program can say; that its original has changed since, this
//! one does.

use std::fs;

use anyhow::{Result, bail};

use crate::markdown::{self, Kind, Line};
use crate::workspace::root;

/// Originals and their translations.
const PAIRS: [(&str, &str); 2] = [
    ("README.md", "README.zh-CN.md"),
    ("docs/quickstart-laptop.md", "docs/quickstart-laptop.zh-CN.md"),
];

/// What a translation's file name has, and its original's has not.
const LANGUAGE: &str = ".zh-CN";

/// Fails if a translation is not in step with its original.
pub(crate) fn check() -> Result<()> {
    let mut faults = Vec::new();
    for (original, translation) in PAIRS {
        faults.extend(compare([original, translation], &read(original)?, &read(translation)?));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    Ok(())
}

/// `cargo xtask docs --translated`: each section is of its original as it is now. For whoever has just
/// made that true.
pub(crate) fn record() -> Result<()> {
    for (original, translation) in PAIRS {
        let (text, translated) = (read(original)?, read(translation)?);
        fs::write(root().join(translation), recorded(&text, &translated)?)?;
    }
    check()
}

fn read(name: &str) -> Result<String> {
    Ok(fs::read_to_string(root().join(name))?)
}

/// A heading and what is below it, up to the next heading of any level.
#[derive(Debug)]
struct Section<'a> {
    heading: Line<'a>,
    level: usize,
    lines: Vec<Line<'a>>,
}

fn sections(document: &str) -> Vec<Section<'_>> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in markdown::lines(document) {
        match (line.kind, sections.last_mut()) {
            (Kind::Heading(level), _) => {
                sections.push(Section { heading: line, level, lines: Vec::new() });
            }
            (_, Some(section)) => section.lines.push(line),
            // Before the first heading is nothing to translate.
            (_, None) => {}
        }
    }
    sections
}

impl Section<'_> {
    /// FNV-1a over heading and lines: what it has to notice is a change, not an adversary.
    fn digest(&self) -> String {
        let mut digest = 0xcbf2_9ce4_8422_2325_u64;
        for line in std::iter::once(&self.heading).chain(&self.lines) {
            for byte in line.text.bytes().chain([b'\n']) {
                digest = (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{digest:016x}")
    }

    /// The digest that a translation's section says it is of.
    fn recorded(&self) -> Option<&str> {
        self.lines.iter().find_map(|line| note(line.text))
    }

    fn code(&self) -> Vec<&str> {
        self.of(Kind::Code).map(|line| line.text).collect()
    }

    /// What each row has in code: names, options and URIs, which no language changes.
    fn rows(&self) -> Vec<Vec<&str>> {
        let rows = self.of(Kind::Row).map(|line| {
            let mut code: Vec<&str> = markdown::code(line.text).collect();
            code.sort_unstable();
            code
        });
        rows.collect()
    }

    fn links(&self) -> Vec<String> {
        let links = self.lines.iter().flat_map(|line| markdown::links(*line));
        let mut links: Vec<String> = links.map(|link| link.replace(LANGUAGE, "")).collect();
        links.sort();
        links
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Line<'_>> {
        self.lines.iter().filter(move |line| line.kind == kind)
    }
}

/// `<!-- of: 0123456789abcdef -->`
fn note(line: &str) -> Option<&str> {
    line.strip_prefix("<!-- of: ")?.strip_suffix(" -->")
}

/// What is not in step, section by section.
fn compare(names: [&str; 2], original: &str, translation: &str) -> Vec<String> {
    let [original_name, name] = names;
    let (originals, translations) = (sections(original), sections(translation));
    if originals.iter().map(|section| section.level).ne(translations.iter().map(|s| s.level)) {
        let (theirs, ours) = (originals.len(), translations.len());
        return vec![format!("{name}: {ours} headings, not the {theirs} of {original_name}")];
    }
    let mut faults = Vec::new();
    for (section, translated) in originals.iter().zip(&translations) {
        let heading = section.heading.text;
        let mut fault = |what: &str| {
            let line = translated.heading.number;
            faults.push(format!("{name}:{line}: {what} ({original_name}, {heading:?})"));
        };
        if translated.recorded() != Some(&section.digest()) {
            fault(
                "the original has changed since it was translated; translate what is new, then run: cargo xtask docs --translated",
            );
        }
        if section.code() != translated.code() {
            fault("its code is not the original's");
        }
        if section.rows() != translated.rows() {
            fault("its tables have other rows or other code than the original's");
        }
        if section.links() != translated.links() {
            fault("its links are not the original's");
        }
    }
    faults
}

/// The translation with the digests of the sections as they are.
fn recorded(original: &str, translation: &str) -> Result<String> {
    let originals = sections(original);
    let mut sections = originals.iter();
    let mut lines = Vec::new();
    for line in markdown::lines(translation) {
        if note(line.text).is_some() {
            continue;
        }
        lines.push(line.text.to_owned());
        if let Kind::Heading(_) = line.kind {
            let Some(section) = sections.next() else { bail!("it has more headings") };
            lines.push(format!("<!-- of: {} -->", section.digest()));
        }
    }
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGINAL: &str =
        "# A\ntext\n## B\n```sh\nls\n```\n| `x` | y |\n|---|---|\nsee [c](c.md)\n";
    const TRANSLATION: &str =
        "# 甲\n文字\n## 乙\n```sh\nls\n```\n| `x` | 丙 |\n|---|---|\n见 [丁](c.zh-CN.md)\n";

    fn faults(original: &str, translation: &str) -> Vec<String> {
        compare(["a.md", "a.zh-CN.md"], original, translation)
    }

    #[test]
    fn the_translations_are_in_step() {
        check().unwrap();
    }

    #[test]
    fn a_planted_change_of_either_is_found_and_its_section_named() {
        let translation = recorded(ORIGINAL, TRANSLATION).unwrap();
        assert_eq!(faults(ORIGINAL, &translation), [""; 0]);
        assert_eq!(recorded(ORIGINAL, &translation).unwrap(), translation);
        let changed = faults(&ORIGINAL.replace("text", "other text"), &translation);
        assert_eq!(changed.len(), 1, "{changed:?}");
        assert!(changed[0].contains("changed since") && changed[0].contains("# A"), "{changed:?}");
        for (from, to) in [
            ("ls\n", "ls -l\n"),
            ("`x`", "`z`"),
            ("| `x` | 丙 |\n", ""),
            ("c.zh-CN.md", "d.md"),
            ("## 乙", "### 乙"),
            ("## 乙", "## 乙\n## 丙"),
            ("<!-- of: ", "<!-- as of: "),
        ] {
            let found = faults(ORIGINAL, &translation.replacen(from, to, 1));
            assert_eq!(found.len(), 1, "{from}: {found:?}");
        }
    }
}
