use std::time::Duration;

use super::*;

const NOW: u64 = 1_800_000_000;

fn place() -> Place<'static> {
    Place {
        namespace: Some("team-a"),
        service_account: Some("db"),
        file: File::At("password"),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(NOW),
    }
}

fn audience(json: &str) -> Result<Audience, serde_json::Error> {
    serde_json::from_str(json)
}

fn encoded(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for sextet in 0..=group.len() {
            let index = usize::try_from(bits >> (18 - 6 * sextet) & 63).expect("six bits");
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

fn sealed(payload: &str) -> Vec<u8> {
    format!("sealed.e30.{}.sig", encoded(payload.as_bytes())).into_bytes()
}

/// Each binding: met, not met, and where nobody knows.
#[test]
fn every_binding_is_met_or_the_secret_is_refused_by_its_name() {
    let here = place();
    for (json, elsewhere, nowhere, names) in [
        (
            r#"{"namespace":"team-a"}"#,
            Place { namespace: Some("team-b"), ..here },
            Place { namespace: None, ..here },
            "namespace team-a",
        ),
        (
            r#"{"service_account":"db"}"#,
            Place { service_account: Some("web"), ..here },
            Place { service_account: None, ..here },
            "service account db",
        ),
        (
            r#"{"key":"password"}"#,
            Place { file: File::At("user"), ..here },
            Place { file: File::Unknown, ..here },
            "file password",
        ),
        (
            r#"{"expires":"2027-01-15T08:00:01Z"}"#,
            Place { now: here.now + Duration::from_secs(1), ..here },
            Place { now: SystemTime::UNIX_EPOCH - Duration::from_secs(1), ..here },
            "expired at 2027-01-15T08:00:01Z",
        ),
    ] {
        let bound = audience(json).unwrap();
        assert_eq!(bound.admits(&here), Ok(()), "{json}");
        for place in [elsewhere, nowhere] {
            let refused = bound.admits(&place).unwrap_err().to_string();
            assert!(refused.contains(names), "{json}: {refused}");
            assert_eq!(Audience::default().admits(&place), Ok(()));
        }
        // One that is met does not make up for another that is not.
        let both = Audience { namespace: Some("other".into()), ..bound };
        assert!(both.admits(&here).is_err(), "{json}");
    }
    let kept = Place { file: File::KeptByCaller, ..here };
    assert_eq!(audience(r#"{"key":"other"}"#).unwrap().admits(&kept), Ok(()));
}

#[test]
fn an_audience_says_one_thing_or_nothing() {
    for bad in [
        r#"["team-a","db"]"#,
        r#"{"namespace":null}"#,
        r#"{"namespace":""}"#,
        r#"{"namespace":"Team"}"#,
        r#"{"namespace":["team-a"]}"#,
        r#"{"namespace":"a","namespace":"b"}"#,
        r#"{"service_account":"a b"}"#,
        r#"{"key":"../password"}"#,
        r#"{"key":""}"#,
        r#"{"expires":"2027-01-01"}"#,
        r#"{"expires":1800000000}"#,
        r#"{"pod":"x"}"#,
        "null",
        "7",
    ] {
        let payload = format!(r#"{{"annotations":{{"sealift.audience":{bad}}}}}"#);
        assert_eq!(Audience::claimed(&sealed(&payload)), Err(Refused::Unreadable), "{bad}");
        let annotations = format!(r#"{{"sealift.audience":{bad}}}"#);
        assert!(serde_json::from_str::<Annotations>(&annotations).is_err(), "{bad}");
    }
}

#[test]
fn the_audience_of_a_sealed_text_is_found_among_foreign_annotations() {
    let claimed = |payload: &str| Audience::claimed(&sealed(payload));
    assert_eq!(claimed(r#"{"annotations":{}}"#), Ok(Audience::default()));
    assert_eq!(claimed(r#"{"version":"0.1.0"}"#), Ok(Audience::default()));
    let found = claimed(r#"{"a":1,"annotations":{"x":[{}],"sealift.audience":{"key":"a/b"}}}"#);
    assert_eq!(found.unwrap().key.as_deref(), Some("a/b"));
    let twice = r#"{"annotations":{"sealift.audience":{"key":"a"},"sealift.audience":{}}}"#;
    let again = r#"{"annotations":{"sealift.audience":{"key":"a"}},"annotations":{}}"#;
    let escaped = r#"{"annotations":{"sealift.audience":{"key":"a"},"sealift\u002eaudience":{}}}"#;
    for bad in [twice, again, escaped, r#"{"annotations":[]}"#, r#"[{}]"#, "", "{", "{} {}"] {
        assert_eq!(claimed(bad), Err(Refused::Unreadable), "{bad}");
    }
    for text in ["", "sealed", "sealed.a"] {
        assert_eq!(Audience::claimed(text.as_bytes()), Ok(Audience::default()), "{text}");
    }
    for text in ["sealed.a.", "sealed.a.!.c", "sealed.a.e30=.c", "sealed.a.e.c"] {
        assert_eq!(Audience::claimed(text.as_bytes()), Err(Refused::Unreadable), "{text}");
    }
    // What every cut and every changed byte of the payload says is nothing, or another text.
    let whole = sealed(r#"{"annotations":{"sealift.audience":{"key":"a"}}}"#);
    for end in "sealed.e30.".len()..whole.len() {
        let cut = Audience::claimed(&whole[..end]);
        assert!(cut.is_err() || end >= whole.len() - 4, "{end}");
    }
}

#[test]
fn base64url_has_one_spelling() {
    for bytes in [&b""[..], b"f", b"fo", b"foo", b"foob", &[0xff; 31], &[0xfb, 0xef]] {
        let text = encoded(bytes);
        assert_eq!(base64url(text.as_bytes()).as_deref(), Some(bytes), "{text}");
    }
    for bad in ["Zh", "Zm9", "Z", "Zg==", "Zm9v\n", "Zm+v", "Zm/v"] {
        assert_eq!(base64url(bad.as_bytes()), None, "{bad}");
    }
}

#[test]
fn times_are_read_as_they_are_written() {
    for (text, seconds) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-02-29T23:59:59Z", 951_868_799),
        ("2027-01-15T08:00:00Z", NOW),
        ("9999-12-31T23:59:59Z", 253_402_300_799),
    ] {
        let time = Time::parse(text).unwrap();
        assert_eq!((time.unix_seconds(), time.to_string()), (seconds, text.to_owned()));
    }
    for bad in [
        "1969-12-31T23:59:59Z",
        "2027-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "2027-13-01T00:00:00Z",
        "2027-00-01T00:00:00Z",
        "2027-01-00T00:00:00Z",
        "2027-01-01T24:00:00Z",
        "2027-01-01T00:60:00Z",
        "2027-01-01T00:00:60Z",
        "2027-01-01t00:00:00z",
        "2027-01-01T00:00:00.0Z",
        "2027-01-01T00:00:00+00:00",
        "2027-01-01T00:00:0０",
        "+027-01-01T00:00:00Z",
        "",
    ] {
        assert_eq!(Time::parse(bad), None, "{bad}");
    }
}
