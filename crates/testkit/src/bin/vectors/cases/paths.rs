//! Paths, alone and as a set (format §2). Each bundle here is sealed and signed for its paths, so
//! that nothing but a path is wrong.

use anyhow::Result;

use crate::Set;

pub(crate) fn add(set: &mut Set) -> Result<()> {
    alone(set)?;
    together(set)?;
    allowed(set)
}

fn alone(set: &mut Set) -> Result<()> {
    let component = "c".repeat(249);
    let path = format!("{}/{}", vec!["d".repeat(248); 4].join("/"), "e".repeat(30));
    assert_eq!(path.len(), 1026, "four components and slashes, and one more");
    let path = &path[..1025];
    let deep = vec!["d"; 33].join("/");
    for (name, path, comment) in [
        ("path_empty", "", "A file needs a name."),
        ("path_absolute", "/etc/passwd", "Begins with `/`: an empty first component."),
        ("path_of_two_dots", "..", "The directory above."),
        ("path_climbs", "../model", "Leads out of the destination."),
        ("path_climbs_inside", "a/../b", "Stays inside, by way of `..`."),
        ("path_ends_with_two_dots", "a/..", "Ends above where it began."),
        ("path_of_a_dot", ".", "The destination itself."),
        ("path_with_a_dot_component", "a/./b", "`.` as a component: a second name of `a/b`."),
        ("path_with_two_slashes", "a//b", "An empty component: a second name of `a/b`."),
        ("path_ends_with_a_slash", "a/", "A directory, not a file."),
        ("path_with_a_backslash", "a\\b", "A separator elsewhere."),
        ("path_with_nul", "a\0b", "NUL ends a name on Linux."),
        ("path_with_a_newline", "a\nb", "A line break forges lines of logs and listings."),
        ("path_with_escape", "a\u{1b}[2Jb", "ESC commands terminals."),
        ("path_with_del", "a\u{7f}b", "DEL is a control character."),
        ("path_with_c1_control", "a\u{85}b", "U+0085 is a control character beyond ASCII."),
        ("path_with_last_c1_control", "a\u{9f}b", "U+009F is the last of them."),
        (
            "path_component_too_long",
            &component,
            "249 bytes: with `.sealed` more than a name holds.",
        ),
        ("path_too_long", path, "1 025 bytes."),
        ("path_too_deep", &deep, "33 components."),
        ("path_of_our_staging", ".sealift-staging/x", "Names that begin with `.sealift` are ours."),
        ("path_of_our_receipt", ".Sealift-Receipt.json", "The same, whatever the case."),
        ("path_of_ours_deeper", "a/.SEALIFT", "The same, in any directory."),
        ("path_below_the_document", "sealift.json/x", "Its object would need a directory there."),
        ("path_below_the_document_in_other_case", "SeaLift.JSON/x", "The same, whatever the case."),
    ] {
        set.refused("name", name, comment, |case| case.set_paths(&[path]))?;
    }
    Ok(())
}

fn together(set: &mut Set) -> Result<()> {
    for (name, paths, comment) in [
        ("paths_equal", ["a", "a"], "The same path twice."),
        (
            "paths_equal_in_lower_case",
            ["Config.json", "config.json"],
            "One file where names have no case.",
        ),
        (
            "paths_equal_in_lower_case_beyond_ascii",
            ["\u{c9}t\u{e9}", "\u{e9}t\u{e9}"],
            "The same in letters beyond ASCII.",
        ),
        (
            "paths_equal_in_lower_case_with_a_final_sigma",
            ["\u{39f}\u{394}\u{39f}\u{3a3}", "\u{3bf}\u{3b4}\u{3bf}\u{3c2}"],
            "\u{39f}\u{394}\u{39f}\u{3a3} ends, lower-cased as a word, with a final sigma; letter by \
             letter it would not.",
        ),
        (
            "paths_differ_in_case_of_a_directory",
            ["Dir/a", "dir/a"],
            "One directory where names have no case, and one file in it.",
        ),
        ("path_is_a_directory_of_another", ["a", "a/b"], "`a` cannot be a file and a directory."),
        (
            "path_is_a_directory_of_another_in_lower_case",
            ["A/b", "a"],
            "The same where names have no case.",
        ),
        ("path_is_a_directory_two_levels_up", ["a", "a/b/c"], "The same with a directory between."),
        (
            "object_is_a_directory_of_another",
            ["a", "a.sealed/b"],
            "The object `a.sealed` cannot be a file and a directory.",
        ),
        (
            "object_is_a_directory_of_another_in_lower_case",
            ["A.Sealed/b", "a"],
            "The same where names have no case.",
        ),
    ] {
        set.refused("name", name, comment, |case| case.set_paths(&paths))?;
    }
    for (name, paths, comment) in [
        ("paths_not_sorted", ["a", "b"], "`b` before `a`."),
        (
            "paths_sorted_by_component",
            ["a-b", "a/b"],
            "`a/b` before `a-b`, as if directories came first: `-` is 2D, `/` is 2F.",
        ),
        (
            "paths_sorted_by_utf16",
            ["\u{fb01}", "\u{1f512}"],
            "U+1F512 before U+FB01, as UTF-16 sorts them; UTF-8 does not.",
        ),
    ] {
        set.refused("name", name, comment, |case| {
            case.set_paths(&paths);
            case.bundle.files.reverse();
        })?;
    }
    Ok(())
}

fn allowed(set: &mut Set) -> Result<()> {
    let component = "c".repeat(248);
    let mut longest = vec!["d".repeat(248); 4].join("/");
    longest.push_str(&format!("/{}", "e".repeat(1024 - longest.len() - 1)));
    let deepest = vec!["f"; 32].join("/");
    set.opens(
        "paths_at_their_limits",
        "A component of 248 bytes, a path of 1 024, and one of 32 components.",
        |case| case.set_paths(&[&component, &longest, &deepest]),
    )?;
    set.opens(
        "paths_that_look_odd",
        "Names that look like those that are refused, and are fine.",
        |case| {
            case.set_paths(&[
                "...",
                "..a/b",
                ".hidden",
                "a b",
                "a.sealed",
                "a:b",
                "sealift",
                "sealift.json",
                "x.sealift",
                "~",
                "\u{a0}",
            ]);
        },
    )?;
    set.opens(
        "paths_beyond_ascii",
        "\u{e9} composed and decomposed are two names; \u{130} has two letters when lower-cased; \
         three scripts.",
        |case| {
            let paths = ["\u{130}", "caf\u{e9}", "cafe\u{301}", "\u{6a21}\u{578b}", "\u{1f512}"];
            case.set_paths(&paths);
        },
    )?;
    set.opens(
        "paths_sorted_by_their_bytes",
        "`a-b` stands before `a/b`, and U+FB01 before U+1F512.",
        |case| case.set_paths(&["a-b", "a/b", "\u{fb01}", "\u{1f512}"]),
    )
}
