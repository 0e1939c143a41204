//! The guest agent: receives volumes from a host that it does not trust, and makes each revision
//! visible in one step.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | connections, their deadlines and their number |
//! | [`agent`] | the volumes behind the sessions |
//! | [`policy`] | what the host may do |
//! | [`bind`] | a volume into a container |

pub mod agent;
pub mod bind;
pub mod policy;
pub mod server;
