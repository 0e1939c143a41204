//! [`switch`]: the old tree out, the new one in, and [`roll_back`], its reverse.
//!
//! Both only move names between the destination and the staging directory, never replacing one, so
//! what has been done can be read off which names are where:
//!
//! | name | is where | so |
//! | --- | --- | --- |
//! | top of the new tree | `tree/` | not yet published |
//! | | destination | published |
//! | top of the old tree | `old/` | moved out |
//! | old receipt | `old-receipt.json` | the old tree may be incomplete |
//! | new receipt | `receipt.json` | the new tree may be incomplete |
//! | | destination | all is done |

use std::collections::BTreeSet;

use crate::dir::Dir;
use crate::error::Error;
use crate::layout::{NEW_RECEIPT, OLD, OLD_RECEIPT, RECEIPT, TREE};
use crate::plan::tops;
use crate::receipt::Receipt;

/// Publishes `tree/` of `staging`, whose top-level names are `new`, in place of `old`. A name is in
/// the destination without a receipt only between the first and the last of these moves.
pub(crate) fn switch(
    destination: &Dir,
    staging: &Dir,
    old: &BTreeSet<&str>,
    new: &BTreeSet<&str>,
    durable: bool,
) -> Result<(), Error> {
    let sync = |dir: &Dir| if durable { dir.sync() } else { Ok(()) };
    let publish =
        |from: &Dir, name: &str, new_name: &str| match from.shift(name, destination, new_name)? {
            true => Ok(()),
            false => Err(Error::InTheWay { path: from.shown().join(name) }),
        };
    let tree = staging.existing(TREE)?;
    let moved_out = staging.existing(OLD)?;

    destination.shift(RECEIPT, staging, OLD_RECEIPT)?;
    sync(destination)?;
    for top in old {
        destination.shift(top, &moved_out, top)?;
    }
    for top in new {
        publish(&tree, top, top)?;
    }
    sync(&moved_out)?;
    sync(&tree)?;
    sync(destination)?;
    publish(staging, NEW_RECEIPT, RECEIPT)?;
    sync(destination)?;
    sync(staging)
}

/// Undoes a [`switch`] that was interrupted anywhere, or was not begun. May itself be interrupted
/// and done again.
pub(crate) fn roll_back(
    destination: &Dir,
    staging: &Dir,
    new: &BTreeSet<&str>,
    durable: bool,
) -> Result<(), Error> {
    let sync = |dir: &Dir| if durable { dir.sync() } else { Ok(()) };
    if let Some(tree) = staging.dir(TREE)? {
        for top in new {
            // In `tree/` it is not published yet, and what the destination has is the old one.
            if tree.stat(top)?.is_none() {
                destination.shift(top, &tree, top)?;
            }
        }
        sync(&tree)?;
    }
    // No old receipt in here: nothing was moved out, or all of it is back.
    if let (Some(moved_out), Some(old)) = (staging.dir(OLD)?, Receipt::read(staging, OLD_RECEIPT)?)
    {
        for top in tops(old.paths()) {
            moved_out.shift(top, destination, top)?;
        }
        sync(&moved_out)?;
    }
    sync(destination)?;
    staging.shift(OLD_RECEIPT, destination, RECEIPT)?;
    sync(destination)?;
    sync(staging)
}
