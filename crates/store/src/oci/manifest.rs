//! What a registry's documents say: image manifests and indexes, as OCI and Docker write them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::reference::Sha256;
use crate::{Contents, Error, Packing, name};

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// What we can read, for the `Accept` header.
pub(super) const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
/// The annotation with a file's name, as most tools write it.
pub(super) const TITLE: &str = "org.opencontainers.image.title";
/// The same in CNCF's ModelPack.
const FILEPATH: &str = "org.cncf.model.filepath";
/// What annotations begin with that say how a layer is encrypted, and how the type of such a layer
/// ends (containers/ocicrypt, `spec`).
const ENCRYPTION: &str = "org.opencontainers.image.enc.";
const ENCRYPTED: &str = "+encrypted";
/// What `oras` writes at a directory that it packed.
const UNPACK: &str = "io.deis.oras.content.unpack";
/// A layer of an image; but `oras` calls any file so when nobody says what it is.
const TAR_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// A blob or manifest that another document names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) digest: Sha256,
    pub(super) bytes: u64,
}

/// Most layers of an image; Docker's own limit is 127.
const LAYERS_MAX: usize = 512;

/// Most layers of an artifact with packed files: as many as a model may have files.
const PARTS_MAX: usize = 16_384;

/// A layer that is not just a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) blob: Descriptor,
    pub(super) contents: Contents,
    pub(super) packing: Packing,
    pub(super) encryption: Option<BTreeMap<String, String>>,
}

/// A document behind a tag or digest.
pub(super) enum Document {
    /// One artifact: its files by name.
    Artifact(BTreeMap<String, Descriptor>),
    /// An artifact with files that are packed.
    Packed(Vec<Part>),
    /// A container image: where its configuration is, and its layers, the lowest first.
    Image { config: Descriptor, layers: Vec<Part> },
    /// A choice by platform: ours.
    Index(Descriptor),
}

impl Document {
    pub(super) fn parse(json: &[u8]) -> Result<Self, Error> {
        let value: Value =
            serde_json::from_slice(json).map_err(|_| malformed("is no JSON document"))?;
        // A document that could be read as either is read differently by different programs.
        match (value.get("layers"), value.get("manifests")) {
            (Some(Value::Array(layers)), None) => match changes(layers) {
                Some(layers) => {
                    Ok(Self::Image { config: descriptor(&value["config"])?, layers: layers? })
                }
                None if layers.iter().any(|layer| packed_files(layer).is_some()) => {
                    parts(layers).map(Self::Packed)
                }
                None => files(layers).map(Self::Artifact),
            },
            (None, Some(Value::Array(manifests))) => ours(manifests).map(Self::Index),
            (Some(_), Some(_)) => Err(malformed("has both layers and manifests")),
            _ => Err(malformed("has neither layers nor manifests")),
        }
    }
}

/// The layers of a container image; `None` if it is none.
fn changes(layers: &[Value]) -> Option<Result<Vec<Part>, Error>> {
    let named =
        |layer: &Value| [TITLE, FILEPATH].iter().any(|name| !layer["annotations"][name].is_null());
    let packing = |layer: &Value| match without_encryption(layer["mediaType"].as_str()?).0 {
        _ if named(layer) => None,
        TAR_TYPE => Some(Packing::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(Packing::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(Packing::Zstd),
        _ => None,
    };
    let packings: Vec<Packing> = layers.iter().map(packing).collect::<Option<_>>()?;
    if layers.is_empty() || layers.len() > LAYERS_MAX {
        return Some(Err(malformed("has no layers, or more than an image can have")));
    }
    let part = |(layer, packing): (&Value, Packing)| {
        let encryption = encryption(layer);
        Ok(Part { blob: descriptor(layer)?, contents: Contents::Changes, packing, encryption })
    };
    Some(layers.iter().zip(packings).map(part).collect())
}

/// A layer's type, and whether it is encrypted.
fn without_encryption(media: &str) -> (&str, bool) {
    media.strip_suffix(ENCRYPTED).map_or((media, false), |media| (media, true))
}

/// How a layer is encrypted, if it is.
fn encryption(layer: &Value) -> Option<BTreeMap<String, String>> {
    let (_, encrypted) = without_encryption(layer["mediaType"].as_str()?);
    let annotations = layer["annotations"].as_object().into_iter().flatten();
    let text = annotations.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.into())));
    encrypted.then(|| text.filter(|(name, _)| name.starts_with(ENCRYPTION)).collect())
}

/// How a layer is compressed that is a tar file of files; `None` for what is a file, or packed in
/// ways that we do not know.
fn packed_files(layer: &Value) -> Option<Packing> {
    let media = layer["mediaType"].as_str()?;
    let (kind, packing) = match media.rsplit_once('+') {
        None => (media, Packing::None),
        Some((kind, "gzip")) => (kind, Packing::Gzip),
        Some((kind, "zstd")) => (kind, Packing::Zstd),
        Some(_) => return None,
    };
    let annotations = &layer["annotations"];
    // Of the types of images, only if a tool for artifacts says what it means.
    let meant = || annotations[FILEPATH].is_string() || annotations[UNPACK] == "true";
    (kind.ends_with(".tar") && (kind != TAR_TYPE || meant())).then_some(packing)
}

/// An artifact's layers, some of them packed. What a packed one is called is in its archive.
fn parts(layers: &[Value]) -> Result<Vec<Part>, Error> {
    if layers.len() > PARTS_MAX {
        return Err(malformed("has more layers than a model has files"));
    }
    let part = |layer: &Value| {
        let (contents, packing) = match packed_files(layer) {
            Some(packing) => (Contents::Files, packing),
            None => (Contents::File(checked_name(layer)?.to_owned()), Packing::None),
        };
        Ok(Part { blob: descriptor(layer)?, contents, packing, encryption: None })
    };
    layers.iter().map(part).collect()
}

/// What an image's layers unpack to, out of its configuration: the SHA-256 of each as a tar file.
pub(super) fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<Sha256>, Error> {
    let config: Value =
        serde_json::from_slice(config).map_err(|_| malformed("has no configuration in JSON"))?;
    let listed = config["rootfs"]["diff_ids"].as_array().map_or(&[][..], Vec::as_slice);
    let ids: Option<Vec<_>> = listed.iter().map(|id| id.as_str().and_then(Sha256::parse)).collect();
    ids.filter(|ids| ids.len() == layers)
        .ok_or_else(|| malformed("does not say what its layers unpack to"))
}

/// One layer a file, each with its name.
fn files(layers: &[Value]) -> Result<BTreeMap<String, Descriptor>, Error> {
    let mut files = BTreeMap::new();
    for layer in layers {
        let name = checked_name(layer)?;
        if files.insert(name.to_owned(), descriptor(layer)?).is_some() {
            return Err(malformed(&format!("holds {} twice", name::quoted(name))));
        }
    }
    Ok(files)
}

fn checked_name(layer: &Value) -> Result<&str, Error> {
    let name = file_name(layer)?;
    match name::fault(name) {
        Some(fault) => Err(malformed(&format!("holds {}, which {fault}", name::quoted(name)))),
        None => Ok(name),
    }
}

/// The name of the file that a layer is.
pub(super) fn file_name(layer: &Value) -> Result<&str, Error> {
    let annotation = |name: &str| layer["annotations"][name].as_str();
    let (filepath, title) = (annotation(FILEPATH), annotation(TITLE));
    let media = layer["mediaType"].as_str().unwrap_or_default();
    let packed = match media {
        TAR_TYPE => filepath.is_some() || annotation(UNPACK) == Some("true"),
        _ => media.split(['.', '+']).any(|part| part == "tar"),
    };
    match (filepath, title) {
        (Some(name), _) | (None, Some(name)) if !packed => Ok(name),
        _ => Err(Error::Unsupported {
            object: String::new(),
            what: "has packed layers of a kind that is not read: push each file as a plain layer, or \
                   the model as a container image with layers in tar, gzip or zstd",
        }),
    }
}

/// What of an index is for Linux and this machine's processor.
fn ours(manifests: &[Value]) -> Result<Descriptor, Error> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let found = manifests.iter().find(|entry| {
        let platform = &entry["platform"];
        platform["os"] == "linux" && platform["architecture"] == architecture
    });
    descriptor(found.ok_or_else(|| malformed(&format!("lists nothing for linux/{architecture}")))?)
}

fn descriptor(value: &Value) -> Result<Descriptor, Error> {
    let digest = value["digest"].as_str().and_then(Sha256::parse);
    let digest = digest.ok_or_else(|| malformed("names a blob without its SHA-256"))?;
    let bytes = value["size"].as_u64().ok_or_else(|| malformed("names a blob without its size"))?;
    Ok(Descriptor { digest, bytes })
}

pub(super) fn malformed(what: &str) -> Error {
    Error::protocol(format!("the registry's manifest {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

    fn parse(json: &str) -> Result<Document, Error> {
        Document::parse(json.replace("DIGEST", DIGEST).as_bytes())
    }

    fn artifact(layers: &str) -> Result<BTreeMap<String, Descriptor>, Error> {
        match parse(&format!(r#"{{"schemaVersion":2,"layers":[{layers}]}}"#))? {
            Document::Artifact(files) => Ok(files),
            Document::Packed(_) => panic!("packed"),
            Document::Image { .. } => panic!("an image"),
            Document::Index(_) => panic!("an index"),
        }
    }

    fn layer(media: &str, annotations: &str) -> String {
        format!(
            r#"{{"mediaType":"{media}","digest":"DIGEST","size":2,"annotations":{{{annotations}}}}}"#
        )
    }

    #[test]
    fn a_layer_is_the_file_that_an_annotation_names() {
        let raw = "application/vnd.cncf.model.weight.v1.raw";
        let title = r#""org.opencontainers.image.title":"w.bin""#;
        let path = r#""org.cncf.model.filepath":"sub/w.bin""#;
        for (media, annotations, name) in [
            (raw, title, "w.bin"),
            (raw, path, "sub/w.bin"),
            (raw, &*format!("{title},{path}"), "sub/w.bin"),
            (TAR_TYPE, title, "w.bin"),
            ("application/octet-stream", title, "w.bin"),
        ] {
            let files = artifact(&layer(media, annotations)).unwrap();
            assert_eq!(files.keys().collect::<Vec<_>>(), [name], "{media}");
        }
    }

    #[test]
    fn archives_are_not_taken_for_files() {
        let path = r#""org.cncf.model.filepath":"w""#;
        let title = r#""org.opencontainers.image.title":"w""#;
        for (media, annotations) in [
            ("application/vnd.oci.image.layer.v1.tar+lz4", ""),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", title),
            ("application/vnd.oci.image.layer.v1.tar+encrypted", title),
            ("application/vnd.cncf.model.weight.v1.tar+lz4", path),
            ("application/octet-stream", ""),
        ] {
            let refused = artifact(&layer(media, annotations));
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{media}: {refused:?}");
        }
    }

    #[test]
    fn packed_files_are_told_from_files() {
        let path = r#""org.cncf.model.filepath":"w""#;
        let title = r#""org.opencontainers.image.title":"w""#;
        let unpack = format!(r#"{title},"io.deis.oras.content.unpack":"true""#);
        let raw = layer("application/vnd.cncf.model.doc.v1.raw", path);
        for (media, annotations, packing) in [
            ("application/vnd.cncf.model.weight.v1.tar", path, Packing::None),
            ("application/vnd.cncf.model.weight.config.v1.tar+gzip", path, Packing::Gzip),
            ("application/vnd.cncf.model.weight.v1.tar+zstd", path, Packing::Zstd),
            ("application/vnd.cnai.model.layer.v1.tar", path, Packing::None),
            ("application/vnd.kitops.modelkit.model.v1.tar+gzip", "", Packing::Gzip),
            ("application/vnd.kitops.modelkit.modelpart.v1.tar", title, Packing::None),
            (TAR_TYPE, path, Packing::None),
            (TAR_TYPE, &unpack, Packing::None),
            ("application/vnd.oci.image.layer.v1.tar+gzip", &unpack, Packing::Gzip),
        ] {
            let packed = layer(media, annotations);
            let found = parse(&format!(r#"{{"layers":[{packed},{raw}]}}"#));
            let Ok(Document::Packed(parts)) = found else { panic!("{media}") };
            assert_eq!((&parts[0].contents, parts[0].packing), (&Contents::Files, packing));
            assert_eq!(parts[1].contents, Contents::File("w".to_owned()));
        }
        let packed = layer("application/vnd.cncf.model.weight.v1.tar", path);
        for lie in [raw.replace(":\"w", ":\"../w"), raw.replace("DIGEST", "sha256:00")] {
            let refused = parse(&format!(r#"{{"layers":[{packed},{lie}]}}"#));
            assert!(matches!(refused, Err(Error::Protocol { .. })), "{lie}");
        }
        let many = vec![packed.as_str(); PARTS_MAX + 1].join(",");
        assert!(parse(&format!(r#"{{"layers":[{many}]}}"#)).is_err());
    }

    #[test]
    fn a_container_image_is_its_layers() {
        let image = |layers: &str| {
            let config = r#"{"digest":"DIGEST","size":7}"#;
            parse(&format!(r#"{{"config":{config},"layers":[{layers}]}}"#))
        };
        let [plain, gzip, docker, zstd] = [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ]
        .map(|media| layer(media, ""));
        let Ok(Document::Image { config, layers }) =
            image(&[&*plain, &gzip, &docker, &zstd].join(","))
        else {
            panic!("no image");
        };
        assert_eq!(config.bytes, 7);
        let packings: Vec<_> = layers.iter().map(|layer| layer.packing).collect();
        assert_eq!(packings, [Packing::None, Packing::Gzip, Packing::Gzip, Packing::Zstd]);
        assert!(layers.iter().all(|layer| layer.encryption.is_none()));
        let note = r#""org.opencontainers.image.enc.pubopts":"x","other":"y""#;
        let encrypted = layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", note);
        let Ok(Document::Image { layers, .. }) = image(&format!("{plain},{encrypted}")) else {
            panic!("no image");
        };
        assert_eq!(layers[1].packing, Packing::Gzip);
        let found = layers[1].encryption.as_ref().unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["org.opencontainers.image.enc.pubopts"]);
        assert!(image("").is_err());
        assert!(image(&vec![plain.as_str(); LAYERS_MAX + 1].join(",")).is_err());
        assert!(parse(&format!(r#"{{"layers":[{plain}]}}"#)).is_err());

        let ids = |ids: &str| {
            let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#);
            diff_ids(config.replace("DIGEST", DIGEST).as_bytes(), 1)
        };
        assert_eq!(ids("\"DIGEST\"").unwrap().len(), 1);
        for lie in ["", "7", "\"sha256:00\"", "\"DIGEST\",\"DIGEST\""] {
            assert!(ids(lie).is_err(), "{lie}");
        }
        assert!(diff_ids(b"{}", 1).is_err() && diff_ids(b"", 1).is_err());
    }

    #[test]
    fn lies_are_refused() {
        let named =
            |name: &str| layer("x/y", &format!(r#""org.opencontainers.image.title":"{name}""#));
        let good = named("a");
        for layers in [
            named("../a"),
            named("/a"),
            named(""),
            format!("{good},{good}"),
            good.replace("DIGEST", "sha512:00"),
            good.replace("DIGEST", &DIGEST[..70]),
            good.replace("DIGEST", &DIGEST.to_uppercase()),
            good.replace("2,", "-2,"),
            good.replace("2,", "\"2\","),
        ] {
            assert!(matches!(artifact(&layers), Err(Error::Protocol { .. })), "{layers}");
        }
        let platform = |os: &str| {
            format!(
                r#"{{"digest":"DIGEST","size":2,"platform":{{"os":"{os}","architecture":"{}"}}}}"#,
                if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
            )
        };
        let index = |entries: &str| parse(&format!(r#"{{"manifests":[{entries}]}}"#));
        assert!(matches!(index(&platform("linux")), Ok(Document::Index(_))));
        for lie in [platform("windows"), String::new(), "7".to_owned()] {
            assert!(matches!(index(&lie), Err(Error::Protocol { .. })), "{lie}");
        }
        for lie in ["", "{}", "[]", r#"{"layers":7}"#, r#"{"layers":[],"manifests":[]}"#] {
            assert!(matches!(parse(lie), Err(Error::Protocol { .. })), "{lie}");
        }
    }
}
