//! Planning: everything that can be refused before a key or a byte is asked for.

use publish::{Destination, Plan, PlannedFile, Policy};
use seal::bundle::{Bundle, MANIFEST_OBJECT};
use seal::name::{BundlePath, Digest, KeyUri};
use store::Store;

use super::upstream::{self, Token};
use super::{Accept, Run, Target};
use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::transfer::{Content, Item, plain_segments};

/// A target that can be opened as far as can be known without a key.
pub(super) struct Planned {
    pub(super) store: Store,
    pub(super) destination: Destination,
    pub(super) plan: Plan,
    pub(super) work: Work,
    /// The destination holds just this model already.
    pub(super) unchanged: bool,
}

/// What is to be done.
pub(super) enum Work {
    Sealed { bundle: Bundle, resource: KeyUri },
    Jwe { tokens: Vec<Token>, resource: KeyUri },
    Plain { items: Vec<Item> },
}

impl Work {
    pub(super) fn resource(&self) -> Option<&KeyUri> {
        match self {
            Self::Sealed { resource, .. } | Self::Jwe { resource, .. } => Some(resource),
            Self::Plain { .. } => None,
        }
    }
}

impl Run<'_> {
    pub(super) async fn plan(&self, target: &Target) -> Result<Planned, Failure> {
        let policy = Policy { allow_disk: self.options.allow_disk };
        let destination = Destination::open(&target.dest, &policy)?;
        let store = Store::open(&target.source.location, self.settings)?;
        let objects = Objects { store: &store, limits: &self.limits };
        let (plan, work) = self.plan_work(target, &objects).await?;
        // Only a manifest's digest names content. What has none is fetched anew, from the start.
        let digest = matches!(work, Work::Sealed { .. }).then_some(plan.digest);
        let unchanged = match (digest, destination.receipt()?) {
            (Some(digest), Some(receipt)) if receipt.manifest_digest == hex::encode(digest) => {
                destination.holds(&receipt)?
            }
            _ => false,
        };
        if !unchanged {
            destination.recover(digest)?;
            destination.preflight(&plan)?;
        }
        Ok(Planned { store, destination, plan, work, unchanged })
    }

    /// What is there, and what is to be done about it.
    pub(super) async fn plan_work(
        &self,
        target: &Target,
        objects: &Objects<'_>,
    ) -> Result<(Plan, Work), Failure> {
        match (objects.manifest().await?, self.accept) {
            (Some(json), _) => self.plan_sealed(target, objects, &json).await,
            (None, Accept::SealedOnly) => Err(not_sealed(objects).await?),
            (None, Accept::Jwe) => self.plan_jwe(target, objects).await,
            (None, Accept::Plain) => plan_plain(objects).await,
        }
    }

    async fn plan_sealed(
        &self,
        target: &Target,
        objects: &Objects<'_>,
        json: &[u8],
    ) -> Result<(Plan, Work), Failure> {
        let bundle = Bundle::parse(json)?;
        let resource = self.resource(target).ok_or_else(|| no_key_named(&bundle))?;
        if !bundle.recipients().any(|recipient| *recipient == resource) {
            return Err(seal::Error::NoRecipient { resource }.into());
        }
        objects.check(bundle.claimed()).await?;
        let files = bundle.claimed().files.iter().map(|file| PlannedFile {
            path: file.path.as_str().to_owned(),
            mode: file.mode.bits(),
            bytes: file.layout.plaintext_bytes(),
            segments: file.layout.segments(),
        });
        let plan = Plan { digest: *bundle.digest().as_bytes(), files: files.collect() };
        Ok((plan, Work::Sealed { bundle, resource }))
    }

    async fn plan_jwe(
        &self,
        target: &Target,
        objects: &Objects<'_>,
    ) -> Result<(Plan, Work), Failure> {
        let resource = self.resource(target).ok_or_else(|| {
            Failure::new(Code::NoKeyNamed, "no key is named for the JWE files")
                .hint("Set confidential.resourceId (or --resource-id)")
        })?;
        let (plan, tokens) = upstream::plan(objects).await?;
        Ok((plan, Work::Jwe { tokens, resource }))
    }

    /// The key that the deployer names: for this source, or for all.
    fn resource(&self, target: &Target) -> Option<KeyUri> {
        target.source.key.as_ref().or(self.options.resource_id.as_ref()).cloned()
    }
}

/// Every object below the prefix as it is.
async fn plan_plain(objects: &Objects<'_>) -> Result<(Plan, Work), Failure> {
    let found = objects.list().await?.ok_or_else(|| {
        Failure::new(
            Code::NotFound,
            "the store lists nothing, so what a plain model consists of \
                                      is unknown",
        )
    })?;
    if found.is_empty() {
        return Err(Failure::new(Code::NotFound, "there is no object below this prefix"));
    }
    let mut files = Vec::with_capacity(found.len());
    let mut identity = String::from("plain\n");
    for (name, bytes) in &found {
        let path = BundlePath::parse(name)?;
        identity.push_str(&format!("{bytes} {path}\n"));
        files.push(PlannedFile {
            path: path.as_str().to_owned(),
            mode: 0o644,
            bytes: *bytes,
            segments: plain_segments(*bytes),
        });
    }
    let item = |(object, bytes)| Item { object, content: Content::Plain { bytes } };
    let work = Work::Plain { items: found.into_iter().map(item).collect() };
    Ok((Plan { digest: *Digest::of(identity.as_bytes()).as_bytes(), files }, work))
}

/// There is no `sealift.json`: says what is there instead, so that the fix is plain.
async fn not_sealed(objects: &Objects<'_>) -> Result<Failure, Failure> {
    let found = objects.list().await?.unwrap_or_default();
    let refused = Failure::new(Code::NotSealed, format!("there is no {MANIFEST_OBJECT}"));
    Ok(if found.is_empty() {
        refused.hint("Seal the model with `sealift seal`, or check the URI")
    } else if found.keys().any(|name| name.to_ascii_lowercase().ends_with(".jwe")) {
        refused.hint(
            "The files look like KServe's JWE, which protects no set of files: seal the model, or \
             say --accept-jwe",
        )
    } else {
        refused.hint("This looks like a plain model: seal it with `sealift seal`")
    })
}

fn no_key_named(bundle: &Bundle) -> Failure {
    let recipients: Vec<_> = bundle.recipients().map(ToString::to_string).collect();
    Failure::new(Code::NoKeyNamed, "the bundle is sealed and no key is named for it").hint(format!(
        "Set confidential.resourceId (or --resource-id); the bundle says it is sealed for {}",
        recipients.join(", ")
    ))
}
