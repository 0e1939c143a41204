//! The fenced blocks of a page, section by section, and what is to be done with each.

/// A `## …` and what is below it. What comes before the first has an empty title.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) blocks: Vec<Block>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Of the opening fence, from 1.
    pub(crate) line: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ```` ```sh ````: commands.
    Script(String),
    /// ```` ```console ````: commands behind `$ `, each with what it prints, if that is shown.
    Session(Vec<Shown>),
    /// `<!-- file: NAME -->`: a file of this name, for later commands.
    File { name: String, text: String },
    /// `<!-- not run: WHY -->`
    NotRun,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) command: String,
    pub(crate) output: Option<String>,
}

/// Every block of `page`, or the first that is neither run nor says why not.
pub(crate) fn sections(page: &str) -> Result<Vec<Section>, String> {
    let mut sections = vec![Section { title: String::new(), blocks: Vec::new() }];
    let mut comment = None;
    let mut lines = page.lines().zip(1..);
    while let Some((text, line)) = lines.next() {
        let text = text.trim();
        let Some(language) = text.strip_prefix("```") else {
            if let Some(title) = text.strip_prefix("## ") {
                sections.push(Section { title: title.to_owned(), blocks: Vec::new() });
            }
            if !text.is_empty() {
                comment = text.strip_prefix("<!-- ").and_then(|text| text.strip_suffix(" -->"));
            }
            continue;
        };
        let body: Vec<&str> =
            lines.by_ref().map(|(text, _)| text).take_while(|text| text.trim() != "```").collect();
        let kind =
            kind(comment.take(), language, &body).map_err(|why| format!("line {line}: {why}"))?;
        sections.last_mut().expect("there is one").blocks.push(Block { line, kind });
    }
    Ok(sections)
}

fn kind(comment: Option<&str>, language: &str, body: &[&str]) -> Result<Kind, String> {
    let text = || body.iter().map(|line| format!("{line}\n")).collect();
    match (comment.and_then(|comment| comment.split_once(": ")), language) {
        (Some(("not run", why)), _) if !why.trim().is_empty() => Ok(Kind::NotRun),
        (Some(("file", name)), _) => Ok(Kind::File { name: name.to_owned(), text: text() }),
        (_, "sh") => Ok(Kind::Script(text())),
        (_, "console") => session(body).map(Kind::Session),
        _ => Err(format!(
            "a block in {language:?} is neither run (sh, console) nor a file \
             (`<!-- file: NAME -->`) nor says why not (`<!-- not run: WHY -->`)"
        )),
    }
}

fn session(body: &[&str]) -> Result<Vec<Shown>, String> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut continued = false;
    for line in body {
        match (line.strip_prefix("$ "), shown.last_mut()) {
            (Some(command), _) => shown.push(Shown { command: command.to_owned(), output: None }),
            (None, Some(last)) if continued => {
                last.command.push('\n');
                last.command.push_str(line);
            }
            (None, Some(last)) => {
                let output = last.output.get_or_insert_default();
                output.push_str(line);
                output.push('\n');
            }
            (None, None) => return Err("a session begins with `$ `".into()),
        }
        continued = line.ends_with('\\');
    }
    Ok(shown)
}

#[test]
fn a_block_that_is_neither_run_nor_excused_is_an_error() {
    let page =
        |comment: &str, language: &str| format!("## A\n\n{comment}\n```{language}\nx\n```\n");
    for (comment, language) in [
        ("", ""),
        ("", "yaml"),
        ("text", "rego"),
        ("<!-- not run: -->", ""),
        ("<!-- skipped: why -->", "yaml"),
        ("", "console"),
    ] {
        let refused = sections(&page(comment, language)).unwrap_err();
        assert!(refused.starts_with("line 4: "), "{comment} {language}: {refused}");
    }
    // A reason is for one block, and stands right above it.
    let excused = page("<!-- not run: why -->", "yaml");
    assert!(sections(&excused).is_ok());
    assert!(sections(&format!("{excused}\n```yaml\n```\n")).is_err());
    assert!(sections(&page("<!-- not run: why -->\ntext", "yaml")).is_err());
}

#[test]
fn a_session_is_commands_and_what_they_print() {
    let page = "```sh\na \\\n  b\n```\n## B\n<!-- file: f -->\n```\nf\n```\n```console\n$ a \\\n    b\nc\nd\n$ e\n```\n";
    let [before, b] = &sections(page).unwrap()[..] else { panic!("two sections") };
    assert_eq!(before.blocks, [Block { line: 1, kind: Kind::Script("a \\\n  b\n".into()) }]);
    let [file, session] = &b.blocks[..] else { panic!("two blocks") };
    assert_eq!(file.kind, Kind::File { name: "f".into(), text: "f\n".into() });
    let shown = |command: &str, output: Option<&str>| Shown {
        command: command.into(),
        output: output.map(str::to_owned),
    };
    let commands = vec![shown("a \\\n    b", Some("c\nd\n")), shown("e", None)];
    assert_eq!(session.kind, Kind::Session(commands));
}
