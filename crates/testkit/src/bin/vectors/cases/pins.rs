//! Pins, of the key and of the deployer (format §9).

use anyhow::Result;
use serde_json::{Value, json};

use crate::Set;
use crate::forge::{Case, MODEL, jwk};

/// Where the manifest's own digest goes.
const OWN: &str = "<digest>";

pub(crate) fn add(set: &mut Set) -> Result<()> {
    let none = || Value::Null;
    let other = format!("sha256:{}", "5".repeat(64));
    let of = |pin: Value| json!({MODEL: pin});
    for (reason, name, key, demand, comment) in [
        (
            "stale",
            "generation_below_the_keys_minimum",
            of(json!({"min_generation": 4})),
            json!({}),
            "An old bundle, sealed by the right people; the key is for generation 4 and later.",
        ),
        (
            "stale",
            "generation_below_the_deployers_minimum",
            none(),
            json!({"min_generation": 4}),
            "The deployer asks for generation 4 or later.",
        ),
        (
            "stale",
            "generation_below_the_keys_minimum_only",
            of(json!({"min_generation": 4})),
            json!({"min_generation": 3}),
            "The deployer's minimum holds, the key's does not: both must.",
        ),
        (
            "stale",
            "generation_below_the_deployers_minimum_only",
            of(json!({"min_generation": 3})),
            json!({"min_generation": 4}),
            "The key's minimum holds, the deployer's does not: both must.",
        ),
        (
            "stale",
            "stale_and_unpinned_allowed",
            of(json!({"min_generation": 4})),
            json!({"allow_unpinned": true}),
            "To allow what nothing pins does not lift a pin.",
        ),
        (
            "stale",
            "stale_but_digest_allowed",
            of(json!({"min_generation": 4, "digests": [OWN]})),
            json!({}),
            "The digest is listed, and the generation too low: every part must hold.",
        ),
        (
            "stale",
            "generation_below_the_highest_minimum",
            of(json!({"min_generation": 9_007_199_254_740_991_u64})),
            json!({}),
            "The highest minimum that a key may ask for.",
        ),
        (
            "digest",
            "digest_not_listed_by_the_key",
            of(json!({"digests": [other]})),
            json!({}),
            "The right name and generation, and not the manifest that the key lists.",
        ),
        (
            "digest",
            "digest_not_asked_for_by_the_deployer",
            none(),
            json!({"digests": [other]}),
            "The deployer asks for another manifest.",
        ),
        (
            "digest",
            "digest_listed_by_one_of_two",
            of(json!({"digests": [OWN]})),
            json!({"digests": [other]}),
            "The key allows it, the deployer asks for another: both must hold.",
        ),
        (
            "digest",
            "digest_not_listed_but_generation_high_enough",
            of(json!({"min_generation": 0, "digests": [other]})),
            json!({}),
            "The generation holds and the digest does not.",
        ),
        (
            "model-not-allowed",
            "model_not_listed_by_the_key",
            json!({"org/other": {"min_generation": 0}}),
            json!({}),
            "The key is for another model.",
        ),
        (
            "model-not-allowed",
            "model_not_listed_by_a_key_for_none",
            json!({}),
            json!({"min_generation": 3}),
            "`{}` allows no model.",
        ),
        (
            "model-not-allowed",
            "model_listed_in_another_case",
            json!({"Org/Model": {"min_generation": 0}}),
            json!({}),
            "Names are compared as bytes.",
        ),
        (
            "model-not-allowed",
            "model_listed_by_its_beginning",
            json!({"org": {"min_generation": 0}, "org/model-2": {"min_generation": 0}}),
            json!({}),
            "A name is no prefix and has none.",
        ),
        (
            "model-not-allowed",
            "model_not_asked_for_by_the_deployer",
            of(json!({"min_generation": 3})),
            json!({"name": "org/other"}),
            "The deployer asks for another model.",
        ),
        (
            "model-not-allowed",
            "model_not_listed_and_unpinned_allowed",
            json!({"org/other": {}}),
            json!({"allow_unpinned": true}),
            "To allow what nothing pins does not lift a key's list of models.",
        ),
        (
            "unpinned",
            "unpinned",
            none(),
            json!({}),
            "Neither key nor deployer says which manifest is current.",
        ),
        (
            "unpinned",
            "unpinned_by_a_key_that_lists_the_model",
            of(json!({})),
            json!({}),
            "The key is for the model, and says nothing of its age.",
        ),
        (
            "unpinned",
            "unpinned_by_a_deployer_who_names_the_model",
            none(),
            json!({"name": MODEL}),
            "The deployer says which model, and nothing of its age.",
        ),
    ] {
        set.refused(reason, name, comment, |case| pin(case, &key, &demand))?;
    }
    for (name, key, demand, comment) in [
        (
            "unpinned_and_allowed",
            none(),
            json!({"allow_unpinned": true}),
            "The deployer allows it.",
        ),
        (
            "unpinned_by_the_key_and_allowed",
            of(json!({})),
            json!({"allow_unpinned": true, "name": MODEL}),
            "The key lists the model, the deployer allows it without a pin.",
        ),
        (
            "pinned_by_the_deployers_generation",
            none(),
            json!({"min_generation": 3}),
            "Equal is enough.",
        ),
        (
            "pinned_by_generation_zero",
            none(),
            json!({"min_generation": 0}),
            "A minimum of 0 is one.",
        ),
        (
            "pinned_by_the_keys_generation_zero",
            of(json!({"min_generation": 0})),
            json!({}),
            "The same in the key.",
        ),
        (
            "pinned_by_the_keys_digest",
            of(json!({"digests": [OWN]})),
            json!({}),
            "Listed by the key.",
        ),
        (
            "pinned_by_the_deployers_digest",
            none(),
            json!({"digests": [OWN]}),
            "Asked for by digest.",
        ),
        (
            "pinned_by_one_of_several_digests",
            of(json!({"digests": [other, OWN]})),
            json!({}),
            "One of those listed.",
        ),
        (
            "pinned_in_every_way",
            json!({MODEL: {"min_generation": 2, "digests": [OWN]}, "org/other": {}}),
            json!({"name": MODEL, "min_generation": 1, "digests": [OWN, other]}),
            "All that key and deployer can say, and all of it holds.",
        ),
    ] {
        set.opens(name, comment, |case| pin(case, &key, &demand))?;
    }
    Ok(())
}

/// A key with these pins (null: without), and this demand.
fn pin(case: &mut Case, pins: &Value, demand: &Value) {
    let own = case.manifest_digest();
    let mut jwk = jwk("a");
    let members = jwk.as_object_mut().expect("a JWK");
    members.remove("sealift");
    if !pins.is_null() {
        members.insert("sealift".into(), pins.clone());
    }
    case.key = jwk.to_string().replace(OWN, &own).into();
    let demand = demand.to_string().replace(OWN, &own);
    case.demand = serde_json::from_str(&demand).expect("still JSON");
}
