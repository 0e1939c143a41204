use super::*;

fn policy(references: Value) -> (tempfile::TempDir, AttestationPolicy) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("values.json");
    std::fs::write(&file, references.to_string()).unwrap();
    let policy = AttestationPolicy::open(None, Some(file)).unwrap();
    (dir, policy)
}

fn status(policy: &AttestationPolicy, tee: &str, claims: Value) -> Status {
    let evidence = json!({ tee: claims, "report_data": "" });
    policy.appraise(Tee::parse(tee).unwrap(), &evidence).unwrap().status
}

fn td(tcb_status: &str) -> Value {
    let body = json!({ "mr_td": "aa", "rtmr_1": "01", "rtmr_2": "02", "xfam": "e7" });
    json!({
        "tcb_status": tcb_status, "td_attributes": { "debug": false }, "quote": { "body": body },
        "init_data": "00",
    })
}

#[test]
fn a_td_is_judged_by_its_platform_its_firmware_and_its_boot() {
    let references = json!({ "mr_td": ["aa"], "rtmr_1": ["01"], "rtmr_2": ["02", "03"], "xfam": ["e7"],
            "tdx_init_data": ["none"] });
    let (_dir, known) = policy(references.clone());
    for (tcb_status, expected) in [
        ("UpToDate", Status::Affirming),
        ("SWHardeningNeeded", Status::Warning),
        ("ConfigurationNeeded", Status::Warning),
        ("ConfigurationAndSWHardeningNeeded", Status::Warning),
        ("OutOfDate", Status::Contraindicated),
        ("OutOfDateConfigurationNeeded", Status::Contraindicated),
        ("TDRelaunchAdvised", Status::Contraindicated),
        ("Revoked", Status::Contraindicated),
        ("SomethingNew", Status::Contraindicated),
    ] {
        assert_eq!(status(&known, "tdx", td(tcb_status)), expected, "{tcb_status}");
    }
    for name in ["mr_td", "rtmr_1", "rtmr_2", "xfam", "tdx_init_data"] {
        let mut fewer = references.clone();
        fewer.as_object_mut().unwrap().remove(name);
        let (_dir, policy) = policy(fewer);
        assert_eq!(status(&policy, "tdx", td("UpToDate")), Status::Warning, "{name}");
    }
    let mut debugged = td("UpToDate");
    debugged["td_attributes"]["debug"] = json!(true);
    assert_eq!(status(&known, "tdx", debugged), Status::Warning);
}

#[test]
fn each_claim_that_does_not_affirm_is_named() {
    let (_dir, empty) = policy(json!({}));
    let reasons = |policy: &AttestationPolicy, tee: &str, claims: Value| {
        policy.appraise(Tee::parse(tee).unwrap(), &json!({ tee: claims })).unwrap().reasons
    };
    let td_reasons = reasons(&empty, "tdx", td("OutOfDate"));
    assert_eq!(
        td_reasons,
        [
            "configuration: XFAM is not a reference value",
            "configuration: init-data is not a reference value",
            "executables: RTMR 1 or 2 is not a reference value",
            "hardware: MRTD is not a reference value",
            "hardware: the TCB is not up to date",
        ]
    );
    assert_eq!(reasons(&empty, "tpm", json!({})), ["executables: a PCR is not a reference value"]);
    assert_eq!(reasons(&empty, "sample", json!({})), ["sample evidence proves nothing"]);
    // A policy without the rule: the numbers.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.rego");
    let of = |text: &str| {
        std::fs::write(&file, format!("package policy\n{text}")).unwrap();
        reasons(&AttestationPolicy::open(Some(file.clone()), None).unwrap(), "snp", json!({}))
    };
    let claims = r#"trust_claims := {"hardware": 97, "executables": 3, "file-system": 0}"#;
    assert_eq!(of(claims), ["hardware: 97"]);
    assert_eq!(of("trust_claims := {}"), ["the attestation policy claims nothing"]);
    assert_eq!(of(&format!("{claims}\nreasons := [\"other\"]")), ["other", "hardware: 97"]);
    assert!(of(r#"trust_claims := {"hardware": 2}"#).is_empty());
}

#[test]
fn nothing_affirms_without_reference_values() {
    let (_dir, empty) = policy(json!({}));
    let none = AttestationPolicy::open(None, None).unwrap();
    let azure = json!({
        "measurement": "aa", "tpm": { "pcr11": "bb" }, "tcb_status": "UpToDate",
        "quote": { "body": { "mr_td": "aa", "xfam": "e7" } },
    });
    for policy in [&empty, &none] {
        for tee in ["snp", "tdx", "tpm", "az-snp-vtpm", "az-tdx-vtpm", "cca", "sample"] {
            for claims in [json!({}), td("UpToDate"), azure.clone(), json!(null)] {
                assert!(status(policy, tee, claims) > Status::Affirming, "{tee}");
            }
        }
    }
}

#[test]
fn one_tees_claims_do_not_stand_for_anothers() {
    let (_dir, policy) = policy(json!({ "mr_td": ["aa"], "rtmr_1": ["01"], "rtmr_2": ["02"],
        "xfam": ["e7"], "tpm_pcr04": ["aa"], "tpm_pcr11": ["bb"] }));
    assert_eq!(status(&policy, "snp", td("UpToDate")), Status::Warning);
    let tpm = |four: &str, eleven: &str| json!({ "pcr04": four, "pcr07": "any", "pcr11": eleven });
    assert_eq!(status(&policy, "tpm", tpm("aa", "bb")), Status::Affirming);
    // All that are listed have to be met, and to be there.
    assert_eq!(status(&policy, "tpm", tpm("aa", "cc")), Status::Warning);
    assert_eq!(status(&policy, "tpm", tpm("cc", "bb")), Status::Warning);
    assert_eq!(status(&policy, "tpm", json!({ "pcr11": "bb" })), Status::Warning);
    assert_eq!(status(&policy, "tpm", json!({ "pcr07": "any" })), Status::Warning);
}

#[test]
fn sample_is_never_more_than_contraindicated() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.rego");
    std::fs::write(&file, "package policy\ntrust_claims := {\"hardware\": 2}").unwrap();
    let policy = AttestationPolicy::open(Some(file), None).unwrap();
    assert_eq!(status(&policy, "snp", json!({})), Status::Affirming);
    assert_eq!(status(&policy, "sample", json!({ "svn": "1" })), Status::Contraindicated);
}

#[test]
fn upstreams_form_of_a_policy_runs_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (policy, values) = (dir.path().join("policy.rego"), dir.path().join("values.json"));
    std::fs::write(
        &policy,
        r#"package policy
           import rego.v1
           default executables := 33
           default hardware := 97
           trust_claims := { "executables": executables, "hardware": hardware, "file-system": 0 }
           executables := 3 if {
               input.snp
               input.snp.evidence.measurement in query_reference_value("measured")
           }
           hardware := 2 if {
               input.snp.evidence.plat_info.smt_enabled == query_reference_value("smt")
               is_null(query_reference_value("absent"))
           }"#,
    )
    .unwrap();
    std::fs::write(&values, r#"{"measured": ["aa"], "smt": true}"#).unwrap();
    let policy = AttestationPolicy::open(Some(policy), Some(values)).unwrap();
    let snp = |smt: bool| json!({ "evidence": { "measurement": "aa", "plat_info": { "smt_enabled": smt } } });
    assert_eq!(status(&policy, "snp", snp(true)), Status::Affirming);
    assert_eq!(status(&policy, "snp", snp(false)), Status::Contraindicated);
}

#[test]
fn files_that_cannot_be_used_stop_the_start_and_say_why() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let opened = |text: &str, is_policy: bool| {
        std::fs::write(&file, text).unwrap();
        let (policy, values) =
            if is_policy { (Some(file.clone()), None) } else { (None, Some(file.clone())) };
        AttestationPolicy::open(policy, values).map(drop).map_err(|error| error.to_string())
    };
    for text in [
        "",
        "package other\ntrust_claims := {}",
        "package policy\nallow := true",
        "package policy\ntrust_claims :=",
    ] {
        assert!(opened(text, true).unwrap_err().contains("attestation policy"), "{text}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let many = format!("{{\"a\":[{}1]}}", "1,".repeat(1000));
    let names: Vec<_> = (0..=1000).map(|at| format!("\"{at}\":[]")).collect();
    for (text, word) in [
        ("", "EOF"),
        ("[]", "object of lists"),
        (r#"{"a": [null]}"#, "\"a\""),
        (r#"{"a": [[]]}"#, "\"a\""),
        (r#"{"a": null}"#, "\"a\""),
        (r#"{"": [1]}"#, "\"\""),
        (r#"{"a": [1], "a": [2]}"#, "twice"),
        (&deep, "invalid type"),
        (&many, "1000"),
        (&format!("{{{}}}", names.join(",")), "1000 names"),
        (&format!("{{\"a\":[\"{}\"]}}", "x".repeat(1025)), "\"a\""),
        (r#"{"a": [1]} x"#, "trailing"),
    ] {
        let why = opened(text, false).unwrap_err();
        assert!(why.contains("reference values in") && why.contains(word), "{why:.200}");
    }
    let large = format!("{{\"a\":[1]}}{}", " ".repeat(1 << 20));
    assert!(opened(&large, false).is_err());
    opened(r#"{"a": ["x", 1, true], "b": false}"#, false).unwrap();
}
