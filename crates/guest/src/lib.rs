//! The guest agent: receives volumes from a host that it does not trust, and makes each revision
//! visible in one step.
//!
//! | module | holds |
//! |---|---|
//! | [`socket`] | where the host reaches this guest, and who may connect |
//! | [`server`] | connections, their deadlines and their number |
//! | [`agent`] | the volumes behind the sessions |
//! | [`policy`] | what the host may do |
//! | [`mounter`] | the process that mounts, and how the other one asks it to |
//! | [`confine`] | what each process gives up before it hears anybody |
//! | [`bind`] | a volume into a container |

pub mod agent;
pub mod bind;
pub mod confine;
pub mod mounter;
pub mod policy;
pub mod server;
pub mod socket;
