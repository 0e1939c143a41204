//! Freshness: which manifest may be opened now. Checked in [`Demand::check`] and nowhere else.
//!
//! A bucket can always serve an older bundle, sealed by the right people under the right key. What
//! stops it is a minimum that does not come from the bucket: it arrives with the released key, or
//! from the deployer.

use std::collections::BTreeMap;

use crate::Error;
use crate::json::{self, malformed};
use crate::key::parse_pins;
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

/// Reads a document of pins that is kept apart from the key, which stays what it is: the object that
/// a key's JWK has as `sealift`, strictly. It may be empty, and then nothing opens.
///
/// # Errors
///
/// [`Error::Malformed`].
pub fn parse(document: &[u8]) -> Result<Pins, Error> {
    let refused = |why| malformed("document of pins", why);
    match json::parse(document) {
        Ok(serde_json::Value::Object(models)) => parse_pins(models)
            .ok_or_else(|| refused("a model's name, `min_generation` or `digests` is malformed")),
        Ok(_) => Err(refused("not an object of models")),
        Err(_) => Err(refused("not strict JSON (are there duplicate members?)")),
    }
}

/// What the deployer asks for, beside the key's own pins.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    /// The model's name, if the deployer gave one.
    pub name: Option<ModelName>,
    /// Generation and digests, if the deployer gave any.
    pub pin: Pin,
    /// What documents of pins say: each is as good as a key that lists its models.
    pub listed: Vec<Pins>,
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
        let mut pinned = self.pin.check(name, generation, digest)?;
        // Who lists models allows those only; a key without a list leaves it to others.
        for pins in key.into_iter().chain(&self.listed) {
            let pin = pins.get(name).ok_or_else(not_allowed)?;
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
