//! [`Purpose`]: what a key may be used for.

use std::fmt;

use serde_json::Value;

use super::jwk;
use crate::Error;

/// What a key may be used for, as the member `sealift_purposes` of its JWK lists it (format §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To open a bundle's data key.
    Open,
    /// To wrap a bundle's data key.
    Seal,
    /// To wrap and unwrap sealed secrets' data keys.
    Secret,
    /// To sign sealed secrets, and to verify them.
    Sign,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::Seal, Self::Secret, Self::Sign];

    /// Its name in a JWK.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Seal => "seal",
            Self::Secret => "secret",
            Self::Sign => "sign",
        }
    }

    /// The purpose of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|purpose| purpose.name() == name)
    }

    /// The same as [`Kek::permits`](super::Kek::permits), of a JWK of any kind.
    ///
    /// # Errors
    ///
    /// [`Error::KeyUnusable`], also if the member is no list of known purposes.
    pub fn permitted_by(self, sealift_purposes: Option<&Value>) -> Result<(), Error> {
        let listed = sealift_purposes.map(|listed| {
            jwk::parse_purposes(listed)
                .ok_or(Error::KeyUnusable("`sealift_purposes` is not a list of known purposes"))
        });
        self.within(listed.transpose()?.as_deref())
    }

    pub(super) fn within(self, listed: Option<&[Self]>) -> Result<(), Error> {
        if listed.is_none_or(|listed| listed.contains(&self)) {
            return Ok(());
        }
        Err(Error::KeyUnusable(match self {
            Self::Open => "its `sealift_purposes` do not list `open`",
            Self::Seal => "its `sealift_purposes` do not list `seal`",
            Self::Secret => "its `sealift_purposes` do not list `secret`",
            Self::Sign => "its `sealift_purposes` do not list `sign`",
        }))
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
