//! Any history of runs, kills and failures refines a variable that is either nothing or one model:
//! SPECIFICATION P2.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{Unwinding, fill, memory};
use proptest::prelude::*;
use publish::{Destination, Policy};
use testkit::kills::{Outcome, Publisher};
use testkit::oracle::{Expected, Finding, Model, State, look};

#[derive(Debug, Clone)]
enum Act {
    /// A run of a model, killed at a step if it has that many.
    Run { model: usize, kill_at: Option<u64> },
    /// Stages a part of a model and keeps it.
    Keep { model: usize },
    /// Stages a part of a model and gives up.
    Discard { model: usize },
    /// Recovers and does nothing else.
    Recover { keep: Option<usize> },
}

fn models() -> Vec<Model> {
    vec![
        Model::new(1, &[("a", 100), ("b/c", 5_000)]),
        Model::new(2, &[("a/b", 100), ("b/c", 9_000), ("d", 0)]),
        Model::new(3, &[("b", 1), ("e/f/g*", 10_000)]),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let model = 0..models().len();
    prop_oneof![
        4 => (model.clone(), prop::option::weighted(0.8, 1..120_u64))
            .prop_map(|(model, kill_at)| Act::Run { model, kill_at }),
        1 => model.clone().prop_map(|model| Act::Keep { model }),
        1 => model.clone().prop_map(|model| Act::Discard { model }),
        1 => prop::option::of(model).prop_map(|keep| Act::Recover { keep }),
    ]
}

/// `PROPTEST_CASES`, or enough for a pull request.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(128)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn any_history_is_a_sequence_of_whole_models(acts in prop::collection::vec(act(), 1..12)) {
        let models = models();
        let top = tempfile::tempdir_in(memory()).unwrap();
        // What is published, and what killed runs may have begun to publish in its place.
        let mut now = None::<usize>;
        let mut begun = Vec::<usize>::new();
        for act in acts {
            let destination = || Destination::open(top.path(), &Policy::default()).unwrap();
            let stage = |model: usize| {
                let staging = destination().stage(&models[model].plan()).unwrap();
                fill(&staging, &models[model]).unwrap();
                staging
            };
            match act {
                Act::Run { model, kill_at } => {
                    match Unwinding::IN_MEMORY.run(top.path(), &models[model], kill_at) {
                        Outcome::Done => now = Some(model),
                        Outcome::Killed => begun.push(model),
                        Outcome::Failed(why) => prop_assert!(false, "{}", why),
                    }
                }
                Act::Keep { model } => stage(model).keep(),
                Act::Discard { model } => stage(model).discard().unwrap(),
                Act::Recover { keep } => {
                    destination().recover(keep.map(|model| models[model].digest)).unwrap();
                }
            }
            let old = now.map(|model| &models[model]);
            let found = begun.iter().map(|model| Expected { old, new: &models[*model] });
            let found: Vec<_> = found.map(|expected| look(top.path(), expected)).collect();
            let state = |is: State| {
                let is = |found: &Result<Finding, String>| found.as_ref().is_ok_and(|f| f.state == is);
                found.iter().position(is)
            };
            if let Some(published) = state(State::New) {
                // Killed after its last step that counts.
                now = Some(begun[published]);
                begun.clear();
            } else if state(State::Switching).is_none() {
                // Nothing, or whole.
                let expected = Expected { old, new: old.unwrap_or(&models[0]) };
                let found = look(top.path(), expected).map_err(TestCaseError::fail)?;
                let wanted = if now.is_some() { State::Old } else { State::Absent };
                prop_assert_eq!(found.state, wanted);
            }
        }
    }
}
