//! [`Audience`]: whom a sealed secret is for, beyond whoever the key source releases it to.
//!
//! It is in the payload's annotations, which the signature covers and upstream's tools pass over:
//!
//! ```text
//! "annotations": {"sealift.audience": {"namespace": "team-a", "service_account": "db",
//!                                      "key": "password", "expires": "2027-01-01T00:00:00Z"}}
//! ```
//!
//! Each member is a restriction of its own, and one that cannot be checked is not met. What each is
//! worth against which attacker is in docs/threats.md.

use std::fmt;
use std::time::SystemTime;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::name::TreePath;

/// Longest namespace or service account: a DNS subdomain (RFC 1123).
const NAME_BYTES_MAX: usize = 253;
/// Longest payload whose annotations are read, decoded.
const PAYLOAD_BYTES_MAX: usize = crate::wire::cdh::VALUE_BYTES_MAX;

/// Whom a secret is for. The default is everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audience {
    /// Pods of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "name")]
    pub namespace: Option<String>,
    /// Pods of this service account.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "name")]
    pub service_account: Option<String>,
    /// The file with this path in its volume: without `items`, the Secret's key.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "path")]
    pub key: Option<String>,
    /// Until then.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "some")]
    pub expires: Option<Time>,
}

/// The annotations of a payload whose every member has to be known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotations {
    /// Whom the secret is for.
    #[serde(
        rename = "sealift.audience",
        default,
        skip_serializing_if = "Audience::is_everybody",
        deserialize_with = "object"
    )]
    pub audience: Audience,
}

/// Where a secret is about to be opened. What is `None` is not known there.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The pod's namespace.
    pub namespace: Option<&'a str>,
    /// The pod's service account.
    pub service_account: Option<&'a str>,
    /// The file that it will be.
    pub file: File<'a>,
    /// The clock.
    pub now: SystemTime,
}

/// Which file a secret will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File<'a> {
    /// Nobody says.
    Unknown,
    /// The one with this path in its volume.
    At(&'a str),
    /// Whoever asked sees to it that it will be no other than [`Audience::key`].
    KeptByCaller,
}

/// Why a secret may not be opened here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// What should say whom it is for cannot be read.
    #[error("what it says of whom it is for cannot be read")]
    Unreadable,
    /// It is for somebody else.
    #[error("it is for the {what} {wanted} alone, and this is {here}")]
    Other {
        /// Namespace, service account or file.
        what: &'static str,
        /// Whose it is.
        wanted: String,
        /// What is here.
        here: String,
    },
    /// It may be for somebody else: what it is bound to is not known here.
    #[error("it is for the {what} {wanted} alone, and nobody says which this is: {hint}")]
    Unknown {
        /// Namespace, service account or file.
        what: &'static str,
        /// Whose it is.
        wanted: String,
        /// What would say.
        hint: &'static str,
    },
    /// Its time is over.
    #[error("it expired at {at}")]
    Expired {
        /// When.
        at: Time,
    },
}

impl Audience {
    /// Whether it restricts nothing.
    pub fn is_everybody(&self) -> bool {
        *self == Self::default()
    }

    /// The audience of a sealed text, whose signature somebody else has to verify over the same
    /// bytes before what was sealed is used. Annotations of others are passed over. A text without a
    /// payload is for everybody: nothing is sealed in it.
    pub fn claimed(sealed: &[u8]) -> Result<Self, Refused> {
        #[derive(Deserialize)]
        struct Payload {
            #[serde(default, deserialize_with = "object")]
            annotations: Foreign,
        }
        #[derive(Default, Deserialize)]
        struct Foreign {
            #[serde(rename = "sealift.audience", default, deserialize_with = "object")]
            audience: Audience,
        }
        let Some(payload) = sealed.split(|&byte| byte == b'.').nth(2) else {
            return Ok(Self::default());
        };
        let payload = base64url(payload).ok_or(Refused::Unreadable)?;
        if !payload.trim_ascii_start().starts_with(b"{") {
            return Err(Refused::Unreadable);
        }
        let payload: Payload = serde_json::from_slice(&payload).map_err(|_| Refused::Unreadable)?;
        Ok(payload.annotations.audience)
    }

    /// Whether a secret of this audience may be opened at `place`.
    pub fn admits(&self, place: &Place<'_>) -> Result<(), Refused> {
        const GIVE_NAMESPACE: &str = "--audience-namespace does";
        const GIVE_ACCOUNT: &str = "--audience-service-account does";
        const GIVE_FILE: &str = "only a file of a volume has a name";
        let Place { namespace, service_account, file, now } = *place;
        is("namespace", self.namespace.as_deref(), namespace, GIVE_NAMESPACE)?;
        is("service account", self.service_account.as_deref(), service_account, GIVE_ACCOUNT)?;
        match file {
            File::KeptByCaller => {}
            File::At(path) => is("file", self.key.as_deref(), Some(path), GIVE_FILE)?,
            File::Unknown => is("file", self.key.as_deref(), None, GIVE_FILE)?,
        }
        match self.expires {
            Some(at) if !at.is_after(now) => Err(Refused::Expired { at }),
            _ => Ok(()),
        }
    }
}

fn is(
    what: &'static str,
    wanted: Option<&str>,
    here: Option<&str>,
    hint: &'static str,
) -> Result<(), Refused> {
    match (wanted.map(str::to_owned), here) {
        (None, _) => Ok(()),
        (Some(wanted), Some(here)) if wanted == here => Ok(()),
        (Some(wanted), Some(here)) => Err(Refused::Other { what, wanted, here: here.to_owned() }),
        (Some(wanted), None) => Err(Refused::Unknown { what, wanted, hint }),
    }
}

/// A second of the years 1970 to 9999, written `2027-01-01T00:00:00Z` and no other way (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(u64);

impl Time {
    /// Reads the one form.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let shape = |(byte, like): (&u8, &u8)| match like {
            b'0' => byte.is_ascii_digit(),
            like => byte == like,
        };
        const LIKE: &[u8; 20] = b"0000-00-00T00:00:00Z";
        if bytes.len() != LIKE.len() || !bytes.iter().zip(LIKE).all(shape) {
            return None;
        }
        let number = |from: usize, to: usize| text[from..to].parse::<u64>().ok();
        let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        let plausible = year >= 1970 && hour < 24 && minute < 60 && second < 60;
        let days = plausible.then(|| days(year, month, day)).flatten()?;
        Some(Self(((days * 24 + hour) * 60 + minute) * 60 + second))
    }

    /// Whether it is still to come.
    pub fn is_after(self, now: SystemTime) -> bool {
        // A clock before 1970 is none; whatever it is for, it is not shown by it.
        now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since.as_secs() < self.0)
    }

    /// Seconds since 1970.
    pub fn unix_seconds(self) -> u64 {
        self.0
    }
}

const MONTH_DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn month_days(year: u64, month: u64) -> Option<u64> {
    let days = *MONTH_DAYS.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    Some(days + u64::from(month == 2 && is_leap(year)))
}

/// From 1970-01-01 on.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if day == 0 || day > month_days(year, month)? {
        return None;
    }
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = (1..month).filter_map(|month| month_days(year, month)).sum();
    Some(years + months + day - 1)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, seconds) = (self.0 / 86_400, self.0 % 86_400);
        let (mut year, mut month) = (1970, 1);
        while days >= 365 + u64::from(is_leap(year)) {
            days -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        while let Some(length) = month_days(year, month).filter(|length| days >= *length) {
            days -= length;
            month += 1;
        }
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
    }
}

impl TryFrom<String> for Time {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("a time as 2027-01-01T00:00:00Z")
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

/// A value that is there: `null` is no way to say that there is no restriction.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Lower-case letters, digits, `-` and `.`, as Kubernetes' names.
pub fn is_name(text: &str) -> bool {
    let clean =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(clean)
}

fn name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    if !is_name(&text) {
        return Err(D::Error::custom("not a name"));
    }
    Ok(Some(text))
}

fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    TreePath::parse(&text).map_err(D::Error::custom)?;
    Ok(Some(text))
}

/// An object: derived readers take a structure's members from an array, too.
fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    struct Object<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    from.deserialize_map(Object(std::marker::PhantomData))
}

/// RFC 4648 §5 without padding, canonical. Written here, since nothing else in the guest's agent
/// needs a library for it.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() > PAYLOAD_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for quad in text.chunks(4) {
        let mut bits = 0_u32;
        for &byte in quad {
            let six = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        let (octets, unused) = match quad.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return None,
        };
        if bits & ((1 << unused) - 1) != 0 {
            return None;
        }
        bytes.extend_from_slice(&(bits >> unused).to_be_bytes()[4 - octets..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
