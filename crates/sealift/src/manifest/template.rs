//! The part of Helm's template language that the chart keeps to.
//!
//! | action | is |
//! |---|---|
//! | `.Values.a.b`, `.name`, `.`, `$name` | a value: of the root, of what is ranged over, of a variable |
//! | `toJson X`, `X \| toJson` | its JSON, which is YAML too |
//! | `required "why" X` | the value, or an error if it is empty |
//! | `include "name" .` | what that definition prints |
//! | `if X`, `if eq X "text"`, `else`, `end` | a choice; empty is false |
//! | `range X`, `range $k, $v := X`, `end` | for each of a list, or of a map by its names |
//! | `define "name"`, `end` | a definition |
//!
//! `{{-` and `-}}` take the white space beside them away. Anything else is an error, and so is a
//! value that is not there, except of what is ranged over.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::code::Code;
use crate::failure::Failure;

/// Most includes and ranges inside each other: the chart has three.
const DEPTH_MAX: usize = 16;

/// Definitions that are known by name.
#[derive(Debug, Default)]
pub(super) struct Templates(BTreeMap<String, Vec<Node>>);

/// A file that was read.
#[derive(Debug)]
pub(super) struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Put(Term),
    If { when: Term, then: Vec<Node>, otherwise: Vec<Node> },
    Range { names: Option<(String, String)>, over: Term, body: Vec<Node> },
}

#[derive(Debug)]
enum Term {
    /// From the dot, or from a variable: names below it.
    Path(Option<String>, Vec<String>),
    Json(Box<Term>),
    Required(String, Box<Term>),
    Include(String),
    Equal(Box<Term>, String),
}

/// What a path is looked up in.
#[derive(Clone)]
struct Scope<'a> {
    dot: &'a Value,
    root: bool,
    variables: Vec<(&'a str, Value)>,
    depth: usize,
}

fn broken(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Bug, format!("the chart's templates: {what}"))
}

impl Templates {
    /// Reads a file; its definitions are kept.
    pub(super) fn parse(&mut self, text: &str) -> Result<Template, Failure> {
        let mut reader = Reader { pieces: pieces(text)?.into_iter(), templates: self };
        let (nodes, end) = reader.nodes()?;
        match end {
            None => Ok(Template(nodes)),
            Some(word) => Err(broken(format!("{word} without a beginning"))),
        }
    }
}

impl Template {
    /// What it prints for `root`, whose members begin with capitals in the template.
    pub(super) fn render(&self, templates: &Templates, root: &Value) -> Result<String, Failure> {
        let mut out = String::new();
        let scope = Scope { dot: root, root: true, variables: Vec::new(), depth: 0 };
        Printer { templates, root, out: &mut out }.print(&self.0, &scope)?;
        Ok(out)
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Cuts text and actions apart, white space that an action takes away gone.
fn pieces(text: &str) -> Result<Vec<Piece>, Failure> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or_else(|| broken("{{ without }}"))?;
        let (before, action) = match action.strip_prefix('-') {
            Some(action) => (before.trim_end(), action),
            None => (before, action),
        };
        let (action, after) = match action.strip_suffix('-') {
            Some(action) => (action, after.trim_start()),
            None => (action, after),
        };
        pieces.push(Piece::Text(before.to_owned()));
        pieces.push(Piece::Action(action.trim().to_owned()));
        rest = after;
    }
    pieces.push(Piece::Text(rest.to_owned()));
    Ok(pieces)
}

struct Reader<'a> {
    pieces: std::vec::IntoIter<Piece>,
    templates: &'a mut Templates,
}

impl Reader<'_> {
    /// Everything until `end` or `else`, and which of them it was.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<&'static str>), Failure> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(action) => action,
            };
            let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
            match word {
                "end" => return Ok((nodes, Some("end"))),
                "else" => return Ok((nodes, Some("else"))),
                "if" => {
                    let (then, end) = self.nodes()?;
                    let otherwise = match end {
                        Some("else") => self.body()?,
                        Some(_) => Vec::new(),
                        None => return Err(broken("if without end")),
                    };
                    nodes.push(Node::If { when: term(rest)?, then, otherwise });
                }
                "range" => {
                    let (names, over) = match rest.split_once(":=") {
                        Some((names, over)) => (Some(variables(names)?), over),
                        None => (None, rest),
                    };
                    let body = self.body()?;
                    nodes.push(Node::Range { names, over: term(over)?, body });
                }
                "define" => {
                    let body = self.body()?;
                    self.templates.0.insert(string(rest)?.0, body);
                }
                _ => nodes.push(Node::Put(term(&action)?)),
            }
        }
        Ok((nodes, None))
    }

    fn body(&mut self) -> Result<Vec<Node>, Failure> {
        match self.nodes()? {
            (nodes, Some("end")) => Ok(nodes),
            _ => Err(broken("no end")),
        }
    }
}

/// `$k, $v`
fn variables(text: &str) -> Result<(String, String), Failure> {
    let name = |text: &str| text.trim().strip_prefix('$').map(str::to_owned);
    text.split_once(',')
        .and_then(|(key, value)| Some((name(key)?, name(value)?)))
        .ok_or_else(|| broken(format!("range {text}")))
}

fn term(text: &str) -> Result<Term, Failure> {
    let text = text.trim();
    if let Some(text) = text.strip_suffix("| toJson") {
        return Ok(Term::Json(Box::new(term(text)?)));
    }
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "toJson" => Ok(Term::Json(Box::new(term(rest)?))),
        "required" => {
            let (why, rest) = string(rest)?;
            Ok(Term::Required(why, Box::new(term(rest)?)))
        }
        "include" => match string(rest)? {
            (name, ".") => Ok(Term::Include(name)),
            _ => Err(broken(format!("include takes a name and the dot: {text}"))),
        },
        "eq" => {
            let (path, rest) =
                rest.trim().split_once(' ').ok_or_else(|| broken(format!("eq {rest}")))?;
            Ok(Term::Equal(Box::new(term(path)?), string(rest)?.0))
        }
        _ if rest.is_empty() => path(text),
        _ => Err(broken(format!("not known: {text}"))),
    }
}

fn path(text: &str) -> Result<Term, Failure> {
    let (variable, below) = match text.strip_prefix('$') {
        Some(name) => (Some(name.to_owned()), ""),
        None => (None, text.strip_prefix('.').ok_or_else(|| broken(format!("not known: {text}")))?),
    };
    let names = below.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    Ok(Term::Path(variable, names))
}

/// A string in double quotes, and what follows it.
fn string(text: &str) -> Result<(String, &str), Failure> {
    text.trim()
        .strip_prefix('"')
        .and_then(|text| text.split_once('"'))
        .map(|(string, rest)| (string.to_owned(), rest.trim()))
        .ok_or_else(|| broken(format!("no string: {text}")))
}

struct Printer<'a> {
    templates: &'a Templates,
    root: &'a Value,
    out: &'a mut String,
}

impl Printer<'_> {
    fn print(&mut self, nodes: &[Node], scope: &Scope<'_>) -> Result<(), Failure> {
        if scope.depth > DEPTH_MAX {
            return Err(broken("too deep"));
        }
        for node in nodes {
            match node {
                Node::Text(text) => self.out.push_str(text),
                Node::Put(term) => match self.value(term, scope)? {
                    Value::String(text) => self.out.push_str(&text),
                    value @ (Value::Number(_) | Value::Bool(_)) => {
                        self.out.push_str(&value.to_string());
                    }
                    _ => return Err(broken(format!("no text: {term:?}"))),
                },
                Node::If { when, then, otherwise } => {
                    let branch = if is_true(&self.value(when, scope)?) { then } else { otherwise };
                    self.print(branch, scope)?;
                }
                Node::Range { names, over, body } => {
                    let over = self.value(over, scope)?;
                    for (key, value) in entries(&over)? {
                        let mut inner = scope.clone();
                        inner.depth += 1;
                        match names {
                            Some((name, of)) => inner.variables.extend([
                                (name.as_str(), Value::String(key)),
                                (of.as_str(), value.clone()),
                            ]),
                            None => (inner.dot, inner.root) = (value, false),
                        }
                        self.print(body, &inner)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn value(&mut self, term: &Term, scope: &Scope<'_>) -> Result<Value, Failure> {
        match term {
            Term::Path(Some(name), _) => scope
                .variables
                .iter()
                .rfind(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| broken(format!("no variable ${name}"))),
            Term::Path(None, names) => {
                let mut value = scope.dot;
                for name in names {
                    value = match value.get(name) {
                        Some(value) => value,
                        None if scope.root => {
                            return Err(broken(format!("no value {}", names.join("."))));
                        }
                        None => &Value::Null,
                    };
                }
                Ok(value.clone())
            }
            // Escaped as Go's JSON is; these stand in strings alone.
            Term::Json(term) => Ok(Value::String(
                self.value(term, scope)?
                    .to_string()
                    .replace('<', "\\u003c")
                    .replace('>', "\\u003e")
                    .replace('&', "\\u0026"),
            )),
            Term::Required(why, term) => match self.value(term, scope)? {
                Value::Null => Err(Failure::usage(why.as_str())),
                Value::String(text) if text.is_empty() => Err(Failure::usage(why.as_str())),
                value => Ok(value),
            },
            Term::Include(name) if !scope.root => {
                Err(broken(format!("include {name} where the dot is another")))
            }
            Term::Include(name) => {
                let body = self.templates.0.get(name);
                let body = body.ok_or_else(|| broken(format!("no definition {name}")))?;
                let mut out = String::new();
                let inner = Scope {
                    dot: self.root,
                    root: true,
                    variables: Vec::new(),
                    depth: scope.depth + 1,
                };
                Printer { templates: self.templates, root: self.root, out: &mut out }
                    .print(body, &inner)?;
                Ok(Value::String(out))
            }
            Term::Equal(term, text) => Ok((self.value(term, scope)? == text.as_str()).into()),
        }
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn entries(over: &Value) -> Result<Vec<(String, &Value)>, Failure> {
    match over {
        Value::Array(list) => {
            Ok(list.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect())
        }
        Value::Object(map) => {
            let mut entries: Vec<_> =
                map.iter().map(|(name, value)| (name.clone(), value)).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(entries)
        }
        _ => Err(broken("range over what is neither list nor map")),
    }
}

#[cfg(test)]
mod tests;
