//! A bundle's address as the deployer writes it: a URI, and in its fragment what belongs to it.
//!
//! KServe owns the arguments of a storage initializer, so what differs between several models of
//! one pod (their keys and pins) travels in the URI's fragment:
//! `s3://models/llama#key=kbs:///team/llama/v3&digest=sha256:…&name=llama&generation=7`.
//! A fragment is never sent to a store.

use seal::name::{Digest, KeyUri, ModelName, ResourceUri};
use seal::pin::Pin;
use store::Location;

use crate::code::Code;
use crate::failure::Failure;

/// A parsed address.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where the bundle lies.
    pub location: Location,
    /// The key that the deployer names for it.
    pub key: Option<KeyUri>,
    /// The model's name that the deployer expects.
    pub name: Option<ModelName>,
    /// The generation and digests that the deployer expects.
    pub pin: Pin,
    /// Where the deployer keeps a document of pins for it.
    pub pins: Option<ResourceUri>,
}

impl Source {
    /// Parses `URI[#member=value&…]`; unknown or repeated members are refused, except `digest`,
    /// which may be given several times.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (uri, fragment) = text.split_once('#').unwrap_or((text, ""));
        let location = Location::parse(uri)?;
        let mut source = Self { location, key: None, name: None, pin: Pin::default(), pins: None };
        for member in fragment.split('&').filter(|member| !member.is_empty()) {
            source
                .member(member)
                .map_err(|failure| failure.recode(Code::Usage).at(format!("#{member}")))?;
        }
        Ok(source)
    }

    fn member(&mut self, member: &str) -> Result<(), Failure> {
        let (name, value) = member
            .split_once('=')
            .ok_or_else(|| Failure::usage("a member of the fragment has no value"))?;
        let repeated = match name {
            "key" => self.key.replace(KeyUri::parse(value)?).is_some(),
            "name" => self.name.replace(ModelName::parse(value)?).is_some(),
            "pins" => self.pins.replace(ResourceUri::parse(value)?).is_some(),
            "generation" => {
                let generation =
                    value.parse().map_err(|_| Failure::usage("a generation is a whole number"))?;
                self.pin.min_generation.replace(generation).is_some()
            }
            "digest" => {
                self.pin.digests.push(Digest::parse(value)?);
                false
            }
            _ => {
                return Err(Failure::usage("unknown member of the fragment")
                    .hint("Known members are key, digest, name, generation and pins"));
            }
        };
        if repeated { Err(Failure::usage("given twice")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_carries_key_and_pins() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let source = Source::parse(&format!(
            "s3://models/llama#key=kbs:///team/llama/v3&digest={digest}&name=llama&generation=7&pins=kbs:///team/pins/llama"
        ))
        .unwrap();
        assert_eq!(source.location.to_string(), "s3://models/llama");
        assert_eq!(source.key.unwrap().to_string(), "kbs:///team/llama/v3");
        assert_eq!(source.name.unwrap().as_str(), "llama");
        assert_eq!(source.pin.min_generation, Some(7));
        assert_eq!(source.pins.unwrap().to_string(), "kbs:///team/pins/llama");
        assert_eq!(source.pin.digests[0].to_string(), digest);
    }

    #[test]
    fn refuses_fragments_that_it_does_not_fully_understand() {
        for fragment in [
            "kee=kbs:///a/b/c",
            "key",
            "key=",
            "key=kbs://host/a/b/c",
            "key=kbs:///a/b",
            "key=kbs:///a/b/c&key=kbs:///a/b/d",
            "digest=sha256:abcd",
            "digest=md5:00",
            "pins=kbs:///a/b",
            "pins=vault:///secret/data/pins#p",
            "pins=kbs:///a/b/c&pins=kbs:///a/b/c",
            "generation=-1",
            "generation=seven",
            "name=../x",
        ] {
            let failure = Source::parse(&format!("s3://models/llama#{fragment}")).unwrap_err();
            assert_eq!(failure.code(), Code::Usage, "{fragment}: {failure}");
        }
    }
}
