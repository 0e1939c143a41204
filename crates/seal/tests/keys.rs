//! Released keys, what they say, and what that means for a manifest.
#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use seal::Error;
use seal::jwe::KeyWrap;
use seal::key::{Dek, Kek, Purpose};
use seal::name::{Digest, KeyUri, ModelName};
use seal::pin::{Demand, Pin, Pins};
use secret::Secret;

const RAW: [u8; 32] = *b"\xfb\xef\xbe 0123456789abcdefghijklmnop \xff";

fn k() -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(RAW)
}

fn parse(released: impl AsRef<[u8]>) -> Result<Kek, Error> {
    Kek::parse(&Secret::copy(released.as_ref()).unwrap())
}

fn jwk(members: &str) -> Result<Kek, Error> {
    parse(format!(r#"{{"kty":"oct","k":"{}"{members}}}"#, k()))
}

#[test]
fn reads_raw_bytes_base64_and_jwk() {
    let url = k();
    let standard = url.replace('-', "+").replace('_', "/");
    for text in [
        standard.clone(),
        format!("{standard}="),
        url.clone(),
        format!("{url}="),
        format!("{url}\n"),
        format!("{standard}=\n"),
        format!(r#"{{"kty":"oct","k":"{url}"}}"#),
        format!(" {{\n\"k\": \"{url}\", \"kty\": \"oct\"}}\n"),
        format!(r#"{{"kty":"oct","k":"{url}","use":"enc","x":{{"y":[1,2.5,null]}},"kid":"mine"}}"#),
    ] {
        let kek = parse(&text).unwrap();
        assert_eq!(kek.expose(), RAW, "{text}");
        assert!(kek.pins().is_none() && kek.resource().is_none());
    }
    assert_eq!(parse(RAW).unwrap().expose(), RAW);
    // 32 bytes are never text.
    assert_eq!(parse("A".repeat(32)).unwrap().expose(), [b'A'; 32]);
}

#[test]
fn refuses_everything_else() {
    let url = k();
    let mut changed_tail = url.clone();
    changed_tail.replace_range(42.., "x");
    for text in [
        "".to_owned(),
        "\n".to_owned(),
        "A".repeat(31),
        "A".repeat(33),
        "A".repeat(42),
        "00".repeat(32),
        format!("{url}=="),
        format!("{url} "),
        format!(" {url}"),
        format!("{url}\n\n"),
        format!("\"{url}\""),
        // Not canonical: bits behind the last byte.
        changed_tail.clone(),
        format!("{changed_tail}="),
        "{}".to_owned(),
        "[]".to_owned(),
        r#"{"kty":"oct"}"#.to_owned(),
        r#"{"kty":"oct","k":""}"#.to_owned(),
        r#"{"kty":"oct","k":1}"#.to_owned(),
        format!(r#"{{"kty":"oct","k":"{url}="}}"#),
        format!(r#"{{"kty":"oct","k":"{changed_tail}"}}"#),
        format!(r#"{{"kty":"oct","k":"{}"}}"#, &url[..40]),
        format!(r#"{{"kty":"oct","k":"{url}AAAA"}}"#),
        format!(r#"{{"k":"{url}"}}"#),
        format!(r#"{{"kty":"RSA","k":"{url}"}}"#),
        format!(r#"{{"kty":"OCT","k":"{url}"}}"#),
        format!(r#"{{"kty":"oct","k":"{url}","k":"{url}"}}"#),
        format!(r#"{{"kty":"oct","k":"{url}","x":{{"a":1,"a":1}}}}"#),
        format!(r#"{{"kty":"oct","k":"{url}"}} x"#),
        format!(r#"{{"keys":[{{"kty":"oct","k":"{url}"}}]}}"#),
        "ttrpc request error".to_owned(),
        "<html></html>".to_owned(),
    ] {
        let refused = parse(&text);
        let Err(Error::KeyUnusable(why)) = refused else { panic!("{text} was not refused") };
        assert!(!why.contains(&url[..8]));
    }
}

#[test]
fn a_jwk_must_be_for_wrapping() {
    for (members, wrap) in [
        ("", KeyWrap::A256Kw),
        (r#","alg":"A256KW""#, KeyWrap::A256Kw),
        (r#","alg":"A256GCMKW""#, KeyWrap::A256GcmKw),
        (r#","alg":"A256GCM""#, KeyWrap::A256Kw),
    ] {
        assert_eq!(jwk(members).unwrap().wrap(), wrap, "{members}");
    }
    for members in [
        r#","alg":"HS256""#,
        r#","alg":"A128KW""#,
        r#","alg":"dir""#,
        r#","alg":"a256kw""#,
        r#","alg":null"#,
        r#","alg":["A256KW"]"#,
        r#","use":"sig""#,
        r#","use":null"#,
    ] {
        assert!(jwk(members).is_err(), "{members}");
    }
}

#[test]
fn pins_of_a_jwk_are_read_strictly() {
    let digest = Digest::of(b"m");
    let kek = jwk(&format!(
        r#","kid":"kbs:///default/key/1","sealift":{{"a":{{"min_generation":7}},"b/c":{{"digests":["{digest}"]}},"d":{{}}}}"#
    ))
    .unwrap();
    assert_eq!(kek.resource().unwrap().to_string(), "kbs:///default/key/1");
    let name = |name| ModelName::parse(name).unwrap();
    let expected = Pins::from([
        (name("a"), Pin { min_generation: Some(7), digests: vec![] }),
        (name("b/c"), Pin { min_generation: None, digests: vec![digest] }),
        (name("d"), Pin::default()),
    ]);
    assert_eq!(kek.pins(), Some(&expected));
    assert_eq!(jwk(r#","sealift":{}"#).unwrap().pins(), Some(&Pins::new()));

    for sealift in [
        "null",
        "[]",
        "7",
        r#"{"a":null}"#,
        r#"{"a":[]}"#,
        r#"{"a":7}"#,
        r#"{"":{}}"#,
        r#"{"/a":{}}"#,
        r#"{"a":{},"a":{}}"#,
        r#"{"a":{"min_generation":-1}}"#,
        r#"{"a":{"min_generation":1.0}}"#,
        r#"{"a":{"min_generation":"1"}}"#,
        r#"{"a":{"min_generation":null}}"#,
        r#"{"a":{"min_generation":9007199254740992}}"#,
        r#"{"a":{"min_generation":1,"min_generation":2}}"#,
        r#"{"a":{"minGeneration":1}}"#,
        r#"{"a":{"digests":[]}}"#,
        r#"{"a":{"digests":{}}}"#,
        r#"{"a":{"digests":"sha256:00"}}"#,
        r#"{"a":{"digests":["sha256:00"]}}"#,
        r#"{"a":{"digests":[7]}}"#,
    ] {
        let refused = jwk(&format!(r#","sealift":{sealift}"#));
        assert!(matches!(refused, Err(Error::KeyUnusable(_))), "{sealift}");
    }
}

#[test]
fn a_jwk_survives_writing() {
    let digest = Digest::of(b"m");
    let name = ModelName::parse("m").unwrap();
    let pin = Pin { min_generation: Some(3), digests: vec![digest] };
    let kek = jwk(r#","kid":"kbs:///a/b/c","alg":"A256GCMKW""#).unwrap();
    let kek = kek.with_pins(Pins::from([(name, pin)]));
    let text = String::from_utf8(kek.to_jwk().unwrap().expose().to_vec()).unwrap();
    let expected = format!(
        r#"{{"kty":"oct","alg":"A256GCMKW","k":"{}","kid":"kbs:///a/b/c","sealift":{{"m":{{"min_generation":3,"digests":["{digest}"]}}}}}}"#,
        k()
    );
    assert_eq!(text, expected);
    let again = parse(text).unwrap();
    assert_eq!((again.expose(), again.pins()), (kek.expose(), kek.pins()));
    assert_eq!((again.resource(), again.wrap()), (kek.resource(), kek.wrap()));
    let bare = format!(r#"{{"kty":"oct","k":"{}"}}"#, k());
    assert_eq!(parse(RAW).unwrap().to_jwk().unwrap().expose(), bare.as_bytes());
}

#[test]
fn keys_are_fresh_sized_and_never_printed() {
    let uri = KeyUri::parse("kbs:///a/b/c").unwrap();
    let (one, two) = (Kek::random(uri.clone()), Kek::random(uri.clone()));
    assert_ne!(one.expose(), two.expose());
    assert_eq!((one.expose().len(), one.resource()), (32, Some(&uri)));
    assert!(Dek::from_secret(Secret::copy(&[1; 31]).unwrap()).is_err());
    assert!(Dek::from_secret(Secret::copy(&[1; 33]).unwrap()).is_err());
    let printed = format!("{:?} {:?}", jwk("").unwrap(), Dek::random());
    assert!(printed.contains("[redacted]") && !printed.contains(&k()[..8]), "{printed}");
}

/// Every combination of carriers, one line each: what the key says, what the deployer says, and
/// what becomes of generation 5 of model `m`.
#[test]
fn all_pins_must_hold_and_one_must_exist() {
    #[derive(Debug, PartialEq)]
    enum Answer {
        Opens,
        Stale,
        Digest,
        OtherModel,
        Unpinned,
    }
    use Answer::{Digest as WrongDigest, Opens, OtherModel, Stale, Unpinned};

    let (right, wrong) = (Digest::of(b"right"), Digest::of(b"wrong"));
    let name = |name: &str| ModelName::parse(name).unwrap();
    let says = |minimum: u64| Pin { min_generation: Some(minimum), digests: vec![] };
    let lists = |digests: &[Digest]| Pin { min_generation: None, digests: digests.to_vec() };
    let nothing = Pin::default;
    let both = |minimum, digest| Pin { min_generation: Some(minimum), digests: vec![digest] };
    let of = |model: &str, pin| Some(Pins::from([(name(model), pin)]));

    for (key, asked, deployer, answer) in [
        (None, None, nothing(), Unpinned),
        (None, Some("m"), nothing(), Unpinned),
        (None, Some("n"), says(1), OtherModel),
        (None, None, says(5), Opens),
        (None, None, says(0), Opens),
        (None, None, says(6), Stale),
        (None, None, lists(&[right]), Opens),
        (None, None, lists(&[wrong, right]), Opens),
        (None, None, lists(&[wrong]), WrongDigest),
        (None, None, both(5, right), Opens),
        (None, None, both(6, right), Stale),
        (None, None, both(5, wrong), WrongDigest),
        (Some(Pins::new()), None, says(1), OtherModel),
        (of("n", says(1)), None, says(1), OtherModel),
        (of("m", nothing()), None, nothing(), Unpinned),
        (of("m", nothing()), None, says(5), Opens),
        (of("m", says(5)), None, nothing(), Opens),
        (of("m", says(5)), Some("m"), nothing(), Opens),
        (of("m", says(5)), Some("n"), nothing(), OtherModel),
        (of("m", says(6)), None, nothing(), Stale),
        // The stricter wins, whoever says it.
        (of("m", says(6)), None, says(1), Stale),
        (of("m", says(1)), None, says(6), Stale),
        (of("m", says(6)), None, lists(&[right]), Stale),
        (of("m", lists(&[right])), None, nothing(), Opens),
        (of("m", lists(&[right])), None, lists(&[wrong]), WrongDigest),
        (of("m", lists(&[wrong])), None, lists(&[right]), WrongDigest),
        (of("m", lists(&[wrong])), None, says(1), WrongDigest),
        (of("m", both(5, right)), Some("m"), both(5, right), Opens),
    ] {
        for allow_unpinned in [false, true] {
            let demand = Demand {
                name: asked.map(name),
                pin: deployer.clone(),
                allow_unpinned,
                ..Demand::default()
            };
            let checked = match demand.check(key.as_ref(), &name("m"), 5, &right) {
                Ok(()) => Opens,
                Err(Error::Stale { found: 5, .. }) => Stale,
                Err(Error::DigestMismatch { .. }) => WrongDigest,
                Err(Error::ModelNotAllowed { .. }) => OtherModel,
                Err(Error::Unpinned { .. }) => Unpinned,
                Err(other) => panic!("{other}"),
            };
            // Allowing the unpinned allows nothing else.
            let expected = if allow_unpinned && answer == Unpinned { &Opens } else { &answer };
            assert_eq!(&checked, expected, "{key:?} {demand:?}");
        }
    }
}

/// Beside a key's own list, with the same meaning, and of several all hold.
#[test]
fn documents_of_pins_are_as_strict_as_a_keys_own_and_all_of_them_hold() {
    let parse = |text: &str| seal::pin::parse(text.as_bytes());
    let name = seal::name::ModelName::parse("m").unwrap();
    let digest = Digest::of(b"manifest");
    let document = format!(r#"{{"m":{{"min_generation":5,"digests":["{digest}"]}},"n":{{}}}}"#);
    for end in 0..document.len() {
        assert!(parse(&document[..end]).is_err(), "{end}");
    }
    for malformed in [
        "[]",
        "null",
        r#"{"m":5}"#,
        r#"{"m":{"min_generation":-1}}"#,
        r#"{"m":{"min_generation":"5"}}"#,
        r#"{"m":{"digests":[]}}"#,
        r#"{"m":{"digests":["sha256:ab"]}}"#,
        r#"{"m":{"minimum":5}}"#,
        r#"{"m":{},"m":{}}"#,
        r#"{"../m":{}}"#,
        r#"{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#,
    ] {
        assert!(matches!(parse(malformed), Err(Error::Malformed { .. })), "{malformed}");
    }
    let check = |documents: &[&str]| {
        let listed = documents.iter().map(|text| parse(text).unwrap()).collect();
        Demand { listed, ..Demand::default() }.check(None, &name, 5, &digest)
    };
    check(&[&document]).unwrap();
    assert!(matches!(check(&[r#"{"m":{}}"#]), Err(Error::Unpinned { .. })));
    let newer = r#"{"m":{"min_generation":6}}"#;
    for documents in [&[newer, &document][..], &[&document, newer]] {
        assert!(matches!(check(documents), Err(Error::Stale { .. })));
    }
    for absent in ["{}", r#"{"n":{"min_generation":1}}"#] {
        assert!(matches!(check(&[&document, absent]), Err(Error::ModelNotAllowed { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsing_never_panics(released: Vec<u8>, text in ".*") {
        let _ = (parse(released), parse(&text), parse(format!("{{{text}")), jwk(&text));
    }
}

#[test]
fn purposes_of_a_jwk_are_read_strictly_and_kept() {
    let permitted = |members: &str| {
        let kek = jwk(members).unwrap();
        Purpose::ALL.map(|purpose| kek.permits(purpose).is_ok())
    };
    assert_eq!(permitted(""), [true; 4]);
    assert_eq!(permitted(r#","sealift":{"open":{}}"#), [true; 4], "a model of that name");
    for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
        let found = permitted(&format!(r#","sealift_purposes":["{purpose}"]"#));
        assert_eq!(found, std::array::from_fn(|other| other == at));
    }
    assert_eq!(permitted(r#","sealift_purposes":["seal","open"]"#), [true, true, false, false]);
    for purposes in [
        "null",
        "[]",
        "{}",
        "\"open\"",
        "true",
        "[1]",
        "[null]",
        "[\"Open\"]",
        "[\"\"]",
        "[\"open\",\"train\"]",
        "[\"open\",\"open\"]",
        "[[\"open\"]]",
    ] {
        let refused = jwk(&format!(r#","sealift_purposes":{purposes}"#));
        assert!(matches!(refused, Err(Error::KeyUnusable(_))), "{purposes}");
    }
    let kek = jwk(r#","sealift_purposes":["seal","open"]"#).unwrap();
    let kek = Kek::parse(&kek.with_pins(Pins::new()).to_jwk().unwrap()).unwrap();
    assert!(kek.to_jwk().unwrap().expose().ends_with(br#""sealift_purposes":["seal","open"]}"#));
    let Err(Error::KeyUnusable(why)) = kek.permits(Purpose::Secret) else { panic!("permitted") };
    assert_eq!(why, "its `sealift_purposes` do not list `secret`");
    assert!(!kek.with_purposes(Vec::new()).to_jwk().unwrap().expose().ends_with(b"]}"));
}
