//! [`read`]: a YAML document as a tree in which every scalar knows where it stands, so that values
//! can be exchanged and everything else stays as it is, comments and all.
//!
//! Less than YAML on purpose: one document; no anchors and aliases, which make one text stand in
//! many places and small files grow without end; no tags; keys are scalars, none twice.

use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::failure::Failure;

/// Longest document: a Secret of 1 MiB, in base64, with room for what is beside it.
pub(crate) const BYTES_MAX: usize = 3 << 20;
/// Deepest nesting; a Secret has four levels.
const DEPTH_MAX: usize = 32;
/// Most scalars, lists and maps.
const NODES_MAX: usize = 100_000;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// Text, a number, a word or nothing.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in the document's order.
    Map(Vec<(String, Node)>),
}

/// Some text, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// Not quoted, nor a block: it may be a number, a word or nothing.
    pub(crate) is_plain: bool,
    /// Its bytes in the document, quotes included.
    pub(crate) place: Range<usize>,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// Wherever they stand.
impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.is_plain) == (&other.text, other.is_plain)
    }
}

impl Node {
    /// A map's value.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else { return None };
        entries.iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// A scalar's text.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }
}

/// Reads the one document in `text`.
pub(crate) fn read(text: &str) -> Result<Node, Failure> {
    if text.len() > BYTES_MAX {
        return Err(refused(None, format!("longer than {BYTES_MAX} bytes")));
    }
    if text.starts_with('\u{feff}') {
        return Err(refused(None, "a byte order mark at its beginning"));
    }
    let mut reader = Reader {
        text,
        parser: Parser::new_from_str(text),
        // The parser counts characters.
        offsets: text.char_indices().map(|(offset, _)| offset).chain([text.len()]).collect(),
        nodes: 0,
    };
    let node = loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd, _) => return Err(refused(None, "no document")),
            (event, span) => break reader.node(event, span, 0)?,
        }
    };
    loop {
        match reader.next()? {
            (Event::DocumentEnd, _) => {}
            (Event::StreamEnd, _) => return Ok(node),
            (_, span) => {
                let why = "a second document: give them one by one";
                return Err(refused(Some(span.start.line()), why));
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, StrInput<'a>>,
    offsets: Vec<usize>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Failure> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            // Not the parser's words alone: they say where, and never quote.
            Some(Err(error)) => Err(refused(Some(error.marker().line()), "no YAML there")),
            None => Err(refused(None, "it ends too early")),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Failure> {
        let refuse = |why: &str| Err(refused(Some(span.start.line()), why));
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return refuse("too deep, or too much of it");
        }
        match event {
            Event::Alias(_) => refuse("an alias: write the value out"),
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                refuse("an anchor: write the value out where it is used")
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => refuse("a tag: quote text, or use `data`"),
            Event::Scalar(text, style, ..) => {
                let offset = |index: usize| self.offsets.get(index).copied();
                let place = offset(span.start.index()).zip(offset(span.end.index()));
                let Some((start, end)) = place else { return refuse("no YAML there") };
                Ok(Node::Scalar(Scalar {
                    text: text.into_owned(),
                    is_plain: style == ScalarStyle::Plain,
                    place: start..end,
                    line: span.start.line(),
                }))
            }
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Node::List(list)),
                        (event, span) => list.push(self.node(event, span, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map: Vec<(String, Node)> = Vec::new();
                let mut names = std::collections::HashSet::new();
                loop {
                    let (event, at) = match self.next()? {
                        (Event::MappingEnd, _) => return Ok(Node::Map(map)),
                        other => other,
                    };
                    let line = Some(at.start.line());
                    let Node::Scalar(key) = self.node(event, at, depth + 1)? else {
                        return Err(refused(line, "a key that is no text"));
                    };
                    if key.is_plain && !is_text(&key.text) {
                        return Err(refused(line, "a key that is no text: quote it"));
                    }
                    if !names.insert(key.text.clone()) {
                        return Err(refused(line, format!("{:?} a second time", key.text)));
                    }
                    let (event, at) = self.next()?;
                    let block = match &event {
                        Event::Scalar(_, style, ..) => {
                            matches!(style, ScalarStyle::Literal | ScalarStyle::Folded)
                        }
                        _ => false,
                    };
                    let mut value = self.node(event, at, depth + 1)?;
                    if let (true, Node::Scalar(scalar)) = (block, &mut value) {
                        if scalar.place.end == self.text.len() && !self.text.ends_with('\n') {
                            // Readers disagree on whether the value ends with a line break then.
                            return Err(refused(line, "no line break at the end of the document"));
                        }
                        // The parser's span is of the content alone.
                        let between = self.text.get(key.place.end..scalar.place.end);
                        let header = between.and_then(|text| text.find(['|', '>']));
                        scalar.place.start = key.place.end + header.unwrap_or_default();
                    }
                    map.push((key.text, value));
                }
            }
            _ => refuse("no YAML there"),
        }
    }
}

/// Whether a plain scalar is text to every reader: YAML 1.1, which Kubernetes reads, takes more words
/// and forms for something else than 1.2.
pub(crate) fn is_text(plain: &str) -> bool {
    const WORDS: [&str; 12] =
        ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<"];
    let lower = plain.to_ascii_lowercase();
    let number = lower.trim_start_matches(['+', '-', '.']);
    let numeric = number.starts_with(|c: char| c.is_ascii_digit())
        && number.chars().all(|c| c.is_ascii_hexdigit() || "_.:+-xotzinf ".contains(c));
    !WORDS.contains(&&*lower) && !numeric && !matches!(number, "inf" | "nan")
}

/// Text in double quotes, the same in every version of YAML: all but printable ASCII is escaped.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            ' '..='~' => quoted.push(c),
            c if u32::from(c) < 0x1_0000 => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

fn refused(line: Option<usize>, why: impl Into<String>) -> Failure {
    let why = why.into();
    Failure::usage(match line {
        Some(line) => format!("line {line}: {why}"),
        None => why,
    })
}
