//! Keyless signatures, from a trusted root to an opened model, and against Python's `model-signing` and
//! `sigstore`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use common::{
    RESOURCE, Sealed, open, python, refuse, refused_untouched, seal, sealift, succeed, text,
};
use sealift::code::Code;
use serde_json::{Value, json};
use testkit::packages::of_package;
use testkit::sigstore::{LogKind, Request, SIGNED_AT, Sct, Sigstore};

const IDENTITY: &str = "release@example.com";
const PROVIDER: &str = "https://accounts.example.com";

/// A model whose signature is in it, sealed; and the services that made the signature.
struct Keyless {
    sealed: Sealed,
    sigstore: Sigstore,
    bundle: PathBuf,
}

impl Keyless {
    fn new() -> Self {
        let this = Self {
            sealed: Sealed::small(),
            sigstore: Sigstore::new().unwrap(),
            bundle: PathBuf::new(),
        };
        let bundle = this.sealed.dir.path().join("signed");
        std::fs::write(this.path("trusted_root.json"), this.sigstore.trusted_root().to_string())
            .unwrap();
        this.sign(&this.sigstore, &Request::default());
        seal(&this.sealed.model, &bundle, RESOURCE, &this.sealed.key, 1);
        Self { bundle, ..this }
    }

    fn path(&self, name: &str) -> String {
        text(&self.sealed.dir.path().join(name)).to_owned()
    }

    /// Puts a signature among the model's files: the statement is one by a key, which Sealift makes.
    fn sign(&self, sigstore: &Sigstore, request: &Request) -> Value {
        let signature = self.sealed.model.join("model.sig");
        if signature.exists() {
            std::fs::remove_file(&signature).unwrap();
        }
        let key = self.path("some.pem");
        std::fs::write(&key, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let by_key = self.sealed.dir.path().join("by-key");
        let mut command = sealift();
        command.arg("seal").args([&self.sealed.model, &by_key]);
        command.args(["--resource-id", RESOURCE, "--key-file", text(&self.sealed.key)]);
        command.args(["--name", "model", "--sign-key", &key]);
        succeed(&mut command);
        let opened = self.sealed.dest("by-key-opened");
        let flags = ["--resource-id", RESOURCE, "--key-file", text(&self.sealed.key)];
        open(&[(text(&by_key), &opened)], &flags).unwrap();
        let made: Value =
            serde_json::from_slice(&std::fs::read(opened.join("model.sig")).unwrap()).unwrap();
        for used in [by_key, opened] {
            std::fs::remove_dir_all(used).unwrap();
        }
        let payload = decode(made["dsseEnvelope"]["payload"].as_str().unwrap());
        let made = sigstore.sign(&payload, request).unwrap();
        std::fs::write(signature, made.to_string()).unwrap();
        made
    }

    fn flags(&self) -> Vec<String> {
        let root = self.path("trusted_root.json");
        ["--signature-trusted-root", &root, "--signature-identity", IDENTITY]
            .into_iter()
            .chain(["--signature-identity-provider", PROVIDER])
            .map(str::to_owned)
            .collect()
    }

    fn verify(&self, flags: &[String]) -> Command {
        let mut command = sealift();
        command.arg("verify").arg(&self.bundle).args(flags);
        command.args(["--resource-id", RESOURCE, "--key-file", text(&self.sealed.key)]);
        command
    }
}

fn decode(base64: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64).unwrap()
}

#[test]
fn a_keyless_model_opens_for_those_who_believe_its_signer() {
    let keyless = Keyless::new();
    let flags = keyless.flags();
    let dest = keyless.sealed.dest("dest");
    let key = ["--resource-id", RESOURCE, "--key-file", text(&keyless.sealed.key)];
    let all: Vec<&str> = key.into_iter().chain(flags.iter().map(String::as_str)).collect();
    let outcome = open(&[(text(&keyless.bundle), &dest)], &all).unwrap();
    let signer = outcome[0].signer.clone().unwrap();
    assert_eq!(signer, format!("keyless {IDENTITY} by {PROVIDER}"));
    let output = succeed(&mut keyless.verify(&flags));
    assert!(String::from_utf8(output.stdout).unwrap().contains(&signer));
    // The initializer's variables.
    let again = keyless.sealed.dest("again");
    let audit = keyless.path("audit.log");
    let mut init = sealift();
    init.args(["init", text(&keyless.bundle), text(&again)]).args(key);
    init.args(["--audit-file", &audit]);
    init.env("SEALIFT_SIGNATURE_TRUSTED_ROOT", &flags[1]);
    init.env("SEALIFT_SIGNATURE_IDENTITY", IDENTITY);
    init.env("SEALIFT_SIGNATURE_IDENTITY_PROVIDER", PROVIDER);
    succeed(&mut init);
    let log = std::fs::read_to_string(&audit).unwrap();
    assert!(log.contains(&format!(r#""signer":"{signer}""#)), "{log}");

    // Somebody else, another provider, another Sigstore: nothing is visible.
    let other = Sigstore::new().unwrap().trusted_root().to_string();
    std::fs::write(keyless.path("other.json"), other).unwrap();
    let other = keyless.path("other.json");
    for (at, value, why) in [
        (3, "release@example.org", "none of the identities"),
        (5, "https://accounts.example.org", "not the identity provider"),
        (1, &*other, "certificate is refused"),
    ] {
        let mut flags = flags.clone();
        value.clone_into(&mut flags[at]);
        let all: Vec<&str> = key.into_iter().chain(flags.iter().map(String::as_str)).collect();
        let dest = keyless.sealed.dest("refused");
        let result = open(&[(text(&keyless.bundle), &dest)], &all);
        let failure = refused_untouched(result, Code::Signature, &dest, &BTreeMap::new());
        assert!(failure.to_string().contains(why), "{failure}");
    }
    // A file that was changed after it was signed.
    std::fs::write(keyless.sealed.model.join("config.json"), "[]").unwrap();
    std::fs::remove_dir_all(&keyless.bundle).unwrap();
    seal(&keyless.sealed.model, &keyless.bundle, RESOURCE, &keyless.sealed.key, 2);
    let changed = refuse(&mut keyless.verify(&flags), Code::Signature);
    assert!(changed.contains("config.json is not what was signed"), "{changed}");
}

#[test]
fn a_trusted_root_needs_a_name_and_its_provider() {
    let keyless = Keyless::new();
    let flags = keyless.flags();
    for left_out in [0, 2, 4] {
        let mut some = flags.clone();
        some.drain(left_out..left_out + 2);
        let output = keyless.verify(&some).output().unwrap();
        assert_eq!(output.status.code(), Some(Code::Usage.exit().into()), "{some:?}");
    }
    for (text, code) in [("{}", Code::Usage), ("", Code::Usage)] {
        std::fs::write(keyless.path("trusted_root.json"), text).unwrap();
        refuse(&mut keyless.verify(&flags), code);
    }
    std::fs::remove_file(keyless.path("trusted_root.json")).unwrap();
    refuse(&mut keyless.verify(&flags), Code::NotFound);
}

/// Prints which of the cases hold: model, signature, trust configuration, identity, provider.
const VERIFY_MODELS: &str = r#"
import json, pathlib, sys
from model_signing import verifying
for model, signature, trust, identity, provider in json.load(sys.stdin):
    try:
        verifying.Config().use_sigstore_verifier(
            identity=identity, oidc_issuer=provider, trust_config=pathlib.Path(trust)
        ).verify(pathlib.Path(model), pathlib.Path(signature))
        print("holds")
    except Exception as error:
        print("refused:", str(error).replace("\n", " "))
"#;

/// The same of any statements: signature, trusted root, identity, provider.
const VERIFY_STATEMENTS: &str = r#"
import json, sys
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier, policy
for signature, root, identity, provider in json.load(sys.stdin):
    try:
        verifier = Verifier(trusted_root=TrustedRoot.from_file(root))
        verifier.verify_dsse(
            Bundle.from_json(open(signature).read()),
            policy.Identity(identity=identity, issuer=provider),
        )
        print("holds")
    except Exception as error:
        print("refused:", str(error).replace("\n", " "))
"#;

/// One line a case.
fn ask(python: &PathBuf, script: &str, cases: &Value) -> Vec<String> {
    use std::io::Write as _;
    let mut child = Command::new(python)
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(cases.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Whatever a Sigstore makes, Python and Sealift say the same of it.
#[test]
fn python_and_sealift_agree_about_keyless_signatures() {
    let Some(python) = python() else { return };
    let keyless = Keyless::new();
    let root = keyless.sigstore.trusted_root();
    // Python asks for a signing configuration, also where nothing is signed.
    let config = json!({
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": root,
        "signingConfig": {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaConfig": {"selector": "ANY"},
        },
    });
    let trust = keyless.path("trust_config.json");
    std::fs::write(&trust, config.to_string()).unwrap();
    let model = text(&keyless.sealed.model).to_owned();
    let default = Request::default;
    let (mut cases, mut ours) = (Vec::new(), Vec::new());
    let mut requests = vec![
        default(),
        Request { stamped_at: Some(SIGNED_AT), ..default() },
        Request {
            kind: LogKind::HashedRekord,
            promise: false,
            stamped_at: Some(SIGNED_AT),
            ..default()
        },
        Request { logged_at: SIGNED_AT + 86_400, ..default() },
        Request { promise: false, ..default() },
        Request { extended: Vec::new(), ..default() },
        Request { usages: Vec::new(), ..default() },
    ];
    requests.extend(
        [Sct::None, Sct::Empty, Sct::OtherKey, Sct::OtherIssuer, Sct::OtherCertificate]
            .map(|sct| Request { sct, ..default() }),
    );
    for (index, request) in requests.iter().enumerate() {
        let made = keyless.sign(&keyless.sigstore, request);
        let signature = keyless.path(&format!("{index}.sig"));
        std::fs::write(&signature, made.to_string()).unwrap();
        let bundle = keyless.sealed.dir.path().join(format!("bundle-{index}"));
        seal(&keyless.sealed.model, &bundle, RESOURCE, &keyless.sealed.key, 1);
        for (identity, provider) in [
            (IDENTITY, PROVIDER),
            ("release@example.org", PROVIDER),
            (IDENTITY, "https://accounts.example.org"),
        ] {
            let mut flags = keyless.flags();
            (flags[1], flags[3], flags[5]) = (trust.clone(), identity.into(), provider.into());
            let mut verify = sealift();
            verify.arg("verify").arg(&bundle).args(flags);
            verify.args(["--resource-id", RESOURCE, "--key-file", text(&keyless.sealed.key)]);
            ours.push(verify.output().unwrap().status.success());
            cases.push(json!([model, signature, trust, identity, provider]));
        }
    }
    let theirs = ask(&python, VERIFY_MODELS, &cases.clone().into());
    assert_eq!(theirs.len(), ours.len());
    for ((case, ours), theirs) in cases.iter().zip(&ours).zip(&theirs) {
        assert_eq!(*ours, theirs == "holds", "{case}: {theirs}");
    }
    assert_eq!(ours.iter().filter(|holds| **holds).count(), 3, "{theirs:?}");
}

/// Real ones, of statements that are about no model: what Sealift says of them is in
/// `provenance::sigstore_real`.
#[test]
fn python_believes_the_real_signatures_that_sealift_believes() {
    let Some(python) = python() else { return };
    let dir = common::memory();
    let write = |name: &str, bytes: Vec<u8>| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        text(&path).to_owned()
    };
    let roots = ["trusted_root.json", "trusted_root_staging.json"]
        .map(|name| write(name, of_package("sigstore-trust-root", &format!("src/{name}"))));
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for (index, (name, own, identity, provider)) in [
        (
            "bundles/conda-attestation.sigstore.json",
            0,
            "https://github.com/prefix-dev/sigstore-example/.github/workflows/action.yaml@refs/heads/main",
            "https://token.actions.githubusercontent.com",
        ),
        (
            "bundles/conda-attestation-rekor2.sigstore.json",
            1,
            "jku@goto.fi",
            "https://github.com/login/oauth",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let file = of_package("sigstore-verify", &format!("test_data/{name}"));
        let signature = write(&format!("{index}.json"), file);
        for (root, path) in roots.iter().enumerate() {
            for identity in [identity, "release@example.com"] {
                cases.push(json!([signature, path, identity, provider]));
                expected.push(root == own && identity != "release@example.com");
            }
        }
    }
    let theirs = ask(&python, VERIFY_STATEMENTS, &cases.into());
    let holds: Vec<bool> = theirs.iter().map(|line| line == "holds").collect();
    assert_eq!(holds, expected, "{theirs:?}");
}
