//! [`Pcrs`]: which platform configuration registers are quoted.

use std::fmt;
use std::str::FromStr;

/// A set of PCRs, 0 to 23, of one bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pcrs(u32);

impl Pcrs {
    /// All 24, as upstream's attester quotes them.
    pub const ALL: Self = Self(0x00ff_ffff);

    /// The registers, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..24).filter(move |pcr| self.0 & (1 << pcr) != 0)
    }

    /// How many.
    pub(super) fn count(self) -> usize {
        self.iter().count()
    }

    /// The set as TPMS_PCR_SELECTION has it.
    pub(super) fn bitmap(self) -> [u8; 3] {
        let [first, second, third, _] = self.0.to_le_bytes();
        [first, second, third]
    }

    pub(super) fn from_bitmap([first, second, third]: [u8; 3]) -> Self {
        Self(u32::from_le_bytes([first, second, third, 0]))
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is left without `others`, if they are all in this set.
    pub(super) fn without(self, others: Self) -> Option<Self> {
        (others.0 & !self.0 == 0).then_some(Self(self.0 & !others.0))
    }
}

impl FromStr for Pcrs {
    type Err = String;

    /// Reads `0-9,11,14`.
    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "PCRs 0 to 23, such as 0-9,11,14".to_owned();
        let number = |text: &str| text.parse::<u32>().ok().filter(|pcr| *pcr < 24);
        let mut pcrs = Self(0);
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Some(first), Some(last)) = (number(first), number(last)) else {
                return Err(malformed());
            };
            if first > last {
                return Err(malformed());
            }
            (first..=last).for_each(|pcr| pcrs.0 |= 1 << pcr);
        }
        Ok(pcrs)
    }
}

impl fmt::Display for Pcrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.iter().map(|pcr| pcr.to_string()).collect();
        f.write_str(&numbers.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_people_write_them() {
        let pcrs: Pcrs = "0-2,7,9-9".parse().unwrap();
        assert_eq!(pcrs.to_string(), "0,1,2,7,9");
        assert_eq!(pcrs.bitmap(), [0b1000_0111, 0b10, 0]);
        assert_eq!(Pcrs::from_bitmap(pcrs.bitmap()), pcrs);
        assert_eq!("0-23".parse(), Ok(Pcrs::ALL));
        for bad in ["", "24", "3-1", "1,", "a", "-1", "1--2", "0-99999999999"] {
            assert!(bad.parse::<Pcrs>().is_err(), "{bad:?}");
        }
    }
}
