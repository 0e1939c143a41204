//! The servers and names that the page's commands meet.

use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::bao::Bao;
use testkit::moto::Moto;
use testkit::s3::S3Server;
use testkit::softhsm::SoftHsm;
use testkit::swtpm::Swtpm;
use testkit::tls::Authority;

use crate::common::{memory, succeed, text, write_tree};
use crate::markdown::{Kind, Section};
use crate::shell::Script;

/// moto's account.
const ACCOUNT: &str = "123456789012";
const MODEL: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("weights/model.bin", &[7; 100_000])];
/// What the broker asks of a guest that is as it should be.
const VALUES: &str = "values-of-the-test.json";
const KEYS: &str = "keys-of-the-test.pem";

/// What lasts from section to section: what is set up in one is used in the next.
pub(crate) struct World {
    dir: TempDir,
    bao: Option<Bao>,
    moto: Option<Moto>,
    s3: Option<S3Server>,
    hsm: Option<SoftHsm>,
    address: Ipv4Addr,
}

impl World {
    /// `None` if the broker's program or the token's was not built.
    pub(crate) fn new() -> Option<Self> {
        // Not in memory, where programs may not be allowed to run.
        let dir = TempDir::new().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_sealift")).parent().unwrap();
        for program in ["sealift", "sealift-broker", "sealift-pkcs11"] {
            if !built.join(program).exists() {
                testkit::skip(format!("{program} was not built beside sealift"));
                return None;
            }
            symlink(built.join(program), bin.join(program)).unwrap();
        }
        let bao = Bao::start().unwrap();
        if let Some(bao) = &bao {
            // The page mounts it itself.
            bao.must("DELETE", "sys/mounts/transit", Value::Null).unwrap();
            symlink(std::env::var_os("SEALIFT_BAO").unwrap(), bin.join("bao")).unwrap();
        }
        let moto = Moto::start().unwrap();
        if moto.is_some() {
            let python = PathBuf::from(std::env::var_os("SEALIFT_MOTO").unwrap());
            let python = python.with_file_name("python");
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keys_doc/aws.py");
            let line = format!("exec {} {} \"$@\"", text(&python), text(&script));
            executable(&bin.join("aws"), &line);
        }
        let [.., high, low] = std::process::id().to_be_bytes();
        // Every process has loopback addresses to itself, and so every port.
        let address = Ipv4Addr::new(127, 77, high, low.max(1));
        let (s3, hsm) = (S3Server::start().unwrap(), SoftHsm::start().unwrap());
        Some(Self { dir, bao, moto, s3, hsm, address })
    }

    /// Runs the commands of a section; a note if it needs what is not here. Whether it ran. What it
    /// needs, its own names say.
    pub(crate) fn play(&self, section: &Section) -> bool {
        if section.blocks.iter().all(|block| block.kind == Kind::NotRun) {
            return false;
        }
        let source = format!("{section:?}");
        let needs = |names: &[&str]| names.iter().any(|name| source.contains(name));
        let missing = [
            ("OpenBao", needs(&["vault.example", "bao "]) && self.bao.is_none()),
            ("moto", needs(&["aws kms", "awskms:"]) && self.moto.is_none()),
            ("S3 server", needs(&["s3://"]) && self.s3.is_none()),
            ("jq", needs(&["| jq"]) && Command::new("jq").arg("--version").output().is_err()),
            ("SoftHSM", needs(&["pkcs11:"]) && self.hsm.is_none()),
        ];
        if let Some((what, _)) = missing.into_iter().find(|(_, missing)| *missing) {
            testkit::skip(format!("docs/keys.md, {}: no {what}", section.title));
            return false;
        }
        let swtpm = if needs(&["attest", "kbs.example", "sealift-broker"]) {
            match Swtpm::start().unwrap() {
                Some(swtpm) => Some(swtpm),
                None => return false,
            }
        } else {
            None
        };
        let place = Place::new(self, swtpm.as_ref());
        if needs(&["kbs.example"]) && !needs(&["sealift attest tpm-key"]) {
            place.attestable(self);
        }
        let own_broker = !needs(&["sealift-broker serve"]) && needs(&["kbs.example"]);
        place.run(self, section, own_broker);
        let opens = source.contains("/mnt/models");
        assert_eq!(place.path("at.opened").exists(), opens, "{}: is it opened?", section.title);
        true
    }

    /// The names of the page, and what they are here. Described in the page's "The examples".
    fn exchanged(&self, place: &Place) -> Vec<(&'static str, String)> {
        let mut exchanged = vec![
            ("kbs.example", self.address.to_string()),
            ("0.0.0.0", self.address.to_string()),
            ("/mnt/models", place.at("mnt")),
            ("/run/secrets", place.at("secrets")),
            ("/var/lib", place.at("lib")),
            ("--attester tsm", "--attester tpm".to_owned()),
            ("111122223333", ACCOUNT.to_owned()),
        ];
        if let Some(bao) = &self.bao {
            exchanged.push(("https://vault.example:8200", bao.address()));
        }
        exchanged
    }

    /// `program` as the page's shell runs it.
    fn equipped(&self, program: &str, place: &Place) -> Command {
        let mut command = Command::new(program);
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let mut path = vec![self.dir.path().join("bin")];
        path.extend(std::env::split_paths(&paths));
        command
            .env_clear()
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("HOME", self.dir.path())
            .env("SEALIFT_PROGRESS", "none")
            .env("SEALIFT_BROKER_DATA_DIR", place.path("broker"))
            .env("SEALIFT_BROKER_MASTER_KEY_FILE", place.path("broker-keys/master.key"))
            .env("SEALIFT_BROKER_ADMIN_PUBLIC_KEY", place.path("broker-keys/admin.pub"))
            .env("SEALIFT_BROKER_LISTEN", format!("{}:8443", self.address))
            .env("SEALIFT_BROKER_TLS_CERT", place.path("work/tls.crt"))
            .env("SEALIFT_BROKER_TLS_KEY", place.path("work/tls.key"))
            .env("VAULT_TOKEN", Bao::ROOT)
            .current_dir(place.path("work"))
            .stdin(Stdio::null());
        if let Some(s3) = &self.s3 {
            command.envs(s3.env());
        }
        if let Some(moto) = &self.moto {
            command.env("AWS_ENDPOINT_URL_KMS", moto.endpoint());
            command.env("AWS_DEFAULT_REGION", Moto::REGION);
        }
        if let Some(hsm) = &self.hsm {
            command.env("SOFTHSM2_CONF", hsm.settings());
        }
        if let Some(socket) = &place.tpm {
            command.env("SEALIFT_TPM_DEVICE", socket);
        }
        command
    }
}

/// What one section has to itself.
struct Place {
    dir: TempDir,
    tpm: Option<PathBuf>,
}

impl Place {
    fn new(world: &World, swtpm: Option<&Swtpm>) -> Self {
        let place = Self { dir: memory(), tpm: swtpm.map(Swtpm::socket) };
        for name in ["work", "mnt", "secrets", "lib"] {
            std::fs::create_dir(place.path(name)).unwrap();
        }
        write_tree(&place.path("work/llama"), &MODEL);
        if let Some(s3) = &world.s3 {
            let _ = std::fs::remove_dir_all(s3.bucket_dir());
            std::fs::create_dir(s3.bucket_dir()).unwrap();
        }
        let authority = Authority::new().unwrap();
        std::fs::write(place.path("work/ca.pem"), authority.pem()).unwrap();
        let issued = authority.issue(&[&world.address.to_string()]).unwrap();
        issued.write(&place.path("work/tls.crt"), &place.path("work/tls.key")).unwrap();
        succeed(world.equipped("sealift-broker", &place).arg("init"));
        std::fs::copy(place.path("broker-keys/admin.key"), place.path("work/admin.pem")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Makes this TPM known to the broker, and its state the one that is wanted.
    fn attestable(&self, world: &World) {
        let sealift = || world.equipped("sealift", self);
        let key = succeed(sealift().args(["attest", "tpm-key"])).stdout;
        std::fs::write(self.path(KEYS), key).unwrap();
        let evidence = ["attest", "evidence", "--attester", "tpm", "--report-data", "00"];
        let evidence = succeed(sealift().args(evidence)).stdout;
        let evidence: Value = serde_json::from_slice(&evidence).unwrap();
        let pcr = &evidence["primary_evidence"]["tpm_quote"]["pcrs"][7];
        assert!(pcr.is_string(), "{evidence}");
        std::fs::write(self.path(VALUES), json!({"tpm_pcr07": [pcr]}).to_string()).unwrap();
    }

    /// One shell for all commands. The broker is a service, which is there when `serve` returns; what
    /// a block opens has to be the model, and makes room for the next.
    fn run(&self, world: &World, section: &Section, own_broker: bool) {
        let mut script = format!("at={} mnt={}\n{PREAMBLE}", self.at("at"), self.at("mnt"));
        if own_broker {
            let (keys, values) = (self.at(KEYS), self.at(VALUES));
            script += &format!(
                "sealift-broker serve --tpm-trusted-key {keys} --reference-values {values}\n"
            );
        }
        let mut script = Script::new(&script, &section.blocks, "opened", self.dir.path());
        for (name, here) in world.exchanged(self) {
            script.exchange(name, &here);
        }
        if let Err(why) = script.run(&mut world.equipped("bash", self)) {
            let broker = std::fs::read_to_string(self.path("at.broker")).unwrap_or_default();
            panic!("docs/keys.md, {:?}: {why}\nbroker: {broker}", section.title);
        }
    }
}

const PREAMBLE: &str = r#"
set -euo pipefail
stop() { if [ -e "$at.pid" ]; then kill "$(cat "$at.pid")" || true; wait; rm "$at.pid"; fi; }
trap stop EXIT
opened() {
  if [ -z "$(ls -A "$mnt")" ]; then return; fi
  diff -r -x .sealift-receipt.json "$mnt" llama
  find "$mnt" -mindepth 1 -delete
  touch "$at.opened"
}
sealift-broker() {
  if [ "$1" != serve ]; then command sealift-broker "$@"; return; fi
  stop
  rm -f "$at.ready"
  command sealift-broker "$@" --ready-file "$at.ready" >"$at.broker" 2>&1 &
  echo $! >"$at.pid"
  until [ -e "$at.ready" ]; do kill -0 $! || return 1; sleep 0.05; done
}
"#;

fn executable(path: &Path, line: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
