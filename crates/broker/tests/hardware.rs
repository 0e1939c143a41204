//! The whole way of a guest on hardware: challenge, evidence, policies, release; with a maker of
//! processors of the tests' own, whose root only these brokers are given.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use broker::evidence::Roots;
use common::guest::{Key, attestation, report_data};
use common::http::Reply;
use common::snp::{GOOD, Leaf, Maker, evidence, maker};
use common::{Broker, Dirs, Evidence, NOW, Setup};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;

const VALUE: &[u8] = b"thirty-two bytes of a secret key";

const UNKNOWN_INIT_DATA: &str = "configuration: init-data is not a reference value";

fn references() -> Value {
    json!({
        "snp_launch_measurement": ["3e".repeat(48)],
        "snp_bootloader": [3, 4], "snp_tee_svn": [0], "snp_snp_svn": [24], "snp_microcode": [219],
        "snp_init_data": ["none"],
    })
}

fn file(dirs: &Dirs, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dirs.root().join(name);
    // Replaced, not rewritten, as operators are told to.
    let unfinished = dirs.root().join(format!("{name}.new"));
    std::fs::write(&unfinished, content).unwrap();
    std::fs::rename(unfinished, &path).unwrap();
    path
}

/// A strict broker that believes the tests' maker, with a key to release.
fn broker_with(dirs: Arc<Dirs>, evidence: Evidence) -> Broker {
    let roots = Roots::of_vendors().with_amd("Milan", &maker().ark_certificate("Milan")).unwrap();
    let broker = Setup { dirs, insecure_dev: false, roots, evidence, ..Setup::default() }.start();
    broker.put("default/key/one", VALUE);
    broker
}

fn broker() -> Broker {
    let dirs = Arc::new(Dirs::new());
    let values = file(&dirs, "values.json", references().to_string());
    broker_with(dirs, Evidence { references: Some(values), ..Evidence::default() })
}

fn ask() -> (&'static str, Vec<u8>) {
    ("ASK", maker().intermediate("SEV-Milan", GOOD))
}

fn vcek() -> (&'static str, Vec<u8>) {
    ("VCEK", maker().leaf(&Leaf::vcek()))
}

/// Attests with what `make` makes of the report data.
fn attest(broker: &Broker, key: &Key, make: impl FnOnce(&[u8]) -> Value) -> Reply {
    attest_as("snp", broker, key, make)
}

fn attest_as(tee: &str, broker: &Broker, key: &Key, make: impl FnOnce(&[u8]) -> Value) -> Reply {
    let reply = broker.auth(tee);
    assert_eq!(reply.status, 200, "{reply:?}");
    let nonce = reply.json()["nonce"].as_str().unwrap().to_owned();
    let mut body = attestation(&nonce, &key.jwk());
    let expected = STANDARD.decode(report_data(&nonce, &key.jwk(), "")).unwrap();
    body["tee-evidence"]["primary_evidence"] = make(&expected);
    broker.attest(&reply.cookie(), &body)
}

fn good(data: &[u8]) -> Value {
    evidence(maker().report(data, |_| {}), &[ask(), vcek()])
}

fn claims(reply: &Reply) -> Value {
    let token = reply.json()["token"].as_str().unwrap().to_owned();
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<Value>(&payload).unwrap()["submods"]["cpu0"].clone()
}

fn reason(reply: &Reply) -> String {
    assert_eq!(reply.refusal(), (401, "AttestationError".to_owned()), "{reply:?}");
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    detail.strip_prefix("the evidence is refused: ").unwrap_or(&detail).to_owned()
}

#[test]
fn a_guest_on_snp_gets_its_key_and_a_token_that_says_why() {
    let broker = broker();
    for key in [Key::p256(), Key::rsa(aws_lc_rs::rsa::KeySize::Rsa4096)] {
        let reply = attest(&broker, &key, good);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.cookie().len() <= 8192, "{} characters", reply.cookie().len());
        let cpu = claims(&reply);
        assert_eq!(cpu["ear.status"], "affirming");
        let vector = json!({ "executables": 3, "hardware": 2, "configuration": 3 });
        assert_eq!(cpu["ear.trustworthiness-vector"], vector);
        let snp = &cpu["ear.veraison.annotated-evidence"]["snp"];
        assert_eq!(snp["evidence"]["chip_id"], "c7".repeat(64));
        assert_eq!(snp["generation"], "milan");
        let token = reply.json()["token"].as_str().unwrap().to_owned();
        for released in [
            broker.get_with_cookie(&reply.cookie(), "default/key/one"),
            broker.get_with_token(&token, "default/key/one"),
        ] {
            assert_eq!(key.open(&released.json()), VALUE);
        }
    }
    let events = broker.events();
    assert!(
        events.iter().any(|event| event["event"] == "resource-released" && event["tee"] == "snp")
    );
}

#[test]
fn a_providers_key_is_good_with_an_intermediate_from_guest_or_operator() {
    let vlek = ("VLEK", maker().leaf(&Leaf::vlek()));
    let asvk = maker().intermediate("SEV-VLEK-Milan", GOOD);
    let report = |data: &[u8]| {
        // Signed by a VLEK, with a masked chip id.
        maker().report(data, |bytes| {
            bytes[0x48] = 0b100;
            bytes[0x1a0..0x1e0].fill(0);
        })
    };
    let strict = broker();
    let key = Key::p256();
    let brought = [("ASK", asvk.clone()), vlek.clone()];
    let reply = attest(&strict, &key, |data| evidence(report(data), &brought));
    assert_eq!(claims(&reply)["ear.status"], "affirming");
    let bare = |data: &[u8]| evidence(report(data), std::slice::from_ref(&vlek));
    assert_eq!(reason(&attest(&strict, &key, bare)), "snp-chain-missing");

    let dirs = Arc::new(Dirs::new());
    let pem = pem_of(&asvk);
    let certificates = Some(file(&dirs, "asvk.pem", pem));
    let values = Some(file(&dirs, "values.json", references().to_string()));
    let settings =
        Evidence { references: values, amd_certificates: certificates, ..Evidence::default() };
    let broker = broker_with(dirs, settings);
    assert_eq!(claims(&attest(&broker, &key, bare))["ear.status"], "affirming");
    // By a key that says it is a chip's, or a chip's that says it is a provider's.
    let unmarked =
        |data: &[u8]| evidence(maker().report(data, |_| {}), std::slice::from_ref(&vlek));
    assert_eq!(reason(&attest(&broker, &key, unmarked)), "snp-signature");
    let marked =
        |data: &[u8]| evidence(maker().report(data, |bytes| bytes[0x48] = 0b100), &[ask(), vcek()]);
    assert_eq!(reason(&attest(&broker, &key, marked)), "snp-signature");
}

fn pem_of(der: &[u8]) -> String {
    let lines: Vec<_> = STANDARD
        .encode(der)
        .into_bytes()
        .chunks(64)
        .map(|line| String::from_utf8(line.to_vec()).unwrap())
        .collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[test]
fn each_check_has_its_name_and_no_clock_makes_good_what_it_refuses() {
    let broker = broker();
    let key = Key::p256();
    let stranger = Maker::new();
    let maker = maker();
    let leaf = |change: &dyn Fn(&mut Leaf)| {
        let mut leaf = Leaf::vcek();
        change(&mut leaf);
        ("VCEK", maker.leaf(&leaf))
    };
    let signed =
        |data: &[u8], change: fn(&mut [u8])| evidence(maker.report(data, change), &[ask(), vcek()]);
    let chain =
        |data: &[u8], entries: &[(&str, Vec<u8>)]| evidence(maker.report(data, |_| {}), entries);
    type Bad<'a> = (&'a str, &'a dyn Fn(&[u8]) -> Value);
    let table: [Bad<'_>; 28] = [
        ("snp-format", &|_| json!("garbage")),
        ("snp-version", &|data| signed(data, |bytes| bytes[0] = 6)),
        ("snp-product", &|data| signed(data, |bytes| bytes[0x189] = 0x11)),
        ("snp-product", &|data| chain(data, &[ask(), leaf(&|leaf| leaf.product = "Genoa-B0")])),
        ("snp-product", &|data| chain(data, &[ask(), leaf(&|leaf| leaf.issuer = "SEV-Rome")])),
        ("snp-chain-missing", &|data| chain(data, &[ask()])),
        ("snp-chain-missing", &|data| chain(data, &[ask(), vcek(), vcek()])),
        ("snp-chain-missing", &|data| chain(data, &[vcek()])),
        ("snp-certificate", &|data| chain(data, &[ask(), ("VCEK", vec![0x30; 10_000])])),
        ("snp-certificate", &|data| {
            chain(data, &[ask(), leaf(&|leaf| leaf.chip = Some(vec![1; 63]))])
        }),
        ("snp-chain-root", &|data| {
            chain(data, &[ask(), vcek(), ("ARK", stranger.ark_certificate("Milan"))])
        }),
        // AMD's names, another maker's keys.
        ("snp-chain", &|data| {
            let entries = [
                ("ASK", stranger.intermediate("SEV-Milan", GOOD)),
                ("VCEK", stranger.leaf(&Leaf::vcek())),
            ];
            evidence(stranger.report(data, |_| {}), &entries)
        }),
        ("snp-chain", &|data| {
            let entries = [ask(), ("VCEK", stranger.leaf(&Leaf::vcek()))];
            evidence(stranger.report(data, |_| {}), &entries)
        }),
        ("snp-chain", &|data| {
            let powerless = ("ASK", maker.powerless("SEV-Milan"));
            chain(data, &[powerless, vcek()])
        }),
        ("snp-chain", &|data| chain(data, &[ask(), leaf(&|leaf| leaf.subject = "SEV-VLEK")])),
        ("snp-chain-expired", &|data| {
            chain(data, &[ask(), leaf(&|leaf| leaf.good = (GOOD.0, NOW - 1))])
        }),
        ("snp-chain-expired", &|data| {
            chain(data, &[ask(), leaf(&|leaf| leaf.good = (NOW + 1, GOOD.1))])
        }),
        ("snp-chain-expired", &|data| {
            chain(data, &[("ASK", maker.intermediate("SEV-Milan", (GOOD.0, NOW - 1))), vcek()])
        }),
        ("snp-tcb", &|data| chain(data, &[ask(), leaf(&|leaf| leaf.tcb[3] = 220)])),
        ("snp-tcb", &|data| signed(data, |bytes| bytes[0x180] = 5)),
        ("snp-chip-id", &|data| signed(data, |bytes| bytes[0x1a0] = 1)),
        ("snp-chip-id", &|data| signed(data, |bytes| bytes[0x1a0..0x1e0].fill(0))),
        ("snp-signature", &|data| evidence(stranger.report(data, |_| {}), &[ask(), vcek()])),
        ("snp-signature", &|data| signed(data, |bytes| bytes[0x34] = 2)),
        ("snp-report-data", &|data| signed(data, |bytes| bytes[0x50] ^= 1)),
        ("snp-report-data", &|data| signed(data, |bytes| bytes[0x8f] = 1)),
        ("snp-vmpl", &|data| signed(data, |bytes| bytes[0x30] = 1)),
        ("snp-debug", &|data| signed(data, |bytes| bytes[0x0a] |= 1 << 3)),
    ];
    let year = 31_557_600;
    for (name, make) in &table {
        assert_eq!(reason(&attest(&broker, &key, make)), *name);
    }
    for years in [-10_i64, -1, 1, 10] {
        broker.set(NOW.saturating_add_signed(years * year));
        for (name, make) in &table {
            let reply = attest(&broker, &key, make);
            // A certificate that was not yet or no longer good can be good at another time.
            if reply.status == 200 {
                assert_eq!(*name, "snp-chain-expired");
                assert!(years.abs() == 1);
            }
        }
    }
    broker.set(NOW);
    assert_eq!(attest(&broker, &key, good).status, 200);
    // Refused evidence is in the audit log by name, within limits: anyone can send it.
    let outcomes: Vec<_> = broker
        .events()
        .iter()
        .filter(|event| event["event"] == "attested")
        .map(|event| event["outcome"].clone())
        .collect();
    assert!(outcomes.contains(&json!("snp-version")), "{outcomes:?}");
    assert!(outcomes.len() < 100, "{}", outcomes.len());
}

#[test]
fn each_line_and_version_has_its_own_layout() {
    let roots = ["Milan", "Genoa", "Turin"].into_iter().fold(Roots::of_vendors(), |roots, line| {
        roots.with_amd(line, &maker().ark_certificate(line)).unwrap()
    });
    let broker = Setup { insecure_dev: false, roots, ..Setup::default() }.start();
    let key = Key::p256();
    let vcek = |issuer, product, chip: &[u8], fmc| {
        let chip = Some(chip.to_vec());
        ("VCEK", maker().leaf(&Leaf { issuer, product, chip, fmc, ..Leaf::vcek() }))
    };
    let old = |bytes: &mut [u8], version: u8| {
        bytes[0] = version;
        bytes[0x189] = 0x11;
    };
    let genoa = |data: &[u8], version: u8, product| {
        let ask = ("ASK", maker().intermediate("SEV-Genoa", GOOD));
        let vcek = vcek("SEV-Genoa", product, &common::snp::CHIP, None);
        evidence(maker().report(data, |bytes| old(bytes, version)), &[ask, vcek])
    };
    for product in ["Genoa-B0", "Bergamo-A0", "Siena"] {
        for version in 3..=5 {
            let reply = attest(&broker, &key, |data| genoa(data, version, product));
            let snp = &claims(&reply)["ear.veraison.annotated-evidence"]["snp"];
            assert_eq!(snp["generation"], "genoa", "{product}");
            assert_eq!(snp["evidence"]["launch_mit_vector"].is_null(), version < 5);
        }
    }
    // The security versions have other places, and the chip's id is shorter.
    let turin = |data: &[u8], fmc: u8, change: fn(&mut [u8])| {
        let ask = ("ASK", maker().intermediate("SEV-Turin", GOOD));
        let vcek = vcek("SEV-Turin", "Turin", &common::snp::CHIP[..8], Some(fmc));
        let report = maker().report(data, |bytes| {
            bytes[0] = 5;
            bytes[0x188..0x18b].copy_from_slice(&[0x1a, 2, 0]);
            for at in [0x38, 0x180, 0x1e0, 0x1f0] {
                bytes[at..at + 8].copy_from_slice(&[7, 4, 0, 24, 0, 0, 0, 219]);
            }
            bytes[0x1a8..0x1e0].fill(0);
            bytes[0x1f8] = 9;
            change(bytes);
        });
        evidence(report, &[ask, vcek])
    };
    let reply = attest(&broker, &key, |data| turin(data, 7, |_| {}));
    let snp = &claims(&reply)["ear.veraison.annotated-evidence"]["snp"]["evidence"];
    assert_eq!((&snp["reported_tcb"]["fmc"], &snp["launch_mit_vector"]), (&json!(7), &json!(9)));
    assert_eq!(reason(&attest(&broker, &key, |data| turin(data, 8, |_| {}))), "snp-tcb");
    let longer = |data: &[u8]| turin(data, 7, |bytes| bytes[0x1a8] = 1);
    assert_eq!(reason(&attest(&broker, &key, longer)), "snp-chip-id");
}

#[test]
fn a_td_gets_its_key_if_platform_firmware_and_boot_are_known() {
    let maker = common::tdx::Maker::new();
    let dirs = Arc::new(Dirs::new());
    let collateral = |status: &str| {
        let text = maker.collateral(status).to_string();
        file(&dirs, &format!("{}.json", common::tdx::FMSPC), text)
    };
    collateral("UpToDate");
    let measured = |at: usize| {
        let real = common::vectors::of_package("dcap-qvl", "sample/tdx_quote");
        hex::encode(&real[48 + at..48 + at + 48])
    };
    let values = json!({
        "mr_td": [measured(136)], "rtmr_1": [measured(376)], "rtmr_2": [measured(424)],
        "xfam": ["e702060000000000"], "tdx_init_data": ["none", "ab".repeat(48)],
    });
    let values = file(&dirs, "values.json", values.to_string());
    let roots = Roots::of_vendors().with_intel(maker.root());
    let tdx_collateral_dir = Some(dirs.root().to_owned());
    let evidence = Evidence { references: Some(values), tdx_collateral_dir, ..Evidence::default() };
    let setup =
        Setup { dirs: dirs.clone(), insecure_dev: false, roots, evidence, ..Setup::default() };
    let broker = setup.start();
    broker.put("default/key/one", VALUE);
    let key = Key::rsa(aws_lc_rs::rsa::KeySize::Rsa4096);
    let good = |data: &[u8]| maker.evidence(data, |_| {});

    let reply = attest_as("tdx", &broker, &key, good);
    let cpu = claims(&reply);
    assert_eq!(cpu["ear.status"], "affirming", "{cpu:#}");
    assert_eq!(cpu["ear.veraison.annotated-evidence"]["tdx"]["advisory_ids"], json!(["TEST-SA-1"]));
    let released = broker.get_with_cookie(&reply.cookie(), "default/key/one");
    assert_eq!(key.open(&released.json()), VALUE);

    type Bad<'a> = (&'a str, &'a dyn Fn(&[u8]) -> Value);
    let stranger = common::tdx::Maker::new();
    let table: [Bad<'_>; 9] = [
        ("tdx-format", &|_| json!({ "quote": "AAAA" })),
        ("tdx-report-data", &|data| maker.evidence(&data[1..], |_| {})),
        ("tdx-report-data", &|data| maker.evidence(data, |report| report[583] = 1)),
        ("tdx-debug", &|data| maker.evidence(data, |report| report[120] |= 1)),
        ("tdx-debug", &|data| maker.evidence(data, |report| report[120] |= 0x10)),
        // Migratable, and without SEPT_VE_DISABLE.
        ("tdx-attributes", &|data| maker.evidence(data, |report| report[123] |= 0x20)),
        ("tdx-attributes", &|data| maker.evidence(data, |report| report[123] = 0)),
        ("tdx-tcb", &|data| maker.evidence(data, |report| report[0] = 0)),
        ("tdx-chain", &|data| stranger.evidence(data, |_| {})),
    ];
    let year = 31_557_600;
    for years in [0_i64, -10, -1, 1, 10] {
        broker.set(NOW.saturating_add_signed(years * year));
        for (name, make) in &table {
            let found = reason(&attest_as("tdx", &broker, &key, make));
            let stale = years != 0 && *name != "tdx-format";
            assert_eq!(found, if stale { "tdx-collateral-stale" } else { name }, "{years}");
        }
    }
    broker.set(NOW);
    for (status, expected) in [
        ("SWHardeningNeeded", "warning"),
        ("ConfigurationNeeded", "warning"),
        ("OutOfDate", "contraindicated"),
    ] {
        collateral(status);
        let reply = attest_as("tdx", &broker, &key, good);
        assert_eq!(claims(&reply)["ear.status"], expected, "{status}");
        let released = broker.get_with_cookie(&reply.cookie(), "default/key/one");
        assert_eq!(released.refusal(), (403, "PolicyDeny".to_owned()), "{status}");
    }
    collateral("Revoked");
    assert_eq!(reason(&attest_as("tdx", &broker, &key, good)), "tdx-tcb");
    std::fs::remove_file(dirs.root().join(format!("{}.json", common::tdx::FMSPC))).unwrap();
    assert_eq!(reason(&attest_as("tdx", &broker, &key, good)), "tdx-collateral-missing");
}

#[test]
fn init_data_is_believed_as_far_as_the_host_data_proves_it() {
    let broker = broker();
    let key = Key::p256();
    let body = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = 'a = 1'\n";
    let attested = |host_data: &[u8], init_data: Value| {
        let reply = broker.auth("snp");
        let nonce = reply.json()["nonce"].as_str().unwrap().to_owned();
        let data = STANDARD.decode(report_data(&nonce, &key.jwk(), "")).unwrap();
        let report = maker().report(&data, |bytes| bytes[0xc0..0xe0].copy_from_slice(host_data));
        let mut sent = attestation(&nonce, &key.jwk());
        sent["init-data"] = init_data;
        sent["tee-evidence"]["primary_evidence"] = evidence(report, &[ask(), vcek()]);
        broker.attest(&reply.cookie(), &sent)
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, body.as_bytes());
    let host_data = &digest.as_ref()[..32];
    let toml = |body: &str| json!({ "format": "toml", "body": body });
    let reply = attested(host_data, toml(body));
    let evidence = &claims(&reply)["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["init_data_claims"], json!({ "aa.toml": { "a": 1 } }));
    // Unsaid, it is no claim; said, it has to be true.
    let evidence = &claims(&attested(host_data, Value::Null))["ear.veraison.annotated-evidence"];
    assert_eq!(evidence["init_data_claims"], Value::Null);
    let changed = body.replace("a = 1", "a = 2");
    assert_eq!(reason(&attested(host_data, toml(&changed))), "init-data-mismatch");
    assert_eq!(reason(&attested(&[0; 32], toml(body))), "init-data-mismatch");
    assert_eq!(reason(&attested(host_data, toml("a = "))), "init-data-format");
    let json = json!({ "format": "json", "body": body });
    assert_eq!(reason(&attested(host_data, json)), "init-data-format");
}

#[test]
fn init_data_has_to_be_a_reference_value_and_a_refused_guest_is_told_so() {
    let dirs = Arc::new(Dirs::new());
    let key = Key::rsa(aws_lc_rs::rsa::KeySize::Rsa4096);
    let file_of = |values: &Value| file(&dirs, "values.json", values.to_string());
    let values = Some(file_of(&references()));
    let broker = broker_with(dirs.clone(), Evidence { references: values, ..Evidence::default() });
    let released = |byte: u8| {
        let started = |data: &[u8]| {
            let report = maker().report(data, |bytes| bytes[0xc0..0xe0].fill(byte));
            evidence(report, &[ask(), vcek()])
        };
        let reply = attest(&broker, &key, started);
        assert_eq!(reply.status, 200, "{reply:?}");
        broker.get_with_cookie(&reply.cookie(), "default/key/one")
    };
    let refused = format!("Access denied by policy: {UNKNOWN_INIT_DATA}");
    for (listed, of_none, of_one) in [
        (json!(["none"]), true, false),
        (json!(["00".repeat(32)]), true, false),
        (json!(["11".repeat(32)]), false, true),
        (json!(["none", "11".repeat(32)]), true, true),
        (json!(["11".repeat(31)]), false, false),
        (json!([""]), false, false),
        (json!([]), false, false),
        (json!("none"), false, false),
        (Value::Null, false, false),
    ] {
        let mut values = references();
        values["snp_init_data"] = listed;
        values.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        file_of(&values);
        for (byte, affirms) in [(0, of_none), (0x11, of_one)] {
            let reply = released(byte);
            if affirms {
                assert_eq!(key.open(&reply.json()), VALUE, "{values} {byte}");
            } else {
                assert_eq!(reply.refusal(), (403, "PolicyDeny".to_owned()), "{values} {byte}");
                assert_eq!(reply.json()["detail"], refused, "{values} {byte}");
            }
        }
    }
    let reason = format!("policy: {UNKNOWN_INIT_DATA}");
    assert!(broker.events().iter().any(|event| event["reason"] == reason));
    // All that is wrong is named, and a session still carries it.
    file_of(&json!({}));
    let detail = released(0).json()["detail"].as_str().unwrap().to_owned();
    for claim in ["executables: ", "hardware: ", "configuration: "] {
        assert!(detail.contains(claim), "{detail}");
    }
    assert!(!detail.contains(&"3e".repeat(4)), "{detail}");
}

#[test]
fn without_reference_values_a_genuine_guest_is_not_affirmed_and_gets_nothing() {
    let dirs = Arc::new(Dirs::new());
    let key = Key::p256();
    let refused = (403, "PolicyDeny".to_owned());
    let released = |broker: &Broker| {
        let reply = attest(broker, &key, good);
        assert_eq!(reply.status, 200, "{reply:?}");
        let status = claims(&reply)["ear.status"].clone();
        (broker.get_with_cookie(&reply.cookie(), "default/key/one"), status)
    };
    let without = broker_with(dirs.clone(), Evidence::default());
    let (reply, status) = released(&without);
    assert_eq!((reply.refusal(), status), (refused.clone(), json!("warning")));

    let values = file(&dirs, "values.json", "{}");
    let broker =
        broker_with(dirs.clone(), Evidence { references: Some(values), ..Evidence::default() });
    assert_eq!(released(&broker).0.refusal(), refused);
    for (name, other) in [
        ("snp_launch_measurement", json!(["00".repeat(48)])),
        ("snp_launch_measurement", json!([])),
        ("snp_microcode", json!([218])),
        ("snp_microcode", json!(["219"])),
        ("snp_bootloader", Value::Null),
    ] {
        let mut values = references();
        values[name] = other;
        values.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        file(&dirs, "values.json", values.to_string());
        let (reply, status) = released(&broker);
        assert_eq!((reply.refusal(), status), (refused.clone(), json!("warning")), "{values}");
    }
    // Good again without a restart, as soon as the file is.
    file(&dirs, "values.json", references().to_string());
    assert_eq!(key.open(&released(&broker).0.json()), VALUE);
    // A file that cannot be used attests nobody, and the broker says so.
    for bad in
        ["{", "[]", r#"{"a":[1],"a":[2]}"#, r#"{"a":[null]}"#, r#"{"a":[[1]]}"#, r#"{"a":{}}"#]
    {
        file(&dirs, "values.json", bad);
        assert_eq!(attest(&broker, &key, good).refusal(), (500, "PolicyEngineError".to_owned()));
        assert_eq!(broker.wire.get("/readyz").status, 500);
    }
}

#[test]
fn the_operators_attestation_policy_decides_and_one_that_fails_attests_nobody() {
    let dirs = Arc::new(Dirs::new());
    let key = Key::p256();
    let rego = |claims: &str| format!("package policy\nimport rego.v1\ntrust_claims := {claims}\n");
    let policy = file(&dirs, "attestation.rego", rego(r#"{"executables": 3}"#));
    let broker =
        broker_with(dirs.clone(), Evidence { policy: Some(policy), ..Evidence::default() });
    let status = || claims(&attest(&broker, &key, good))["ear.status"].clone();
    assert_eq!(status(), "affirming");
    for (claims, expected) in [
        ("{}", "none"),
        (r#"{"hardware": 0, "executables": 0}"#, "none"),
        (r#"{"hardware": 0, "executables": -2}"#, "affirming"),
        (r#"{"hardware": 2, "executables": 32}"#, "warning"),
        (r#"{"hardware": 96, "executables": 3}"#, "contraindicated"),
        (r#"{"hardware": 400}"#, ""),
        (r#"{"hardware": "2"}"#, ""),
        (r#"{"hardwear": 2}"#, ""),
        ("[2]", ""),
        ("true", ""),
        (r#"{"hardware": absent(1)}"#, ""),
        (r#"{"hardware": input.nothing}"#, ""),
        (
            r#"{"hardware": count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); a * b == 0])}"#,
            "",
        ),
    ] {
        file(&dirs, "attestation.rego", rego(claims));
        if expected.is_empty() {
            let reply = attest(&broker, &key, good);
            assert_eq!(reply.refusal(), (500, "PolicyEngineError".to_owned()), "{claims}");
        } else {
            assert_eq!(status(), expected, "{claims}");
        }
    }
}

#[test]
fn a_revoked_intermediate_is_refused_and_so_is_a_list_that_cannot_be_believed() {
    let dirs = Arc::new(Dirs::new());
    let values = Some(file(&dirs, "values.json", references().to_string()));
    let snp_crl_dir = Some(dirs.root().to_owned());
    let broker = broker_with(
        dirs.clone(),
        Evidence { references: values, snp_crl_dir, ..Evidence::default() },
    );
    let key = Key::p256();
    let maker = maker();
    let put = |list: &[u8]| drop(file(&dirs, "milan.crl", list));
    let refused = |expected: &str| {
        assert_eq!(reason(&attest(&broker, &key, good)), expected);
    };
    let affirms = || assert_eq!(claims(&attest(&broker, &key, good))["ear.status"], "affirming");
    refused("snp-crl-missing");
    put(&maker.revocations(GOOD, &[], &[]));
    affirms();
    put(&maker.revocations(GOOD, &[2, 3], &[]));
    affirms();
    let revoked = maker.revocations(GOOD, &[2, 1], &[]);
    put(&revoked);
    refused("certificate-revoked");
    // A VLEK's chain has its own list.
    let vlek =
        [("ASK", maker.intermediate("SEV-VLEK-Milan", GOOD)), ("VLEK", maker.leaf(&Leaf::vlek()))];
    let provider = |data: &[u8]| evidence(maker.report(data, |bytes| bytes[0x48] = 0b100), &vlek);
    assert_eq!(reason(&attest(&broker, &key, provider)), "snp-crl-missing");
    file(&dirs, "milan-vlek.crl", &revoked);
    assert_eq!(reason(&attest(&broker, &key, provider)), "certificate-revoked");
    file(&dirs, "milan-vlek.crl", maker.revocations(GOOD, &[], &[]));
    assert_eq!(claims(&attest(&broker, &key, provider))["ear.status"], "affirming");

    for time in [(GOOD.0, NOW - 1), (NOW + 1, GOOD.1)] {
        put(&maker.revocations(time, &[], &[]));
        refused("snp-crl-stale");
    }
    put(&maker.revocations((NOW, NOW), &[], &[]));
    affirms();
    put(&Maker::new().revocations(GOOD, &[], &[]));
    refused("snp-crl");
    // A delta CRL indicator.
    let id = common::snp::oid(&[0x55, 0x1d, 27]);
    let (yes, value) = (common::snp::tlv(1, &[0xff]), common::snp::tlv(4, &[2, 1, 1]));
    put(&maker.revocations(GOOD, &[], &[common::snp::sequence(&[id, yes, value])]));
    refused("snp-crl");
    put(&vec![0; 64 * 1024 + 1]);
    refused("snp-crl-missing");
    // Cut anywhere, or changed in any byte, it stands for nothing.
    for end in 0..revoked.len() {
        put(&revoked[..end]);
        refused("snp-crl");
    }
    for at in 0..revoked.len() {
        let mut changed = revoked.clone();
        changed[at] ^= 1;
        put(&changed);
        let found = reason(&attest(&broker, &key, good));
        assert_eq!(found, "snp-crl", "byte {at}");
    }
}
