//! Alone in its process, because the umask is the process's.

#![allow(clippy::unwrap_used, reason = "a test")]

mod volume_common;

use std::time::Instant;

use volume_common::{GRACE, Kind, Place, exactly, publish, shapes};

#[test]
fn the_umask_decides_nothing() {
    for mask in [0o077, 0o027, 0o777, 0] {
        // What the umask closes to its owner is closed to all but root.
        if mask & 0o700 != 0 && !rustix::process::geteuid().is_root() {
            testkit::skip(format!("umask {mask:o}: not root"));
            continue;
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
        for shape in shapes() {
            let (place, now) = (Place::new(), Instant::now());
            let mut store = Kind::Plain.open(&place.root, None, now).unwrap();
            publish(&mut store, &shape.new, 1, now).unwrap();
            assert_eq!(store.expire(now + GRACE).next, None);
            let at = format!("{}, umask {mask:o}", shape.name);
            exactly(&place, &shape.new, 1).map_err(|error| format!("{at}: {error}")).unwrap();
        }
    }
}
