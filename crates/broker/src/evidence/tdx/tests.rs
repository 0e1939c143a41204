use super::*;
use crate::evidence::vectors::{of_folder, of_package};

const YEAR: u64 = 31_557_600;

/// A vector of `dcap-qvl`, and a time at which its collateral is good.
struct Vector {
    quote: &'static str,
    collateral: &'static str,
    now: u64,
}

const UP_TO_DATE: Vector = Vector {
    quote: "sample/tdx_quote",
    collateral: "sample/tdx_quote_collateral.json",
    now: 1_750_377_600,
};
const PARTITIONED: Vector = Vector {
    quote: "sample/tdx_quote_td15ex",
    collateral: "sample/tdx_quote_td15ex_collateral.json",
    now: 1_792_000_000,
};

impl Vector {
    fn quote(&self) -> Vec<u8> {
        of_package("dcap-qvl", self.quote)
    }

    fn collateral(&self) -> Value {
        serde_json::from_slice(&of_package("dcap-qvl", self.collateral)).unwrap()
    }

    /// A verifier with this collateral, where the quote's platform looks for it.
    fn verifier(&self, collateral: &Value) -> (tempfile::TempDir, Tdx) {
        let dir = tempfile::tempdir().unwrap();
        let quote = Quote::parse(&self.quote()).unwrap();
        let fmspc = hex::encode(intel::quote_fmspc_with::<AwsLc>(&quote).unwrap());
        let file = dir.path().join(format!("{fmspc}.json"));
        std::fs::write(file, collateral.to_string()).unwrap();
        let tdx = Tdx::new(dir.path().to_owned(), intel_root()).unwrap();
        (dir, tdx)
    }
}

fn evidence(quote: &[u8]) -> Value {
    json!({ "cc_eventlog": null, "quote": STANDARD.encode(quote) })
}

fn refused<T>(found: Result<T, Rejection>) -> Refused {
    found.err().expect("it is refused").reason
}

#[test]
fn real_quotes_are_genuine_and_for_nobody_else() {
    for (vector, version) in [(UP_TO_DATE, "0400"), (PARTITIONED, "0500")] {
        let (_dir, tdx) = vector.verifier(&vector.collateral());
        let quote = evidence(&vector.quote());
        let proven = tdx.genuine(&quote, vector.now).unwrap();
        let claims = claims(&proven);
        println!("{claims:#}");
        assert_eq!(claims["quote"]["header"]["version"], version);
        assert_eq!(claims["quote"]["header"]["tee_type"], "81000000");
        assert_eq!(claims["quote"]["header"]["vendor_id"], "939a7233f79c4ca9940a0db3957f0607");
        assert_eq!(claims["tcb_status"], proven.tcb.status.to_string());
        assert_eq!(claims["td_attributes"]["debug"], false);
        let report = tdx.appraise(&quote, &ReportData([7; 48]), vector.now);
        assert_eq!(refused(report), Refused::TdxReportData);
    }
}

#[test]
fn every_cut_and_every_changed_byte_of_a_quote_is_refused_or_changes_nothing() {
    let good = UP_TO_DATE.quote();
    let (_dir, tdx) = UP_TO_DATE.verifier(&UP_TO_DATE.collateral());
    let genuine = |quote: &[u8]| tdx.genuine(&evidence(quote), UP_TO_DATE.now);
    let expected = claims(&genuine(&good).unwrap());
    // The buffer is longer than the quote: what is cut there was nothing.
    let quote_bytes = 4936;
    for length in (0..quote_bytes).chain(quote_bytes..good.len()) {
        let found = genuine(&good[..length]);
        assert_eq!(found.is_ok(), length >= quote_bytes, "{length} bytes");
    }
    let chain = {
        let pem = b"-----BEGIN CERTIFICATE-----";
        good.windows(pem.len()).position(|window| window == pem).unwrap()
    };
    let (mut indifferent, mut lengths) = (0, Vec::new());
    for at in 0..good.len() {
        let mut quote = good.clone();
        quote[at] ^= 1;
        if let Ok(proven) = genuine(&quote) {
            assert_eq!(claims(&proven), expected, "byte {at}");
            // Line ends of the PEM, and the root in it, which is not looked at.
            if (chain..quote_bytes).contains(&at) {
                indifferent += 1;
            } else {
                lengths.push(at);
            }
        }
    }
    println!("{indifferent} bytes of the certificates do not matter");
    assert!(indifferent < 1500, "{indifferent}");
    // How many of the zeroes behind the quote belong to it: nothing is read there.
    assert_eq!(lengths, [632]);
}

#[test]
fn no_clock_turns_a_refusal_into_a_release() {
    let (_dir, tdx) = UP_TO_DATE.verifier(&UP_TO_DATE.collateral());
    let good = UP_TO_DATE.quote();
    let mut forged = good.clone();
    forged[200] ^= 1;
    for years in 0..=20 {
        let now = UP_TO_DATE.now - 10 * YEAR + years * YEAR;
        assert!(tdx.genuine(&evidence(&forged), now).is_err(), "{now}");
        let found = tdx.genuine(&evidence(&good), now);
        if years == 10 {
            assert!(found.is_ok());
        } else {
            assert_eq!(refused(found), Refused::TdxCollateralStale, "{now}");
        }
    }
    for now in [0, u64::MAX] {
        assert_eq!(refused(tdx.genuine(&evidence(&good), now)), Refused::TdxCollateralStale);
    }
}

#[test]
fn collateral_is_read_again_and_believed_only_as_far_as_intel_signed_it() {
    let good = UP_TO_DATE.collateral();
    let (dir, tdx) = UP_TO_DATE.verifier(&good);
    let quote = evidence(&UP_TO_DATE.quote());
    let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let genuine = || tdx.genuine(&quote, UP_TO_DATE.now).map(drop);
    genuine().unwrap();
    let with = |name: &str, value: Value| {
        let mut collateral = good.clone();
        collateral[name] = value;
        std::fs::write(&file, collateral.to_string()).unwrap();
        refused(genuine())
    };
    let changed = |name: &str, from: &str, to: &str| {
        let text = good[name].as_str().unwrap();
        assert!(text.contains(from), "{name} has {from}");
        with(name, json!(text.replacen(from, to, 1)))
    };
    assert_eq!(changed("tcb_info", "OutOfDate", "UpToDate"), Refused::TdxChain);
    assert_eq!(changed("qe_identity", "\"isvprodid\":2", "\"isvprodid\":3"), Refused::TdxChain);
    assert_eq!(
        changed("tcb_info", "nextUpdate\":\"2025", "nextUpdate\":\"2035"),
        Refused::TdxChain
    );
    assert_eq!(with("tcb_info", json!("{}")), Refused::TdxCollateral);
    assert_eq!(with("pck_crl", json!("00")), Refused::TdxCollateral);
    assert_eq!(with("root_ca_crl", good["pck_crl"].clone()), Refused::TdxChain);
    assert_eq!(with("tcb_info_signature", json!("00".repeat(64))), Refused::TdxChain);
    assert_eq!(with("tcb_info_issuer_chain", json!("")), Refused::TdxChain);
    // A chain that the operator's file brings is not looked at.
    let mut collateral = good.clone();
    collateral["pck_certificate_chain"] = json!("nonsense");
    std::fs::write(&file, collateral.to_string()).unwrap();
    genuine().unwrap();
    std::fs::write(&file, "{").unwrap();
    assert_eq!(refused(genuine()), Refused::TdxCollateral);
    std::fs::write(&file, vec![b' '; COLLATERAL_BYTES_MAX + 1]).unwrap();
    assert_eq!(refused(genuine()), Refused::TdxCollateral);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(refused(genuine()), Refused::TdxCollateralMissing);
    std::fs::write(&file, good.to_string()).unwrap();
    genuine().unwrap();
}

#[test]
fn another_root_and_what_is_no_td_are_refused() {
    let (dir, _) = UP_TO_DATE.verifier(&UP_TO_DATE.collateral());
    let key = rcgen::KeyPair::generate().unwrap();
    let root = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
    let other = Tdx::new(dir.path().to_owned(), root).unwrap();
    let quote = evidence(&UP_TO_DATE.quote());
    assert_eq!(refused(other.genuine(&quote, UP_TO_DATE.now)), Refused::TdxChain);

    let tdx = Tdx::new(dir.path().to_owned(), intel_root()).unwrap();
    let sgx = evidence(&of_package("dcap-qvl", "sample/sgx_quote"));
    assert_eq!(refused(tdx.genuine(&sgx, UP_TO_DATE.now)), Refused::TdxVersion);
    for bad in [
        json!(null),
        json!({}),
        json!({ "quote": 1 }),
        json!({ "quote": "?" }),
        json!({ "quote": "" }),
        evidence(&[0; 100]),
        evidence(&[4; QUOTE_BYTES_MAX + 3]),
    ] {
        assert_eq!(refused(tdx.genuine(&bad, UP_TO_DATE.now)), Refused::TdxFormat, "{bad:.80}");
    }
    assert!(Tdx::new(dir.path().join("absent"), intel_root()).is_err());
}

#[test]
fn trustees_quotes_have_no_collateral_here() {
    for file in ["tdx_quote_4.dat", "tdx_quote_5.dat", "tdx_quote_6.dat"] {
        let Some(quote) = of_folder(file) else { return };
        parse(&quote).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let tdx = Tdx::new(dir.path().to_owned(), intel_root()).unwrap();
        let found = refused(tdx.genuine(&evidence(&quote), UP_TO_DATE.now));
        assert_eq!(found, Refused::TdxCollateralMissing, "{file}");
    }
}
