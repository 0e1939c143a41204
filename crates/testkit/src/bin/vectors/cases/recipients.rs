//! Recipients (format §7).

use anyhow::Result;

use crate::Set;
use crate::crypto::{base64url, fixed, gcm, key_wrap, key_wrap_padded};
use crate::forge::{Bundle, Case, Recipient, jwk, kek, resource};

pub(crate) fn add(set: &mut Set) -> Result<()> {
    which(set)?;
    damaged(set)?;
    headers(set)?;
    members(set)?;
    kids(set)?;
    content_keys(set)?;
    allowed(set)
}

/// Which recipients there are.
fn which(set: &mut Set) -> Result<()> {
    set.refused(
        "no-recipient",
        "recipient_not_there",
        "The deployer names a key that the bundle is not sealed for; the bundle never chooses one.",
        |case| {
            case.resource = resource("b");
            case.key = jwk("b").to_string().into();
        },
    )?;
    set.refused(
        "no-recipient",
        "recipient_removed",
        "The bucket took the deployer's recipient away and left another.",
        |case| case.bundle.recipients = vec![other(case, "b")],
    )?;
    set.refused("malformed", "recipients_none", "Sealed for nobody.", |case| {
        case.bundle.recipients.clear()
    })?;
    set.refused("limit", "recipients_too_many", "17 recipients.", |case| {
        let others: Vec<_> = (1..17).map(|i| other(case, &format!("x{i}"))).collect();
        case.bundle.recipients.extend(others);
    })?;
    set.refused("malformed", "recipient_twice", "The same recipient twice.", |case| {
        case.bundle.recipients.push(case.bundle.recipients[0].clone())
    })?;
    set.refused(
        "malformed",
        "recipient_kid_twice",
        "Two recipients with the same kid and different content keys.",
        |case| {
            let mut second = other(case, "a");
            second.cek = fixed::<32>("second content key").to_vec();
            second.encrypted_key = key_wrap(&kek("a"), &second.cek);
            second.seal(&case.dek());
            case.bundle.recipients.push(second);
        },
    )
}

/// A further recipient of the same bundle.
fn other(case: &Case, tag: &str) -> Recipient {
    Recipient::new(&case.bundle.dek, &case.bundle.id, tag)
}

/// Well formed, and the key does not open it.
fn damaged(set: &mut Set) -> Result<()> {
    set.refused(
        "unwrap",
        "key_of_another_recipient",
        "What is released for the resource is another key.",
        |case| case.key = jwk("b").to_string().into(),
    )?;
    type Damage = fn(&mut Recipient);
    let damages: [(&str, Damage, &str); 4] = [
        ("encrypted_key", |r| r.encrypted_key[39] ^= 0x80, "A bit of `encrypted_key` flipped."),
        ("iv", |r| r.iv[0] ^= 1, "A bit of `iv` flipped."),
        ("ciphertext", |r| r.ciphertext[31] ^= 1, "A bit of `ciphertext` flipped."),
        ("tag", |r| r.tag[15] ^= 0x80, "A bit of `tag` flipped."),
    ];
    for (member, damage, comment) in damages {
        set.refused("unwrap", &format!("recipient_{member}_flipped"), comment, |case| {
            damage(&mut case.bundle.recipients[0]);
        })?;
    }
    set.refused(
        "unwrap",
        "recipient_moved_to_another_kid",
        "Both its `kid`s renamed to the key that the deployer names; the header is authenticated.",
        |case| {
            let recipient = &mut case.bundle.recipients[0];
            recipient.kid = resource("b");
            recipient.header = recipient.header.replace(&resource("a"), &resource("b"));
            case.resource = resource("b");
        },
    )?;
    set.refused(
        "unwrap",
        "recipient_aad_not_authenticated",
        "The content is encrypted with `protected` alone as associated data.",
        |case| {
            let dek = case.dek();
            let recipient = &mut case.bundle.recipients[0];
            let protected = recipient.protected();
            recipient.seal_with(protected.as_bytes(), &dek);
        },
    )?;
    set.refused(
        "unwrap",
        "recipient_aad_authenticated_decoded",
        "The content is encrypted with the decoded `aad` instead of its base64url.",
        |case| {
            let dek = case.dek();
            let recipient = &mut case.bundle.recipients[0];
            let decoded = format!("{}.{}", recipient.protected(), recipient.aad);
            recipient.seal_with(decoded.as_bytes(), &dek);
        },
    )?;
    set.refused(
        "manifest-forged",
        "recipient_of_another_data_key",
        "The recipient holds another data key, as someone who holds the key encryption key can make \
         it: the manifest is not signed with it.",
        |case| case.bundle.recipients[0].seal(&fixed::<32>("another data key")),
    )
}

/// The protected header, authenticated as it stands.
fn headers(set: &mut Set) -> Result<()> {
    const ALG: &str = r#""alg":"A256KW""#;
    for (name, reason, from, to, comment) in [
        ("alg_dir", "malformed", ALG, r#""alg":"dir""#, "Not wrapped at all, it says."),
        ("alg_a128kw", "malformed", ALG, r#""alg":"A128KW""#, "A smaller key."),
        ("alg_a128gcmkw", "malformed", ALG, r#""alg":"A128GCMKW""#, "A smaller key."),
        (
            "alg_rsa_oaep",
            "malformed",
            ALG,
            r#""alg":"RSA-OAEP-256""#,
            "An algorithm of public keys.",
        ),
        ("alg_ecdh_es", "malformed", ALG, r#""alg":"ECDH-ES+A256KW""#, "The same, without `epk`."),
        (
            "alg_pbes2",
            "malformed",
            ALG,
            r#""alg":"PBES2-HS512+A256KW""#,
            "An algorithm of passwords.",
        ),
        ("alg_none", "malformed", ALG, r#""alg":"none""#, "An algorithm of JWS."),
        ("alg_in_lower_case", "malformed", ALG, r#""alg":"a256kw""#, "Algorithm names have case."),
        ("without_alg", "malformed", r#""alg":"A256KW","#, "", "A member is missing."),
        ("enc_a128gcm", "malformed", "A256GCM", "A128GCM", "A smaller content key."),
        ("enc_a256cbc_hs512", "malformed", "A256GCM", "A256CBC-HS512", "Another content cipher."),
        (
            "with_zip",
            "unsupported",
            r#","kid":"#,
            r#","zip":"DEF","kid":"#,
            "Compressed: lengths would tell, and small tokens could grow large.",
        ),
        (
            "with_crit",
            "unsupported",
            r#","kid":"#,
            r#","crit":["exp"],"exp":0,"kid":"#,
            "An extension that whoever reads it must understand.",
        ),
        (
            "with_an_unknown_member",
            "malformed",
            r#","kid":"#,
            r#","typ":"JOSE","kid":"#,
            "A member that is registered, harmless, and not of this format.",
        ),
        (
            "with_a_duplicate_member",
            "malformed",
            r#","kid":"#,
            r#","enc":"A256GCM","kid":"#,
            "`enc` twice with the same value.",
        ),
        (
            "with_an_iv_for_a256kw",
            "malformed",
            r#"","kid":"kbs:///default/key/a""#,
            r#"","kid":"kbs:///default/key/a","iv":"AAAAAAAAAAAAAAAA""#,
            "A member of the other algorithm.",
        ),
        (
            "with_a_space",
            "malformed",
            r#","kid":"#,
            r#", "kid":"#,
            "A space: the same members, not the same bytes.",
        ),
        (
            "with_an_escaped_solidus",
            "malformed",
            "kbs:///default",
            r"kbs:\/\/\/default",
            "The same kid in another spelling.",
        ),
        (
            "members_in_another_order",
            "malformed",
            r#""alg":"A256KW","enc":"A256GCM""#,
            r#""enc":"A256GCM","alg":"A256KW""#,
            "`enc` before `alg`.",
        ),
        (
            "without_kid",
            "malformed",
            r#","kid":"kbs:///default/key/a""#,
            "",
            "The header, which is authenticated, does not say for which key it is.",
        ),
        (
            "of_another_kid",
            "malformed",
            "kbs:///default/key/a",
            "kbs:///default/key/b",
            "The header, which is authenticated, says another key than the `kid` beside it.",
        ),
        (
            "kid_null",
            "malformed",
            r#""kid":"kbs:///default/key/a""#,
            r#""kid":null"#,
            "A kid is text.",
        ),
        ("not_json", "malformed", "{", "[{", "The header is not JSON."),
    ] {
        set.refused(reason, &format!("recipient_header_{name}"), comment, |case| {
            let dek = case.dek();
            case.bundle.recipients[0].edit_header(&dek, from, to);
        })?;
    }
    set.refused("malformed", "recipient_header_in_an_array", "The header is no object.", |case| {
        let dek = case.dek();
        let recipient = &mut case.bundle.recipients[0];
        recipient.header = format!("[{}]", recipient.header);
        recipient.seal(&dek);
    })
}

/// The members of a recipient's JWE.
fn members(set: &mut Set) -> Result<()> {
    for (name, from, to, comment) in [
        (
            "with_an_unprotected_header",
            r#","encrypted_key":"#,
            r#","unprotected":{"alg":"dir"},"encrypted_key":"#,
            "A header that nothing authenticates.",
        ),
        (
            "with_a_header_of_its_own",
            r#","encrypted_key":"#,
            r#","header":{"kid":"kbs:///default/key/b"},"encrypted_key":"#,
            "The other header that nothing authenticates.",
        ),
        (
            "with_a_duplicate_member",
            r#","encrypted_key":"#,
            r#","encrypted_key":"","encrypted_key":"#,
            "`encrypted_key` twice: which of them counts would depend on the parser.",
        ),
        (
            "in_general_form",
            r#","encrypted_key":"#,
            r#","recipients":[],"encrypted_key":"#,
            "A JWE with recipients of its own.",
        ),
    ] {
        set.refused("malformed", &format!("recipient_{name}"), comment, |case| {
            case.edit_document(from, to);
        })?;
    }
    set.refused(
        "malformed",
        "recipient_without_aad",
        "The member `aad` is missing, and the content encrypted without it: nothing ties it to the \
         bundle.",
        |case| {
            let dek = case.dek();
            let recipient = &mut case.bundle.recipients[0];
            let protected = recipient.protected();
            recipient.seal_with(protected.as_bytes(), &dek);
            let aad = format!(r#","aad":"{}""#, base64url(recipient.aad.as_bytes()));
            case.edit_document(&aad, "");
        },
    )?;
    set.refused(
        "malformed",
        "recipient_of_another_bundle",
        "The recipient of another bundle under the same key: its data key and its `aad` are that \
         one's.",
        |case| {
            let other = Bundle::empty("other");
            case.bundle.recipients = other.recipients;
        },
    )?;
    set.refused(
        "malformed",
        "recipient_aad_of_another_bundle",
        "The right data key, authenticated as that of another bundle.",
        |case| {
            let id = Bundle::empty("other").id;
            case.bundle.recipients = vec![Recipient::new(&case.dek(), &id, "a")];
        },
    )?;
    set.refused(
        "malformed",
        "recipient_aad_without_format",
        "`aad` is the bundle id alone.",
        |case| {
            let dek = case.dek();
            let recipient = &mut case.bundle.recipients[0];
            recipient.aad = case.bundle.id.clone();
            recipient.seal(&dek);
        },
    )?;
    set.refused(
        "unwrap",
        "bundle_id_swapped",
        "The recipient of another bundle whose `aad` was written over with this bundle's id: `aad` \
         is authenticated.",
        |case| {
            let mut other = Bundle::empty("other").recipients.remove(0);
            other.aad = case.bundle.recipients[0].aad.clone();
            case.bundle.recipients = vec![other];
        },
    )?;
    type Damage = fn(&mut Recipient);
    let lengths: [(&str, Damage, &str); 8] = [
        ("encrypted_key_empty", |r| r.encrypted_key.clear(), "No wrapped content key."),
        (
            "encrypted_key_too_short",
            |r| r.encrypted_key = key_wrap(&kek("a"), &[7; 16]),
            "A content key of 16 bytes.",
        ),
        (
            "encrypted_key_too_long",
            |r| r.encrypted_key.extend([0; 8]),
            "One block more than a content key of 32 bytes has.",
        ),
        ("iv_too_short", |r| r.iv.truncate(11), "An IV of 11 bytes."),
        ("iv_too_long", |r| r.iv.resize(16, 0), "An IV of 16 bytes, which GCM would hash."),
        ("tag_too_short", |r| r.tag.truncate(12), "A tag of 12 bytes, which GCM could verify."),
        ("tag_empty", |r| r.tag.clear(), "No tag."),
        ("data_key_too_short", |r| r.seal(&[7; 31]), "A data key of 31 bytes."),
    ];
    for (name, damage, comment) in lengths {
        set.refused("malformed", &format!("recipient_{name}"), comment, |case| {
            damage(&mut case.bundle.recipients[0]);
        })?;
    }
    type Respell = fn(&str) -> String;
    let spellings: [(&str, Respell, &str); 3] = [
        ("with_padding", |tag| format!("{tag}=="), "base64url with padding."),
        (
            "with_unused_bits",
            |tag| {
                let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
                let last = letters.find(&tag[21..]).expect("base64url of 16 bytes");
                format!("{}{}", &tag[..21], &letters[last + 1..last + 2])
            },
            "The last letter's unused bits are not zero.",
        ),
        ("with_a_space", |tag| format!(" {tag}"), "A space before base64url."),
    ];
    for (name, respell, comment) in spellings {
        set.refused("malformed", &format!("recipient_tag_{name}"), comment, |case| {
            let tag = format!(r#","tag":"{}""#, base64url(&case.bundle.recipients[0].tag));
            let spelled = respell(&base64url(&case.bundle.recipients[0].tag));
            case.edit_document(&tag, &format!(r#","tag":"{spelled}""#));
        })?;
    }
    set.refused("malformed", "recipient_tag_in_base64", "base64 in the other alphabet.", |case| {
        case.bundle.recipients[0].tag = vec![0xff; 16];
        let tag = base64url(&[0xff; 16]);
        case.edit_document(&tag, &tag.replace('_', "/"));
    })
}

/// Names of keys.
fn kids(set: &mut Set) -> Result<()> {
    for (name, kid, comment) in [
        ("kid_empty", "", "No name."),
        (
            "kid_of_a_host",
            "kbs://broker.example/default/key/a",
            "A host, which readers would ignore.",
        ),
        ("kid_of_two_segments", "kbs:///key/a", "Two segments."),
        ("kid_of_four_segments", "kbs:///default/key/a/b", "Four segments."),
        ("kid_of_dots", "kbs:///default/../a", "A segment that climbs."),
        ("kid_of_another_scheme", "https:///default/key/a", "Another scheme."),
        ("kid_in_upper_case", "KBS:///default/key/a", "The scheme is lower-case."),
        ("kid_with_a_query", "kbs:///default/key/a?x", "A query."),
        ("kid_with_an_escape", "kbs:///default/key/%61", "Nothing is decoded."),
    ] {
        set.refused("name", name, comment, |case| {
            let mut recipient = other(case, "b");
            recipient.kid = kid.into();
            recipient.header = recipient.header.replace(&resource("b"), kid);
            recipient.seal(&case.dek());
            case.bundle.recipients.push(recipient);
        })?;
    }
    let long = format!("kbs:///default/key/{}", "a".repeat(256));
    set.refused("name", "kid_too_long", "A segment of 256 bytes.", |case| {
        let mut recipient = other(case, "b");
        recipient.header = recipient.header.replace(&resource("b"), &long);
        recipient.kid = long;
        recipient.seal(&case.dek());
        case.bundle.recipients.push(recipient);
    })?;
    set.refused(
        "malformed",
        "recipient_of_someone_else_malformed",
        "The own recipient is fine; another one has an algorithm that the format does not have. What \
         is the same for all is checked by all.",
        |case| {
            let mut recipient = other(case, "b");
            recipient.edit_header(&case.dek(), "A256KW", "A192KW");
            case.bundle.recipients.push(recipient);
        },
    )
}

/// The content key, wrapped in other ways.
fn content_keys(set: &mut Set) -> Result<()> {
    set.refused(
        "unwrap",
        "recipient_wrapped_with_padding",
        "The content key is wrapped as RFC 5649 does: as long as by RFC 3394, and not the same.",
        |case| {
            let recipient = &mut case.bundle.recipients[0];
            recipient.encrypted_key = key_wrap_padded(&kek("a"), &recipient.cek);
        },
    )?;
    set.refused(
        "unwrap",
        "recipient_wrapped_with_associated_data",
        "By A256GCMKW, with the header as associated data; the format has none.",
        |case| {
            let (dek, id) = (case.dek(), case.bundle.id.clone());
            case.bundle.recipients = vec![Recipient::gcm_kw(&dek, &id, "a", b"A256GCMKW")];
        },
    )?;
    set.refused(
        "unwrap",
        "recipient_encrypted_directly",
        "The data key is encrypted under the released key itself, as `dir` would have it.",
        |case| {
            let dek = case.dek();
            let recipient = &mut case.bundle.recipients[0];
            let cek = std::mem::replace(&mut recipient.cek, kek("a").to_vec());
            recipient.seal(&dek);
            recipient.cek = cek;
        },
    )?;
    // What belongs to A256GCMKW alone.
    type Edit = fn(&mut Recipient);
    let edits: [(&str, &str, Edit, &str); 6] = [
        (
            "gcmkw_encrypted_key_flipped",
            "unwrap",
            |r| r.encrypted_key[31] ^= 1,
            "A bit of the wrapped content key flipped.",
        ),
        (
            "gcmkw_tag_of_another_key",
            "unwrap",
            |r| {
                let sealed = gcm(&kek("b"), fixed("wrapping iv a"), b"", &r.cek);
                set_header_member(r, "tag", &sealed[32..]);
            },
            "The header's `tag` is what another key would give.",
        ),
        (
            "gcmkw_iv_of_another_recipient",
            "unwrap",
            |r| set_header_member(r, "iv", &fixed::<12>("wrapping iv b")),
            "The header's `iv` is another.",
        ),
        (
            "gcmkw_iv_too_short",
            "malformed",
            |r| set_header_member(r, "iv", &[0; 8]),
            "The header's `iv` has 8 bytes.",
        ),
        (
            "gcmkw_tag_too_short",
            "malformed",
            |r| set_header_member(r, "tag", &[0; 4]),
            "The header's `tag` has 4 bytes.",
        ),
        (
            "gcmkw_without_tag",
            "malformed",
            |r| r.header = format!("{}}}", r.header.split_once(r#","tag""#).expect("a tag").0),
            "The header has no `tag`.",
        ),
    ];
    for (name, reason, edit, comment) in edits {
        set.refused(reason, &format!("recipient_{name}"), comment, |case| {
            let (dek, id) = (case.dek(), case.bundle.id.clone());
            let mut recipient = Recipient::gcm_kw(&dek, &id, "a", b"");
            edit(&mut recipient);
            recipient.seal(&dek);
            case.bundle.recipients = vec![recipient];
        })?;
    }
    Ok(())
}

/// Writes over a member of the header that is base64url.
fn set_header_member(recipient: &mut Recipient, name: &str, value: &[u8]) {
    let mark = format!(r#""{name}":""#);
    let (before, rest) = recipient.header.split_once(&mark).expect("the member is there");
    let (_, after) = rest.split_once('"').expect("a string");
    recipient.header = format!("{before}{mark}{}\"{after}", base64url(value));
}

fn allowed(set: &mut Set) -> Result<()> {
    set.opens("recipient_by_a256kw", "The bundle that all others are made from.", |_| ())?;
    set.opens(
        "recipient_by_a256gcmkw",
        "The content key is wrapped by A256GCMKW; the key says nothing of how it wraps.",
        |case| {
            let (dek, id) = (case.dek(), case.bundle.id.clone());
            case.bundle.recipients = vec![Recipient::gcm_kw(&dek, &id, "a", b"")];
        },
    )?;
    set.opens(
        "recipients_at_their_limit",
        "16 recipients by both algorithms, the deployer's last.",
        |case| {
            let (dek, id) = (case.dek(), case.bundle.id.clone());
            let tag = |i| format!("x{i}");
            let others = (1..16).map(|i| match i % 2 {
                0 => Recipient::new(&dek, &id, &tag(i)),
                _ => Recipient::gcm_kw(&dek, &id, &tag(i), b""),
            });
            case.bundle.recipients.splice(0..0, others);
        },
    )?;
    set.opens(
        "recipients_of_others_damaged",
        "Two other recipients have other bits wherever the format says that nothing authenticates \
         them for this key: that locks others out, and changes nothing here.",
        |case| {
            let (dek, id) = (case.dek(), case.bundle.id.clone());
            let mut second = Recipient::gcm_kw(&dek, &id, "c", b"");
            set_header_member(&mut second, "iv", &[1; 12]);
            set_header_member(&mut second, "tag", &[2; 16]);
            let mut first = Recipient::new(&dek, &id, "b");
            for recipient in [&mut first, &mut second] {
                recipient.encrypted_key.fill(3);
                recipient.iv.fill(4);
                recipient.ciphertext.fill(5);
                recipient.tag.fill(6);
            }
            case.bundle.recipients.splice(0..0, [first, second]);
        },
    )?;
    set.opens(
        "recipient_of_another_name",
        "Any resource URI names a key: other repositories and types, the longest tag.",
        |case| {
            let kid = format!("kbs:///_r/T-0/{}", "a".repeat(255));
            let dek = case.dek();
            let recipient = &mut case.bundle.recipients[0];
            recipient.edit_header(&dek, &resource("a"), &kid);
            recipient.kid.clone_from(&kid);
            case.resource = kid;
        },
    )
}
