//! Which files of a plain model are fetched: KServe's `STORAGE_ALLOW_PATTERNS` and
//! `STORAGE_IGNORE_PATTERNS`.
//!
//! Patterns are those of Python's `fnmatch` on the file's path: `*` and `?` also stand for `/`,
//! `[abc]` and `[!a-c]` for one character.

use crate::failure::Failure;

/// Most patterns in one variable.
const PATTERNS_MAX: usize = 256;
/// The longest pattern, in characters. With the longest name it bounds the work of a match.
const PATTERN_CHARS_MAX: usize = 256;

/// What to fetch: all that an allowed pattern matches, or everything if there is none, without what
/// an ignored one matches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patterns {
    allowed: Vec<Vec<char>>,
    ignored: Vec<Vec<char>>,
}

impl Patterns {
    /// Reads both lists: each a JSON array of strings, a JSON string, or separated by commas.
    ///
    /// # Errors
    /// Too many, or too long.
    pub fn parse(allowed: &str, ignored: &str) -> Result<Self, Failure> {
        Ok(Self { allowed: list(allowed)?, ignored: list(ignored)? })
    }

    /// Whether every file is fetched.
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty() && self.ignored.is_empty()
    }

    /// Whether the file of this path is fetched.
    pub fn take(&self, path: &str) -> bool {
        let path: Vec<char> = path.chars().collect();
        let any = |patterns: &[Vec<char>]| patterns.iter().any(|pattern| matches(pattern, &path));
        (self.allowed.is_empty() || any(&self.allowed)) && !any(&self.ignored)
    }
}

fn list(text: &str) -> Result<Vec<Vec<char>>, Failure> {
    let parsed: Vec<String> = match (serde_json::from_str(text), serde_json::from_str(text)) {
        (Ok(patterns), _) => patterns,
        (_, Ok(pattern)) => vec![pattern],
        _ => text.split(',').map(str::to_owned).collect(),
    };
    let patterns: Vec<Vec<char>> = parsed
        .iter()
        .map(|pattern| pattern.trim().chars().collect::<Vec<_>>())
        .filter(|pattern| !pattern.is_empty())
        .collect();
    if patterns.len() > PATTERNS_MAX || patterns.iter().any(|p| p.len() > PATTERN_CHARS_MAX) {
        return Err(Failure::usage("more than 256 patterns, or one of more than 256 characters"));
    }
    Ok(patterns)
}

/// Backtracks to the last `*` only, so that the work is at most the product of both lengths.
fn matches(pattern: &[char], text: &[char]) -> bool {
    let (mut at, mut pos) = (0, 0);
    let mut star = None;
    while pos < text.len() {
        match one(&pattern[at..], text[pos]) {
            One::Star => {
                star = Some((at + 1, pos));
                at += 1;
            }
            One::Matched(length) => {
                at += length;
                pos += 1;
            }
            One::Other => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (at, pos) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// What the beginning of a pattern makes of one character.
enum One {
    Star,
    /// It matches, with so many characters of the pattern.
    Matched(usize),
    Other,
}

fn one(pattern: &[char], c: char) -> One {
    let matched = match pattern {
        [] => return One::Other,
        ['*', ..] => return One::Star,
        ['?', ..] => Some(1),
        ['[', rest @ ..] => match set(rest) {
            Some((members, length)) => members.contains(c).then_some(length + 1),
            // Without its end it is a plain character.
            None => (c == '[').then_some(1),
        },
        [plain, ..] => (*plain == c).then_some(1),
    };
    matched.map_or(One::Other, One::Matched)
}

/// The characters between `[` and `]`.
struct Set<'a> {
    members: &'a [char],
    negated: bool,
}

/// The set that `rest` begins with, and its length with the closing bracket; a bracket at the very
/// beginning is a member.
fn set(rest: &[char]) -> Option<(Set<'_>, usize)> {
    let negated = rest.first() == Some(&'!');
    let start = usize::from(negated);
    let end = start + 1 + rest.get(start + 1..)?.iter().position(|c| *c == ']')?;
    Some((Set { members: &rest[start..end], negated }, end + 1))
}

impl Set<'_> {
    fn contains(&self, c: char) -> bool {
        let mut rest = self.members;
        let mut found = false;
        while let [first, tail @ ..] = rest {
            rest = match tail {
                ['-', last, tail @ ..] => {
                    found |= (*first..=*last).contains(&c);
                    tail
                }
                _ => {
                    found |= *first == c;
                    tail
                }
            };
        }
        found != self.negated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python's `fnmatch.fnmatchcase` says of each.
    #[test]
    fn patterns_mean_what_they_mean_to_fnmatch() {
        for (pattern, path, expected) in [
            ("*.json", "config.json", true),
            ("*.json", "sub/config.json", true),
            ("*.json", "config.jsonl", false),
            ("original/*", "original/a/b", true),
            ("original/*", "xoriginal/a", false),
            ("*", "", true),
            ("", "", true),
            ("?.bin", "a.bin", true),
            ("?.bin", ".bin", false),
            ("a[0-9].bin", "a7.bin", true),
            ("a[!0-9].bin", "a7.bin", false),
            ("a[!0-9].bin", "ax.bin", true),
            ("a[]].bin", "a].bin", true),
            ("a[.bin", "a[.bin", true),
            ("a[-x]", "a-", true),
            ("*a*b*c*", "xxaxxbxxcxx", true),
            ("*a*b*c*", "xxaxxcxxbxx", false),
            ("model-?????-of-00002.safetensors", "model-00001-of-00002.safetensors", true),
            ("**/x", "a/b/x", true),
            ("ü*", "übung", true),
        ] {
            let (pattern, path): (Vec<_>, Vec<_>) =
                (pattern.chars().collect(), path.chars().collect());
            assert_eq!(matches(&pattern, &path), expected, "{pattern:?} {path:?}");
        }
    }

    #[test]
    fn lists_are_json_or_separated_by_commas() {
        let both =
            Patterns::parse(r#"["*.safetensors", "*.json"]"#, " *.bin , training/* ").unwrap();
        assert!(both.take("a.json") && both.take("x/a.safetensors"));
        assert!(!both.take("a.bin") && !both.take("training/a.json") && !both.take("README.md"));
        let one = Patterns::parse(r#" "*.bin" "#, "").unwrap();
        assert!(one.take("a.bin") && !one.take("a.json"));
        assert!(Patterns::parse("", " ").unwrap().take("anything"));
        assert!(Patterns::parse("", "").unwrap().is_empty());
        assert!(Patterns::parse(&"a,".repeat(257), "").is_err());
        assert!(Patterns::parse(&"a".repeat(257), "").is_err());
    }

    #[test]
    fn a_pattern_of_stars_takes_no_time() {
        let pattern: Vec<char> = "*a".repeat(128).chars().collect();
        let text: Vec<char> = "a".repeat(1_023).chars().chain(['b']).collect();
        assert!(!matches(&pattern, &text));
    }
}
