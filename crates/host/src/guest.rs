//! [`Guest`]: whom the host agent speaks to in a virtual machine, and where.

use std::fmt;
use std::str::FromStr;

use link::dial::Address;

/// What is spoken to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Our own, to our guest agent.
    Sealift,
    /// `AgentService.CopyFile`, to a kata-agent as it is: see [`crate::kata`].
    Kata,
}

/// A guest's agent: its address, after `kata:` if it is a kata-agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guest {
    /// What is spoken to it.
    pub protocol: Protocol,
    /// Where it listens.
    pub address: Address,
}

impl From<&Address> for Guest {
    fn from(address: &Address) -> Self {
        Self { protocol: Protocol::Sealift, address: address.clone() }
    }
}

impl From<&Guest> for Guest {
    fn from(guest: &Guest) -> Self {
        guest.clone()
    }
}

impl FromStr for Guest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, address) = match text.strip_prefix("kata:") {
            Some(address) => (Protocol::Kata, address),
            None => (Protocol::Sealift, text),
        };
        Ok(Self { protocol, address: address.parse()? })
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = match self.protocol {
            Protocol::Sealift => "",
            Protocol::Kata => "kata:",
        };
        write!(f, "{prefix}{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_read_as_they_are_shown() {
        for (text, protocol) in
            [("vsock:3:1027", Protocol::Sealift), ("kata:vsock:3:1024", Protocol::Kata)]
        {
            let guest: Guest = text.parse().expect(text);
            assert_eq!((guest.protocol, guest.to_string().as_str()), (protocol, text));
        }
        assert!("kata:kata:vsock:3:1024".parse::<Guest>().is_err());
    }
}
