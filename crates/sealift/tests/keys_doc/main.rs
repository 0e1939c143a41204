//! docs/keys.md as a newcomer reads it: every block of commands, in its order, against real servers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
mod markdown;
mod shell;
mod world;

use clap::Parser as _;

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

/// What a pod's container is started with, where there is no cluster to start it.
#[test]
fn the_arguments_of_every_container_of_the_page_are_known() {
    let mut lines = PAGE.lines();
    let mut containers = 0;
    while let Some(line) = lines.next() {
        if line.trim() != "args:" {
            continue;
        }
        let given = lines.by_ref().map_while(|line| line.trim().strip_prefix("- "));
        // As Kubernetes puts the variables of the page's container in their places.
        let given = given.map(|word| {
            word.replace("$(NAMESPACE)", "team-a").replace("$(SERVICE_ACCOUNT)", "web")
        });
        let arguments: Vec<String> = std::iter::once("sealift".to_owned()).chain(given).collect();
        let parsed = sealift::cli::Cli::try_parse_from(&arguments);
        assert!(parsed.is_ok(), "{arguments:?}: {}", parsed.unwrap_err());
        containers += 1;
    }
    assert!(containers > 0);
}
