//! The manifest (format §5), signed by someone who holds the data key and breaks a rule.

use anyhow::Result;

use crate::Set;
use crate::crypto::{base64, sha256};
use crate::forge::{Object, jwk};

/// Name, reason, what stands in the manifest, what is put in its place, comment.
type Edit = (&'static str, &'static str, &'static str, &'static str, &'static str);

pub(crate) fn add(set: &mut Set) -> Result<()> {
    for edits in [&STATEMENT[..], &FILES, &SPELLINGS] {
        for &(name, reason, from, to, comment) in edits {
            set.refused(reason, name, comment, |case| case.edit_manifest(from, to))?;
        }
    }
    numbers(set)?;
    times(set)?;
    subjects(set)?;
    headers(set)?;
    whole(set)?;
    sizes(set)?;
    set.opens(
        "manifest_of_the_highest_generation",
        "2^53 - 1, the highest generation, and the longest model name, 128 bytes.",
        |case| {
            let name = format!("m{}", "a".repeat(127));
            case.edit_manifest(r#""generation":3"#, r#""generation":9007199254740991"#);
            case.edit_manifest("org/model", &name);
            case.key = jwk("a").to_string().replace("org/model", &name).into();
        },
    )
}

const STATEMENT: [Edit; 17] = [
    (
        "manifest_of_another_statement_version",
        "unsupported",
        "Statement/v1",
        "Statement/v0.1",
        "`_type` is in-toto's version 0.1.",
    ),
    (
        "manifest_of_another_predicate_type",
        "unsupported",
        "urn:sealift:bundle:v1",
        "https://slsa.dev/provenance/v1",
        "A statement about the same objects that says something else of them.",
    ),
    (
        "manifest_of_another_format",
        "unsupported",
        r#""format":"sealift/v1""#,
        r#""format":"sealift/v2""#,
        "The predicate is of a newer format than sealift.json.",
    ),
    (
        "manifest_of_another_cipher",
        "unsupported",
        "AES256_GCM_HKDF_1MB",
        "AES256_GCM_HKDF_4KB",
        "Tink has this cipher too, v1 has not.",
    ),
    (
        "manifest_of_no_cipher",
        "unsupported",
        "AES256_GCM_HKDF_1MB",
        "",
        "`cipher` is empty; it turns no encryption off.",
    ),
    ("manifest_name_empty", "name", "org/model", "", "A model name has at least one character."),
    (
        "manifest_name_with_a_space",
        "name",
        "org/model",
        "org model",
        "A space has no place in a model name.",
    ),
    (
        "manifest_name_begins_with_a_dot",
        "name",
        "org/model",
        "../model",
        "A model name begins with a letter or digit.",
    ),
    (
        "manifest_name_too_long",
        "name",
        "org/model",
        "m2345678901234567890123456789012345678901234567890123456789012345678901234567890\
         1234567890123456789012345678901234567890123456789",
        "129 bytes; a model name has at most 128.",
    ),
    ("manifest_name_beyond_ascii", "name", "org/model", "org/mod\u{e9}l", "Model names are ASCII."),
    (
        "manifest_name_null",
        "malformed",
        r#""name":"org/model""#,
        r#""name":null"#,
        "`name` is null.",
    ),
    (
        "manifest_without_created",
        "malformed",
        r#""created":"2026-11-22T07:20:50Z","#,
        "",
        "A member of the predicate is missing.",
    ),
    (
        "manifest_with_an_unknown_member",
        "malformed",
        r#","cipher":"#,
        r#","license":"MIT","cipher":"#,
        "A member that the predicate does not have.",
    ),
    (
        "manifest_with_a_duplicate_member",
        "malformed",
        r#","cipher":"#,
        r#","generation":9,"cipher":"#,
        "`generation` twice: which of them counts would depend on the parser.",
    ),
    (
        "manifest_with_a_repeated_equal_member",
        "malformed",
        r#","cipher":"#,
        r#","generation":3,"cipher":"#,
        "`generation` twice with the same value.",
    ),
    (
        "statement_with_an_unknown_member",
        "malformed",
        r#","predicateType":"#,
        r#","annotations":{},"predicateType":"#,
        "A member that the statement does not have.",
    ),
    (
        "predicate_is_an_array",
        "malformed",
        r#""predicate":{"#,
        r#""predicate":[],"unknown":{"#,
        "The predicate is no object.",
    ),
];

const FILES: [Edit; 10] = [
    (
        "manifest_mode_private",
        "malformed",
        r#""mode":"0644""#,
        r#""mode":"0600""#,
        "Modes are 0644 or 0755.",
    ),
    (
        "manifest_mode_setuid",
        "malformed",
        r#""mode":"0755""#,
        r#""mode":"4755""#,
        "A model brings no setuid programs.",
    ),
    (
        "manifest_mode_in_three_digits",
        "malformed",
        r#""mode":"0644""#,
        r#""mode":"644""#,
        "Modes have four digits.",
    ),
    (
        "manifest_mode_number",
        "malformed",
        r#""mode":"0644""#,
        r#""mode":420"#,
        "0644 in decimal, and no text.",
    ),
    (
        "manifest_file_with_an_unknown_member",
        "malformed",
        r#""mode":"0644","#,
        r#""mode":"0644","uid":0,"#,
        "A member that a file does not have.",
    ),
    (
        "manifest_file_with_a_duplicate_member",
        "malformed",
        r#""mode":"0644","#,
        r#""mode":"0755","mode":"0644","#,
        "`mode` twice: which of them counts would depend on the parser.",
    ),
    (
        "manifest_file_members_in_another_order",
        "malformed",
        r#""mode":"0644","size":9,"#,
        r#""size":9,"mode":"0644","#,
        "`size` before `mode`: the same members, not the same bytes.",
    ),
    (
        "manifest_file_without_header",
        "malformed",
        r#""size":9,"object":"config.json.sealed","header":"#,
        r#""size":9,"object":"config.json.sealed","headers":"#,
        "A member is misspelled.",
    ),
    (
        "manifest_path_null",
        "malformed",
        r#""path":"config.json""#,
        r#""path":null"#,
        "A path is text.",
    ),
    (
        "manifest_files_is_an_object",
        "malformed",
        r#""files":["#,
        r#""files":{},"more":["#,
        "`files` is no array.",
    ),
];

const SPELLINGS: [Edit; 5] = [
    (
        "manifest_with_a_space",
        "malformed",
        r#","generation":3"#,
        r#", "generation":3"#,
        "A space between members.",
    ),
    (
        "manifest_with_an_escaped_letter",
        "malformed",
        r#""name":"org/model""#,
        r#""name":"\u006frg/model""#,
        "A letter written as an escape: the same name, not the same bytes.",
    ),
    (
        "manifest_with_an_escaped_solidus",
        "malformed",
        r#""name":"org/model""#,
        r#""name":"org\/model""#,
        "JSON allows `\\/`; canonical JSON has one spelling for each character.",
    ),
    (
        "manifest_path_with_an_escaped_letter",
        "malformed",
        r#""path":"config.json""#,
        r#""path":"config\u002ejson""#,
        "A dot written as an escape.",
    ),
    (
        "manifest_cut_short",
        "malformed",
        r#""}]}}"#,
        r#""}]}"#,
        "The last bracket is missing; the signature covers it as it is.",
    ),
];

fn numbers(set: &mut Set) -> Result<()> {
    for (name, reason, number, comment) in [
        ("negative", "malformed", "-3", "Numbers have no sign."),
        ("minus_zero", "malformed", "-0", "Numbers have no sign, not even zero."),
        ("fraction", "malformed", "3.0", "Numbers have no fraction, even if it is zero."),
        ("exponent", "malformed", "3e0", "Numbers have no exponent."),
        ("with_leading_zero", "malformed", "03", "Numbers have no leading zero."),
        ("text", "malformed", "\"3\"", "A number in quotes is text."),
        ("true", "malformed", "true", "`true` is 1 in some languages, and no number."),
        ("nan", "malformed", "NaN", "Some parsers read NaN; JSON has none."),
        ("over_the_limit", "limit", "9007199254740992", "2^53: more than some readers hold."),
        ("wraps_64_bits", "malformed", "18446744073709551619", "2^64 + 3: 3 to who wraps."),
    ] {
        set.refused(reason, &format!("manifest_generation_{name}"), comment, |case| {
            case.edit_manifest(r#""generation":3"#, &format!("\"generation\":{number}"));
        })?;
    }
    for (name, reason, number, comment) in [
        ("negative", "malformed", "-9", "A file has no negative length."),
        ("fraction", "malformed", "9.0", "Numbers have no fraction."),
        ("over_the_limit", "limit", "4503530906845161", "More than 2^32 - 1 segments hold."),
        ("wraps_64_bits", "malformed", "18446744073709551625", "2^64 + 9: 9 to who wraps."),
    ] {
        set.refused(reason, &format!("manifest_size_{name}"), comment, |case| {
            case.edit_manifest(r#""size":9,"#, &format!("\"size\":{number},"));
        })?;
    }
    Ok(())
}

fn times(set: &mut Set) -> Result<()> {
    let arabic = "\u{662}\u{660}\u{662}\u{666}-11-22T07:20:50Z";
    for (name, time, comment) in [
        ("empty", "", "`created` is empty."),
        ("without_zone", "2026-11-22T07:20:50", "A time without its zone."),
        ("with_an_offset", "2026-11-22T07:20:50+00:00", "UTC is written `Z`."),
        (
            "in_lower_case",
            "2026-11-22t07:20:50z",
            "RFC 3339 allows lower case, this format does not.",
        ),
        ("with_ten_digits", "2026-11-22T07:20:50.1234567890Z", "At most nine digits of a second."),
        ("with_a_bare_point", "2026-11-22T07:20:50.Z", "A point, and no fraction behind it."),
        ("in_other_digits", arabic, "Digits to Unicode, not to RFC 3339."),
    ] {
        set.refused("malformed", &format!("manifest_created_{name}"), comment, |case| {
            case.edit_manifest("2026-11-22T07:20:50Z", time);
        })?;
    }
    set.opens(
        "manifest_of_an_odd_time",
        "`created` names no day that ever was, with nine digits of a second: nothing depends on it.",
        |case| case.edit_manifest("2026-11-22T07:20:50Z", "9999-99-99T99:99:99.123456789Z"),
    )
}

fn subjects(set: &mut Set) -> Result<()> {
    set.refused(
        "malformed",
        "subject_of_another_object",
        "The subjects of two files are exchanged: each names the other's object.",
        |case| {
            let manifest = String::from_utf8(case.manifest()).expect("text");
            let (head, rest) = manifest.split_once(r#""subject":["#).expect("subjects");
            let (subjects, tail) = rest.split_once(r#"],"predicateType""#).expect("subjects");
            let (first, second) = subjects.split_once(",{").expect("two");
            let swapped = format!(r#"{head}"subject":[{{{second},{first}],"predicateType"{tail}"#);
            case.manifest = Some(swapped.into_bytes());
        },
    )?;
    set.refused("malformed", "subject_missing", "Two files, one subject.", |case| {
        let digest = hex::encode(case.bundle.files[1].sha256);
        let second = format!(r#",{{"name":"run.sh.sealed","digest":{{"sha256":"{digest}"}}}}"#);
        case.edit_manifest(&second, "");
    })?;
    set.refused("malformed", "subject_of_no_file", "Two files, three subjects.", |case| {
        let digest = hex::encode(sha256(b""));
        let third = format!(r#",{{"name":"x.sealed","digest":{{"sha256":"{digest}"}}}}"#);
        case.edit_manifest(r#"],"predicateType""#, &format!(r#"{third}],"predicateType""#));
    })?;
    for (name, object, comment) in [
        ("object_of_another_file", "run.sh.sealed", "An object is named for its path."),
        ("object_elsewhere", "../config.json.sealed", "The object lies outside the bundle."),
        ("object_without_suffix", "config.json", "The object has the file's own name."),
    ] {
        set.refused("malformed", &format!("manifest_{name}"), comment, |case| {
            case.bundle.files[0].object = object.into();
        })?;
    }
    for (name, from, to, comment) in [
        (
            "subject_with_an_unknown_member",
            r#"{"name":"run.sh.sealed","#,
            r#"{"name":"run.sh.sealed","uri":"","#,
            "A member that in-toto knows and the format does not have.",
        ),
        ("subject_in_no_array", r#""subject":["#, r#""subject":{},"more":["#, "No array."),
    ] {
        set.refused("malformed", name, comment, |case| case.edit_manifest(from, to))?;
    }
    type Spell = fn(&str) -> String;
    let digests: [(&str, &str, Spell, &str); 4] = [
        (
            "subject_digest_in_upper_case",
            "name",
            |hex| format!("\"sha256\":\"{}\"", hex.to_uppercase()),
            "Hex is lower-case.",
        ),
        (
            "subject_digest_too_short",
            "name",
            |hex| format!("\"sha256\":\"{}\"", &hex[..62]),
            "31 bytes of a SHA-256.",
        ),
        (
            "subject_digest_of_another_algorithm",
            "malformed",
            |hex| format!("\"sha512\":\"{hex}{hex}\""),
            "SHA-512 in the place of SHA-256.",
        ),
        (
            "subject_digest_of_two_algorithms",
            "malformed",
            |hex| format!("\"sha256\":\"{hex}\",\"sha512\":\"{hex}{hex}\""),
            "A further digest, which in-toto would allow.",
        ),
    ];
    for (name, reason, spell, comment) in digests {
        set.refused(reason, name, comment, |case| {
            let hex = hex::encode(case.bundle.files[0].sha256);
            case.edit_manifest(&format!("\"sha256\":\"{hex}\""), &spell(&hex));
        })?;
    }
    Ok(())
}

fn headers(set: &mut Set) -> Result<()> {
    type Spell = fn(&[u8; 40]) -> String;
    let spellings: [(&str, Spell, &str); 7] = [
        ("header_too_short", |header| base64(&header[..39]), "39 bytes."),
        ("header_too_long", |header| base64(&[&header[..], &[0]].concat()), "41 bytes."),
        (
            "header_of_another_length_byte",
            |header| base64(&[&[0x29], &header[1..]].concat()),
            "The first byte says 41.",
        ),
        ("header_empty", |_| String::new(), "No header pins nothing."),
        (
            "header_without_padding",
            |header| base64(header).trim_end_matches('=').to_owned(),
            "base64 without its padding.",
        ),
        (
            "header_with_unused_bits",
            |header| {
                // 40 bytes leave four unused bits in the last letter.
                let spelled = base64(header);
                let last = char::from(spelled.as_bytes()[53]);
                let next = ALPHABET[1 + ALPHABET.find(last).expect("base64")..].chars().next();
                format!("{}{}==", &spelled[..53], next.expect("its low bits are zero"))
            },
            "The last letter's unused bits are not zero: the same bytes, another spelling.",
        ),
        (
            "header_with_a_line_break",
            |header| base64(header).replacen('K', "K\\n", 1),
            "base64 with a newline inside.",
        ),
    ];
    for (name, spell, comment) in spellings {
        set.refused("malformed", &format!("manifest_{name}"), comment, |case| {
            let header = &case.bundle.files[0].header.clone();
            case.edit_manifest(
                &format!("\"{}\"", base64(header)),
                &format!("\"{}\"", spell(header)),
            );
        })?;
    }
    set.refused(
        "malformed",
        "manifest_header_in_base64url",
        "base64 in the other alphabet.",
        |case| {
            let header = &mut case.bundle.files[0].header;
            header[1..].fill(0xff);
            let spelled = base64(&*header);
            case.edit_manifest(&spelled, &spelled.replace('/', "_"));
        },
    )
}

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn whole(set: &mut Set) -> Result<()> {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage, &str); 5] = [
        (
            "manifest_with_a_newline",
            |manifest| [&manifest[..], b"\n"].concat(),
            "A newline at the end: sealift.json has one, the manifest has none.",
        ),
        (
            "manifest_with_trailing_bytes",
            |manifest| [&manifest[..], b"{}"].concat(),
            "A second document behind the manifest.",
        ),
        (
            "manifest_behind_a_byte_order_mark",
            |manifest| [b"\xef\xbb\xbf", &manifest[..]].concat(),
            "A byte order mark; JSON has none.",
        ),
        (
            "manifest_not_utf8",
            |manifest| manifest.iter().map(|&b| if b == b'2' { 0xb2 } else { b }).collect(),
            "Each digit 2 is the byte B2, as in Latin-1.",
        ),
        ("manifest_empty", |_| Vec::new(), "The payload is empty."),
    ];
    for (name, damage, comment) in damages {
        set.refused("malformed", name, comment, |case| {
            case.manifest = Some(damage(case.manifest()));
        })?;
    }
    set.refused(
        "malformed",
        "manifest_without_files",
        "A bundle has at least one file.",
        |case| case.bundle.files.clear(),
    )?;
    for (name, edit, comment) in [
        ("bundle_id_in_upper_case", str::to_uppercase as fn(&str) -> String, "Hex is lower-case."),
        ("bundle_id_too_short", |id| id[..30].to_owned(), "15 bytes."),
        ("bundle_id_with_hyphens", |id| format!("{}-{}", &id[..8], &id[8..31]), "As a UUID."),
    ] {
        set.refused("name", name, comment, |case| {
            let id = case.bundle.id.clone();
            case.edit_manifest(&id, &edit(&id));
        })?;
    }
    Ok(())
}

/// The longest file.
const LONGEST: u64 = 4_503_530_906_845_160;

/// Sizes that lie, in a manifest that is well formed and signed.
fn sizes(set: &mut Set) -> Result<()> {
    for (name, size, comment) in [
        ("size_one_too_small", "8", "The manifest says one byte less than the object holds."),
        ("size_one_too_large", "10", "The manifest says one byte more than the object holds."),
        ("size_zero", "0", "The manifest says that the file is empty; the object is not."),
        (
            "size_enormous",
            "4503530906845160",
            "The manifest says as many bytes as the format can hold; nothing may be allocated or \
             waited for on its word before the object's own length is compared.",
        ),
    ] {
        set.refused("length", name, comment, |case| {
            case.edit_manifest(r#""size":9,"#, &format!("\"size\":{size},"));
        })?;
    }
    for (name, reason, third, comment) in [
        (
            "sum_of_sizes_over_the_limit",
            "limit",
            2_097_080,
            "Three objects of 2^53 bytes together.",
        ),
        (
            "sum_of_sizes_at_the_limit",
            "length",
            2_097_079,
            "Three objects of 2^53 - 1 bytes together, says the manifest, as it may; they are not.",
        ),
    ] {
        set.refused(reason, name, comment, |case| {
            case.bundle.add("third", b"");
            for (size, claimed) in [(9, LONGEST), (10, LONGEST), (0, third)] {
                let to = format!("\"size\":{claimed},");
                case.edit_manifest(&format!("\"size\":{size},"), &to);
            }
        })?;
    }
    set.refused(
        "missing",
        "object_absent",
        "The manifest names an object that is not there.",
        |case| case.bundle.files[1].stored = false,
    )?;
    set.opens(
        "object_that_nobody_names",
        "An object that the manifest does not name lies below the prefix: it belongs to nobody.",
        |case| case.stray = Some(Object::Bytes(b"anything".to_vec())),
    )
}
