//! Planning: everything that can be refused before a key or a byte is asked for.

use publish::{Destination, Plan, PlannedFile, Policy};
use seal::bundle::{Bundle, MANIFEST_OBJECT};
use seal::name::KeyUri;
use store::{Layer, Store};

use super::archive::{Archive, Image};
use super::upstream::{self, Token};
use super::{Accept, Run, Target, layers, plain};
use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::recipients::Keys;
use crate::transfer::Item;

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
    Sealed {
        bundle: Bundle,
        resource: KeyUri,
    },
    Jwe {
        tokens: Vec<Token>,
        resource: KeyUri,
    },
    /// From the folder that the location is, or that holds the one object that it names.
    Plain {
        items: Vec<Item>,
        store: Store,
    },
    /// Out of one archive.
    Archive(Archive),
    /// Out of layers, which this key has opened if they are encrypted.
    Image(Image, Option<KeyUri>),
}

impl Work {
    /// The key that is still to be asked for.
    pub(super) fn resource(&self) -> Option<&KeyUri> {
        match self {
            Self::Sealed { resource, .. } | Self::Jwe { resource, .. } => Some(resource),
            Self::Plain { .. } | Self::Archive(_) | Self::Image(..) => None,
        }
    }
}

impl Run<'_> {
    pub(super) async fn plan(&self, target: &Target, keys: &Keys<'_>) -> Result<Planned, Failure> {
        let policy = Policy { allow_disk: self.options.allow_disk };
        let destination = Destination::open(&target.dest, &policy)?;
        let store = Store::open(&target.source.location, self.settings)?;
        let objects = Objects { store: &store, limits: &self.limits };
        let (plan, work) = self.plan_work(target, &objects, keys).await?;
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
        keys: &Keys<'_>,
    ) -> Result<(Plan, Work), Failure> {
        let manifest = match &self.accept {
            // Nothing lies below a file.
            Accept::Plain(_) if target.source.location.is_file() => None,
            _ => objects.manifest().await?,
        };
        if let Some(json) = manifest {
            return self.plan_sealed(target, objects, &json).await;
        }
        let layers = objects.retried(|| objects.store.layers()).await?;
        if self.pins(target) && self.accept != Accept::SEALED_ONLY {
            return Err(Failure::new(Code::NotSealed, "there is no sealift.json to compare with what is pinned")
                .hint("Names, generations and digests are those of a sealed bundle; leave them out for anything else"));
        }
        match (&self.accept, layers) {
            (Accept::Plain(_), Some(layers)) => {
                self.plan_layers(target, objects, keys, layers).await
            }
            (Accept::Plain(patterns), None) => {
                plain::plan(&target.source.location, objects, patterns, self.settings).await
            }
            (Accept::Sealed { images: true, .. }, Some(layers)) if layers::encrypted(&layers) => {
                self.plan_layers(target, objects, keys, layers).await
            }
            (Accept::Sealed { jwe: true, .. }, None) => self.plan_jwe(target, objects).await,
            (Accept::Sealed { .. }, layers) => Err(not_sealed(objects, layers).await?),
        }
    }

    /// Whether the deployer says something that only a bundle can meet: what is no bundle must not
    /// be let past it.
    fn pins(&self, target: &Target) -> bool {
        let (source, options) = (&target.source, self.options);
        source.name.is_some()
            || source.pins.is_some()
            || source.pin.min_generation.is_some()
            || !source.pin.digests.is_empty()
            || options.name.is_some()
            || options.pin_resource.is_some()
            || options.min_generation.is_some()
            || !options.digest.is_empty()
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
        // Before a key is asked for.
        let shown: Vec<_> = plan.files.iter().map(super::signed_file).collect();
        self.check.find(&shown)?;
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
    pub(super) fn resource(&self, target: &Target) -> Option<KeyUri> {
        target.source.key.as_ref().or(self.options.resource_id.as_ref()).cloned()
    }
}

/// There is no `sealift.json`: says what is there instead, so that the fix is plain.
async fn not_sealed(objects: &Objects<'_>, layers: Option<Vec<Layer>>) -> Result<Failure, Failure> {
    let refused = Failure::new(Code::NotSealed, format!("there is no {MANIFEST_OBJECT}"));
    if layers.is_some_and(|layers| layers::encrypted(&layers)) {
        return Ok(refused.hint(
            "This is an encrypted container image, which protects no set of layers: seal the \
             model, or name the image by its digest and say --accept-encrypted-images",
        ));
    }
    let found = objects.list().await?.unwrap_or_default();
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
