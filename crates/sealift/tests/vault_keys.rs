//! Bundles whose keys are in Vault, by the program itself against a real OpenBao.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

use common::broker::Broker;
use common::{Sealed, memory, model_tree, refuse, sealift, succeed, text, write_tree};
use sealift::code::Code;
use serde_json::json;
use testkit::bao::Bao;

const TRANSIT: &str = "vault:///transit/keys/llama";
const KV: &str = "vault:///secret/data/models/llama#kek";

/// `sealift …` that reaches the server as the root.
fn at(bao: &Bao, arguments: &[&str]) -> Command {
    let mut command = sealift();
    command.args(arguments).env("VAULT_ADDR", bao.address()).env("VAULT_TOKEN", Bao::ROOT);
    command
}

fn started() -> Option<Bao> {
    let bao = Bao::start().unwrap()?;
    bao.must("POST", "transit/keys/llama", json!({})).unwrap();
    bao.must("POST", "transit/keys/other", json!({})).unwrap();
    Some(bao)
}

fn digest(bundle: &Path) -> String {
    let output = succeed(sealift().args(["--output", "json", "--quiet", "inspect", text(bundle)]));
    let inspected: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    inspected["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_bundle_sealed_with_transit_opens_with_one_question_and_a_pin_of_the_deployers() {
    let Some(bao) = started() else { return };
    let dir = memory();
    let (model, bundle) = (dir.path().join("model"), dir.path().join("bundle"));
    write_tree(&model, &[("a", b"alpha"), ("b", b"beta"), ("sub/c", b"gamma")]);
    succeed(
        at(&bao, &["seal", text(&model), text(&bundle), "--resource-id", TRANSIT])
            .arg("--name=llama"),
    );
    let dest = dir.path().join("dest");
    std::fs::create_dir(&dest).unwrap();
    let open = ["init", text(&bundle), text(&dest), "--resource-id", TRANSIT];

    let line = refuse(&mut at(&bao, &open), Code::Stale);
    assert!(line.contains("nothing pins"), "{line}");
    let output = succeed(at(&bao, &open).args(["--min-generation", "1"]));
    assert_eq!(model_tree(&dest), model_tree(&model));
    let records = String::from_utf8(output.stdout).unwrap();
    for (event, times) in [("key-requested", 1), ("key-released", 1), ("model-opened", 1)] {
        assert_eq!(records.matches(event).count(), times, "{event}: {records}");
    }
    assert!(records.contains(TRANSIT) && records.contains(r#""source":"vault""#), "{records}");
    // The storage initializer has variables for all of it.
    std::fs::remove_dir_all(&dest).unwrap();
    std::fs::create_dir(&dest).unwrap();
    let mut by_variables = at(&bao, &["init", text(&bundle), text(&dest)]);
    succeed(by_variables.env("SEALIFT_RESOURCE_ID", TRANSIT).env("SEALIFT_MIN_GENERATION", "1"));
    let source = format!("{}#key={TRANSIT}&generation=1", text(&bundle));
    succeed(&mut at(&bao, &["init", &source, text(&dest)]));
}

#[test]
fn rewrap_leads_from_any_kind_to_any_other_and_touches_no_data() {
    let Some(bao) = started() else { return };
    let sealed = Sealed::tiny();
    let (bundle, before) = (text(&sealed.bundle), digest(&sealed.bundle));
    let object = std::fs::read(sealed.bundle.join("a.sealed")).unwrap();
    let jwk = sealed.dir.path().join("kv.jwk");
    common::keygen(&jwk, KV, "model@1");
    let value = json!({"data": {"kek": std::fs::read_to_string(&jwk).unwrap()}});
    bao.must("POST", "secret/data/models/llama", value).unwrap();
    let file = format!("{}={}", common::RESOURCE, text(&sealed.key));

    // Broker's key in a file, to Transit.
    let from_file = ["rewrap", bundle, "--resource-id", common::RESOURCE, "--key-file"];
    succeed(at(&bao, &from_file).args([text(&sealed.key), "--to", TRANSIT]));
    let verify = |uri: &str| at(&bao, &["verify", bundle, "--resource-id", uri]);
    succeed(&mut verify(TRANSIT));
    refuse(&mut verify(KV), Code::Tampered);
    // Transit to KV, whose value the server releases.
    succeed(&mut at(&bao, &["rewrap", bundle, "--resource-id", TRANSIT, "--to", KV]));
    succeed(&mut verify(KV));
    // KV to all at once: the same key from its file, another Transit key, and the broker's.
    let kv_file = format!("{KV}={}", text(&jwk));
    let other = "vault:///transit/keys/other";
    let all = ["--to", &kv_file, "--to", other, "--to", &file];
    succeed(at(&bao, &["rewrap", bundle, "--resource-id", KV]).args(all));
    succeed(&mut verify(other));
    succeed(&mut verify(KV));
    // And back to the file alone, without any server.
    let back = ["rewrap", bundle, "--resource-id", KV, "--key-file", text(&jwk), "--to", &file];
    succeed(sealift().args(back));
    let offline = ["verify", bundle, "--resource-id", common::RESOURCE, "--key-file"];
    let output = succeed(sealift().args(offline).arg(&sealed.key));
    assert!(String::from_utf8_lossy(&output.stdout).contains("key"));

    assert_eq!(digest(&sealed.bundle), before);
    assert_eq!(std::fs::read(sealed.bundle.join("a.sealed")).unwrap(), object);
}

#[test]
fn a_pinned_value_of_vault_opens_as_a_brokers_key_does() {
    let Some(bao) = started() else { return };
    let dir = memory();
    let (model, bundle, jwk) =
        (dir.path().join("model"), dir.path().join("bundle"), dir.path().join("kv.jwk"));
    write_tree(&model, &[("a", b"alpha")]);
    common::keygen(&jwk, KV, "model@2");
    let value = json!({"data": {"kek": std::fs::read_to_string(&jwk).unwrap()}});
    bao.must("POST", "secret/data/models/llama", value).unwrap();
    let seal = |generation: &str| {
        let line = ["seal", text(&model), text(&bundle), "--recipient", KV, "--overwrite"];
        succeed(at(&bao, &line).args(["--name", "model", "--generation", generation]));
    };
    let dest = dir.path().join("dest");
    std::fs::create_dir(&dest).unwrap();
    let open = ["init", text(&bundle), text(&dest), "--resource-id", KV];
    seal("1");
    refuse(&mut at(&bao, &open), Code::Stale);
    seal("2");
    succeed(&mut at(&bao, &open));
    assert_eq!(model_tree(&dest), model_tree(&model));
    succeed(&mut at(&bao, &["key", "check", "--resource-id", KV]));
}

#[test]
fn what_goes_wrong_is_named_with_its_code() {
    let Some(mut bao) = started() else { return };
    let sealed = Sealed::tiny();
    let bundle = text(&sealed.bundle);
    let rewrap = ["rewrap", bundle, "--resource-id", common::RESOURCE, "--key-file"];
    succeed(at(&bao, &rewrap).args([text(&sealed.key), "--to", TRANSIT, "--to"]).arg(format!(
        "{}={}",
        common::RESOURCE,
        text(&sealed.key)
    )));
    let verify =
        |uri: &str| at(&bao, &["verify", bundle, "--resource-id", uri, "--key-timeout", "1"]);

    // Another bundle's wrapped key in the place of this one's.
    let other = Sealed::tiny();
    succeed(at(&bao, &["rewrap", text(&other.bundle), "--resource-id", common::RESOURCE]).args([
        "--key-file",
        text(&other.key),
        "--to",
        TRANSIT,
    ]));
    let json =
        |sealed: &Sealed| std::fs::read_to_string(sealed.bundle.join("sealift.json")).unwrap();
    let wrapped = |json: &str| {
        let start = json.find(r#""wrapped_key":""#).unwrap() + 15;
        json[start..start + json[start..].find('"').unwrap()].to_owned()
    };
    let (own, theirs) = (json(&sealed), json(&other));
    let moved = own.replacen(&wrapped(&own), &wrapped(&theirs), 1);
    std::fs::write(sealed.bundle.join("sealift.json"), moved).unwrap();
    let line = refuse(&mut verify(TRANSIT), Code::Tampered);
    assert!(line.contains("another bundle"), "{line}");
    std::fs::write(sealed.bundle.join("sealift.json"), own).unwrap();
    succeed(&mut verify(TRANSIT));

    let nobody = bao.token("nobody", r#"path "x" { capabilities = ["read"] }"#).unwrap();
    refuse(verify(TRANSIT).env("VAULT_TOKEN", nobody), Code::KeyDenied);
    refuse(verify(TRANSIT).env("VAULT_TOKEN", "s.wrong"), Code::AccessDenied);
    refuse(verify(TRANSIT).env_remove("VAULT_TOKEN"), Code::Usage);
    refuse(verify(TRANSIT).env_remove("VAULT_ADDR"), Code::Usage);
    refuse(verify(TRANSIT).env("VAULT_ADDR", "http://192.0.2.1:8200"), Code::Usage);
    refuse(verify(TRANSIT).args(["--vault-auth", "jwt"]), Code::Usage);
    refuse(verify(TRANSIT).args(["--key-file", text(&sealed.key)]), Code::Usage);
    succeed(&mut at(&bao, &["key", "check", "--resource-id", TRANSIT]));
    let made =
        at(&bao, &["keygen", "--resource-id", TRANSIT, "-f", "/dev/null/x"]).output().unwrap();
    assert_eq!(made.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&made.stderr).contains("never released"));
    let to = |uri: &str| {
        let mut command = at(&bao, &rewrap);
        command.args([text(&sealed.key), "--to", uri, "--key-timeout", "1"]);
        command
    };
    refuse(&mut to("vault:///nowhere/keys/a"), Code::KeyNotFound);
    refuse(&mut to(KV), Code::KeyNotFound);
    refuse(&mut to("kbs:///team/other/v1"), Code::Usage);
    refuse(&mut to(&format!("{TRANSIT}={}", text(&sealed.key))), Code::Usage);

    let address = bao.address();
    bao.must("POST", "sys/seal", json!({})).unwrap();
    let down = || {
        let mut command = sealift();
        command.args(["verify", bundle, "--resource-id", TRANSIT, "--key-timeout", "1"]);
        command.env("VAULT_ADDR", &address).env("VAULT_TOKEN", Bao::ROOT);
        command
    };
    let line = refuse(&mut down(), Code::KeyUnreachable);
    assert!(line.contains("sealed"), "{line}");
    bao.kill();
    refuse(&mut down(), Code::KeyUnreachable);
}

/// The broker says what the guest is, and Vault believes the broker.
#[test]
fn a_guest_that_a_broker_has_attested_logs_in_to_vault() {
    let Some(bao) = started() else { return };
    let sealed = Sealed::small();
    let broker = Broker::start(&sealed.dir.path().join("broker"));
    let jwks = format!("{}/.well-known/jwks.json", broker.url());
    bao.must("POST", "sys/auth/jwt", json!({"type": "jwt"})).unwrap();
    bao.must("POST", "auth/jwt/config", json!({"jwks_url": jwks})).unwrap();
    let rules = "path \"transit/*\" { capabilities = [\"update\"] }";
    bao.must("POST", "sys/policies/acl/llama", json!({"policy": rules})).unwrap();
    let role = |status: &str| {
        json!({
            "role_type": "jwt", "user_claim": "iss", "policies": ["llama"],
            "bound_claims": {"iss": "sealift-broker", "/submods/cpu0/ear.status": status},
        })
    };
    // Sample evidence is never better than that; a role for real guests wants `affirming`.
    bao.must("POST", "auth/jwt/role/any", role("contraindicated")).unwrap();
    bao.must("POST", "auth/jwt/role/good", role("affirming")).unwrap();

    let bundle = sealed.dir.path().join("transit");
    let sealing = ["seal", text(&sealed.model), text(&bundle), "--resource-id", TRANSIT];
    succeed(at(&bao, &sealing).arg("--name=llama"));
    let dest = sealed.dest("dest");
    let attested = |role: &str, more: &[&str]| {
        let mut open = sealift();
        open.args(["open", text(&bundle), text(&dest), "--resource-id", TRANSIT]);
        open.args(["--min-generation", "1", "--vault-addr", &bao.address()]);
        open.args(["--vault-auth", "attestation", "--vault-role", role]).args(more);
        open
    };
    let by_broker = ["--kbs-url", &broker.url(), "--insecure-dev"];
    let refused = refuse(&mut attested("good", &by_broker), Code::AccessDenied);
    assert!(refused.contains("login"), "{refused}");
    refuse(&mut attested("any", &[]), Code::Usage);
    assert!(model_tree(&dest).is_empty());
    succeed(&mut attested("any", &by_broker));
    assert!(model_tree(&dest) == model_tree(&sealed.model));
    // Nobody else's token counts.
    let other = Broker::start(&sealed.dir.path().join("other"));
    let by_other = ["--kbs-url", &other.url(), "--insecure-dev"];
    refuse(&mut attested("any", &by_other), Code::AccessDenied);
}
