//! Why something was refused.

/// What the peer sent, or what kubelet wrote, breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name or path that no volume may have.
    #[error("{name:?} cannot be a name in a volume: {why}")]
    Name {
        /// The name, cut to a length for messages.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A mode with bits that no volume may have.
    #[error("{path}: mode {mode:o} is not allowed: {why}")]
    Mode {
        /// The entry.
        path: String,
        /// Its mode.
        mode: u32,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// More than allowed.
    #[error("{what}: {found} is above the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// How many.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// Bytes that are no frame. Nothing that follows them can be understood.
    #[error("not a frame: {0}")]
    Frame(&'static str),
    /// A frame whose payload is not the message that belongs there.
    #[error("not a message: {0}")]
    Message(&'static str),
    /// The entries do not make a tree.
    #[error("{path}: {why}")]
    Tree {
        /// The entry.
        path: String,
        /// What is wrong with its place.
        why: &'static str,
    },
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += ": ";
        text += &error.to_string();
        cause = error.source();
    }
    text
}
