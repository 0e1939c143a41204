//! Bundles whose keys are in a cloud's key service or a PKCS#11 token, by the program itself.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use common::{Sealed, model_tree, refuse, sealift, succeed, text};
use seal::bundle::Bundle;
use sealift::code::Code;
use testkit::azure::{self, FakeAzure};
use testkit::gcp::FakeGcp;
use testkit::kbs::FakeKbs;
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
    succeed(&mut equipped(&["key", "check", "--resource-id", uri]));
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
fn a_bundle_goes_to_cloud_kms_and_back() {
    let key = "projects/acme-ml/locations/europe-west3/keyRings/models/cryptoKeys/llama";
    let (fake, dir) = (FakeGcp::start(&[key]).unwrap(), tempfile::tempdir().unwrap());
    let account = fake.key_file(dir.path()).unwrap();
    let equipped = |arguments: &[&str]| {
        let mut command = sealift();
        command.args(arguments).env("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDKMS", fake.url());
        command.env("GOOGLE_APPLICATION_CREDENTIALS", &account);
        command
    };
    goes_there_and_back(&format!("gcpkms:///{key}"), &equipped);

    let sealed = Sealed::tiny();
    let from_file = ["--resource-id", common::RESOURCE, "--key-file", text(&sealed.key)];
    let to = |uri: &str| {
        equipped(&[&["rewrap", text(&sealed.bundle), "--to", uri][..], &from_file].concat())
    };
    refuse(&mut to(&format!("gcpkms:///{key}-2")), Code::KeyNotFound);
    let mut nobody = to(&format!("gcpkms:///{key}"));
    nobody.env_remove("GOOGLE_APPLICATION_CREDENTIALS").env("GCE_METADATA_HOST", "127.0.0.1:1");
    refuse(&mut nobody, Code::AccessDenied);
}

#[test]
fn a_bundle_goes_to_a_managed_hsm_and_back() {
    let fake = FakeAzure::start().unwrap();
    fake.put_key("llama", "oct-HSM", &["encrypt", "decrypt"]).unwrap();
    fake.put_key("rsa", "RSA-HSM", &["encrypt", "decrypt"]).unwrap();
    let equipped = |arguments: &[&str]| {
        let mut command = sealift();
        command.args(arguments).env("SEALIFT_AZURE_KMS_ENDPOINT", fake.url());
        command.env("AZURE_AUTHORITY_HOST", fake.url()).env("AZURE_TENANT_ID", azure::TENANT);
        command.env("AZURE_CLIENT_ID", azure::CLIENT).env("AZURE_CLIENT_SECRET", azure::SECRET);
        command
    };
    let uri = |name: &str| format!("azurekms:///{}/keys/{name}", azure::HOST);
    goes_there_and_back(&uri("llama"), &equipped);

    let sealed = Sealed::tiny();
    let from_file = ["--resource-id", common::RESOURCE, "--key-file", text(&sealed.key)];
    let to = |uri: &str| {
        equipped(&[&["rewrap", text(&sealed.bundle), "--to", uri][..], &from_file].concat())
    };
    refuse(&mut to(&uri("none")), Code::KeyNotFound);
    refuse(&mut to(&uri("rsa")), Code::Usage);
    refuse(to(&uri("llama")).env("AZURE_CLIENT_SECRET", "wrong"), Code::AccessDenied);
}

/// Trustee's plugin `pkcs11`, against a stand-in written from its sources.
#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_goes_to_the_hsm_behind_a_key_broker() {
    let broker = FakeKbs::start().await.unwrap();
    let hsm = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let pkcs8: Pkcs8V1Der<'_> = hsm.as_der().unwrap();
    broker.put_wrap_key(pkcs8.as_ref().to_vec());
    let (uri, sealed, url) = ("kbs+pkcs11:///wrap-key", Sealed::tiny(), broker.url());
    let admin = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
    let admin = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        STANDARD.encode(admin.as_ref())
    );
    let admin_key = sealed.key.with_file_name("admin.pem");
    std::fs::write(&admin_key, admin).unwrap();

    let from_file = ["--resource-id", common::RESOURCE, "--key-file", text(&sealed.key)];
    let rewrap = ["rewrap", text(&sealed.bundle), "--to", uri];
    let rewrap = || {
        let mut command = sealift();
        command.args([&rewrap[..], &from_file].concat()).args(["--kbs-url", &url]);
        command
    };
    refuse(&mut rewrap(), Code::Usage);
    succeed(rewrap().args(["--admin-key", text(&admin_key)]));

    let digest = Bundle::parse(&std::fs::read(sealed.bundle.join("sealift.json")).unwrap());
    let digest = digest.unwrap().digest().to_string();
    let dest = sealed.dest("dest");
    let open = |more: &[&str]| {
        let mut command = sealift();
        command.args(["init", text(&sealed.bundle), text(&dest), "--resource-id", uri]);
        command.args(["--kbs-url", &url, "--insecure-dev", "--kbs-key-type", "rsa"]).args(more);
        command
    };
    // The HSM's public key is no secret: who sealed this, only the digest tells.
    refuse(&mut open(&["--min-generation", "1"]), Code::Stale);
    refuse(&mut open(&["--allow-unpinned"]), Code::Stale);
    succeed(&mut open(&["--digest", &digest]));
    assert_eq!(model_tree(&dest), model_tree(&sealed.model));
    // Nor does it become a bundle under keys that do tell.
    let mut onwards = sealift();
    onwards.args(["rewrap", text(&sealed.bundle), "--resource-id", uri, "--kbs-url", &url]);
    onwards.args(["--insecure-dev", "--to"]);
    onwards.arg(format!("{}={}", common::RESOURCE, text(&sealed.key)));
    refuse(&mut onwards, Code::Stale);
    // By the data hub no plugin is reached.
    let mut by_hub = sealift();
    by_hub.args(["init", text(&sealed.bundle), text(&dest), "--resource-id", uri]);
    refuse(by_hub.args(["--digest", &digest]), Code::Usage);
    let mut check = sealift();
    refuse(check.args(["key", "check", "--resource-id", uri, "--kbs-url", &url]), Code::Usage);
    // What the plugin releases is a key as any other.
    let held = std::fs::read_to_string(&sealed.key).unwrap();
    let check = |path: &str| {
        let mut command = sealift();
        command.args(["key", "check", "--kbs-url", &url, "--insecure-dev", "--resource-id"]);
        command.arg(format!("kbs+pkcs11:///resource/{path}"));
        command
    };
    broker.put("pkcs11/resource/team/key/none", b"not a key");
    refuse(&mut check("team/key/other"), Code::KeyNotFound);
    refuse(&mut check("team/key/none"), Code::KeyUnusable);
    let unnamed = held.replacen(common::RESOURCE, "kbs+pkcs11:///resource/team/key/one", 1);
    broker.put("pkcs11/resource/team/key/one", unnamed.as_bytes());
    succeed(&mut check("team/key/one"));
    assert_eq!(broker.complaints(), [""; 0]);
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
