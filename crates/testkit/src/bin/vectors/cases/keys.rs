//! What a broker releases as a key (format §8).

use anyhow::Result;
use serde_json::{Value, json};

use crate::Set;
use crate::crypto::{base64, base64url, fixed, key_wrap};
use crate::forge::{Case, MODEL, jwk, kek, resource};

pub(crate) fn add(set: &mut Set) -> Result<()> {
    raw(set)?;
    texts(set)?;
    jwk_members(set)?;
    jwk_spellings(set)?;
    jwk_pins(set)?;
    limits(set)
}

/// The key itself, or something that is no key.
fn raw(set: &mut Set) -> Result<()> {
    let page = "<html><body>503 Service Unavailable</body></html>";
    let key = kek("a");
    for (name, released, comment) in [
        ("key_empty", &b""[..], "Nothing: what a broker may answer while it replaces a key."),
        ("key_of_16_bytes", &key[..16], "A key for AES-128."),
        ("key_of_31_bytes", &key[..31], "One byte too few."),
        ("key_of_33_bytes", &[&key[..], b"\n"].concat(), "A raw key and a newline."),
        ("key_of_64_bytes", &[key, key].concat(), "A key for HMAC or XTS."),
        ("key_is_a_web_page", page.as_bytes(), "An error page with status 200."),
        ("key_is_white_space", b" \n", "White space only."),
    ] {
        set.refused("key-unusable", name, comment, |case| case.key = released.to_vec())?;
    }
    set.opens("key_raw", "32 bytes. They carry no pins, so the deployer gives one.", |case| {
        release(case, kek("a"))
    })?;
    for (name, text, comment) in [
        (
            "key_raw_that_looks_like_text",
            b"0123456789abcdef0123456789abcdef",
            "32 letters that are hex, and base64 too: they are the key itself.",
        ),
        (
            "key_raw_that_looks_like_a_jwk",
            b"{\"kty\":\"oct\",\"k\":\"AAAAAAAAAAAA\"}",
            "32 bytes that are JSON: they are the key itself.",
        ),
        (
            "key_raw_that_ends_with_a_newline",
            b"0123456789abcdef0123456789abcde\n",
            "The newline is part of the key.",
        ),
    ] {
        set.opens(name, comment, |case| release(case, *text))?;
    }
    Ok(())
}

/// Seals the bundle for this key, released raw.
fn release(case: &mut Case, key: [u8; 32]) {
    let recipient = &mut case.bundle.recipients[0];
    recipient.encrypted_key = key_wrap(&key, &recipient.cek);
    case.key = key.to_vec();
    case.demand = json!({"min_generation": 3});
}

/// A key whose base64 has letters of which the two alphabets differ.
const SPELLED: [u8; 32] = [0xfb; 32];

fn texts(set: &mut Set) -> Result<()> {
    let (standard, url) = (base64(&SPELLED), base64url(&SPELLED));
    assert!(standard.contains('+') && url.contains('-') && standard.ends_with('='));
    let bare = standard.trim_end_matches('=');
    for (name, text, comment) in [
        ("key_base64", standard.clone(), "base64."),
        ("key_base64_with_newline", format!("{standard}\n"), "base64 as `base64` prints it."),
        ("key_base64_without_padding", bare.into(), "base64 without padding."),
        ("key_base64url", url.clone(), "base64url."),
        ("key_base64url_with_padding", format!("{url}="), "base64url with padding."),
        ("key_base64url_with_newline", format!("{url}\n"), "base64url and a newline."),
    ] {
        set.opens(name, comment, |case| {
            release(case, SPELLED);
            case.key = text.into();
        })?;
    }
    let mixed = standard.replacen('+', "-", 1);
    assert!(mixed.contains('+'), "the rest stays in the first alphabet");
    for (name, text, comment) in [
        ("key_base64_with_two_newlines", format!("{standard}\n\n"), "At most one newline."),
        ("key_base64_with_crlf", format!("{standard}\r\n"), "A carriage return."),
        ("key_base64_behind_a_space", format!(" {standard}"), "White space before."),
        ("key_base64_in_lines", format!("{}\n{}", &standard[..20], &standard[20..]), "Two lines."),
        ("key_base64_in_both_alphabets", mixed, "Letters of both alphabets."),
        ("key_base64_with_unused_bits", format!("{}9=", &standard[..42]), "Unused bits not zero."),
        ("key_base64_with_too_much_padding", format!("{standard}="), "Two `=` where one belongs."),
        ("key_base64_of_31_bytes", base64(&SPELLED[1..]), "One byte too few."),
        ("key_base64_of_33_bytes", base64(&[0xfb; 33]), "One byte too many."),
        ("key_hex", hex::encode(SPELLED), "Hex, which is base64 of 48 other bytes."),
        ("key_quoted", format!("\"{standard}\""), "A JSON string."),
    ] {
        set.refused("key-unusable", name, comment, |case| {
            release(case, SPELLED);
            case.key = text.into();
        })?;
    }
    Ok(())
}

/// The JWK with `member` set, or taken away by null.
fn with(member: &str, value: &Value) -> Vec<u8> {
    let mut jwk = jwk("a");
    let members = jwk.as_object_mut().expect("a JWK");
    members.remove(member);
    if !value.is_null() {
        members.insert(member.into(), value.clone());
    }
    jwk.to_string().into()
}

fn jwk_members(set: &mut Set) -> Result<()> {
    let k = base64url(&kek("a"));
    for (name, member, value, comment) in [
        ("of_use_enc", "use", json!("enc"), "`use` says encryption."),
        ("of_alg_a256gcmkw", "alg", json!("A256GCMKW"), "It wraps by A256GCMKW, and opens either."),
        ("of_alg_a256gcm", "alg", json!("A256GCM"), "As upstream's own keys say."),
        ("of_alg_a256kw", "alg", json!("A256KW"), "As our own keys may say."),
        ("without_kid", "kid", Value::Null, "`kid` is optional."),
        ("of_foreign_kid", "kid", json!("key-2026"), "A kid that is no resource URI is ignored."),
        ("of_number_as_kid", "kid", json!(7), "The same for one that is no text."),
        ("of_another_kid", "kid", json!(resource("b")), "Informative: the deployer names the key."),
        ("with_unknown_members", "ext", json!([true, {"a": null, "b": 1.5e3}]), "RFC 7517 allows."),
        ("with_key_ops", "key_ops", json!(["sign"]), "A registered member that is not read."),
    ] {
        set.opens(&format!("jwk_{name}"), comment, |case| case.key = with(member, &value))?;
    }
    for (name, listed, comment) in [
        ("open", json!(["open"]), "A key that may only open."),
        ("seal_and_open", json!(["seal", "open"]), "Several purposes, in any order."),
    ] {
        set.opens(&format!("jwk_for_{name}"), comment, |case| {
            case.key = with("sealift_purposes", &listed);
        })?;
    }
    for (name, listed, comment) in [
        ("sealing", json!(["seal"]), "A key that may not open."),
        ("secrets", json!(["secret", "sign"]), "A key for sealed secrets."),
        ("no_purpose", json!([]), "Whether that is any or none would be a guess."),
        ("an_unknown_purpose", json!(["open", "train"]), "What is not known cannot be kept to."),
        ("a_purpose_twice", json!(["open", "open"]), "Twice."),
        ("a_purpose_in_upper_case", json!(["OPEN"]), "Names of purposes have case."),
        ("a_purpose_as_text", json!("open"), "Text, no array."),
    ] {
        set.refused("key-unusable", &format!("jwk_for_{name}"), comment, |case| {
            case.key = with("sealift_purposes", &listed);
        })?;
    }
    for (name, member, value, comment) in [
        ("without_kty", "kty", Value::Null, "No `kty`."),
        ("of_kty_rsa", "kty", json!("RSA"), "Another kind of key."),
        ("of_kty_in_upper_case", "kty", json!("OCT"), "Names of kinds have case."),
        ("without_k", "k", Value::Null, "No `k`."),
        ("of_number_as_k", "k", json!(7), "`k` is text."),
        ("of_empty_k", "k", json!(""), "`k` is empty."),
        ("of_31_bytes", "k", json!(base64url(&kek("a")[1..])), "One byte too few."),
        ("of_33_bytes", "k", json!(base64url(&fixed::<33>("long"))), "One byte too many."),
        ("of_k_with_padding", "k", json!(format!("{k}=")), "`k` with padding."),
        ("of_k_with_a_newline", "k", json!(format!("{k}\n")), "`k` with a newline."),
        ("of_k_in_base64", "k", json!(base64(&SPELLED)), "`k` in the other alphabet."),
        ("of_use_sig", "use", json!("sig"), "A key for signatures."),
        ("of_empty_use", "use", json!(""), "`use` is neither absent nor `enc`."),
        ("of_alg_a128kw", "alg", json!("A128KW"), "A key for a smaller algorithm."),
        ("of_alg_hs256", "alg", json!("HS256"), "A key for signatures."),
        ("of_alg_dir", "alg", json!("dir"), "A key that wraps nothing."),
        ("of_number_as_alg", "alg", json!(1), "`alg` is text."),
    ] {
        set.refused("key-unusable", &format!("jwk_{name}"), comment, |case| {
            case.key = with(member, &value);
        })?;
    }
    Ok(())
}

fn jwk_spellings(set: &mut Set) -> Result<()> {
    let jwk = jwk("a");
    let text = jwk.to_string();
    let pretty = format!("\n {}\n", serde_json::to_string_pretty(&jwk)?);
    set.opens("jwk_with_white_space", "A JWK need not be canonical JSON.", |case| {
        case.key = pretty.into();
    })?;
    set.opens("jwk_with_escapes", "Nor need its strings.", |case| {
        case.key = text.replace("\"kty\"", "\"\\u006bty\"").into();
    })?;
    let rest = &text[1..];
    for (name, released, comment) in [
        ("duplicate_k", format!("{{\"k\":\"\",{rest}"), "`k` twice."),
        ("escaped_duplicate_k", format!("{{\"\\u006b\":\"\",{rest}"), "`k` twice, once escaped."),
        (
            "duplicate_in_an_unknown_member",
            format!("{{\"x\":[{{\"a\":1,\"a\":2}}],{rest}"),
            "Duplicates are refused at any depth.",
        ),
        ("duplicate_pins", format!("{{\"sealift\":{{}},{rest}"), "`sealift` twice."),
        ("two_jwks", format!("{text}{text}"), "Two documents."),
        ("trailing_bytes", format!("{text};"), "Something behind the document."),
        ("truncated", text[..text.len() - 1].into(), "The last bracket is missing."),
        ("in_single_quotes", text.replace('"', "'"), "Not JSON."),
        ("with_a_comment", format!("{{/**/{rest}"), "Not JSON."),
        ("with_nan", format!("{{\"x\":NaN,{rest}"), "Not JSON."),
        ("nested_deeply", format!("{{\"x\":{},{rest}", "[".repeat(20_000)), "20 000 brackets."),
        ("set", json!({"keys": [jwk]}).to_string(), "A set of keys (RFC 7517 §5)."),
        ("in_an_array", json!([jwk]).to_string(), "An array."),
    ] {
        set.refused("key-unusable", &format!("jwk_{name}"), comment, |case| {
            case.key = released.into();
        })?;
    }
    set.refused("key-unusable", "jwk_not_utf8", "The byte FF in an unknown member.", |case| {
        case.key = [b"{\"x\":\"\xff\",", rest.as_bytes()].concat();
    })
}

/// Pins that say nothing clearly. What they mean when they do is in `pins.rs`.
fn jwk_pins(set: &mut Set) -> Result<()> {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (name, pins, comment) in [
        ("pins_null", "null".into(), "`sealift` is null, neither absent nor an object."),
        ("pins_in_an_array", "[]".into(), "`sealift` is an array."),
        ("pin_null", format!(r#"{{"{MODEL}":null}}"#), "A model's pin is null."),
        ("pin_number", format!(r#"{{"{MODEL}":3}}"#), "A model's pin is a number."),
        ("pin_of_no_model_name", r#"{"../model":{}}"#.into(), "A name that no model can have."),
        ("pin_with_an_unknown_member", of("max_generation", "9"), "Not ignored: it may matter."),
        ("pin_misspelled", of("min-generation", "3"), "The same."),
        ("pin_generation_null", of("min_generation", "null"), "Null is not absent."),
        ("pin_generation_negative", of("min_generation", "-1"), "A generation is not negative."),
        ("pin_generation_fraction", of("min_generation", "2.5"), "A generation is an integer."),
        ("pin_generation_text", of("min_generation", "\"3\""), "A number in quotes is text."),
        (
            "pin_generation_over_the_limit",
            of("min_generation", "9007199254740992"),
            "2^53: no manifest could reach it.",
        ),
        (
            "pin_generation_wraps_64_bits",
            of("min_generation", "18446744073709551616"),
            "2^64, which is 0 to a reader that wraps.",
        ),
        ("pin_generation_twice", of("min_generation", "3,\"min_generation\":0"), "Twice."),
        ("pin_digests_empty", of("digests", "[]"), "Whether that is any or none would be a guess."),
        ("pin_digests_null", of("digests", "null"), "Null is not absent."),
        ("pin_digests_text", of("digests", &format!("\"{digest}\"")), "A string, no array."),
        ("pin_digest_number", of("digests", "[0]"), "A digest is text."),
        (
            "pin_digest_without_algorithm",
            of("digests", &format!("[\"{}\"]", &digest[7..])),
            "No `sha256:`.",
        ),
        ("pin_digest_too_short", of("digests", &format!("[\"{}\"]", &digest[..70])), "63 digits."),
        (
            "pin_digest_in_upper_case",
            of("digests", &format!("[\"{digest}\",\"sha256:{}\"]", "A".repeat(64))),
            "Hex is lower-case, in each of them.",
        ),
        (
            "pin_of_another_model_malformed",
            format!(r#"{{"{MODEL}":{{"min_generation":3}},"other":{{"digests":[]}}}}"#),
            "The pins of all models are read, not only those of this one.",
        ),
    ] {
        set.refused("key-unusable", &format!("jwk_{name}"), comment, |case| {
            let k = base64url(&kek("a"));
            case.key = format!(r#"{{"kty":"oct","k":"{k}","sealift":{pins}}}"#).into();
        })?;
    }
    Ok(())
}

/// `sealift` with one member for the model.
fn of(member: &str, value: &str) -> String {
    format!(r#"{{"{MODEL}":{{"{member}":{value}}}}}"#)
}

fn limits(set: &mut Set) -> Result<()> {
    let text = jwk("a").to_string();
    // With the array of zeros.
    let values = count(&jwk("a")) + 1;
    let with_zeros = |zeros: usize| {
        format!("{{\"x\":[{}],{}", vec!["0"; zeros].join(","), &text[1..]).into_bytes()
    };
    set.opens("jwk_of_16384_values", "As many JSON values as a key may have.", |case| {
        case.key = with_zeros(16_384 - values);
    })?;
    set.refused("key-unusable", "jwk_of_16385_values", "One JSON value too many.", |case| {
        case.key = with_zeros(16_385 - values);
    })?;
    let padded = |bytes: usize| format!("{text}{}", " ".repeat(bytes - text.len())).into_bytes();
    set.opens("jwk_of_65536_bytes", "As long as a key may be.", |case| {
        case.key = padded(65_536);
    })?;
    set.refused("key-unusable", "jwk_of_65537_bytes", "One byte too long.", |case| {
        case.key = padded(65_537);
    })
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum::<usize>(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}
