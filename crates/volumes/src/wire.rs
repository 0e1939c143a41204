//! From bytes to messages and back. The decoder is ours, and small: it is the first thing in the
//! guest that a hostile host talks to.

pub mod cdh;
pub mod frame;
pub mod message;
pub mod proto;
pub mod stream;
