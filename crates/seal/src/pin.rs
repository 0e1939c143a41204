//! Freshness: which manifest may be opened now. Checked in [`Demand::check`] and nowhere else.
//!
//! A bucket can always serve an older bundle, sealed by the right people under the right key. What
//! stops it is a minimum that does not come from the bucket: it arrives with the released key, or
//! from the deployer.

use std::collections::BTreeMap;

use crate::Error;
use crate::name::{Digest, ModelName};

/// What one carrier says of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pin {
    /// Lowest generation that may be opened.
    pub min_generation: Option<u64>,
    /// Manifest digests that may be opened; empty means any.
    pub digests: Vec<Digest>,
}

/// What a key says: the models that it serves.
pub type Pins = BTreeMap<ModelName, Pin>;

/// What the deployer asks for, beside the key's own pins.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    /// The model's name, if the deployer gave one.
    pub name: Option<ModelName>,
    /// Generation and digests, if the deployer gave any.
    pub pin: Pin,
    /// `--allow-unpinned`: open what nothing pins.
    pub allow_unpinned: bool,
}

impl Demand {
    /// Checks a verified manifest's name, generation and digest against this demand and the key's
    /// pins: all that are given must hold, and at least one must give a generation or a digest,
    /// unless `allow_unpinned`.
    pub fn check(
        &self,
        key: Option<&Pins>,
        name: &ModelName,
        generation: u64,
        digest: &Digest,
    ) -> Result<(), Error> {
        let not_allowed = || Error::ModelNotAllowed { name: name.to_string() };
        if self.name.as_ref().is_some_and(|asked| asked != name) {
            return Err(not_allowed());
        }
        // A key that lists models is for those only; a key without a list leaves it to the deployer.
        let of_key = match key {
            Some(pins) => Some(pins.get(name).ok_or_else(not_allowed)?),
            None => None,
        };
        let mut pinned = false;
        for pin in of_key.into_iter().chain([&self.pin]) {
            pinned |= pin.check(name, generation, digest)?;
        }
        if !pinned && !self.allow_unpinned {
            return Err(Error::Unpinned { name: name.to_string() });
        }
        Ok(())
    }
}

impl Pin {
    /// Whether it says anything at all; an error if what it says does not hold.
    fn check(&self, name: &ModelName, generation: u64, digest: &Digest) -> Result<bool, Error> {
        if let Some(minimum) = self.min_generation
            && generation < minimum
        {
            return Err(Error::Stale { name: name.to_string(), found: generation, minimum });
        }
        if !self.digests.is_empty() && !self.digests.contains(digest) {
            let expected: Vec<String> = self.digests.iter().map(Digest::to_string).collect();
            return Err(Error::DigestMismatch {
                what: format!("the manifest of {name}"),
                expected: expected.join(" or "),
                found: digest.to_string(),
            });
        }
        Ok(self.min_generation.is_some() || !self.digests.is_empty())
    }
}
