//! Readers while volumes change: SPECIFICATION P2. `SEALIFT_TORN_UPDATES` sets how many updates
//! they watch.

#![allow(clippy::unwrap_used, reason = "a test")]

mod volume_common;

use std::thread;
use std::time::{Duration, Instant};

use publish::volumes::{Error, Options, PlainDirectories, Store, Tmpfs};
use testkit::torn::planted::{Plain, Planted};
use testkit::torn::{Report, Setup, Writer, contents, watch};
use volume_common::{Kind, LIMITS, Model, Place, id, send};
use volumes::name::Category;

/// As many as a test that runs with every change may take.
const UPDATES: u64 = 1_000;
const READERS: [usize; 3] = [6, 6, 4];
const FIRST: u64 = 1;

fn updates() -> u64 {
    let number = |text: String| text.parse().expect("SEALIFT_TORN_UPDATES is a number");
    std::env::var("SEALIFT_TORN_UPDATES").map_or(UPDATES, number)
}

/// The store, fed as the agent feeds it: again when it was too soon, expiry in between.
struct Fed(Store);

impl Writer for Fed {
    fn publish(&mut self, generation: u64) -> anyhow::Result<()> {
        let mut model = Model::new(&[]);
        for (name, content) in contents(generation) {
            model.add(name, &content, 0o644, (model.root.uid, model.root.gid));
        }
        let tree = model.tree();
        send(&mut self.0, &model)?;
        loop {
            match self.0.commit(&id(), generation, &tree, Instant::now) {
                Err(Error::TooSoon { retry_after }) => thread::sleep(retry_after),
                other => {
                    other?;
                    break;
                }
            }
        }
        let expiry = self.0.expire(Instant::now());
        anyhow::ensure!(expiry.failures.is_empty(), "{expiry:?}");
        Ok(())
    }
}

fn store(place: &Place, kind: Kind, grace: Duration, revisions_max: u32) -> Fed {
    let options = Options { grace, revisions_max, ..Options::default() };
    let root = &place.root;
    let now = Instant::now();
    let store = match kind {
        Kind::Plain => {
            let mounter = PlainDirectories::prepare(root, None).unwrap();
            Store::open(root, options, Box::new(mounter), now)
        }
        Kind::Tmpfs => {
            let mounter = Tmpfs::prepare(root, None).unwrap();
            Store::open(root, options, Box::new(mounter), now)
        }
    };
    let mut fed = Fed(store.unwrap());
    fed.0.create(&id(), Category::Secret, LIMITS).unwrap();
    fed.publish(FIRST).unwrap();
    fed
}

fn faultless(report: &Report, updates: u64) {
    println!("{report:?}");
    assert!(report.faults.is_empty(), "{:#?}", report.faults);
    assert_eq!(report.updates, updates);
    assert!(report.passes >= 16);
}

#[test]
fn no_reader_ever_sees_half_an_update() {
    let grace = Duration::from_millis(8);
    for kind in Kind::available() {
        let place = Place::new();
        let mut writer = store(&place, kind, grace, 3);
        let updates = updates() / 2;
        let setup = Setup { data: place.data(), first: FIRST, updates, grace, readers: READERS };
        let report = watch(&setup, &mut writer).unwrap();
        faultless(&report, updates);
        assert!(report.events > 0);
    }
}

#[test]
fn readers_by_path_survive_a_storm() {
    let (place, grace) = (Place::new(), Duration::from_millis(200));
    let mut writer = store(&place, Kind::Plain, grace, u32::MAX);
    let setup =
        Setup { data: place.data(), first: FIRST, updates: updates(), grace, readers: [16, 0, 0] };
    faultless(&watch(&setup, &mut writer).unwrap(), setup.updates);
}

#[test]
fn the_checker_finds_every_planted_writer() {
    for (bug, rules) in Planted::ALL {
        let (place, grace) = (Place::new(), Duration::from_millis(200));
        let data = place.root.join("data");
        let mut writer = Plain::begin(&data, Some(bug), grace, FIRST).unwrap();
        let setup = Setup { data, first: FIRST, updates: 100_000, grace, readers: READERS };
        let report = watch(&setup, &mut writer).unwrap();
        println!("{bug:?}: {} updates, {:?}", report.updates, report.faults.first());
        assert!(!report.faults.is_empty(), "{bug:?} was not found");
        let as_expected = report.faults.iter().any(|fault| rules.contains(&fault.what));
        assert!(as_expected, "{bug:?}: {:#?}", report.faults);
    }
}

#[test]
fn the_checker_is_content_with_a_writer_without_a_bug() {
    let (place, grace) = (Place::new(), Duration::from_millis(200));
    let data = place.root.join("data");
    let mut writer = Plain::begin(&data, None, grace, FIRST).unwrap();
    let setup = Setup { data, first: FIRST, updates: 300, grace, readers: READERS };
    faultless(&watch(&setup, &mut writer).unwrap(), setup.updates);
}
