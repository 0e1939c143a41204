//! The guest agent: receives volumes from a host that it does not trust, and makes each revision
//! visible in one step.
//!
//! | module | holds |
//! |---|---|
//! | [`server`] | connections, their deadlines and their number |
//! | [`agent`] | the volumes behind the sessions |
//! | [`unseal`] | sealed values, opened before anybody sees them |
//! | [`cdh`] | the key source that opens them |
//! | [`identity`] | this guest's certificate, if the key source releases it |
//! | [`policy`] | what the host may do |
//! | [`report`] | how the volumes are, for people and Prometheus |
//! | [`mounter`] | the process that mounts, and how the other one asks it to |
//! | [`confine`] | what each process gives up before it hears anybody |
//! | [`bind`], [`hook`] | a volume into a container, by hand or by its runtime |

pub mod agent;
pub mod bind;
pub mod cdh;
pub mod confine;
pub mod hook;
pub mod identity;
pub mod mounter;
pub mod policy;
pub mod report;
pub mod server;
pub mod unseal;
