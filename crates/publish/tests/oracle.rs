//! The checker, checked: it finds each planted bug, and does not complain without one.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::memory;
use testkit::kills::{enumerate, shapes};
use testkit::planted::{Plain, Planted};

#[test]
fn the_oracle_finds_every_planted_bug() {
    for (bug, complaint) in Planted::ALL {
        let publisher = Plain { bug: Some(bug) };
        let found: Vec<String> = shapes()
            .iter()
            .filter_map(|shape| enumerate(&publisher, shape, memory()).err())
            .map(|error| format!("{error:#}"))
            .collect();
        assert!(
            found.iter().any(|error| error.contains(complaint)),
            "{bug:?} was not found: {found:#?}"
        );
    }
}

#[test]
fn the_oracle_is_content_with_a_publisher_that_has_no_bug_within_one_kill() {
    for shape in shapes() {
        enumerate(&Plain { bug: None }, &shape, memory()).unwrap();
    }
}
