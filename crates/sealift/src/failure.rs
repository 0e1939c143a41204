//! [`Failure`]: a typed error of any library, turned into a code, one line and a hint.
//!
//! The only place that maps errors to codes. The line says what and where; the hint says what to
//! do next; neither carries a secret, a token or more of the host than the pod's own spec shows,
//! because logs and termination messages leave the TEE.

mod libraries;

use std::fmt::{self, Write as _};

use crate::code::Code;

/// Longest one-line message. The termination log keeps 4 KiB; KServe copies it to a status field.
const LINE_BYTES_MAX: usize = 1000;

/// Why a command stopped.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    what: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure of class `code`; `what` is one lower-case clause without a full stop.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: what.into(), hint: None }
    }

    /// A wrong command line, variable or settings file.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Code::Usage, what)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts the object or place that the failure is about in front.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }

    /// The same failure as another class: a name on the command line is wrong usage where the same
    /// name in a bundle would be an attack.
    #[must_use]
    pub fn recode(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The class.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What happened, without code and hint.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Whether the same command may well succeed later: the store or the key source was away.
    pub fn is_transient(&self) -> bool {
        matches!(self.code, Code::Network | Code::KeyUnreachable)
    }

    /// `E31 not-sealed: what. hint. Run: sealift explain E31`, on one line of bounded length.
    pub fn line(&self) -> String {
        let tail = match (&self.hint, self.code) {
            (hint, Code::Bug) => format!(
                "{}. Please report it",
                hint.as_deref().map(|hint| format!(". {hint}")).unwrap_or_default()
            ),
            (Some(hint), code) => format!(". {hint}. Run: sealift explain {code}"),
            (None, code) => format!(". Run: sealift explain {code}"),
        };
        let mut line = format!("{} {}: ", self.code, self.code.slug());
        let room = LINE_BYTES_MAX.saturating_sub(line.len() + tail.len() + "…".len());
        push_printable(&mut line, &self.what, room);
        push_printable(&mut line, &tail, LINE_BYTES_MAX);
        line
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

/// Appends `text` with control characters escaped (a name from a bucket must not forge log lines)
/// and cut to `room` bytes.
fn push_printable(line: &mut String, text: &str, room: usize) {
    let end = line.len() + room;
    for c in text.chars() {
        if line.len() + c.len_utf8() > end {
            line.push('…');
            return;
        }
        if c.is_control() {
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
}

/// An error and its causes on one line, outermost first.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        next = cause.source();
    }
    text
}
