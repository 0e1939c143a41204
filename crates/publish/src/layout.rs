//! The names that are ours. A plan can use none of them ([`crate::Plan`]).

/// In the destination: the receipt of a whole tree.
pub(crate) const RECEIPT: &str = ".sealift-receipt.json";
/// In the destination: everything that is not published yet, or no longer. Mode 0700, so that nobody
/// reads what is not verified as a whole.
pub(crate) const STAGING: &str = ".sealift-staging";
/// In the destination, not ours: what ext4 makes at the top of each filesystem.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// In the staging directory: the journal, and the next one while it is written.
pub(crate) const JOURNAL: &str = "journal.json";
pub(crate) const JOURNAL_NEW: &str = "journal.json.new";
/// In the staging directory: which segments are written.
pub(crate) const DONE: &str = "done";
/// In the staging directory: the new tree.
pub(crate) const TREE: &str = "tree";
/// In the staging directory: what was published before.
pub(crate) const OLD: &str = "old";
/// In the staging directory: the receipt to be published, and the one that was.
pub(crate) const NEW_RECEIPT: &str = "receipt.json";
pub(crate) const OLD_RECEIPT: &str = "old-receipt.json";
