//! Object names: relative, clean, and the same on every kind of store.

use crate::Error;

/// The longest name of an object below a location, in bytes. S3 keys end at 1 024, and need room
/// for the prefix.
pub const NAME_BYTES_MAX: usize = 1_024;
/// The longest component, in bytes: what Linux filesystems take.
const COMPONENT_BYTES_MAX: usize = 255;
/// The deepest nesting.
pub(crate) const DEPTH_MAX: usize = 32;

/// Refuses a name that could mean something else than one object below the location.
///
/// opendal trims white space at the ends of a path and folds `//`, so names that it would change
/// are refused too.
pub(crate) fn check(name: &str) -> Result<(), Error> {
    match fault(name) {
        None => Ok(()),
        Some(fault) => Err(Error::usage(format!("object name {} {fault}", quoted(name)))),
    }
}

/// What is wrong with a name, or nothing.
pub(crate) fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        return Some("is empty");
    }
    if name.len() > NAME_BYTES_MAX {
        return Some("is longer than 1024 bytes");
    }
    if name.chars().any(|c| c.is_control() || c == '\\') {
        return Some("has a control character or a backslash");
    }
    if name.trim() != name {
        return Some("begins or ends with white space");
    }
    let mut depth = 0;
    for component in name.split('/') {
        depth += 1;
        match component {
            "" => return Some("is absolute or has an empty component"),
            "." | ".." => return Some("has a `.` or `..` component"),
            _ if component.len() > COMPONENT_BYTES_MAX => {
                return Some("has a component longer than 255 bytes");
            }
            _ => {}
        }
    }
    (depth > DEPTH_MAX).then_some("is nested deeper than 32")
}

/// A name from outside, safe to print: escaped and cut.
pub(crate) fn quoted(name: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 128;
    let shown: String = name.chars().take(SHOWN_CHARS_MAX).collect();
    let cut = if shown.len() < name.len() { "…" } else { "" };
    format!("`{}{cut}`", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_bundles_use() {
        for name in
            ["sealift.json", "model.safetensors.sealed", "a/b c/ü.bin.sealed", "..a/...", ".hidden"]
        {
            assert_eq!(fault(name), None, "{name}");
        }
    }

    #[test]
    fn refuses_names_that_could_mean_another_object() {
        let long = "x".repeat(256);
        let deep = vec!["d"; 33].join("/");
        let huge = vec!["x".repeat(250); 5].join("/");
        for name in [
            "",
            "/etc/passwd",
            "a/../b",
            "..",
            ".",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "a\0",
            "a\nb",
            " a",
            "a ",
            "\u{85}",
            &long,
            &deep,
            &huge,
        ] {
            assert!(fault(name).is_some(), "{name:?}");
        }
    }

    #[test]
    fn quotes_without_control_characters_and_cut() {
        assert_eq!(quoted("a\x1b[2Jb"), "`a\\u{1b}[2Jb`");
        assert!(quoted(&"y".repeat(10_000)).len() < 200);
    }
}
