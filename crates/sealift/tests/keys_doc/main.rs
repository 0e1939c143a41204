//! docs/keys.md as a newcomer reads it: every block of commands, in its order, against real servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
mod markdown;
mod world;

const PAGE: &str = include_str!("../../../../docs/keys.md");

#[test]
fn every_example_of_the_page_works_as_it_is_written() {
    let sections = markdown::sections(PAGE).unwrap_or_else(|why| panic!("docs/keys.md, {why}"));
    let Some(world) = world::World::new() else { return };
    for section in &sections {
        let start = std::time::Instant::now();
        if world.play(section) {
            println!("{:5.1} s  {}", start.elapsed().as_secs_f64(), section.title);
        }
    }
}
