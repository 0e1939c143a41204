//! [`render`]: manifests for a cluster, from the very files of the Helm chart in `deploy/chart`.
//!
//! The chart's templates keep to the small part of Helm's language that [`template`] knows, so that
//! both print the same: a test holds this program's output against Helm's own.

mod template;
mod values;

use std::path::Path;

use serde_json::json;

use crate::cli::ManifestKind;
use crate::failure::Failure;

use template::Templates;

const VALUES: &str = include_str!("../../../deploy/chart/values.yaml");
const NAMES: &str = include_str!("../../../deploy/chart/templates/_names.tpl");

/// Which file a kind is, and what has to be on for it to say anything.
fn file(kind: ManifestKind) -> (&'static str, &'static str) {
    match kind {
        ManifestKind::Csc => (
            include_str!("../../../deploy/chart/templates/storagecontainers.yaml"),
            "storageContainers.enabled",
        ),
        ManifestKind::Policy => {
            (include_str!("../../../deploy/chart/templates/policy.yaml"), "policy.enabled")
        }
        ManifestKind::Broker => {
            (include_str!("../../../deploy/chart/templates/broker.yaml"), "broker.enabled")
        }
        ManifestKind::Agents => {
            (include_str!("../../../deploy/chart/templates/agents.yaml"), "agents.enabled")
        }
        ManifestKind::Monitoring => {
            (include_str!("../../../deploy/chart/templates/monitoring.yaml"), "monitoring.enabled")
        }
        ManifestKind::Isvc => (include_str!("../../../deploy/examples/isvc.yaml"), ""),
        ManifestKind::Llmisvc => (include_str!("../../../deploy/examples/llmisvc.yaml"), ""),
    }
}

/// The manifests of one kind: the chart's values, changed by files and then by `NAME=VALUE`, each
/// in its order. A name that the chart has not is refused.
pub(crate) fn render(
    kind: ManifestKind,
    namespace: &str,
    files: &[impl AsRef<Path>],
    set: &[String],
) -> Result<String, Failure> {
    let (text, switch) = file(kind);
    let mut values = values::parse(VALUES)?;
    for path in files {
        let path = path.as_ref();
        values::read(path)
            .and_then(|theirs| values::merge(&mut values, theirs, ""))
            .map_err(|failure| failure.at(path.display()))?;
    }
    for assignment in set {
        values::set(&mut values, assignment).map_err(|failure| failure.at("--set"))?;
    }
    if !switch.is_empty() {
        // Who asks for it wants it.
        values::set(&mut values, &format!("{switch}=true"))?;
    }
    let root = json!({ "Values": values, "Release": { "Namespace": namespace } });
    let mut templates = Templates::default();
    templates.parse(NAMES)?;
    let text = templates.parse(text)?.render(&templates, &root)?;
    Ok(text.trim_start().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [ManifestKind; 7] = [
        ManifestKind::Csc,
        ManifestKind::Policy,
        ManifestKind::Broker,
        ManifestKind::Agents,
        ManifestKind::Monitoring,
        ManifestKind::Isvc,
        ManifestKind::Llmisvc,
    ];

    fn rendered(kind: ManifestKind, set: &[&str]) -> Result<String, Failure> {
        let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
        render(kind, "sealift", &[] as &[&Path], &set)
    }

    #[test]
    fn nothing_is_printed_without_the_place_of_the_images() {
        for kind in ALL {
            // An InferenceService that leaves the container to KServe names no image, nor does monitoring.
            let named = rendered(kind, &[]).map_err(|failure| failure.line());
            if matches!(kind, ManifestKind::Isvc | ManifestKind::Monitoring) {
                assert!(!named.unwrap().contains("image:"));
            } else {
                assert!(named.unwrap_err().contains("image.registry is empty"), "{kind:?}");
            }
        }
    }

    #[test]
    fn every_kind_is_one_yaml_document_or_more() {
        for kind in ALL {
            let text = rendered(kind, &["image.registry=registry.example/team"]).unwrap();
            for document in text.split("\n---\n") {
                let document = values::parse(document).unwrap();
                for member in ["apiVersion", "kind", "metadata", "spec"] {
                    let bare = document["kind"] == "ServiceAccount" && member == "spec";
                    assert!(bare || !document[member].is_null(), "{kind:?}: no {member}");
                }
            }
        }
    }

    #[test]
    fn a_digest_wins_over_the_tag() {
        let registry = "image.registry=registry.example/team";
        let digest = format!("initializer.digest=sha256:{}", "ab".repeat(32));
        let tagged = rendered(ManifestKind::Csc, &[registry, "image.tag=1.2"]).unwrap();
        assert!(tagged.contains("\"registry.example/team/sealift-init:1.2\""), "{tagged}");
        let pinned = rendered(ManifestKind::Csc, &[registry, &digest]).unwrap();
        assert!(pinned.contains("/sealift-init@sha256:abab"), "{pinned}");
    }

    #[test]
    fn names_that_the_chart_has_not_are_refused() {
        for name in ["image.regsitry", "brokers.enabled", "image.registry.host", "kbs", ""] {
            let failure = rendered(ManifestKind::Csc, &[&format!("{name}=x")]).unwrap_err();
            assert_eq!(failure.code(), crate::code::Code::Usage, "{name}");
        }
    }

    #[test]
    fn the_version_is_this_programs() {
        let values = values::parse(VALUES).unwrap();
        assert_eq!(values["image"]["tag"], env!("CARGO_PKG_VERSION"));
        let chart = values::parse(include_str!("../../../deploy/chart/Chart.yaml")).unwrap();
        assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    }
}
