//! `sealift secret`: what it seals, others open, and what others seal, it opens.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{refuse, sealift, succeed, text};
use sealift::code::Code;
use serde_json::Value;
use tempfile::TempDir;

const KID: &str = "kbs:///team/signer/v1";
const KEK: &str = "kbs:///team/kek/v1";

/// Keys of a team, and a key source of files.
struct Team {
    dir: TempDir,
}

impl Team {
    fn new() -> Self {
        let team = Self { dir: tempfile::tempdir().unwrap() };
        for dir in ["keys/team/signer", "keys/team/kek", "keys/team/db"] {
            std::fs::create_dir_all(team.path(dir)).unwrap();
        }
        let [public, kek] = ["keys/team/signer/v1", "keys/team/kek/v1"].map(|name| team.path(name));
        let mut keygen = sealift();
        keygen.args(["secret", "keygen", "--signing-key", text(&team.path("signing.pem"))]);
        succeed(keygen.args(["--public-key", text(&public)]));
        succeed(sealift().args(["keygen", "--resource-id", KEK, "--key-file", text(&kek)]));
        std::fs::write(team.path("keys/team/db/password"), "hunter2-resource").unwrap();
        team
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn seal(&self, more: &[&str]) -> Command {
        let mut seal = sealift();
        seal.args(["secret", "seal", "--kid", KID]).stdin(Stdio::null());
        seal.args(["--signing-key", text(&self.path("signing.pem"))]).args(more);
        seal
    }

    fn envelope(&self, more: &[&str]) -> Command {
        let mut seal = self.seal(more);
        seal.args(["--kek-file", text(&self.path("keys/team/kek/v1"))]);
        seal
    }

    fn unseal(&self, more: &[&str]) -> Command {
        let mut unseal = sealift();
        unseal.args(["secret", "unseal", "--key-file", text(&self.path("keys"))]);
        unseal.args(["--audit-file", text(&self.path("audit.log"))]).args(more);
        unseal
    }
}

fn stdout(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// A Python interpreter with the packages of `tests/requirements.txt`.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("SEALIFT_PYTHON").map(PathBuf::from);
    if python.is_none() {
        testkit::skip("no SEALIFT_PYTHON: run `cargo xtask test`");
    }
    python
}

#[test]
fn both_kinds_are_sealed_inspected_and_opened() {
    let team = Team::new();
    let value = team.write("value", "hunter2\n");
    let vault = stdout(succeed(&mut team.seal(&["--resource", "kbs:///team/db/password"])));
    let envelope = stdout(succeed(&mut team.envelope(&["--value", text(&value)])));
    for (sealed, secret) in [(&vault, "hunter2-resource"), (&envelope, "hunter2\n")] {
        assert!(sealed.starts_with("sealed.") && !sealed.ends_with('\n'));
        assert_eq!(stdout(succeed(&mut team.unseal(&[sealed]))), secret);
        let file = team.write("sealed", &format!("{sealed}\n"));
        assert_eq!(stdout(succeed(&mut team.unseal(&[text(&file)]))), secret);
        for at in [10, sealed.len() / 2, sealed.len() - 2] {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let output = team.unseal(&[str::from_utf8(&changed).unwrap()]).output().unwrap();
            assert!(!output.status.success() && output.stdout.is_empty(), "{at}");
        }
    }
    let json = stdout(succeed(&mut team.envelope(&[
        "-o",
        "json",
        "--audience-namespace",
        "team-a",
        "--audience-key",
        "password",
        "--expires",
        "2999-01-01T01:00:00+01:00",
        "--value",
        text(&value),
    ])));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!([&json["kind"], &json["resource"], &json["kid"]], ["envelope", KEK, KID]);
    let sealed = json["sealed"].as_str().unwrap();
    let inspected = stdout(succeed(sealift().args(["secret", "inspect", "-o", "json", sealed])));
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["audience"], json["audience"]);
    assert_eq!(inspected["audience"]["expires"], "2999-01-01T00:00:00Z");
    assert_eq!(inspected["verified"], false);
    // The same checks as the guest's.
    let here = ["--audience-namespace", "team-a", "--audience-key", "password", sealed];
    assert_eq!(stdout(succeed(&mut team.unseal(&here))), "hunter2\n");
    for (wrong, why) in [
        (&here[..2], "file password alone"),
        (&here[2..4], "namespace team-a alone"),
        (
            &["--audience-namespace", "b", "--audience-key", "password"][..],
            "namespace team-a alone",
        ),
        (
            &["--audience-namespace", "team-a", "--audience-key", "a/password"],
            "file password alone",
        ),
    ] {
        let line = refuse(&mut team.unseal(&[wrong, &[sealed]].concat()), Code::Audience);
        assert!(line.contains(why), "{line}");
    }
    let line =
        refuse(&mut team.unseal(&["--signer", "kbs:///team/signer/v2", sealed]), Code::Mismatch);
    assert!(line.contains("none of --signer"), "{line}");
    let log = std::fs::read(team.path("audit.log")).unwrap();
    audit::verify(&log[..]).unwrap();
    assert!(!String::from_utf8(log).unwrap().contains("hunter2"));
}

#[test]
fn keys_are_private_new_and_never_overwritten() {
    let team = Team::new();
    let mode = std::os::unix::fs::PermissionsExt::mode;
    let private = team.path("signing.pem");
    assert_eq!(mode(&private.metadata().unwrap().permissions()) & 0o777, 0o600);
    let before = std::fs::read(&private).unwrap();
    let again = team.path("again.jwk");
    let mut keygen = sealift();
    keygen.args(["secret", "keygen", "--signing-key", text(&private)]);
    refuse(keygen.args(["--public-key", text(&again)]), Code::Publish);
    assert_eq!(std::fs::read(&private).unwrap(), before);
    let jwk: Value =
        serde_json::from_slice(&std::fs::read(team.path("keys/team/signer/v1")).unwrap()).unwrap();
    assert!(jwk.get("d").is_none() && jwk["alg"] == "ES256");
    // A public key does not sign, and an error quotes no key.
    let public = team.path("keys/team/signer/v1");
    let mut seal = sealift();
    seal.args(["secret", "seal", "--kid", KID, "--resource", "kbs:///a/b/c"]);
    refuse(seal.args(["--signing-key", text(&public)]), Code::Usage);
}

const SECRET: &str = "\
# What the database lets in.
apiVersion: v1
kind: Secret
metadata:
  name: db
  namespace: team-a
  labels: {app: \"db\"}
immutable: true
type: Opaque
data:
  password: aHVudGVyMi1maXJzdA==   # base64
stringData:
  user: 'me'
  config: |
    [client]
    password = hunter2-second
";

#[test]
fn the_values_of_a_kubernetes_secret_are_sealed_and_nothing_else_changes() {
    let team = Team::new();
    let file = team.write("secret.yaml", SECRET);
    let audience = ["--audience-namespace", "team-a", "--audience-keys"];
    let mut seal = team.envelope(&["--kubernetes", text(&file), "--key", "password,config"]);
    let output = succeed(seal.args(audience));
    let says = String::from_utf8(output.stderr.clone()).unwrap();
    let sealed = stdout(output);
    assert!(says.contains("password: sealed for kbs:///team/kek/v1"), "{says}");
    assert!(says.contains("user: left as it is"), "{says}");
    for plain in ["hunter2", "aHVudGVy"] {
        assert!(!sealed.contains(plain) && !says.contains(plain), "{sealed}{says}");
    }
    let kept: Vec<_> = sealed
        .lines()
        .filter(|line| !line.contains("sealed.") && !line.contains("c2VhbGVk"))
        .collect();
    let given: Vec<_> = SECRET
        .lines()
        .filter(|line| {
            !["  password:", "  config:", "    "].iter().any(|changed| line.starts_with(changed))
        })
        .collect();
    assert_eq!(kept, given);
    assert!(sealed.contains("   # base64\n"));
    // Sealed again, nothing happens; opened, the values are there, each for its own key only.
    let path = team.write("sealed.yaml", &sealed);
    let mut again = team.envelope(&["--kubernetes", text(&path), "--key", "password,config"]);
    assert_eq!(stdout(succeed(&mut again)), sealed);
    let open = ["--audience-namespace", "team-a", "--kubernetes"];
    let opened = stdout(succeed(team.unseal(&open).arg(&path)));
    assert!(opened.contains("aHVudGVyMi1maXJzdA=="), "{opened}");
    assert!(opened.contains(r#"config: "[client]\npassword = hunter2-second\n""#), "{opened}");
    let swapped = sealed.replace("  password:", "  other:");
    let line = refuse(team.unseal(&open).arg(team.write("swapped.yaml", &swapped)), Code::Audience);
    assert!(line.contains("for the file password alone, and this is other"), "{line}");
    // From stdin, by name of a resource.
    let template = ["--resource", "kbs:///team/db/{key}", "--kubernetes", "-"];
    let mut seal = team.seal(&template);
    let output = succeed(seal.stdin(std::fs::File::open(&file).unwrap()));
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("its value has to be at kbs:///team/db/password"), "{says}");
    assert!(!says.contains("hunter2"));
}

#[test]
fn a_kubernetes_secret_that_would_tell_or_never_open_is_refused() {
    let team = Team::new();
    let refused = |content: &str, more: &[&str], why: &str| {
        let file = team.write("bad.yaml", content);
        let line = refuse(team.envelope(&["--kubernetes", text(&file)]).args(more), Code::Usage);
        assert!(line.contains(why) && !line.contains("hunter2"), "{line}");
    };
    refused(SECRET, &["--key", "nothing"], "db has no key nothing");
    refused(SECRET, &["--audience-namespace", "team-b"], "namespace team-a, not team-b");
    let comment = format!("{SECRET}# it was hunter2-first\n");
    refused(&comment, &[], "still tells the value of password");
    refused(&format!("{SECRET}---\n{SECRET}"), &[], "second document");
    let applied = SECRET.replace(
        "  labels:",
        "  annotations: {kubectl.kubernetes.io/last-applied-configuration: '{}'}\n  labels:",
    );
    refused(&applied, &[], "repeats the values");
    let one = ["--resource", "kbs:///team/db/one", "--kubernetes"];
    let file = team.write("several.yaml", SECRET);
    let line = refuse(team.seal(&one).arg(&file), Code::Usage);
    assert!(line.contains("one resource for several keys"), "{line}");
    // What the API server will say is said, and the rest is as it was.
    let docker = "apiVersion: v1\nkind: Secret\nmetadata: {name: pull}\n\
                  type: kubernetes.io/dockerconfigjson\n\
                  stringData: {.dockerconfigjson: '{\"auths\":{}}'}\n";
    let file = team.write("docker.yaml", docker);
    let output = succeed(&mut team.envelope(&["--kubernetes", text(&file)]));
    let says = String::from_utf8(output.stderr).unwrap();
    assert!(says.contains("warning: the API server refuses"), "{says}");
    let tls = "apiVersion: v1\nkind: Secret\nmetadata: {name: tls}\ntype: kubernetes.io/tls\n\
               stringData: {tls.crt: 'certificate', tls.key: 'private'}\n";
    let file = team.write("tls.yaml", tls);
    let output = succeed(&mut team.envelope(&["--kubernetes", text(&file), "--key", "tls.key"]));
    assert!(!String::from_utf8(output.stderr).unwrap().contains("warning"));
    assert!(stdout_has(
        &output.stdout,
        "type: kubernetes.io/tls\nstringData: {tls.crt: 'certificate', tls.key: \"sealed."
    ));
}

fn stdout_has(stdout: &[u8], text: &str) -> bool {
    str::from_utf8(stdout).unwrap().contains(text)
}

/// By jwcrypto and cryptography, from the format's description alone; and what they make.
#[test]
fn python_opens_what_is_sealed_here() {
    let Some(python) = python() else { return };
    let team = Team::new();
    let value = team.write("value", "correct horse");
    let audience = ["--audience-namespace", "team-a", "--expires", "2999-01-01T00:00:00Z"];
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/sealed_open.py");
    for more in [&[][..], &audience] {
        let sealed = stdout(succeed(team.envelope(&["--value", text(&value)]).args(more)));
        let mut open = Command::new(&python);
        open.arg(&script).args([text(&team.path("keys")), &sealed]);
        assert_eq!(stdout(succeed(&mut open)), "correct horse");
        let vault =
            stdout(succeed(team.seal(&["--resource", "kbs:///team/db/password"]).args(more)));
        let mut open = Command::new(&python);
        open.arg(&script).args([text(&team.path("keys")), &vault]);
        assert_eq!(stdout(succeed(&mut open)), "hunter2-resource");
    }
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/sealed_secrets.py");
    let made = stdout(succeed(Command::new(&python).arg(made)));
    let made: Value = serde_json::from_str(&made).unwrap();
    std::fs::create_dir_all(team.path("keys/team/secret")).unwrap();
    team.write("keys/team/signer/python", &made["jwk"].to_string());
    team.write("keys/team/secret/python", made["secret"].as_str().unwrap());
    let kek: Vec<u8> = (0..32).collect();
    std::fs::write(team.path("keys/team/kek/python"), kek).unwrap();
    for kind in ["vault", "gcm", "ctr"] {
        let opened = stdout(succeed(&mut team.unseal(&[made[kind].as_str().unwrap()])));
        assert_eq!(opened, made["secret"].as_str().unwrap(), "{kind}");
    }
    let bound = made["bound"].as_str().unwrap();
    refuse(&mut team.unseal(&[bound]), Code::Audience);
    let here = ["--audience-namespace", "team-a", "--audience-service-account", "db"];
    let mut open = team.unseal(&here);
    assert_eq!(
        stdout(succeed(open.args(["--audience-key", "password", bound]))),
        made["secret"].as_str().unwrap()
    );
}
