//! Bundles whose keys are in AWS KMS or a PKCS#11 token, by the program itself.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Sealed, model_tree, refuse, sealift, succeed, text};
use sealift::code::Code;
use testkit::moto::Moto;
use testkit::softhsm::SoftHsm;

/// Rewraps a bundle from its file to `uri` and back, opens it meanwhile, and moves another's wrap.
fn goes_there_and_back(uri: &str, equipped: &dyn Fn(&[&str]) -> Command) {
    let (sealed, other) = (Sealed::tiny(), Sealed::tiny());
    for one in [&sealed, &other] {
        let from_file = ["--resource-id", common::RESOURCE, "--key-file", text(&one.key)];
        let rewrap = ["rewrap", text(&one.bundle), "--to", uri];
        succeed(&mut equipped(&[&rewrap[..], &from_file].concat()));
    }
    let dest = sealed.dest("dest");
    let open = ["init", text(&sealed.bundle), text(&dest), "--resource-id", uri];
    refuse(&mut equipped(&open), Code::Stale);
    let output = succeed(equipped(&open).args(["--min-generation", "1"]));
    assert_eq!(model_tree(&dest), model_tree(&sealed.model));
    let records = String::from_utf8(output.stdout).unwrap();
    assert_eq!(records.matches("key-requested").count(), 1, "{records}");

    let json = |one: &Sealed| std::fs::read_to_string(one.bundle.join("sealift.json")).unwrap();
    let wrapped = |json: &str| {
        let start = json.find(r#""wrapped_key":""#).unwrap() + 15;
        json[start..start + json[start..].find('"').unwrap()].to_owned()
    };
    let (own, theirs) = (json(&sealed), json(&other));
    let moved = own.replacen(&wrapped(&own), &wrapped(&theirs), 1);
    std::fs::write(sealed.bundle.join("sealift.json"), moved).unwrap();
    let verify = ["verify", text(&sealed.bundle), "--resource-id", uri];
    refuse(&mut equipped(&verify), Code::Tampered);
    std::fs::write(sealed.bundle.join("sealift.json"), own).unwrap();
    succeed(&mut equipped(&verify));

    let back = format!("{}={}", common::RESOURCE, text(&sealed.key));
    let rewrap = ["rewrap", text(&sealed.bundle), "--resource-id", uri, "--to", &back];
    succeed(&mut equipped(&rewrap));
    let dest = sealed.dest("again");
    sealed.open(text(&sealed.bundle), &dest).unwrap();
    assert_eq!(model_tree(&dest), model_tree(&sealed.model));
}

#[test]
fn a_bundle_goes_to_aws_kms_and_back() {
    let Some(moto) = Moto::start().unwrap() else { return };
    let id = moto.key().unwrap();
    let uri = format!("awskms:///{}/{id}", Moto::REGION);
    let equipped = |arguments: &[&str]| {
        let mut command = sealift();
        command.args(arguments).env("AWS_ENDPOINT_URL_KMS", moto.endpoint());
        command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "x");
        command
    };
    goes_there_and_back(&uri, &equipped);

    let sealed = Sealed::tiny();
    let from_file = ["--resource-id", common::RESOURCE, "--key-file", text(&sealed.key)];
    let to = |uri: &str| {
        equipped(&[&["rewrap", text(&sealed.bundle), "--to", uri][..], &from_file].concat())
    };
    refuse(&mut to(&format!("awskms:///{}/none", Moto::REGION)), Code::KeyNotFound);
    let mut nobody = to(&uri);
    nobody.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    nobody.env("AWS_EC2_METADATA_DISABLED", "true");
    refuse(&mut nobody, Code::AccessDenied);
}

#[test]
fn a_bundle_goes_to_a_pkcs11_token_and_back() {
    let program = Path::new(env!("CARGO_BIN_EXE_sealift")).with_file_name("sealift-pkcs11");
    if !program.exists() {
        return testkit::skip("sealift-pkcs11 was not built beside sealift");
    }
    let Some(hsm) = SoftHsm::start().unwrap() else { return };
    hsm.put_aes("kek 1", "02", &[7; 32]).unwrap();
    let uri = "pkcs11:token=my%20models;object=kek%201";
    let equipped = |arguments: &[&str]| {
        let mut command = sealift();
        command.args(arguments).env("SOFTHSM2_CONF", hsm.settings());
        command.env("SEALIFT_PKCS11_MODULE", hsm.module()).env("SEALIFT_PKCS11_PIN", SoftHsm::PIN);
        command
    };
    goes_there_and_back(uri, &equipped);

    let sealed = Sealed::tiny();
    let line = ["rewrap", text(&sealed.bundle), "--resource-id", common::RESOURCE, "--key-file"];
    let to = || equipped(&[&line[..], &[text(&sealed.key), "--to", uri]].concat());
    refuse(to().env("SEALIFT_PKCS11_PIN", "0000"), Code::AccessDenied);
    refuse(to().env_remove("SEALIFT_PKCS11_PIN"), Code::Usage);
    refuse(to().env_remove("SEALIFT_PKCS11_MODULE"), Code::Usage);
    refuse(to().args(["--pkcs11-helper", "/nowhere"]), Code::KeyNotFound);
}
