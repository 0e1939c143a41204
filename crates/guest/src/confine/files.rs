//! [`restrict`]: which files, by Landlock.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use super::{Error, Grants};

/// Versions of Landlock that are of use, newest first: in the first one nothing could be moved from
/// one directory to another, and a store does that.
const VERSIONS: [(ABI, u8); 5] =
    [(ABI::V6, 6), (ABI::V5, 5), (ABI::V4, 4), (ABI::V3, 3), (ABI::V2, 2)];

/// What a store does in its volumes. No devices, FIFOs or sockets; nothing is executed.
const STORE: [AccessFs; 10] = [
    AccessFs::ReadFile,
    AccessFs::ReadDir,
    AccessFs::WriteFile,
    AccessFs::Truncate,
    AccessFs::MakeReg,
    AccessFs::MakeDir,
    AccessFs::MakeSym,
    AccessFs::RemoveFile,
    AccessFs::RemoveDir,
    AccessFs::Refer,
];

/// Nothing but `grants`: no other file, no TCP port, and where the kernel can keep them back, no
/// signals and abstract sockets to others. `None`: the kernel cannot.
///
/// A rule holds for what is mounted below its directory, too, also if that comes later: Landlock
/// looks from a file upwards through mounts.
///
/// What it does not cover is metadata: `stat` and `readlink` see every path, and `chmod` and `chown`
/// would change every one. So the receiver has only the forms of those that take a file that is
/// open, and may open only these.
pub(super) fn restrict(grants: &Grants) -> Result<Option<u8>, Error> {
    for (abi, version) in VERSIONS {
        // The kernel is older.
        let Ok(ruleset) = handle(abi) else { continue };
        let mut ruleset = ruleset.create().map_err(Error::Landlock)?;
        let store = STORE.into_iter().collect::<BitFlags<_>>() & AccessFs::from_all(abi);
        // Not in the root itself: there the mounter looks for these two.
        ruleset = allow(ruleset, &grants.root, AccessFs::ReadDir.into())?;
        for place in ["new", "volumes"] {
            ruleset = allow(ruleset, &grants.root.join(place), store)?;
        }
        for path in &grants.readable {
            // What a link leads to is granted, too.
            let real = path.canonicalize().ok();
            for path in [Some(path), real.as_ref()].into_iter().flatten() {
                let directory = match path.is_dir() {
                    true => path,
                    false => path.parent().unwrap_or(path),
                };
                ruleset = allow(ruleset, directory, AccessFs::ReadFile | AccessFs::ReadDir)?;
            }
        }
        ruleset.restrict_self().map_err(Error::Landlock)?;
        return Ok(Some(version));
    }
    Ok(None)
}

fn handle(abi: ABI) -> Result<Ruleset, RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let mut ruleset = ruleset.handle_access(AccessFs::from_all(abi))?;
    if abi >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    Ok(ruleset)
}

fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Error> {
    let fail = |source| Error::Grant { path: path.to_path_buf(), source };
    let place = PathFd::new(path).map_err(fail)?;
    ruleset.add_rule(PathBeneath::new(place, access)).map_err(Error::Landlock)
}
