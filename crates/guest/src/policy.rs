//! What this guest lets its host do.

use std::collections::BTreeSet;

use volumes::name::Category;
use volumes::tree::Limits;

/// Which volumes, how many, how large.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Kinds of volumes that are accepted.
    pub categories: BTreeSet<Category>,
    /// Volumes at a time.
    pub volumes: usize,
    /// What each may hold.
    pub limits: Limits,
    /// Bytes of memory for what is known of the entries of all volumes together, visible or on their
    /// way: paths, owners, digests.
    pub memory: usize,
}

impl Default for Policy {
    /// All kinds; 256 volumes of at most 2 048 entries and 16 MiB, where Kubernetes itself allows
    /// 1 MiB for a Secret or ConfigMap, and a projected volume may hold several.
    fn default() -> Self {
        Self {
            categories: Category::ALL.into(),
            volumes: 256,
            limits: Limits { entries: 2_048, bytes: 16 << 20 },
            memory: 6 << 20,
        }
    }
}

impl Policy {
    /// The limits of a volume that asks for `wanted`: those, where it asks for less than it may.
    /// Zero asks for as much as there is.
    pub fn grant(&self, wanted: Limits) -> Limits {
        let entries = match wanted.entries {
            0 => self.limits.entries,
            entries => entries.min(self.limits.entries),
        };
        let bytes = match wanted.bytes {
            0 => self.limits.bytes,
            bytes => bytes.min(self.limits.bytes),
        };
        Limits { entries, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_granted_more_than_the_policy_has() {
        let policy = Policy::default();
        let grant = |entries, bytes| policy.grant(Limits { entries, bytes });
        assert_eq!(grant(0, 0), policy.limits);
        assert_eq!(grant(u32::MAX, u64::MAX), policy.limits);
        assert_eq!(grant(7, 9), Limits { entries: 7, bytes: 9 });
    }
}
