//! How a guest's volumes are, for people and programs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::wire::message::VolumeStatus;

/// One volume, as its guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestVolume {
    /// Its name.
    pub volume: String,
    /// Its kind.
    pub category: String,
    /// The revision that is visible; 0: none.
    pub sequence: u64,
    /// Its digest.
    pub digest: Option<String>,
    /// Seconds since it became so.
    pub age_seconds: u64,
    /// Files and directories.
    pub entries: u32,
    /// Bytes of all files.
    pub bytes: u64,
    /// The last refusal since then.
    pub failure: Option<String>,
}

impl From<VolumeStatus> for GuestVolume {
    fn from(status: VolumeStatus) -> Self {
        let VolumeStatus { held, age_seconds, entries, bytes, failure } = status;
        Self {
            volume: held.volume.to_string(),
            category: held.category.to_string(),
            sequence: held.sequence,
            digest: held.digest.map(|digest| digest.to_string()),
            age_seconds,
            entries,
            bytes,
            failure: (!failure.is_empty()).then_some(failure),
        }
    }
}

/// For people: a header and a row each.
pub fn rows(volumes: &[GuestVolume]) -> Vec<Vec<String>> {
    let header = ["VOLUME", "CATEGORY", "REVISION", "DIGEST", "AGE", "ENTRIES", "BYTES", "REASON"];
    let mut rows = vec![header.map(String::from).to_vec()];
    rows.extend(volumes.iter().map(|volume| {
        let digest = volume.digest.as_deref().unwrap_or("-");
        vec![
            volume.volume.clone(),
            volume.category.clone(),
            volume.sequence.to_string(),
            short(digest).into(),
            duration(volume.age_seconds),
            volume.entries.to_string(),
            volume.bytes.to_string(),
            volume.failure.clone().unwrap_or_else(|| "-".into()),
        ]
    }));
    rows
}

/// A digest's beginning, which tells it from others well enough to look at.
pub fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// As kubectl shows ages.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Columns as wide as their longest cell, two spaces apart.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_ages_are_short() {
        let rows = [vec!["A".into(), "B".into()], vec!["long".into(), "x".into()]];
        assert_eq!(table(&rows), "A     B\nlong  x\n");
        let ages = [5, 300, 10_000, 400_000].map(duration);
        assert_eq!(ages, ["5s", "5m", "2h", "4d"]);
    }
}
