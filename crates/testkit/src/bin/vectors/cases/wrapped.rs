//! Recipients whose keys are not released but unwrap: §2's names, and `wrapped_key` of §7.

use anyhow::Result;

use crate::Set;
use crate::crypto::base64url;
use crate::forge::{Case, Recipient, kek, wrapped_key};

const TRANSIT: &str = "vault:///transit/keys/llama";
const GCP: &str =
    "gcpkms:///projects/acme-ml/locations/europe-west3/keyRings/models/cryptoKeys/llama";
/// Whoever has the public half of this one's key can wrap for it.
const PUBLIC: &str = "kbs+pkcs11:///wrap-key";

/// Most bytes of a wrapped key.
const WRAPPED_BYTES_MAX: usize = 6144;

pub(crate) fn add(set: &mut Set) -> Result<()> {
    names(set)?;
    members(set)?;
    keys(set)
}

/// Sealed for `kid` alone, and opened by it; the demand pins, since the key cannot.
fn sealed_for(case: &mut Case, kid: &str) {
    let bundle = &mut case.bundle;
    bundle.recipients = vec![Recipient::wrapped(&bundle.dek, &bundle.id, "w", kid)];
    case.resource = kid.to_owned();
    case.key = kek("w").to_vec();
    case.demand = serde_json::json!({"min_generation": 3});
}

fn names(set: &mut Set) -> Result<()> {
    for (name, kid) in [
        ("vault_transit", TRANSIT),
        ("vault_transit_in_a_deep_mount", "vault:///team/prod/keys/data"),
        ("aws_kms_key", "awskms:///eu-central-1/0e2b7f3c-0000-4000-8000-000000000001"),
        ("aws_kms_alias", "awskms:///eu-central-1/alias/team/llama"),
        ("aws_kms_arn", "awskms:///arn:aws:kms:eu-central-1:123456789012:key/0e2b-7f"),
        ("gcp_kms_key", GCP),
        ("azure_kms_key", "azurekms:///models.managedhsm.azure.net/keys/llama"),
        (
            "azure_kms_version",
            "azurekms:///models.managedhsm.azure.cn/keys/llama/0123456789abcdef0123456789abcdef",
        ),
        ("pkcs11_label", "pkcs11:token=My%20token;object=%C3%BC-kek"),
        ("pkcs11_id", "pkcs11:token=models;id=%01%FF"),
    ] {
        let comment = "A key that unwraps, in its one spelling.";
        set.opens(&format!("wrapped_by_{name}"), comment, |case| sealed_for(case, kid))?;
    }
    set.opens(
        "kid_of_a_vault_value",
        "A key that Vault releases, as a broker does: no `wrapped_key`.",
        |case| {
            sealed_for(case, "vault:///secret/data/models/llama#kek");
            case.bundle.recipients[0].wrapped_key.clear();
        },
    )?;
    set.opens(
        "kid_of_a_plugins_resource",
        "What a plugin of a key broker releases: no `wrapped_key`.",
        |case| {
            sealed_for(case, "kbs+pkcs11:///resource/team/key/one");
            case.bundle.recipients[0].wrapped_key.clear();
        },
    )?;
    for (name, kid) in [
        ("gcp_kms_version", &*format!("{GCP}/cryptoKeyVersions/1")),
        ("gcp_kms_operation", &format!("{GCP}:decrypt")),
        ("gcp_kms_host", "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k"),
        ("azure_kms_other_host", "azurekms:///hsm.example/keys/llama"),
        ("azure_kms_sub_domain", "azurekms:///a.models.managedhsm.azure.net/keys/llama"),
        ("azure_kms_short_version", "azurekms:///models.managedhsm.azure.net/keys/llama/1"),
        ("plugin_resource", "kbs+resource:///team/key/one"),
        ("plugin_host", "kbs+pkcs11://host/wrap-key"),
        ("plugin_upper_case", "kbs+PKCS11:///wrap-key"),
        ("plugin_dots", "kbs+pkcs11:///../resource/a"),
        ("vault_host", "vault://host/transit/keys/llama"),
        ("vault_operation", "vault:///transit/decrypt/llama"),
        ("vault_second_keys", "vault:///a/keys/b/keys/c"),
        ("vault_transit_field", "vault:///transit/keys/llama#f"),
        ("vault_value_without_field", "vault:///secret/data/models/llama"),
        ("vault_dots", "vault:///transit/keys/.."),
        ("aws_kms_upper_case", "awskms:///EU-central-1/0e2b"),
        ("aws_kms_endpoint", "awskms://host/eu-central-1/0e2b"),
        ("aws_s3_arn", "awskms:///arn:aws:s3:eu-central-1:123456789012:key/0e2b"),
        ("pkcs11_pin", "pkcs11:token=t;object=o;pin-value=1234"),
        ("pkcs11_other_order", "pkcs11:object=o;token=t"),
        ("pkcs11_needless_escape", "pkcs11:token=t;object=%6F"),
        ("pkcs11_lower_case_escape", "pkcs11:token=t;object=%c3%bc"),
        ("pkcs11_bare_id", "pkcs11:token=t;id=01"),
        ("pkcs11_long_token", "pkcs11:token=012345678901234567890123456789012;object=o"),
    ] {
        let comment = "No key's name, or not in its one spelling.";
        set.refused("name", &format!("kid_of_{name}"), comment, |case| sealed_for(case, kid))?;
    }
    Ok(())
}

fn members(set: &mut Set) -> Result<()> {
    let longest = wrapped_key(&[7; WRAPPED_BYTES_MAX]);
    set.opens("wrapped_key_at_its_limit", "6144 bytes.", |case| {
        sealed_for(case, TRANSIT);
        case.bundle.recipients[0].wrapped_key = longest;
    })?;
    set.refused("limit", "wrapped_key_too_long", "6145 bytes.", |case| {
        sealed_for(case, TRANSIT);
        case.bundle.recipients[0].wrapped_key = wrapped_key(&[7; WRAPPED_BYTES_MAX + 1]);
    })?;
    set.refused(
        "malformed",
        "wrapped_key_of_a_released_key",
        "A broker's key wraps the data key itself: it has no `wrapped_key`.",
        |case| case.bundle.recipients[0].wrapped_key = wrapped_key(b"x"),
    )?;
    for (name, member, comment) in [
        ("absent", "", "A key that unwraps, and nothing for it to unwrap."),
        ("null", r#""wrapped_key":null,"#, "`null` is not absence, and absence is refused too."),
        ("empty", r#""wrapped_key":"","#, "Nothing to unwrap."),
        ("number", r#""wrapped_key":7,"#, "No string."),
        ("with_padding", r#""wrapped_key":"b25lcw==","#, "base64url has no padding here."),
        ("with_unused_bits", r#""wrapped_key":"b25","#, "Unused bits that are not zero."),
        ("twice", r#""wrapped_key":"b25l","wrapped_key":"b25l","#, "Which of them counts?"),
    ] {
        set.refused("malformed", &format!("wrapped_key_{name}"), comment, |case| {
            sealed_for(case, TRANSIT);
            case.bundle.recipients[0].wrapped_key = member.to_owned();
        })?;
    }
    Ok(())
}

fn keys(set: &mut Set) -> Result<()> {
    set.refused(
        "unwrap",
        "wrapped_key_of_another_bundle",
        "The bucket put another bundle's wrapped key here: what unwraps is that bundle's key.",
        |case| {
            sealed_for(case, TRANSIT);
            case.key = kek("of another bundle").to_vec();
        },
    )?;
    set.refused(
        "unpinned",
        "wrapped_and_unpinned",
        "A key that only unwraps cannot pin, and the deployer did not.",
        |case| {
            sealed_for(case, TRANSIT);
            case.demand = serde_json::json!({});
        },
    )?;
    for (name, demand) in [
        ("generation", serde_json::json!({"min_generation": 3})),
        ("word", serde_json::json!({"allow_unpinned": true})),
    ] {
        set.refused(
            "unvouched",
            &format!("public_key_and_a_{name}"),
            "Anybody may have sealed this: only a manifest digest tells whose it is.",
            |case| {
                sealed_for(case, PUBLIC);
                case.demand = demand;
            },
        )?;
    }
    set.refused(
        "digest",
        "public_key_and_another_digest",
        "Sealed by whoever has the public half.",
        |case| {
            sealed_for(case, PUBLIC);
            case.demand = serde_json::json!({"digests": [format!("sha256:{}", "0".repeat(64))]});
        },
    )?;
    let released = [
        ("a_jwk", format!(r#"{{"kty":"oct","k":"{}"}}"#, base64url(&kek("w"))).into_bytes()),
        ("text", base64url(&kek("w")).into_bytes()),
        ("31_bytes", kek("w")[1..].to_vec()),
        ("nothing", Vec::new()),
    ];
    for (name, key) in released {
        let comment = "What is unwrapped is 32 bytes and read in no other way.";
        set.refused("key-unusable", &format!("unwrapped_to_{name}"), comment, |case| {
            sealed_for(case, TRANSIT);
            case.key = key;
        })?;
    }
    Ok(())
}
