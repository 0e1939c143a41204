//! The whole way of a confidential machine on Azure: processors and paravisor of the tests' own,
//! whose roots only these brokers are given.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use broker::evidence::Roots;
use common::azure::{Paravisor, SNP, TDX};
use common::guest::{Key, attestation, report_data};
use common::http::Reply;
use common::snp::{GOOD, Leaf, maker};
use common::{Broker, Dirs, Evidence, NOW, Setup};
use keys::{AzureTee, AzureVtpm, HttpSettings, Kbs, KeySource, Tpm};
use seal::name::ResourceUri;
use serde_json::{Value, json};
use testkit::azure_vm::Metadata;
use testkit::swtpm::Swtpm;

const VALUE: &[u8] = b"thirty-two bytes of a secret key";

/// What the default policy asks of Azure's machines, as the tests' have it.
fn references() -> Value {
    json!({
        "measurement": [STANDARD.encode([0x3e; 48])], "snp_pcr11": ["ab".repeat(32)],
        "snp_pcr04": ["ab".repeat(32)],
        "tcb_bootloader": ["4"], "tcb_microcode": ["219"], "tcb_snp": ["24"], "tcb_tee": ["0"],
        "smt_enabled": ["false"], "tsme_enabled": ["false"], "abi_major": ["0"],
        "abi_minor": ["31"], "single_socket": ["false"], "smt_allowed": ["true"],
    })
}

/// A strict broker that believes the tests' makers, with a key to release.
fn broker(references: &Value) -> Broker {
    let dirs = Arc::new(Dirs::new());
    let values = dirs.root().join("values.json");
    std::fs::write(&values, references.to_string()).unwrap();
    let pem = dirs.root().join("ask.pem");
    std::fs::write(&pem, pem_of(&maker().intermediate("SEV-Milan", GOOD))).unwrap();
    let roots = Roots::of_vendors().with_amd("Milan", &maker().ark_certificate("Milan")).unwrap();
    let evidence =
        Evidence { references: Some(values), amd_certificates: Some(pem), ..Evidence::default() };
    start(Setup { dirs, roots, evidence, ..Setup::default() })
}

fn start(setup: Setup) -> Broker {
    let broker = Setup { insecure_dev: false, ..setup }.start();
    broker.put("default/key/one", VALUE);
    broker
}

fn pem_of(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines = base64.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap());
    let lines = lines.collect::<Vec<_>>().join("\n");
    format!("-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")
}

/// Attests with what `make` makes of the report data, and says `init_data`.
fn attest(
    (broker, tee): (&Broker, &str),
    key: &Key,
    init_data: &Value,
    make: impl FnOnce(&[u8]) -> Value,
) -> Reply {
    let reply = broker.auth(tee);
    assert_eq!(reply.status, 200, "{reply:?}");
    let nonce = reply.json()["nonce"].as_str().unwrap().to_owned();
    let mut body = attestation(&nonce, &key.jwk());
    let data = STANDARD.decode(report_data(&nonce, &key.jwk(), "")).unwrap();
    body["tee-evidence"]["primary_evidence"] = make(&data);
    body["init-data"] = init_data.clone();
    broker.attest(&reply.cookie(), &body)
}

fn claims(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{reply:?}");
    let token = reply.json()["token"].as_str().unwrap().to_owned();
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()["submods"]["cpu0"].clone()
}

fn reason(reply: &Reply) -> String {
    assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()), "{reply:?}");
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    detail.strip_prefix("the evidence is refused: ").unwrap_or(&detail).to_owned()
}

fn vcek() -> Vec<u8> {
    maker().leaf(&Leaf::vcek())
}

/// The paravisor's report around an SNP report that `change` changed before it was signed.
fn on_snp(paravisor: &Paravisor, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    paravisor.report(SNP, &maker().report_bytes(&paravisor.report_data(), change))
}

fn good(paravisor: &mut Paravisor, version: u32, data: &[u8]) -> Value {
    if version == 2 {
        paravisor.user_data = data.to_vec();
    }
    let report = on_snp(paravisor, |_| {});
    paravisor.evidence(version, data, &report, ("vcek", &vcek()))
}

/// The same in the form of older attesters.
fn with_numbers(paravisor: &Paravisor, data: &[u8]) -> Value {
    let message = paravisor.message(data);
    let signature = paravisor.sign(&message);
    let quote = json!({ "message": message, "signature": signature, "pcrs": paravisor.pcrs });
    json!({ "quote": quote, "report": on_snp(paravisor, |_| {}), "vcek": pem_of(&vcek()) })
}

#[test]
fn a_machine_on_azure_with_snp_gets_its_key_in_every_form() {
    let broker = broker(&references());
    let key = Key::p256();
    let mut paravisor = Paravisor::new();
    for form in [0, 1, 2] {
        let reply = attest((&broker, "az-snp-vtpm"), &key, &Value::Null, |data| match form {
            0 => with_numbers(&paravisor, data),
            form => good(&mut paravisor, form, data),
        });
        let cpu = claims(&reply);
        assert_eq!(cpu["ear.status"], "affirming", "{form}: {cpu:#}");
        let found = &cpu["ear.veraison.annotated-evidence"]["az-snp-vtpm"];
        assert_eq!(found["measurement"], STANDARD.encode([0x3e; 48]));
        assert_eq!(found["tpm"]["pcr11"], "ab".repeat(32));
        let released = broker.get_with_cookie(&reply.cookie(), "default/key/one");
        assert_eq!(key.open(&released.json()), VALUE);
    }
    let events = broker.events();
    let released = |event: &Value| event["event"] == "resource-released";
    let last = events.iter().rfind(|event| released(event)).unwrap();
    assert_eq!(last["tee"], "az-snp-vtpm");
}

/// A guest whose vTPM is a software TPM, with a key in it that the paravisor names.
struct Guest {
    swtpm: Swtpm,
    metadata: Metadata,
    paravisor: Paravisor,
}

impl Guest {
    /// `None` if there is no software TPM on this machine, or there are no tools for it.
    fn start() -> Option<Self> {
        let swtpm = Swtpm::start().unwrap()?;
        swtpm.make_azure_key().unwrap()?;
        let spki = tpm(&swtpm).key().unwrap().spki().to_vec();
        let paravisor = Paravisor { spki, ..Paravisor::new() };
        let guest = Self { swtpm, metadata: Metadata::start().unwrap(), paravisor };
        guest.boot();
        Some(guest)
    }

    /// What the boot measures.
    fn boot(&self) {
        let eleven = format!("11:sha256={}", "cd".repeat(32));
        self.swtpm.tool("tpm2_pcrextend", &[&eleven]).unwrap();
        let four = format!("4:sha256={}", "cd".repeat(32));
        self.swtpm.tool("tpm2_pcrextend", &[&four]).unwrap();
    }

    /// PCRs 4 and 11 after one boot.
    fn pcr11() -> Value {
        json!([hex::encode(digest(&SHA256, &[[0; 32], [0xcd; 32]].concat()))])
    }

    async fn release(&self, tee: AzureTee, broker: &Broker) -> Result<Vec<u8>, keys::Error> {
        let attester = AzureVtpm::new(tee, tpm(&self.swtpm), &self.metadata.url()).unwrap();
        let url = format!("http://{}", broker.wire.address);
        let kbs = Kbs::new(&url, Box::new(attester), &HttpSettings::default()).unwrap();
        let resource = ResourceUri::from_path("default/key/one").unwrap();
        kbs.release(&resource).await.map(|key| key.expose().to_vec())
    }

    /// Gets the key, and no longer when it has booted otherwise.
    async fn gets_the_key_as_booted(&self, tee: AzureTee, broker: &Broker) {
        assert_eq!(self.release(tee, broker).await.unwrap(), VALUE);
        self.boot();
        let refused = self.release(tee, broker).await.unwrap_err();
        assert!(matches!(refused, keys::Error::Denied { .. }), "{refused:?}");
    }
}

fn tpm(swtpm: &Swtpm) -> Tpm {
    Tpm { device: swtpm.socket(), key_handle: AzureVtpm::KEY_HANDLE, ..Tpm::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_attester_convinces_our_broker_with_a_software_tpm_on_snp() {
    let Some(guest) = Guest::start() else { return };
    guest.swtpm.put_azure_report(&on_snp(&guest.paravisor, |_| {})).unwrap();
    let certificates = json!({ "vcekCert": pem_of(&vcek()), "certificateChain": "" });
    let path = "GET /metadata/THIM/amd/certification";
    guest.metadata.answer(path, 200, certificates.to_string());
    let mut values = references();
    values["snp_pcr11"] = Guest::pcr11();
    values["snp_pcr04"] = Guest::pcr11();
    guest.gets_the_key_as_booted(AzureTee::Snp, &broker(&values)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_attester_convinces_our_broker_with_a_software_tpm_on_tdx() {
    let Some(guest) = Guest::start() else { return };
    guest.swtpm.put_azure_report(&guest.paravisor.report(TDX, &[0x81; 1024])).unwrap();
    let maker = common::tdx::Maker::new();
    let quote = td_quote(&maker, &guest.paravisor, &|_| {});
    let quote = json!({ "quote": URL_SAFE_NO_PAD.encode(quote) });
    guest.metadata.answer("POST /acc/tdquote", 200, quote.to_string());
    let broker = tdx_broker(&maker, &tdx_references(Guest::pcr11()));
    guest.gets_the_key_as_booted(AzureTee::Tdx, &broker).await;
}

#[test]
fn another_paravisor_or_boot_is_not_affirmed() {
    let key = Key::p256();
    let mut paravisor = Paravisor::new();
    let mut status = |broker: &Broker| {
        let attester = (broker, "az-snp-vtpm");
        let reply = attest(attester, &key, &Value::Null, |data| good(&mut paravisor, 1, data));
        let released = broker.get_with_cookie(&reply.cookie(), "default/key/one");
        assert_eq!(released.refusal(), (403, "PolicyDeny".to_owned()));
        assert_ne!(claims(&reply)["ear.status"], "affirming");
    };
    status(&broker(&json!({})));
    for (name, other) in [
        ("measurement", "AAAA"),
        ("snp_pcr11", "00"),
        ("tcb_snp", "25"),
        ("smt_enabled", "true"),
        // A guest that has extended PCR 11 by itself, on a boot of its own; and one more PCR.
        ("snp_pcr04", "00"),
        ("snp_pcr09", "00"),
    ] {
        let mut values = references();
        values[name] = json!([other]);
        status(&broker(&values));
    }
    for listed in ["snp_pcr04", "snp_pcr11"] {
        let mut values = references();
        values.as_object_mut().unwrap().remove(listed);
        status(&broker(&values));
    }
}

#[test]
fn each_check_of_azures_evidence_has_its_name() {
    let broker = broker(&references());
    let key = Key::p256();
    let paravisor = Paravisor::new();
    let stranger = Paravisor::new();
    let report = on_snp(&paravisor, |_| {});
    let evidence =
        |data: &[u8], report: &[u8]| paravisor.evidence(1, data, report, ("vcek", &vcek()));
    let reported = |data: &[u8], change: &dyn Fn(&mut [u8])| {
        evidence(data, &on_snp(&paravisor, |bytes| change(bytes)))
    };
    let changed = |data: &[u8], pointer: &str, value: Value| {
        let mut evidence = evidence(data, &report);
        *evidence.pointer_mut(pointer).unwrap() = value;
        evidence
    };
    let renamed = |data: &[u8], kid: &'static str, kty: &'static str| {
        let paravisor = Paravisor { kid, kty, ..Paravisor::new() };
        let report = on_snp(&paravisor, |_| {});
        paravisor.evidence(1, data, &report, ("vcek", &vcek()))
    };
    let flipped = |data: &[u8], at: usize| {
        let mut report = report.clone();
        report[at] ^= 4;
        evidence(data, &report)
    };
    type Bad<'a> = (&'a str, &'a dyn Fn(&[u8]) -> Value);
    let table: [Bad<'_>; 22] = [
        ("azure-format", &|_| json!("garbage")),
        ("azure-format", &|data| changed(data, "/version", json!(3))),
        ("azure-report", &|data| flipped(data, 0)),
        ("azure-report", &|data| {
            // Another TEE's, whatever it says.
            let report = paravisor.report(TDX, &[0; 1024]);
            evidence(data, &report)
        }),
        ("azure-runtime-data", &|data| flipped(data, 32 + 1184 + 20 + 40)),
        // A report that the guest asked for itself, on a machine without a paravisor.
        ("azure-runtime-data", &|data| {
            let hardware = maker().report_bytes(data, |_| {});
            evidence(data, &paravisor.report(SNP, &hardware))
        }),
        ("azure-runtime-data", &|data| reported(data, &|bytes| bytes[0x50 + 63] = 1)),
        ("azure-key", &|data| renamed(data, "HCLEkPub", "RSA")),
        ("azure-key", &|data| renamed(data, "HCLAkPub", "EC")),
        ("azure-user-data", &|data| changed(data, "/version", json!(2))),
        ("snp-format", &|data| flipped(data, 32 + 0x18b)),
        ("snp-signature", &|data| flipped(data, 32 + 0x90)),
        ("snp-vmpl", &|data| reported(data, &|bytes| bytes[0x30] = 2)),
        ("snp-debug", &|data| reported(data, &|bytes| bytes[0x0a] |= 8)),
        ("snp-tcb", &|data| reported(data, &|bytes| bytes[0x180] = 3)),
        ("snp-chip-id", &|data| reported(data, &|bytes| bytes[0x1a0] = 3)),
        ("snp-certificate", &|data| changed(data, "/vcek", json!("AAAA"))),
        ("snp-chain-expired", &|data| {
            let old = maker().leaf(&Leaf { good: (NOW - 10, NOW - 1), ..Leaf::vcek() });
            paravisor.evidence(1, data, &report, ("vcek", &old))
        }),
        // Another machine's key.
        ("tpm-signature", &|data| stranger.evidence(1, data, &report, ("vcek", &vcek()))),
        ("tpm-report-data", &|data| paravisor.evidence(1, &data[..32], &report, ("vcek", &vcek()))),
        ("tpm-pcr-digest", &|data| changed(data, "/tpm_quote/pcrs/11", json!("00".repeat(32)))),
        ("tpm-pcr-count", &|data| changed(data, "/tpm_quote/pcrs", json!([]))),
    ];
    for (name, make) in table {
        let reply = attest((&broker, "az-snp-vtpm"), &key, &Value::Null, make);
        assert_eq!(reason(&reply), name);
    }
    // What the paravisor's report is for is not what a guest without one would have.
    let snp = |_: &[u8]| {
        let report = maker().report(&paravisor.report_data(), |_| {});
        common::snp::evidence(report, &[("VCEK", vcek())])
    };
    let reply = attest((&broker, "snp"), &key, &Value::Null, snp);
    assert_eq!(reason(&reply), "snp-report-data");
}

fn tdx_references(pcr11: Value) -> Value {
    let real = common::vectors::of_package("dcap-qvl", "sample/tdx_quote");
    json!({
        "az_tdx_mr_td": [hex::encode(&real[48 + 136..48 + 184])],
        "xfam": ["e702060000000000"], "tdx_pcr11": pcr11, "tdx_pcr04": pcr11,
    })
}

/// A strict broker that believes this maker of TDX platforms.
fn tdx_broker(maker: &common::tdx::Maker, references: &Value) -> Broker {
    let dirs = Arc::new(Dirs::new());
    let collateral = maker.collateral("UpToDate").to_string();
    let path = dirs.root().join(format!("{}.json", common::tdx::FMSPC));
    std::fs::write(path, collateral).unwrap();
    let values = dirs.root().join("values.json");
    std::fs::write(&values, references.to_string()).unwrap();
    let roots = Roots::of_vendors().with_intel(maker.root());
    let evidence = Evidence {
        references: Some(values),
        tdx_collateral_dir: Some(dirs.root().to_owned()),
        ..Evidence::default()
    };
    start(Setup { dirs, roots, evidence, ..Setup::default() })
}

/// For the paravisor's runtime data, after `change`.
fn td_quote(
    maker: &common::tdx::Maker,
    paravisor: &Paravisor,
    change: &dyn Fn(&mut [u8]),
) -> Vec<u8> {
    let quote = maker.evidence(&paravisor.report_data(), |report| change(report));
    STANDARD.decode(quote["quote"].as_str().unwrap()).unwrap()
}

#[test]
fn a_machine_on_azure_with_tdx_gets_its_key() {
    let maker = common::tdx::Maker::new();
    let values = tdx_references(json!(["ab".repeat(32)]));
    let broker = tdx_broker(&maker, &values);
    // The largest there is: its claims have to fit into a session.
    let key = Key::rsa(aws_lc_rs::rsa::KeySize::Rsa4096);
    let paravisor = Paravisor::new();
    let made = |paravisor: &Paravisor, data: &[u8], change: &dyn Fn(&mut [u8])| {
        let quote = td_quote(&maker, paravisor, change);
        let report = paravisor.report(TDX, &[0x81; 1024]);
        paravisor.evidence(1, data, &report, ("td_quote", &quote))
    };
    let attest =
        |make: &dyn Fn(&[u8]) -> Value| attest((&broker, "az-tdx-vtpm"), &key, &Value::Null, make);
    let reply = attest(&|data| made(&paravisor, data, &|_| {}));
    let cpu = claims(&reply);
    assert_eq!(cpu["ear.status"], "affirming", "{cpu:#}");
    let found = &cpu["ear.veraison.annotated-evidence"]["az-tdx-vtpm"];
    assert_eq!(found["tpm"]["pcr08"], found["init_data"]);
    assert_eq!(found["tcb_status"], "UpToDate");
    assert!(reply.cookie().len() <= 8000, "{} characters", reply.cookie().len());
    let released = broker.get_with_cookie(&reply.cookie(), "default/key/one");
    assert_eq!(key.open(&released.json()), VALUE);

    // A firmware that is good for TDs, whose kernel the RTMRs tell, is no paravisor.
    let mut firmware = values.clone();
    firmware["mr_td"] = firmware["az_tdx_mr_td"].take();
    firmware.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let strict = tdx_broker(&maker, &firmware);
    let made_again = |data: &[u8]| made(&paravisor, data, &|_| {});
    let reply = self::attest((&strict, "az-tdx-vtpm"), &key, &Value::Null, made_again);
    assert_eq!(claims(&reply)["ear.status"], "warning");
    let released = strict.get_with_cookie(&reply.cookie(), "default/key/one");
    assert_eq!(released.refusal(), (403, "PolicyDeny".to_owned()));

    let other = Paravisor::new();
    let debugged = attest(&|data| made(&paravisor, data, &|report| report[120] |= 1));
    assert_eq!(reason(&debugged), "tdx-debug");
    let exchanged = attest(&|data| {
        let mut evidence = made(&paravisor, data, &|_| {});
        evidence["hcl_report"] = made(&other, data, &|_| {})["hcl_report"].clone();
        evidence
    });
    assert_eq!(reason(&exchanged), "azure-runtime-data");
    let replayed = attest(&|data| made(&paravisor, &data[1..], &|_| {}));
    assert_eq!(reason(&replayed), "tpm-report-data");
    let collateral = broker.dirs.root().join(format!("{}.json", common::tdx::FMSPC));
    std::fs::remove_file(collateral).unwrap();
    let unknown = attest(&|data| made(&paravisor, data, &|_| {}));
    assert_eq!(reason(&unknown), "tdx-collateral-missing");
}

#[test]
fn init_data_is_believed_if_it_is_all_that_pcr_8_was_extended_with() {
    let broker = broker(&references());
    let key = Key::p256();
    let body = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = 'a = 1'\n";
    let sent = json!({ "format": "toml", "body": body });
    let extended = |with: &[u8]| digest(&SHA256, &[&[0; 32], with].concat());
    let once = extended(digest(&SHA256, body.as_bytes()).as_ref());
    let attested = |pcr: &[u8]| {
        let mut paravisor = Paravisor::new();
        paravisor.pcrs[8].copy_from_slice(pcr);
        attest((&broker, "az-snp-vtpm"), &key, &sent, |data| good(&mut paravisor, 2, data))
    };
    let evidence = &claims(&attested(once.as_ref()))["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["init_data_claims"], json!({ "aa.toml": { "a": 1 } }));
    assert_eq!(reason(&attested(&[0; 32])), "init-data-mismatch");
    assert_eq!(reason(&attested(extended(once.as_ref()).as_ref())), "init-data-mismatch");
}

#[test]
fn without_collateral_tdx_on_azure_is_not_even_asked_for() {
    let broker = Setup { insecure_dev: false, ..Setup::default() }.start();
    let detail = broker.auth("az-tdx-vtpm").json()["detail"].clone();
    assert_eq!(detail, "az-tdx-vtpm evidence is accepted only with --tdx-collateral-dir");
}
