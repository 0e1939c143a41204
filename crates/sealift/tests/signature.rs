//! Publishers' signatures, from sealing to opening, and against Python's `model-signing`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    RESOURCE, Sealed, model_tree, open, open_as, python, refuse, refused_untouched, seal, sealift,
    succeed, text, tree,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use sealift::code::Code;
use sealift::failure::Failure;
use sealift::opening::{Accept, Outcome};
use testkit::tls::Authority;

/// A model, its key, and a publisher's keys: `sign.pem`, `sign.pub`, and `other.pub` of somebody else.
struct Signed {
    sealed: Sealed,
    signed: PathBuf,
}

impl Signed {
    fn new() -> Self {
        let sealed = Sealed::small();
        let signed = sealed.dir.path().join("signed");
        keys(sealed.dir.path(), "sign");
        keys(sealed.dir.path(), "other");
        let this = Self { sealed, signed };
        succeed(&mut this.seal(&this.signed, &["--sign-key", &this.path("sign.pem")]));
        this
    }

    fn path(&self, name: &str) -> String {
        text(&self.sealed.dir.path().join(name)).to_owned()
    }

    fn seal(&self, bundle: &Path, more: &[&str]) -> Command {
        let mut command = sealift();
        command.arg("seal").args([&self.sealed.model, bundle]);
        command.args(["--resource-id", RESOURCE, "--key-file", text(&self.sealed.key)]);
        command.args(["--name", "model"]).args(more);
        command
    }

    fn verify(&self, bundle: &Path, more: &[&str]) -> Command {
        let mut command = sealift();
        command.arg("verify").arg(bundle).args(more);
        command.args(["--resource-id", RESOURCE, "--key-file", text(&self.sealed.key)]);
        command
    }

    fn open(&self, bundle: &Path, dest: &Path, more: &[&str]) -> Result<Vec<Outcome>, Failure> {
        let flags = ["--resource-id", RESOURCE, "--key-file", text(&self.sealed.key)];
        open(&[(text(bundle), dest)], &[&flags[..], more].concat())
    }

    /// What another holder of the sealing key makes: the signed model, changed and sealed again.
    fn forged(&self, edit: impl FnOnce(&Path)) -> PathBuf {
        let dest = self.sealed.dest("opened");
        self.open(&self.signed, &dest, &[]).unwrap();
        let model = self.sealed.dir.path().join("forged-model");
        common::copy_tree(&dest, &model);
        std::fs::remove_file(model.join(".sealift-receipt.json")).unwrap();
        edit(&model);
        let bundle = self.sealed.dir.path().join("forged");
        seal(&model, &bundle, RESOURCE, &self.sealed.key, 1);
        bundle
    }
}

/// Changes a model.
type Edit = fn(&Path);

/// Writes `NAME.pem` and `NAME.pub`, by a library of the tests'.
fn keys(dir: &Path, name: &str) {
    let pair = KeyPair::generate().unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), pair.serialize_pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.pub")), pair.public_key_pem()).unwrap();
}

#[test]
fn a_signed_model_opens_for_those_who_believe_its_publisher() {
    let signed = Signed::new();
    let dest = signed.sealed.dest("dest");
    let key = signed.path("sign.pub");
    let outcome = signed.open(&signed.signed, &dest, &["--signature-key", &key]).unwrap();
    let signer = outcome[0].signer.clone().unwrap();
    assert!(signer.starts_with("key sha256:"), "{signer}");
    let mut published = model_tree(&dest);
    assert!(published.remove("model.sig").is_some());
    assert!(published == tree(&signed.sealed.model));
    // Several keys may be believed, and the record has the one that signed.
    let audit = signed.path("audit.log");
    let again = signed.sealed.dest("again");
    let mut init = sealift();
    init.args(["init", text(&signed.signed), text(&again), "--resource-id", RESOURCE]);
    init.args(["--key-file", text(&signed.sealed.key), "--audit-file", &audit]);
    init.env("SEALIFT_SIGNATURE_KEY", format!("{},{key}", signed.path("other.pub")));
    succeed(&mut init);
    let log = std::fs::read_to_string(&audit).unwrap();
    assert!(log.contains(&format!(r#""signer":"{signer}""#)), "{log}");
    let output = succeed(&mut signed.verify(&signed.signed, &["--signature-key", &key]));
    assert!(String::from_utf8(output.stdout).unwrap().contains(&signer));
}

#[test]
fn what_the_publisher_did_not_sign_is_not_published() {
    let signed = Signed::new();
    let key = signed.path("sign.pub");
    let edits: [(&str, Edit); 7] = [
        ("is not what was signed", |model| {
            std::fs::write(model.join("config.json"), "[]").unwrap();
        }),
        ("is not what was signed", |model| {
            let path = model.join("sub/w.bin");
            let mut bytes = std::fs::read(&path).unwrap();
            *bytes.last_mut().unwrap() ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }),
        ("is not what was signed", |model| {
            let (a, b) = (model.join("config.json"), model.join("empty"));
            let content = std::fs::read(&a).unwrap();
            std::fs::rename(&b, &a).unwrap();
            std::fs::write(&b, content).unwrap();
        }),
        ("evil.py is there and was not signed", |model| {
            std::fs::write(model.join("evil.py"), "").unwrap();
        }),
        ("config.json was signed and is missing", |model| {
            std::fs::rename(model.join("config.json"), model.join("config2.json")).unwrap();
        }),
        ("empty was signed and is missing", |model| {
            std::fs::remove_file(model.join("empty")).unwrap();
        }),
        ("malformed signature file", |model| {
            std::fs::write(model.join("model.sig"), "{}").unwrap();
        }),
    ];
    for (index, (what, edit)) in edits.into_iter().enumerate() {
        let forged = signed.forged(edit);
        let dest = signed.sealed.dest(&format!("dest{index}"));
        let result = signed.open(&forged, &dest, &["--signature-key", &key]);
        let failure = refused_untouched(result, Code::Signature, &dest, &BTreeMap::new());
        assert!(failure.to_string().contains(what), "{failure}");
        let verify =
            refuse(&mut signed.verify(&forged, &["--signature-key", &key]), Code::Signature);
        assert!(verify.contains(what), "{verify}");
        // The sealing key alone does not tell.
        assert!(signed.open(&forged, &signed.sealed.dest("dest"), &[]).is_ok());
        std::fs::remove_dir_all(&forged).unwrap();
        std::fs::remove_dir_all(signed.sealed.dir.path().join("dest")).unwrap();
        std::fs::remove_dir_all(signed.sealed.dir.path().join("opened")).unwrap();
    }
}

#[test]
fn the_policy_decides_about_models_without_a_signature() {
    let signed = Signed::new();
    let (unsigned, with) = (&signed.sealed.bundle, &signed.signed);
    let (key, other) = (signed.path("sign.pub"), signed.path("other.pub"));
    let none = BTreeMap::new();
    let opened = |bundle: &Path, dest: &str, more: &[&str]| {
        signed.open(bundle, &signed.sealed.dest(dest), more)
    };
    let policy = |policy: &'static str, key: &str| {
        ["--signature-policy".to_owned(), policy.into(), "--signature-key".into(), key.into()]
    };
    let refused = |bundle: &Path, flags: &[String]| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let dest = signed.sealed.dest("refused");
        refused_untouched(signed.open(bundle, &dest, &flags), Code::Signature, &dest, &none)
    };
    let accepted = |bundle: &Path, dest: &str, flags: &[String]| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        opened(bundle, dest, &flags).unwrap()[0].signer.is_some()
    };
    for flags in [&policy("require", &key)[..], &policy("require", &key)[2..]] {
        assert!(refused(unsigned, flags).to_string().contains("there is no model.sig"));
    }
    assert!(!accepted(unsigned, "a", &policy("verify", &key)));
    assert!(accepted(with, "b", &policy("verify", &key)));
    assert!(!accepted(with, "c", &policy("off", &other)));
    for flags in [policy("verify", &other), policy("require", &other)] {
        assert!(refused(with, &flags).to_string().contains("none of the public keys"));
    }
    // A policy that could not be met by anything is refused as such, before a key is asked for.
    for flags in [&["--signature-policy", "require"][..], &["--signature-policy", "verify"]] {
        let failure = opened(with, "d", flags).unwrap_err();
        assert_eq!(failure.code(), Code::Usage, "{failure}");
    }
    let failure = opened(with, "d", &["--signature-key", "/nowhere"]).unwrap_err();
    assert_eq!(failure.code(), Code::NotFound, "{failure}");
    let failure = opened(with, "d", &["--signature-key", text(&signed.sealed.key)]).unwrap_err();
    assert_eq!(failure.code(), Code::Usage, "{failure}");
    assert!(tree(&signed.sealed.dest("d")).is_empty());
    // Without the key there is no plaintext to verify.
    let mut verify = sealift();
    verify.arg("verify").arg(with).args(["--signature-key", &key]);
    refuse(&mut verify, Code::Usage);
}

/// What a run published that asked for nothing is not taken over by one that asks.
#[test]
fn a_model_that_is_there_already_is_verified_too() {
    let signed = Signed::new();
    let key = signed.path("sign.pub");
    let dest = signed.sealed.dest("dest");
    signed.open(&signed.signed, &dest, &[]).unwrap();
    let again = signed.open(&signed.signed, &dest, &["--signature-key", &key]).unwrap();
    assert!(again[0].unchanged && again[0].signer.is_some());
    let forged = signed.forged(|model| std::fs::write(model.join("config.json"), "[]").unwrap());
    let dest = signed.sealed.dest("other");
    signed.open(&forged, &dest, &[]).unwrap();
    let failure = signed.open(&forged, &dest, &["--signature-key", &key]).unwrap_err();
    assert_eq!(failure.code(), Code::Signature, "{failure}");
}

#[test]
fn plain_models_are_verified_too() {
    let signed = Signed::new();
    let opened = signed.sealed.dest("opened");
    signed.open(&signed.signed, &opened, &[]).unwrap();
    let plain = signed.sealed.dir.path().join("plain");
    common::copy_tree(&opened, &plain);
    std::fs::remove_file(plain.join(".sealift-receipt.json")).unwrap();
    let key = signed.path("sign.pub");
    let open = |dest: &Path| {
        let accept = Accept::Plain(sealift::patterns::Patterns::default());
        open_as(accept, &[(text(&plain), dest)], &["--signature-key", &key])
    };
    let dest = signed.sealed.dest("dest");
    assert!(open(&dest).unwrap()[0].signer.is_some());
    std::fs::write(plain.join("config.json"), "[]").unwrap();
    let before = tree(&dest);
    refused_untouched(open(&dest), Code::Signature, &dest, &before);
    std::fs::remove_file(plain.join("model.sig")).unwrap();
    refused_untouched(open(&dest), Code::Signature, &dest, &before);
}

#[test]
fn sealing_signs_once_and_what_it_signs_is_the_bundle() {
    let signed = Signed::new();
    let key = signed.path("sign.pub");
    let shards = signed.sealed.dir.path().join("shards");
    let sign_key = signed.path("sign.pem");
    let more = ["--sign-key", &sign_key, "--sign-method", "shards"];
    succeed(&mut signed.seal(&shards, &more));
    succeed(&mut signed.verify(&shards, &["--signature-key", &key]));
    // Links are followed when a model is sealed, and are files in the bundle.
    std::os::unix::fs::symlink("config.json", signed.sealed.model.join("link")).unwrap();
    let links = signed.sealed.dir.path().join("links");
    let more = ["--sign-key", &sign_key, "--signature-file", "sub/oms.sig"];
    succeed(&mut signed.seal(&links, &more));
    let with = ["--signature-key", &key, "--signature-file", "sub/oms.sig"];
    succeed(&mut signed.verify(&links, &with));
    let misplaced = refuse(&mut signed.verify(&links, &with[..2]), Code::Signature);
    assert!(misplaced.contains("there is no model.sig"), "{misplaced}");
    // An existing signature is neither replaced nor signed.
    std::fs::write(signed.sealed.model.join("model.sig"), "theirs").unwrap();
    let bundle = signed.sealed.dir.path().join("twice");
    let refused = refuse(&mut signed.seal(&bundle, &["--sign-key", &sign_key]), Code::Usage);
    assert!(refused.contains("holds model.sig already"), "{refused}");
    for key in ["sign.pub", "nowhere"] {
        let output = signed.seal(&bundle, &["--sign-key", &signed.path(key)]).output().unwrap();
        assert!(!output.status.success());
    }
    assert!(!bundle.exists());
}

#[test]
fn an_authority_needs_the_name_of_whom_it_vouches_for() {
    let signed = Signed::new();
    let authority = Authority::new().unwrap();
    let ca = signed.path("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let mut verify = signed.verify(&signed.signed, &["--signature-ca", &ca]);
    let output = verify.output().unwrap();
    assert_eq!(output.status.code(), Some(Code::Usage.exit().into()));
    // A key's signature is not an authority's.
    let more = ["--signature-ca", &ca, "--signature-identity", "release@example.com"];
    let refused = refuse(&mut signed.verify(&signed.signed, &more), Code::Signature);
    assert!(refused.contains("signed with a key"), "{refused}");
    // Nor does a name without an authority turn the check off.
    let nameless = ["--signature-identity", "release@example.com"];
    refuse(&mut signed.verify(&signed.signed, &nameless), Code::Usage);
}

const SIGN: &str = r#"
import sys
from model_signing import hashing, signing
model, to, key, method, algorithm = sys.argv[1:]
config = hashing.Config()
if method == "files":
    config.use_file_serialization(hashing_algorithm=algorithm)
else:
    config.use_shard_serialization(hashing_algorithm=algorithm, shard_size=1_000_000)
config.set_ignored_paths(paths=["model.sig"])
signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(model, to)
"#;

const SIGN_WITH_CERTIFICATE: &str = r#"
import sys
from model_signing import hashing, signing
model, to, key, certificate, chain = sys.argv[1:]
config = hashing.Config().set_ignored_paths(paths=["model.sig"])
signer = signing.Config().use_certificate_signer(
    private_key=key, signing_certificate=certificate, certificate_chain=[chain]
)
signer.set_hashing_config(config).sign(model, to)
"#;

const VERIFY: &str = r#"
import sys
from model_signing import verifying
model, signature, key = sys.argv[1:]
verifying.Config().use_elliptic_key_verifier(public_key=key).verify(model, signature)
"#;

#[test]
fn what_python_signs_is_verified_here() {
    let Some(python) = python() else { return };
    let signed = Signed::new();
    let key = signed.path("sign.pub");
    let model = &signed.sealed.model;
    let signature = model.join("model.sig");
    for (method, algorithm) in
        [("files", "sha256"), ("files", "blake2"), ("files", "blake3"), ("shards", "sha256")]
    {
        let sign_key = signed.path("sign.pem");
        let arguments = ["-c", SIGN, text(model), text(&signature), &sign_key, method, algorithm];
        succeed(Command::new(&python).args(arguments));
        let bundle = signed.sealed.dir.path().join(format!("{method}-{algorithm}"));
        seal(model, &bundle, RESOURCE, &signed.sealed.key, 1);
        let dest = signed.sealed.dest(&format!("dest-{method}-{algorithm}"));
        let outcome = signed.open(&bundle, &dest, &["--signature-key", &key]).unwrap();
        assert!(outcome[0].signer.is_some());
        succeed(&mut signed.verify(&bundle, &["--signature-key", &key]));
        let other = signed.path("other.pub");
        refuse(&mut signed.verify(&bundle, &["--signature-key", &other]), Code::Signature);
        std::fs::remove_file(&signature).unwrap();
    }
}

#[test]
fn a_certificate_that_python_signs_with_is_verified_here_until_it_expires() {
    let Some(python) = python() else { return };
    let signed = Signed::new();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(signed.path("ca.pem"), ca.pem()).unwrap();
    let pair =
        KeyPair::from_pem(&std::fs::read_to_string(signed.path("sign.pem")).unwrap()).unwrap();
    let model = &signed.sealed.model;
    for (name, end) in [("valid", 4000), ("expired", 2021)] {
        let mut leaf = CertificateParams::default();
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.subject_alt_names =
            vec![SanType::Rfc822Name("release@example.com".try_into().unwrap())];
        (leaf.not_before, leaf.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(end, 1, 1));
        let certificate = signed.path(&format!("{name}.pem"));
        std::fs::write(&certificate, leaf.signed_by(&pair, &ca).unwrap().pem()).unwrap();
        let (signature, key, chain) =
            (model.join("model.sig"), signed.path("sign.pem"), signed.path("ca.pem"));
        let arguments = [text(model), text(&signature), &key, &certificate, &chain];
        succeed(Command::new(&python).args(["-c", SIGN_WITH_CERTIFICATE]).args(arguments));
        let bundle = signed.sealed.dir.path().join(name);
        seal(model, &bundle, RESOURCE, &signed.sealed.key, 1);
        let open = |identity: &str, dest: &Path| {
            let more = ["--signature-ca", &chain, "--signature-identity", identity];
            signed.open(&bundle, dest, &more)
        };
        let refused = signed.sealed.dest("refused");
        let result = open("release@example.org", &refused);
        refused_untouched(result, Code::Signature, &refused, &BTreeMap::new());
        let result = open("release@example.com", &signed.sealed.dest(&format!("dest-{name}")));
        match name {
            "valid" => {
                let signer = result.unwrap()[0].signer.clone().unwrap();
                assert_eq!(signer, "certificate release@example.com");
            }
            _ => assert_eq!(result.unwrap_err().code(), Code::Signature),
        }
    }
}

#[test]
fn python_verifies_what_is_signed_here() {
    let Some(python) = python() else { return };
    let signed = Signed::new();
    for method in ["files", "shards"] {
        let bundle = signed.sealed.dir.path().join(method);
        let sign_key = signed.path("sign.pem");
        succeed(&mut signed.seal(&bundle, &["--sign-key", &sign_key, "--sign-method", method]));
        let dest = signed.sealed.dest(&format!("dest-{method}"));
        signed.open(&bundle, &dest, &[]).unwrap();
        // Ours, and no file of the model.
        std::fs::remove_file(dest.join(".sealift-receipt.json")).unwrap();
        let verify = |key: &str| {
            let signature = dest.join("model.sig");
            let mut command = Command::new(&python);
            command.args(["-c", VERIFY, text(&dest), text(&signature), &signed.path(key)]);
            command
        };
        succeed(&mut verify("sign.pub"));
        assert!(!verify("other.pub").output().unwrap().status.success());
        std::fs::write(dest.join("config.json"), "[]").unwrap();
        assert!(!verify("sign.pub").output().unwrap().status.success(), "{method}");
    }
}
