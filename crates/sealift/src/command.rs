//! The commands, one file each: arguments in, a result on stdout or a [`crate::failure::Failure`].

pub(crate) mod attest;
pub(crate) mod audit;
pub(crate) mod beside;
pub(crate) mod cache;
pub(crate) mod completion;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod keygen;
pub(crate) mod man;
pub(crate) mod manifest;
pub(crate) mod open;
pub(crate) mod rewrap;
pub(crate) mod seal;
pub(crate) mod secret;
pub(crate) mod unsealer;
pub(crate) mod verify;
