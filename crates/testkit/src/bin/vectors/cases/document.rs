//! `sealift.json` as a document (format §4).

use anyhow::Result;

use crate::Set;
use crate::cases::segments::SHARED;
use crate::forge::{Case, Object, resource};

pub(crate) fn add(set: &mut Set) -> Result<()> {
    foreign(set)?;
    ends(set)?;
    spellings(set)?;
    for (name, reason, further, comment) in [
        ("document_as_large_as_allowed", "not-sealed", 0, "8 MiB of something else."),
        ("document_too_large", "limit", 1, "One byte more than 8 MiB: not even looked at."),
    ] {
        set.refused(reason, name, comment, |case| {
            let mut slices = vec![[0, 2 << 20]; 4];
            slices.push([0, further]);
            case.replaced = Some(Object::Slices { of: SHARED, slices });
        })?;
    }
    Ok(())
}

/// What is no bundle, or one of another version.
fn foreign(set: &mut Set) -> Result<()> {
    set.refused(
        "not-sealed",
        "document_absent",
        "There is no sealift.json, nor anything else.",
        |case| case.nothing_stored = true,
    )?;
    for (name, reason, text, comment) in [
        ("document_empty", "not-sealed", "", "sealift.json is empty."),
        (
            "document_of_a_plain_model",
            "not-sealed",
            r#"{"architectures":["BertModel"]}"#,
            "A model's own JSON; nothing says that it is sealed.",
        ),
        (
            "document_with_a_number_as_format",
            "not-sealed",
            r#"{"format":1}"#,
            "A member `format` that is no string names no format.",
        ),
        (
            "document_of_a_format_in_an_array",
            "not-sealed",
            r#"["sealift/v2"]"#,
            "An array has no members, whatever a parser makes of it.",
        ),
        (
            "document_of_a_newer_format",
            "unsupported",
            "{\"format\":\"sealift/v2\",\"hello\":1.5e3}\n",
            "A version that v1 readers do not know: they say so, and guess nothing of the rest.",
        ),
        (
            "document_of_format_v10",
            "unsupported",
            "{\"format\":\"sealift/v10\"}\n",
            "Begins like v1, and is another version.",
        ),
        (
            "document_of_a_newer_format_cut_short",
            "not-sealed",
            r#"{"format":"sealift/v2","#,
            "Not JSON, so it names no format.",
        ),
        (
            "document_of_v1_in_other_spelling",
            "malformed",
            "{ \"format\": \"sealift/v1\" }\n",
            "Names v1, and is not spelled as v1 asks.",
        ),
        (
            "document_nested_deeply",
            "malformed",
            &format!("{{\"format\":\"sealift/v1\",\"recipients\":{}\n", "[".repeat(20_000)),
            "20 000 open brackets; a reader must not run out of stack.",
        ),
    ] {
        set.refused(reason, name, comment, |case| case.document = Some(text.into()))?;
    }
    set.refused(
        "not-sealed",
        "document_behind_a_byte_order_mark",
        "A byte order mark before a good document; JSON has none.",
        |case| case.document = Some([b"\xef\xbb\xbf", &case.document()[..]].concat()),
    )
}

/// Where it ends.
fn ends(set: &mut Set) -> Result<()> {
    for (name, end, comment) in [
        ("document_without_newline", "", "The newline at the end is missing."),
        ("document_with_two_newlines", "\n\n", "Two newlines at the end."),
        ("document_with_crlf", "\r\n", "A carriage return before the newline."),
        ("document_with_nul_for_its_newline", "\0", "NUL in the place of the newline."),
        ("document_with_trailing_document", "\n{}\n", "A second document behind the first."),
        ("document_with_trailing_nul", "\n\0", "A NUL behind the newline."),
    ] {
        set.refused("malformed", name, comment, |case| {
            let document = case.document();
            case.document = Some([&document[..document.len() - 1], end.as_bytes()].concat());
        })?;
    }
    set.refused(
        "malformed",
        "document_truncated",
        "The last 100 bytes are missing; it still begins as a bundle.",
        |case| {
            let document = case.document();
            case.document = Some(document[..document.len() - 100].to_vec());
        },
    )
}

/// Other spellings of the same document, and members that the page does not have.
fn spellings(set: &mut Set) -> Result<()> {
    type Edit = (&'static str, &'static str, &'static str, &'static str);
    let edits: [Edit; 14] = [
        (
            "document_with_its_recipient_in_no_array",
            r#""recipients":["#,
            r#""recipients":{},"more":["#,
            "`recipients` is an object.",
        ),
        (
            "envelope_with_signatures_in_no_array",
            r#""signatures":["#,
            r#""signatures":{},"more":["#,
            "`signatures` is an object.",
        ),
        (
            "document_with_a_space",
            r#","recipients":["#,
            r#", "recipients":["#,
            "A space between members.",
        ),
        (
            "document_with_an_unknown_member",
            r#","envelope":{"#,
            r#","comment":"","envelope":{"#,
            "A member that the format does not have.",
        ),
        (
            "document_with_a_duplicate_member",
            r#","envelope":{"#,
            r#","recipients":[],"envelope":{"#,
            "`recipients` twice: which of them counts would depend on the parser.",
        ),
        (
            "document_with_an_escaped_duplicate_member",
            r#","envelope":{"#,
            r#","recipient\u0073":[],"envelope":{"#,
            "`recipients` twice, once in other letters.",
        ),
        (
            "document_with_an_escaped_letter",
            r#"{"kid":"#,
            r#"{"\u006bid":"#,
            "`kid` written with an escape.",
        ),
        (
            "document_with_an_escaped_solidus",
            r#""payloadType":"application/vnd"#,
            r#""payloadType":"application\/vnd"#,
            "JSON allows `\\/`; canonical JSON has one spelling for each character.",
        ),
        (
            "document_with_null_recipients",
            r#","envelope":{"#,
            r#","unknown":null,"envelope":{"#,
            "An unknown member whose value is null.",
        ),
        (
            "document_with_a_trailing_comma",
            r#""}]}}"#,
            r#""},]}}"#,
            "A comma behind the last signature: not JSON.",
        ),
        (
            "envelope_with_an_unknown_member",
            r#","signatures":["#,
            r#","payloadEncoding":"base64","signatures":["#,
            "A member of the envelope that the format does not have.",
        ),
        (
            "envelope_without_payload_type",
            r#""payloadType":"application/vnd.in-toto+json","#,
            "",
            "A member of the envelope is missing.",
        ),
        (
            "recipient_with_an_unknown_member",
            r#","jwe":{"#,
            r#","comment":"","jwe":{"#,
            "A member beside `kid` and `jwe`.",
        ),
        (
            "recipient_with_a_duplicate_kid_member",
            r#","jwe":{"#,
            r#","kid":"kbs:///default/key/b","jwe":{"#,
            "`kid` twice in one recipient: which of them counts would depend on the parser.",
        ),
    ];
    for (name, from, to, comment) in edits {
        set.refused("malformed", name, comment, |case| case.edit_document(from, to))?;
    }
    set.refused(
        "malformed",
        "document_members_in_another_order",
        "`recipients` before `format`: the same members, not the same bytes.",
        |case| {
            case.edit_document(r#"{"format":"sealift/v1","recip"#, r#"{"recip"#);
            case.edit_document(r#","envelope":{"#, r#","format":"sealift/v1","envelope":{"#);
        },
    )?;
    set.refused(
        "malformed",
        "document_not_utf8",
        "The byte FF in a `keyid`: JSON is UTF-8.",
        |case| {
            foreign_keyid(case, "?");
            let document = case.document().into_iter();
            case.document = Some(document.map(|b| if b == b'?' { 0xff } else { b }).collect());
        },
    )?;
    for (name, keyid, comment) in [
        (
            "document_with_a_lone_surrogate",
            r"\ud800",
            "Half a surrogate pair in a `keyid`: no character, hence no spelling.",
        ),
        (
            "document_with_upper_case_in_an_escape",
            r"\u001F",
            "The escape of a control character with an upper-case digit.",
        ),
        ("document_with_a_long_escape", r"\u000a", "A newline is spelled `\\n`, not `\\u000a`."),
    ] {
        set.refused("malformed", name, comment, |case| foreign_keyid(case, keyid))?;
    }
    set.opens(
        "document_with_every_kind_of_character",
        "A further signature whose keyid holds control characters in their one spelling, and DEL, \
         a solidus, a letter beyond ASCII and one beyond the BMP as they are.",
        |case| foreign_keyid(case, "\\u0000\\b\\t\\n\\f\\r\\u001f\\\"\\\\\u{7f}/\u{e9}\u{1f512}"),
    )?;
    set.refused(
        "no-recipient",
        "resource_in_another_spelling",
        "The deployer's resource differs from the recipient's in case: names are compared as bytes.",
        |case| case.resource = resource("A"),
    )
}

/// Adds a signature of someone else, whose keyid is spelled so.
fn foreign_keyid(case: &mut Case, keyid: &str) {
    let own = case.own_signature();
    case.signatures = Some(format!(r#"{own},{{"keyid":"{keyid}","sig":""}}"#));
}
