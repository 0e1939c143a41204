//! A stand-in for configfs: real files in a real directory, with the kernel's reactions
//! (drivers/virt/coco: report.c, sev-guest.c) after each step.

use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::*;

/// What goes otherwise than it should.
#[derive(Default)]
struct Plan {
    provider: Option<&'static str>,
    auxblob: Option<Vec<u8>>,
    outblob: Option<Vec<u8>>,
    generation: Option<&'static str>,
    /// How many reports somebody else writes to, after us and before we read.
    interferences: u32,
    /// The kernel refuses inblob, which only shows in the generation.
    ignores_inblob: bool,
    /// An attribute that cannot be read, with this error, so many times.
    unreadable: Option<(&'static str, io::ErrorKind, u32)>,
    /// An attribute that is not there.
    missing: Option<&'static str>,
}

#[derive(Clone)]
struct Standin(Arc<Mutex<Plan>>);

fn put(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

fn advance(entry: &Path) {
    let path = entry.join("generation");
    if let Ok(generation) = fs::read_to_string(&path) {
        let next = generation.trim().parse::<u32>().unwrap() + 1;
        put(&path, format!("{next}\n").as_bytes());
    }
}

/// What the hardware would say: the report data, and the VMPL.
fn hardware(entry: &Path) -> Vec<u8> {
    let mut report = hex::decode(vectors()["reports"][1]["bytes"].as_str().unwrap()).unwrap();
    report[0x50..0x90].copy_from_slice(&fs::read(entry.join("inblob")).unwrap());
    let privlevel = fs::read(entry.join("privlevel")).unwrap_or_default();
    report[0x30..0x34].fill(0);
    report[0x30] = privlevel.first().map_or(0, |digit| digit - b'0');
    report
}

impl Configfs for Standin {
    fn make(&self, entry: &Path) -> io::Result<()> {
        Kernel.make(entry)?;
        let plan = self.0.lock().unwrap();
        let provider = plan.provider.unwrap_or("sev_guest\n");
        let generation = plan.generation.unwrap_or("0\n");
        for (attribute, value) in [
            ("provider", provider.as_bytes()),
            ("generation", generation.as_bytes()),
            ("inblob", b""),
            ("outblob", b""),
            ("privlevel", b""),
        ] {
            put(&entry.join(attribute), value);
        }
        if let Some(auxblob) = &plan.auxblob {
            put(&entry.join("auxblob"), auxblob);
        }
        if let Some(attribute) = plan.missing {
            fs::remove_file(entry.join(attribute))?;
        }
        Ok(())
    }

    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()> {
        Kernel.write(attribute, bytes)?;
        let entry = attribute.parent().unwrap();
        let mut plan = self.0.lock().unwrap();
        let is_inblob = attribute.ends_with("inblob");
        if is_inblob && plan.ignores_inblob {
            return Ok(());
        }
        if plan.generation.is_none() {
            advance(entry);
        }
        if is_inblob && plan.interferences > 0 {
            plan.interferences -= 1;
            put(attribute, &[0xee; 64]);
            advance(entry);
        }
        if is_inblob && entry.join("outblob").exists() {
            put(&entry.join("outblob"), &plan.outblob.clone().unwrap_or_else(|| hardware(entry)));
        }
        Ok(())
    }

    fn read(&self, attribute: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        if let Some((name, kind, times)) = &mut self.0.lock().unwrap().unreadable
            && attribute.ends_with(name)
            && *times > 0
        {
            *times -= 1;
            return Err((*kind).into());
        }
        Kernel.read(attribute, bytes_max)
    }

    fn remove(&self, entry: &Path) -> io::Result<()> {
        for attribute in fs::read_dir(entry)? {
            fs::remove_file(attribute?.path())?;
        }
        Kernel.remove(entry)
    }
}

/// The JSON that the `sev` crate (8.0.0) makes of reports, and of a certificate table, whose bytes
/// count up.
fn vectors() -> Value {
    serde_json::from_str(include_str!("snp.json")).unwrap()
}

const DATA: [u8; 48] = [7; 48];

/// Opens, asks for one report, and finds the directory empty afterwards.
fn attest_at(plan: Plan, privlevel: Option<u8>, event_log: &Path) -> Result<Value, TsmError> {
    let root = TempDir::new().unwrap();
    let standin = Standin(Arc::new(Mutex::new(plan)));
    let evidence = Tsm::over(root.path(), privlevel, Box::new(standin)).and_then(|mut tsm| {
        tsm.event_log = event_log.to_owned();
        tsm.report(&DATA)
    });
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "nothing stays behind");
    evidence
}

fn attest(plan: Plan) -> Result<Value, TsmError> {
    attest_at(plan, None, Path::new("/nonexistent"))
}

fn padded(data: &[u8]) -> Value {
    let mut inblob = data.to_vec();
    inblob.resize(64, 0);
    json!(inblob)
}

#[test]
fn snp_evidence_is_over_the_padded_report_data_with_and_without_certificates() {
    let evidence = attest(Plan::default()).unwrap();
    assert_eq!(evidence["attestation_report"]["report_data"], padded(&DATA));
    assert_eq!(evidence["attestation_report"]["vmpl"], 0);
    assert_eq!(evidence["cert_chain"], Value::Null);

    let table = hex::decode(vectors()["table"]["bytes"].as_str().unwrap()).unwrap();
    let evidence = attest(Plan { auxblob: Some(table), ..Plan::default() }).unwrap();
    assert_eq!(evidence["cert_chain"], vectors()["table"]["json"]);
    let evidence = attest(Plan { auxblob: Some(Vec::new()), ..Plan::default() }).unwrap();
    assert_eq!(evidence["cert_chain"], Value::Null);
}

#[test]
fn a_privilege_level_is_written_first_and_counted() {
    let evidence = attest_at(Plan::default(), Some(2), Path::new("/nonexistent")).unwrap();
    assert_eq!(evidence["attestation_report"]["vmpl"], 2);
    let missing = Plan { missing: Some("privlevel"), ..Plan::default() };
    let root = TempDir::new().unwrap();
    let tsm = Tsm::over(root.path(), Some(0), Box::new(Standin(Arc::new(Mutex::new(missing)))));
    let error = tsm.unwrap().report(&DATA).unwrap_err();
    assert_eq!(error.to_string(), "the report's privlevel cannot be written");
}

#[test]
fn tdx_and_cca_evidence_have_upstreams_form() {
    let tdx = || Plan {
        provider: Some("tdx_guest\n"),
        outblob: Some(b"quote".to_vec()),
        ..Plan::default()
    };
    let evidence = attest(tdx()).unwrap();
    assert_eq!(evidence, json!({ "cc_eventlog": null, "quote": "cXVvdGU=" }));
    let log = tempfile::NamedTempFile::new().unwrap();
    put(log.path(), b"log");
    let evidence = attest_at(tdx(), None, log.path()).unwrap();
    assert_eq!(evidence, json!({ "cc_eventlog": "bG9n", "quote": "cXVvdGU=" }));
    put(log.path(), &vec![0; EVENT_LOG_BYTES_MAX + 1]);
    let error = attest_at(tdx(), None, log.path()).unwrap_err();
    assert_eq!(error.to_string(), "the report's event log (CCEL) cannot be read");

    let cca =
        Plan { provider: Some("arm_cca_guest\n"), outblob: Some(vec![1, 2]), ..Plan::default() };
    assert_eq!(attest(cca).unwrap(), json!({ "token": [1, 2] }));
}

#[test]
fn a_race_is_noticed_and_the_report_asked_for_again() {
    for plan in [
        Plan { interferences: ATTEMPTS_MAX - 1, ..Plan::default() },
        Plan { unreadable: Some(("outblob", io::ErrorKind::WouldBlock, 4)), ..Plan::default() },
        Plan { unreadable: Some(("auxblob", io::ErrorKind::ResourceBusy, 4)), ..Plan::default() },
    ] {
        let evidence = attest(plan).unwrap();
        assert_eq!(evidence["attestation_report"]["report_data"], padded(&DATA));
    }
    for plan in [
        Plan { interferences: ATTEMPTS_MAX, ..Plan::default() },
        Plan { ignores_inblob: true, ..Plan::default() },
        Plan { generation: Some("0\n"), ..Plan::default() },
        Plan { generation: Some("2\n"), ..Plan::default() },
        Plan { unreadable: Some(("outblob", io::ErrorKind::WouldBlock, 5)), ..Plan::default() },
    ] {
        assert!(matches!(attest(plan), Err(TsmError::Race)));
    }
}

#[test]
fn what_the_kernel_cannot_have_said_is_refused() {
    let refused = |plan: Plan, expected: &str| {
        assert_eq!(attest(plan).unwrap_err().to_string(), expected);
    };
    let unknown = "the kernel's provider is \"toaster\": sev_guest, tdx_guest and arm_cca_guest are \
                   supported";
    refused(Plan { provider: Some("toaster\n"), ..Plan::default() }, unknown);
    let unread = |attribute: &str| format!("the report's {attribute} cannot be read");
    for attribute in ["provider", "outblob", "generation"] {
        refused(Plan { missing: Some(attribute), ..Plan::default() }, &unread(attribute));
    }
    refused(
        Plan { missing: Some("inblob"), ..Plan::default() },
        "the report's inblob cannot be written",
    );
    let long = vec![0; OUTBLOB_BYTES_MAX + 1];
    refused(Plan { outblob: Some(long.clone()), ..Plan::default() }, &unread("outblob"));
    refused(Plan { auxblob: Some(long), ..Plan::default() }, &unread("auxblob"));
    refused(
        Plan { generation: Some("many"), ..Plan::default() },
        "the report's generation is unusable: it is not a number",
    );
    let empty = "the report's outblob is unusable: it is empty";
    refused(Plan { outblob: Some(Vec::new()), ..Plan::default() }, empty);
    let short =
        "the report's outblob is unusable: it has not the length of an SNP report, 1184 bytes";
    refused(Plan { outblob: Some(vec![2; 1183]), ..Plan::default() }, short);
    let endless = "the report's auxblob is unusable: its list has no end";
    refused(Plan { auxblob: Some(vec![1; 23]), ..Plan::default() }, endless);
}

#[test]
fn report_data_longer_than_the_hardwares_field_is_not_cut() {
    let root = TempDir::new().unwrap();
    let standin = Standin(Arc::new(Mutex::new(Plan::default())));
    let tsm = Tsm::over(root.path(), None, Box::new(standin)).unwrap();
    assert!(matches!(tsm.report(&[0; 65]), Err(TsmError::ReportData(65))));
    assert!(tsm.report(&[1; 64]).is_ok());
}

#[test]
fn a_machine_without_the_interface_is_told_what_it_lacks() {
    let Err(error) = Tsm::open(Path::new("/nonexistent/report"), None) else { panic!("opened") };
    let Error::Evidence { tee: "tsm", source } = error else { panic!("{error:?}") };
    assert!(source.to_string().contains("this is no guest of SNP, TDX or CCA"), "{source}");
}

#[test]
fn reports_have_the_json_of_the_sev_crate() {
    for vector in vectors()["reports"].as_array().unwrap() {
        let bytes = hex::decode(vector["bytes"].as_str().unwrap()).unwrap();
        assert_eq!(snp::report(&bytes).as_ref(), Ok(&vector["json"]));
        for length in 0..bytes.len() {
            assert!(snp::report(&bytes[..length]).is_err(), "{length}");
        }
    }
}

#[test]
fn reports_that_cannot_be_told_apart_are_refused() {
    let of = |change: fn(&mut [u8])| {
        let mut bytes = hex::decode(vectors()["reports"][0]["bytes"].as_str().unwrap()).unwrap();
        change(&mut bytes);
        snp::report(&bytes).unwrap_err()
    };
    assert!(of(|bytes| bytes[0] = 1).contains("before 2"));
    assert!(of(|bytes| bytes[0x1a0..0x1e0].fill(0)).contains("without chip ID"));
    assert!(of(|bytes| bytes[0] = 3).contains("not known"));
}

#[test]
fn certificate_tables_are_bounded_whatever_is_cut_or_changed() {
    let table = hex::decode(vectors()["table"]["bytes"].as_str().unwrap()).unwrap();
    for length in 1..table.len() {
        let why = snp::certificates(&table[..length]).unwrap_err();
        assert!(["its list has no end", "a certificate lies outside the table"].contains(&why));
    }
    for at in 0..table.len() {
        for bit in 0..8 {
            let mut changed = table.clone();
            changed[at] ^= 1 << bit;
            // Unknown, another, or none: what matters is that it ends.
            let _ = snp::certificates(&changed);
        }
    }
    let mut unknown = table.clone();
    unknown[0] ^= 1;
    let certificates = snp::certificates(&unknown).unwrap();
    assert_eq!(certificates[0]["cert_type"], "ASK", "an unknown kind is left out");
    let endless: Vec<u8> = [&table[..24]].repeat(CERTIFICATES_TOO_MANY).concat();
    assert_eq!(snp::certificates(&endless), Err("it has too many certificates"));
}

const CERTIFICATES_TOO_MANY: usize = 17;
