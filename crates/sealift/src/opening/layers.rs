//! Models in the layers of a registry, encrypted ones among them (`--accept-encrypted-images`).
//!
//! What encryption says of a layer, it says of that layer alone: that somebody with its key made it.
//! Which layers make an image, and in which order, the manifest says. So where sealed models are
//! required, the image must be named by its manifest's digest, and layers that are not encrypted may
//! say nothing of the model.

use std::collections::BTreeSet;

use publish::Plan;
use seal::key::Purpose;
use seal::name::KeyUri;
use seal::ocicrypt::{Encryption, LayerKey};
use store::Layer;

use super::archive::Image;
use super::plain::unpacked;
use super::plan::Work;
use super::{Accept, Run, Target};
use crate::code::Code;
use crate::failure::Failure;
use crate::objects::Objects;
use crate::recipients::Keys;

/// Whether any of them is.
pub(super) fn encrypted(layers: &[Layer]) -> bool {
    layers.iter().any(|layer| layer.encryption.is_some())
}

impl Run<'_> {
    /// The key is asked for here: without it, there is no list of files to plan with.
    pub(super) async fn plan_layers(
        &self,
        target: &Target,
        objects: &Objects<'_>,
        keys: &Keys<'_>,
        layers: Vec<Layer>,
    ) -> Result<(Plan, Work), Failure> {
        let only_encrypted = matches!(self.accept, Accept::Sealed { .. });
        if only_encrypted && !target.source.location.is_pinned() && !self.options.allow_unpinned {
            let what = "nothing says which manifest of the image is current";
            return Err(Failure::new(Code::Stale, what)
                .hint("Name the image by its digest, …@sha256:…, or say --allow-unpinned"));
        }
        let (layers, key) = match encrypted(&layers) {
            true => {
                let (layers, key) = self.unwrapped(target, keys, layers).await?;
                (layers, Some(key))
            }
            false => (layers.into_iter().map(|layer| (layer, None)).collect(), None),
        };
        let image = Image::index(objects.store, layers, only_encrypted, objects.limits).await?;
        Ok((unpacked("image\n", &image.files), Work::Image(image, key)))
    }

    /// Each layer with its key. Whoever serves the image wrote the names of keys in it: which one is
    /// asked for, the deployer says.
    async fn unwrapped(
        &self,
        target: &Target,
        keys: &Keys<'_>,
        layers: Vec<Layer>,
    ) -> Result<(Vec<(Layer, Option<LayerKey>)>, KeyUri), Failure> {
        let mut parsed = Vec::with_capacity(layers.len());
        for layer in layers {
            let annotations = layer.encryption.as_ref().map(|annotations| {
                annotations.iter().map(|(name, value)| (name.as_str(), value.as_str()))
            });
            let encryption = annotations.map(Encryption::parse).transpose();
            let encryption = encryption.map_err(|error| Failure::from(error).at(&layer.object))?;
            parsed.push((layer, encryption));
        }
        let named = || parsed.iter().filter_map(|(_, encryption)| encryption.as_ref());
        let hint = || {
            let found: BTreeSet<_> =
                named().flat_map(Encryption::keys).map(|key| key.to_string()).collect();
            format!(
                "Set confidential.resourceId (or --resource-id); the image says it is encrypted \
                 for {}",
                found.into_iter().collect::<Vec<_>>().join(", ")
            )
        };
        let key = self.resource(target).ok_or_else(|| {
            Failure::new(Code::NoKeyNamed, "the image is encrypted and no key is named for it")
                .hint(hint())
        })?;
        // Before the key is asked for.
        if !named().all(|encryption| encryption.keys().any(|found| found == key)) {
            let what = format!("not every layer is encrypted for {key}");
            return Err(Failure::new(Code::Tampered, what).hint(hint()));
        }
        self.say(format_args!("key {key} from {}", keys.holder(&key)));
        let kek = keys.released(&key).await?;
        kek.permits(Purpose::Open).map_err(|error| Failure::from(error).at(&key))?;
        let unwrap = |(layer, encryption): (Layer, Option<Encryption>)| {
            let unwrapped = encryption.map(|it| it.unwrap(&key, kek.expose())).transpose();
            let unwrapped = unwrapped.map_err(|error| Failure::from(error).at(&layer.object))?;
            Ok((layer, unwrapped))
        };
        let layers = parsed.into_iter().map(unwrap).collect::<Result<_, Failure>>()?;
        Ok((layers, key))
    }
}
