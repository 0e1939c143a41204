//! As much of Markdown as the checks of documents need: headings, links, fenced blocks, rows of
//! tables, pieces of code.

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `#` to `######`, and how many.
    Heading(usize),
    /// A row of a table, its line of dashes included.
    Row,
    /// Of a fenced block, its fences included.
    Code,
    /// Anything else.
    Text,
}

/// A line of a document, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) number: usize,
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
}

/// Every line of a document.
pub(crate) fn lines(document: &str) -> Vec<Line<'_>> {
    let mut fenced = false;
    let kind = |text: &str| {
        let trimmed = text.trim_start();
        let fence = trimmed.starts_with("```");
        let level = text.chars().take_while(|&c| c == '#').count();
        let inside = fenced;
        fenced ^= fence;
        match () {
            () if fence || inside => Kind::Code,
            () if (1..=6).contains(&level) && text[level..].starts_with(' ') => {
                Kind::Heading(level)
            }
            () if trimmed.starts_with('|') => Kind::Row,
            () => Kind::Text,
        }
    };
    let kinds: Vec<Kind> = document.lines().map(kind).collect();
    let lines = document.lines().zip(kinds).zip(1..);
    lines.map(|((text, kind), number)| Line { number, kind, text }).collect()
}

/// The targets of a line's links, those in pieces of code left out.
pub(crate) fn links(line: Line<'_>) -> Vec<&str> {
    if line.kind == Kind::Code {
        return Vec::new();
    }
    let found = line.text.match_indices("](").filter(|&(at, _)| !in_code(line.text, at));
    found.filter_map(|(at, open)| line.text[at + open.len()..].split(')').next()).collect()
}

/// The pieces of code of a line, in their order.
pub(crate) fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn in_code(text: &str, at: usize) -> bool {
    text[..at].matches('`').count() % 2 == 1
}

/// The names by which the headings of a document are linked to, as the forges and mdBook make them.
pub(crate) fn anchors(document: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for line in lines(document) {
        let Kind::Heading(level) = line.kind else { continue };
        let name = anchor(line.text[level..].trim());
        let earlier = anchors.iter().filter(|earlier| is_same(earlier, &name)).count();
        anchors.push(if earlier == 0 { name } else { format!("{name}-{earlier}") });
    }
    anchors
}

/// Whether `earlier` is `name`, or `name` with the number of a repetition.
fn is_same(earlier: &str, name: &str) -> bool {
    let number = earlier.strip_prefix(name).map(|rest| rest.strip_prefix('-').unwrap_or(rest));
    number.is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
}

fn anchor(title: &str) -> String {
    // Of a link, its text.
    let mut shown = String::new();
    let mut rest = title;
    while let Some((before, after)) = rest.split_once("](") {
        shown += before;
        rest = after.split_once(')').map_or("", |(_, after)| after);
    }
    shown += rest;
    let kept = shown.chars().filter(|c| c.is_alphanumeric() || " _-".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_the_forges() {
        let page = "# 4. `sealift.json`\n## Azure: `az-snp-vtpm` and `az`\n### A TPM's [key](k.md), why?\n\
                    ```sh\n# no heading\n```\n## Same\n## Same\n#5\n";
        let names =
            ["4-sealiftjson", "azure-az-snp-vtpm-and-az", "a-tpms-key-why", "same", "same-1"];
        assert_eq!(anchors(page), names);
    }

    #[test]
    fn links_in_code_are_none() {
        let page = "a [b](c.md#d) `x](y)` [e](f)\n```\n[g](h)\n```\n| [i](j) |\n";
        let found: Vec<&str> = lines(page).into_iter().flat_map(links).collect();
        assert_eq!(found, ["c.md#d", "f", "j"]);
    }
}
