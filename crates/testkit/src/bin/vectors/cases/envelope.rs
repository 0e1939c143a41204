//! The envelope around the manifest (format §6).

use anyhow::Result;

use crate::Set;
use crate::crypto::{base64, fixed, hkdf, hmac};
use crate::forge::{Case, PAYLOAD_TYPE, kek, pae};

pub(crate) fn add(set: &mut Set) -> Result<()> {
    forged_manifests(set)?;
    forged_signatures(set)?;
    signatures(set)?;
    payloads(set)
}

/// The manifest was changed by someone who cannot sign it again.
fn forged_manifests(set: &mut Set) -> Result<()> {
    for (name, from, to, comment) in [
        (
            "manifest_generation_raised",
            r#""generation":3"#,
            r#""generation":4"#,
            "An old bundle made to look newer.",
        ),
        ("manifest_renamed", "org/model", "org/other", "A bundle given the name of another model."),
        (
            "manifest_mode_made_executable",
            r#""mode":"0644""#,
            r#""mode":"0755""#,
            "A file made executable.",
        ),
        ("manifest_size_changed", r#""size":9,"#, r#""size":8,"#, "A size changed."),
        (
            "manifest_time_changed",
            "2026-11-22T07:20:50Z",
            "2026-11-22T07:20:51Z",
            "Even what nothing depends on is signed.",
        ),
    ] {
        set.refused("manifest-forged", name, comment, |case| case.forge_manifest(from, to))?;
    }
    set.refused(
        "manifest-forged",
        "manifest_file_dropped",
        "One of two files, with its subject, taken out of the manifest.",
        |case| {
            case.signature = Some(case.signature());
            case.bundle.files.pop();
        },
    )?;
    set.refused(
        "manifest-forged",
        "manifest_file_renamed",
        "A file renamed, with its subject and object.",
        |case| {
            case.signature = Some(case.signature());
            let file = &mut case.bundle.files[1];
            file.path = "start.sh".into();
            file.object = "start.sh.sealed".into();
        },
    )?;
    set.refused(
        "manifest-forged",
        "manifest_headers_swapped",
        "The files exchange headers, digests and objects: each would open as the other, were the \
         path not in its key.",
        |case| {
            case.signature = Some(case.signature());
            swap_files(case);
        },
    )
}

/// Two files of a bundle exchange all but their names.
pub(crate) fn swap_files(case: &mut Case) {
    let [first, second] = &mut case.bundle.files[..] else { panic!("two files") };
    std::mem::swap(&mut first.header, &mut second.header);
    std::mem::swap(&mut first.sha256, &mut second.sha256);
    std::mem::swap(&mut first.sealed, &mut second.sealed);
    std::mem::swap(&mut first.plain, &mut second.plain);
}

/// The manifest is as it was, its authentication code another.
fn forged_signatures(set: &mut Set) -> Result<()> {
    type Forge = fn(&Case) -> Vec<u8>;
    let forgeries: [(&str, Forge, &str); 13] = [
        ("signature_bit_flipped", |case| flip(case.signature()), "One bit of the code flipped."),
        ("signature_zero", |_| vec![0; 32], "32 zero bytes."),
        ("signature_empty", |_| Vec::new(), "An empty code must not compare equal."),
        ("signature_truncated", |case| case.signature()[..16].to_vec(), "Half of the code."),
        (
            "signature_of_one_byte",
            |case| case.signature()[..1].to_vec(),
            "One byte of the code, which one in 256 guesses would hit.",
        ),
        (
            "signature_with_a_trailing_byte",
            |case| [&case.signature()[..], &[0]].concat(),
            "The code and a byte.",
        ),
        (
            "signature_of_the_bare_manifest",
            |case| hmac(&case.bundle.mac_key(), &case.manifest()),
            "Over the manifest without DSSE's encoding.",
        ),
        (
            "signature_of_the_base64",
            |case| {
                let payload = base64(&case.manifest());
                hmac(&case.bundle.mac_key(), &pae(PAYLOAD_TYPE, payload.as_bytes()))
            },
            "Over the payload as it stands, in base64, instead of the manifest.",
        ),
        (
            "signature_of_another_payload_type",
            |case| hmac(&case.bundle.mac_key(), &pae("application/json", &case.manifest())),
            "Over the same manifest, said to be of another type.",
        ),
        (
            "signature_under_the_data_key",
            |case| hmac(&case.dek(), &pae(PAYLOAD_TYPE, &case.manifest())),
            "Under the data key itself: one key, one use.",
        ),
        (
            "signature_under_another_data_key",
            |case| {
                let info = format!("sealift/v1 manifest\n{}", case.bundle.id);
                let key = hkdf(&fixed::<32>("another data key"), b"", info.as_bytes());
                hmac(&key, &pae(PAYLOAD_TYPE, &case.manifest()))
            },
            "By someone with another data key.",
        ),
        (
            "signature_without_the_bundle_id",
            |case| {
                let key = hkdf(&case.dek(), b"", b"sealift/v1 manifest\n");
                hmac(&key, &pae(PAYLOAD_TYPE, &case.manifest()))
            },
            "Under a key that was derived without the bundle's id.",
        ),
        (
            "signature_under_the_key_encryption_key",
            |case| {
                let info = format!("sealift/v1 manifest\n{}", case.bundle.id);
                let key = hkdf(&kek("a"), b"", info.as_bytes());
                hmac(&key, &pae(PAYLOAD_TYPE, &case.manifest()))
            },
            "Under a key that was derived from the released key.",
        ),
    ];
    for (name, forge, comment) in forgeries {
        set.refused("manifest-forged", name, comment, |case| case.signature = Some(forge(case)))?;
    }
    Ok(())
}

fn flip(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[0] ^= 1;
    bytes
}

/// Which signatures there are, and how they are spelled.
fn signatures(set: &mut Set) -> Result<()> {
    set.refused(
        "malformed",
        "signatures_none",
        "No signature: an unsigned manifest is no manifest.",
        |case| case.signatures = Some(String::new()),
    )?;
    set.refused(
        "malformed",
        "signatures_of_others_only",
        "Signed by someone, but by no holder of the data key.",
        |case| case.signatures = Some(foreign("release-2026", "AAAA")),
    )?;
    set.refused(
        "malformed",
        "signature_keyid_in_another_case",
        "`Sealift-DEK` is someone else's name.",
        |case| case.edit_document("sealift-dek", "Sealift-DEK"),
    )?;
    set.refused(
        "malformed",
        "signatures_two_by_the_key_holder",
        "The key holder's signature twice: exactly one is.",
        |case| {
            let own = case.own_signature();
            case.signatures = Some(format!("{own},{own}"));
        },
    )?;
    set.refused(
        "malformed",
        "signatures_too_many",
        "17 further signatures; 16 are allowed.",
        |case| {
            let further = vec![foreign("x", "AAAA"); 17].join(",");
            case.signatures = Some(format!("{},{further}", case.own_signature()));
        },
    )?;
    for (name, signature, comment) in [
        (
            "further_signature_not_base64",
            foreign("x", "AAA"),
            "The signature of someone else without padding: not verified, yet held to the format.",
        ),
        (
            "further_signature_with_unused_bits",
            foreign("x", "AB=="),
            "The last letter's unused bits are not zero.",
        ),
        (
            "further_signature_with_a_certificate",
            r#"{"keyid":"x","sig":"AAAA","cert":""}"#.into(),
            "A member that some DSSE tools add; the format does not have it.",
        ),
        (
            "further_signature_without_keyid",
            r#"{"sig":"AAAA"}"#.into(),
            "DSSE makes `keyid` optional; the format does not.",
        ),
        (
            "further_signature_members_in_another_order",
            r#"{"sig":"AAAA","keyid":"x"}"#.into(),
            "`sig` before `keyid`.",
        ),
        (
            "further_signature_of_a_number",
            r#"{"keyid":7,"sig":"AAAA"}"#.into(),
            "A `keyid` is text, whoever it names.",
        ),
        ("further_signature_null", "null".into(), "A signature that is null."),
    ] {
        set.refused("malformed", name, comment, |case| {
            case.signatures = Some(format!("{},{signature}", case.own_signature()));
        })?;
    }
    set.opens(
        "further_signatures",
        "16 further signatures, before and behind the key holder's, one of an empty keyid and of \
         nothing: carried along, not verified.",
        |case| {
            let before = vec![foreign("release-2026", "AAAA"); 8].join(",");
            let behind = vec![foreign("", ""); 8].join(",");
            case.signatures = Some(format!("{before},{},{behind}", case.own_signature()));
        },
    )
}

fn foreign(keyid: &str, sig: &str) -> String {
    format!(r#"{{"keyid":"{keyid}","sig":"{sig}"}}"#)
}

/// How the manifest stands in the envelope.
fn payloads(set: &mut Set) -> Result<()> {
    set.refused(
        "unsupported",
        "envelope_of_another_payload_type",
        "The payload is said to be something else; the code covers the right type.",
        |case| case.edit_document(PAYLOAD_TYPE, "application/json"),
    )?;
    // The manifest is one byte longer than whole groups of three, so its base64 ends with `==`.
    type Respell = fn(&str) -> String;
    let spellings: [(&str, Respell, &str); 5] = [
        (
            "payload_without_padding",
            |payload| payload.trim_end_matches('=').into(),
            "base64 without its padding.",
        ),
        (
            "payload_with_a_line_break",
            |payload| format!("{}\\n{}", &payload[..76], &payload[76..]),
            "base64 in lines, as in MIME.",
        ),
        ("payload_with_a_space", |payload| format!("{payload} "), "A space at the end."),
        (
            "payload_with_unused_bits",
            |payload| {
                let bare = payload.trim_end_matches('=');
                assert!(bare.ends_with('Q'), "the manifest ends with }}, which is 7D");
                format!("{}R==", &bare[..bare.len() - 1])
            },
            "The last letter's unused bits are not zero: the same bytes, another spelling.",
        ),
        (
            "payload_with_a_foreign_letter",
            |payload| format!("*{payload}"),
            "A letter of no base64.",
        ),
    ];
    for (name, respell, comment) in spellings {
        set.refused("malformed", name, comment, |case| {
            pad_to_one_byte_left(case);
            let payload = base64(&case.manifest());
            case.edit_document(&payload, &respell(&payload));
        })?;
    }
    set.refused("malformed", "payload_in_base64url", "base64 in the other alphabet.", |case| {
        case.set_paths(&["\u{fb01}\u{fb01}\u{fb01}"]);
        let payload = base64(&case.manifest());
        let url = payload.replace('+', "-").replace('/', "_");
        assert_ne!(payload, url, "no letter that differs");
        case.edit_document(&payload, &url);
    })
}

/// Gives `created` as many digits as leave one byte behind whole groups of three.
fn pad_to_one_byte_left(case: &mut Case) {
    let digits = (1..=3)
        .map(|digits| format!(".{}Z", "0".repeat(digits)))
        .find(|fraction| (case.manifest().len() + fraction.len() - 1) % 3 == 1)
        .expect("one of three");
    case.edit_manifest("50Z", &format!("50{digits}"));
}
