//! [`Event`]: what is worth a record.

use serde::{Deserialize, Serialize};

/// Something that happened, or is about to: a key's release and a model's opening are recorded first
/// and done only if that succeeded. No field ever holds a key, a digest of a key, or plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A key is about to be asked for.
    KeyRequested {
        /// The resource, `kbs:///<repo>/<type>/<tag>`.
        resource: String,
        /// Kind of key source: `cdh`, `kbs` or `file`.
        source: String,
        /// Why, such as the bundle to open.
        purpose: String,
    },
    /// A key was received and is about to be used.
    KeyReleased {
        /// The resource.
        resource: String,
        /// Kind of key source.
        source: String,
        /// The model that it will open, once that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<String>,
        /// What the broker signed about it, a compact JWS, not looked at: see
        /// [`verify_receipts`](crate::verify_receipts).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        receipt: Option<String>,
    },
    /// A key was asked for and not received.
    KeyRefused {
        /// The resource.
        resource: String,
        /// Kind of key source.
        source: String,
        /// Code of the error.
        code: String,
        /// Its message.
        reason: String,
    },
    /// A sealed secret was opened and is about to be handed over.
    SecretOpened {
        /// SHA-256 of the sealed text, `sha256:<hex>`.
        secret: String,
        /// Who signed it: a resource, or the name of a key file.
        signer: String,
        /// The resource that is the secret, or the key that its data key was wrapped with.
        resource: String,
    },
    /// A sealed secret was not opened.
    SecretRefused {
        /// SHA-256 of the sealed text, `sha256:<hex>`.
        secret: String,
        /// Code of the error.
        code: String,
        /// Its message.
        reason: String,
    },
    /// Secrets were fetched, all of them, and are about to be visible together.
    SecretsPublished {
        /// Directory.
        destination: String,
        /// Number of the revision that they are.
        revision: u64,
        /// Each file's path, and the resource or sealed file that it is from: `PATH=SOURCE`.
        items: Vec<String>,
    },
    /// A model is verified as a whole and about to be published.
    ModelOpened {
        /// Location of the bundle, without credentials.
        source: String,
        /// Directory.
        destination: String,
        /// Name of the model.
        model: String,
        /// Generation of the model.
        generation: u64,
        /// SHA-256 of its manifest, hex.
        manifest_digest: String,
        /// Resource of the key.
        key: String,
        /// Who signed the files, if that was asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signer: Option<String>,
        /// Number of files.
        files: u64,
        /// Sum of their sizes.
        bytes: u64,
    },
    /// A model was not published.
    ModelRefused {
        /// Location of the bundle, without credentials.
        source: String,
        /// Directory.
        destination: String,
        /// Code of the error.
        code: String,
        /// Its message.
        reason: String,
    },
    /// A bundle was put on a node as it is.
    ModelCached {
        /// Location of the bundle, without credentials.
        source: String,
        /// Directory.
        destination: String,
        /// Name that its manifest claims; nothing has proven it.
        model: String,
        /// Generation that its manifest claims.
        generation: u64,
        /// SHA-256 of its manifest, hex.
        manifest_digest: String,
        /// Number of files.
        files: u64,
        /// Sum of the sealed objects' sizes.
        bytes: u64,
    },
    /// A model was sealed.
    ModelSealed {
        /// Location of the bundle, without credentials.
        destination: String,
        /// Name of the model.
        model: String,
        /// Generation of the model.
        generation: u64,
        /// SHA-256 of its manifest, hex.
        manifest_digest: String,
        /// Resources of the keys that open it.
        recipients: Vec<String>,
        /// Where the files of another format lay, if they were converted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        converted_from: Option<String>,
        /// Number of files.
        files: u64,
        /// Sum of their sizes.
        bytes: u64,
    },
    /// The recipients of a bundle were replaced.
    Rewrapped {
        /// Location of the bundle, without credentials.
        location: String,
        /// SHA-256 of its manifest, hex.
        manifest_digest: String,
        /// Resources of the keys that open it now.
        recipients: Vec<String>,
    },
    /// The broker is about to release a resource.
    ResourceReleased {
        /// The resource.
        resource: String,
        /// Kind of TEE that asked.
        tee: String,
        /// SHA-256 of the claims that the policy saw, hex.
        claims_digest: String,
        /// SHA-256 of the policy, hex.
        policy_digest: String,
        /// Address of the client.
        client: String,
        /// RFC 7638 thumbprint of the key to which the answer is encrypted.
        key_thumbprint: String,
    },
    /// The broker refused a resource.
    ResourceRefused {
        /// The resource.
        resource: String,
        /// Kind of TEE that asked.
        tee: String,
        /// Why.
        reason: String,
        /// Address of the client.
        client: String,
    },
    /// An administrator is about to store a resource.
    ResourceStored {
        /// The resource.
        resource: String,
        /// Who.
        admin: String,
    },
    /// A resource is about to be written out in the clear, by whoever has the broker's master key.
    ResourceExported {
        /// The resource.
        resource: String,
        /// Directory.
        destination: String,
    },
    /// An administrator is about to raise a key's minimum: older bundles are refused from then on.
    PinRaised {
        /// The key.
        resource: String,
        /// Name of the model.
        model: String,
        /// The lowest generation that the key will open.
        min_generation: u64,
        /// The only manifests that it will open, if any are named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        digests: Vec<String>,
        /// Who.
        admin: String,
    },
    /// An administrator is about to delete a resource.
    ResourceDeleted {
        /// The resource.
        resource: String,
        /// Who.
        admin: String,
    },
    /// The broker verified evidence, or did not.
    Attested {
        /// Kind of TEE.
        tee: String,
        /// Address of the client.
        client: String,
        /// `accepted`, or why not.
        outcome: String,
        /// How often evidence was refused, since the last record of that, without a record of its own.
        #[serde(default, skip_serializing_if = "is_none")]
        left_out: u64,
    },
    /// The broker refused a request before it came to evidence: a body that is too long, late or not
    /// of the protocol, a wrong session, version or kind of TEE.
    RequestRefused {
        /// Method and path.
        request: String,
        /// Why.
        reason: String,
        /// Address of the client.
        client: String,
        /// How many more were refused, since the last such record, without a record of their own.
        #[serde(default, skip_serializing_if = "is_none")]
        left_out: u64,
    },
    /// The broker is about to work under another policy.
    PolicyChanged {
        /// SHA-256 of the policy, hex.
        digest: String,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_none(count: &u64) -> bool {
    *count == 0
}
