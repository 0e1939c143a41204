//! The cases, by the part of the format that they break.

pub(crate) mod document;
pub(crate) mod envelope;
pub(crate) mod keys;
pub(crate) mod manifest;
pub(crate) mod paths;
pub(crate) mod pins;
pub(crate) mod recipients;
pub(crate) mod segments;
pub(crate) mod wrapped;
