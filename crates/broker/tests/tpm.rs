//! The whole way of a key to a guest that attests with a TPM: a real software TPM, our client, our
//! broker.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::{Broker, Setup};
use keys::{Attester, Error, HttpSettings, Kbs, KeySource, Tpm};
use seal::name::ResourceUri;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::swtpm::Swtpm;

const VALUE: &[u8] = b"thirty-two bytes of a secret key";

/// Releases to TPMs that were not found wanting, and whose PCR 16 is untouched.
const POLICY: &str = r#"package policy
import rego.v1
default allow = false
allow if {
    cpu := input.submods.cpu0
    cpu["ear.status"] == "warning"
    cpu["ear.trustworthiness-vector"].hardware == 2
    tpm := cpu["ear.veraison.annotated-evidence"].tpm
    tpm.pcr16 == "0000000000000000000000000000000000000000000000000000000000000000"
    tpm.clock_info.safe
}
"#;

/// A broker that trusts the keys in a file, a TPM, and a guest that has it.
struct World {
    swtpm: Swtpm,
    broker: Broker,
    trusted: PathBuf,
    _dir: TempDir,
}

impl World {
    /// `None` if there is no software TPM on this machine.
    fn start() -> Option<Self> {
        let swtpm = Swtpm::start().unwrap()?;
        let key = tpm(&swtpm).create_key().unwrap();
        let dir = TempDir::new().unwrap();
        let trusted = dir.path().join("trusted.pem");
        std::fs::write(&trusted, key.pem()).unwrap();
        let setup = Setup {
            insecure_dev: false,
            tpm_trusted_keys: vec![trusted.clone()],
            ..Setup::default()
        };
        let broker = setup.start();
        broker.put("default/key/one", VALUE);
        assert_eq!(broker.set_policy(POLICY).status, 200);
        Some(Self { swtpm, broker, trusted, _dir: dir })
    }

    /// Replaces the list, as operators are told to.
    fn trust(&self, pem: &str) {
        let unfinished = self.trusted.with_extension("new");
        std::fs::write(&unfinished, pem).unwrap();
        std::fs::rename(unfinished, &self.trusted).unwrap();
    }

    /// What a guest gets that attests so.
    async fn release(&self, attester: impl Attester + 'static) -> Result<Vec<u8>, Error> {
        let url = format!("http://{}", self.broker.wire.address);
        let kbs = Kbs::new(&url, Box::new(attester), &HttpSettings::default()).unwrap();
        let resource = ResourceUri::from_path("default/key/one").unwrap();
        kbs.release(&resource).await.map(|key| key.expose().to_vec())
    }
}

fn tpm(swtpm: &Swtpm) -> Tpm {
    Tpm { device: swtpm.socket(), ..Tpm::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_tpm_with_the_right_pcrs_gets_the_key() {
    let Some(world) = World::start() else { return };
    assert_eq!(world.release(tpm(&world.swtpm)).await.unwrap(), VALUE);
    let released = world.broker.events().pop().unwrap();
    assert_eq!(released["tee"], "tpm", "{released}");

    // What the policy names was not quoted.
    let few = Tpm { pcrs: "0-15".parse().unwrap(), ..tpm(&world.swtpm) };
    let error = world.release(few).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");

    let extend = [&format!("16:sha256={}", "ab".repeat(32))[..]];
    if world.swtpm.tool("tpm2_pcrextend", &extend).unwrap().is_some() {
        let error = world.release(tpm(&world.swtpm)).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_policy_wants_more_than_a_genuine_tpm() {
    let Some(world) = World::start() else { return };
    let default = std::fs::read_to_string("src/policy/default.rego").unwrap();
    assert_eq!(world.broker.set_policy(&default).status, 200);
    let error = world.release(tpm(&world.swtpm)).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_counts_while_its_key_is_listed() {
    let Some(world) = World::start() else { return };
    let other = Swtpm::start().unwrap().unwrap();
    let key = tpm(&other).create_key().unwrap();
    let refused = |result: Result<_, Error>| match result {
        Err(Error::Attestation { detail, .. }) => assert!(detail.contains("refused: tpm-")),
        other => panic!("{other:?}"),
    };
    refused(world.release(tpm(&other)).await);
    let both = std::fs::read_to_string(&world.trusted).unwrap() + &key.pem();
    world.trust(&both);
    assert_eq!(world.release(tpm(&other)).await.unwrap(), VALUE);
    world.trust(&key.pem());
    refused(world.release(tpm(&world.swtpm)).await);
}

/// Sends what another attester has said, changed or not.
struct Meddling {
    tpm: Tpm,
    change: fn(&mut Vec<u8>),
    replayed: Arc<Mutex<Option<Value>>>,
}

impl Attester for Meddling {
    fn tee(&self) -> &'static str {
        "tpm"
    }

    fn evidence(&self, report_data: &[u8]) -> Result<Value, Error> {
        let mut replayed = self.replayed.lock().unwrap();
        if let Some(evidence) = &*replayed {
            return Ok(evidence.clone());
        }
        let mut report_data = report_data.to_vec();
        (self.change)(&mut report_data);
        let evidence = self.tpm.evidence(&report_data)?;
        *replayed = Some(evidence.clone());
        Ok(evidence)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quote_is_good_for_one_nonce_and_one_key() {
    let Some(world) = World::start() else { return };
    let meddling = |change, replayed: &Arc<Mutex<_>>| Meddling {
        tpm: tpm(&world.swtpm),
        change,
        replayed: replayed.clone(),
    };
    let quote = Arc::new(Mutex::new(None));
    assert_eq!(world.release(meddling(|_| (), &quote)).await.unwrap(), VALUE);
    let again = world.release(meddling(|_| (), &quote)).await.unwrap_err();
    assert!(matches!(again, Error::Attestation { .. }), "{again:?}");
    let changes: [fn(&mut Vec<u8>); 2] = [|data| data[0] ^= 1, |data| data[31] ^= 1];
    for change in changes {
        let error = world.release(meddling(change, &Arc::default())).await.unwrap_err();
        assert!(matches!(error, Error::Attestation { .. }), "{error:?}");
    }
    // Upstream's form has no room for the last 16 of 48 bytes: 256 bits are bound.
    let tail = world.release(meddling(|data| data[32] ^= 1, &Arc::default())).await;
    assert_eq!(tail.unwrap(), VALUE);
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_keys_attest_too() {
    let Some(world) = World::start() else { return };
    let handles = [("rsassa", "0x81010020", 0x8101_0020), ("rsapss", "0x81010021", 0x8101_0021)];
    for (scheme, handle, key_handle) in handles {
        let algorithm = format!("rsa2048:{scheme}-sha256:null");
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
        let create = ["-Q", "-C", "o", "-G", &algorithm, "-a", attributes, "-c", "ak.ctx"];
        if world.swtpm.tool("tpm2_createprimary", &create).unwrap().is_none() {
            return;
        }
        world.swtpm.tool("tpm2_evictcontrol", &["-C", "o", "-c", "ak.ctx", handle]).unwrap();
        world.swtpm.tool("tpm2_flushcontext", &["-t"]).unwrap();
        let tpm = Tpm { key_handle, ..tpm(&world.swtpm) };
        world.trust(&tpm.key().unwrap().pem());
        assert_eq!(world.release(tpm).await.unwrap(), VALUE, "{scheme}");
    }
}

#[test]
fn without_a_list_of_keys_tpm_evidence_is_not_even_asked_for() {
    let broker = Setup { insecure_dev: false, ..Setup::default() }.start();
    let reply = broker.auth("tpm");
    assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()));
    let detail = json!("tpm evidence is accepted only with --tpm-trusted-key");
    assert_eq!(reply.json()["detail"], detail);
}

#[test]
fn a_list_of_keys_that_is_none_stops_the_start() {
    let dirs = common::Dirs::new();
    let not_keys = dirs.keys.admin_key.clone();
    let config = broker::Config {
        tpm_trusted_keys: vec![not_keys],
        ..broker::Config::new(dirs.data(), dirs.keys.master_key.clone())
    };
    let log = audit::Log::stream(Box::new(std::io::sink()));
    let refused = broker::service::Service::open(&config, log, broker::system_clock());
    assert!(matches!(refused, Err(broker::Error::TpmKey { .. })));
}
