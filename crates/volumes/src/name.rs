//! What volumes and their files may be called. Each type exists only after its rules were checked.

use std::fmt;

use crate::Error;

/// A volume's name between host and guest, unique within one guest: `<pod uid>.<volume name>`.
/// Lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit, without
/// `..`: one component of a path, whoever chose it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(String);

impl VolumeId {
    /// Longest name: a UUID, a dot and a DNS label, with room.
    pub const BYTES_MAX: usize = 128;

    /// Checks the rules.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = name.as_bytes();
        let why = match (bytes.first(), bytes.last()) {
            (None, _) | (_, None) => "empty",
            _ if bytes.len() > Self::BYTES_MAX => "longer than 128 bytes",
            (Some(&first), Some(&last)) if !alphanumeric(first) || !alphanumeric(last) => {
                "must begin and end with a lower-case letter or digit"
            }
            _ if !bytes.iter().all(|&byte| alphanumeric(byte) || b"-.".contains(&byte)) => {
                "only lower-case letters, digits, `-` and `.`"
            }
            _ if name.contains("..") => "`..`",
            _ => return Ok(Self(name.to_owned())),
        };
        Err(refused(name, why))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file's or directory's path in a volume: relative, clean, UTF-8 without control characters (it
/// is shown in logs and on terminals). The first component does not
/// begin with `..`, which is where the layout's own names live (as with Kubernetes itself).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(String);

impl TreePath {
    /// Longest path.
    pub const BYTES_MAX: usize = 1024;
    /// Longest component: what Linux file systems hold.
    pub const COMPONENT_BYTES_MAX: usize = 255;
    /// Most components.
    pub const DEPTH_MAX: usize = 16;

    /// Checks the rules.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let refuse = |why| Err(refused(path, why));
        if path.len() > Self::BYTES_MAX {
            return refuse("longer than 1024 bytes");
        }
        if path.contains(char::is_control) {
            return refuse("a control character");
        }
        if path.split('/').count() > Self::DEPTH_MAX {
            return refuse("deeper than 16 components");
        }
        if path.starts_with("..") {
            return refuse("begins with `..`");
        }
        for component in path.split('/') {
            match component {
                "" => return refuse("empty, absolute, or an empty component"),
                "." | ".." => return refuse("`.` or `..`"),
                _ if component.len() > Self::COMPONENT_BYTES_MAX => {
                    return refuse("a component longer than 255 bytes");
                }
                _ => {}
            }
        }
        Ok(Self(path.to_owned()))
    }

    /// The path with `/` between components.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory that holds it; `None` for those directly in the volume.
    pub fn parent(&self) -> Option<&str> {
        self.0.rsplit_once('/').map(|(parent, _)| parent)
    }

    /// The first component: the name that is visible in the volume's root.
    pub fn top(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(top, _)| top)
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TreePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The kinds of volumes, by the names of kata-containers issue 13801. Each can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Category {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// Projected: service-account tokens, and any of the others together.
    Projected,
    /// The downward API.
    DownwardApi,
}

impl Category {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Secret, Self::ConfigMap, Self::Projected, Self::DownwardApi];

    /// The name in policies, messages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret-volumes",
            Self::ConfigMap => "configmap-volumes",
            Self::Projected => "projected-volumes",
            Self::DownwardApi => "downward-api-volumes",
        }
    }

    /// The reverse of [`Category::as_str`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.as_str() == name)
    }

    /// Kubelet's plugin that keeps such volumes, as its directories are named:
    /// `pods/<uid>/volumes/<plugin>/<volume>`.
    pub fn plugin(self) -> &'static str {
        match self {
            Self::Secret => "kubernetes.io~secret",
            Self::ConfigMap => "kubernetes.io~configmap",
            Self::Projected => "kubernetes.io~projected",
            Self::DownwardApi => "kubernetes.io~downward-api",
        }
    }

    /// The reverse of [`Category::plugin`].
    pub fn of_plugin(plugin: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|category| category.plugin() == plugin)
    }

    /// Whether files of a volume may be run; `executable`: whether one of them has such a mode. A
    /// projected volume may hold a ConfigMap with scripts, but most hold a token and nothing to run;
    /// modes are part of a pod's specification, which does not change.
    pub fn may_run(self, executable: bool) -> bool {
        match self {
            Self::Secret | Self::DownwardApi => false,
            Self::ConfigMap => true,
            Self::Projected => executable,
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error that quotes at most 64 characters of a name which may be endless.
fn refused(name: &str, why: &'static str) -> Error {
    Error::Name { name: name.chars().take(64).collect(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_ids_are_single_clean_components() {
        for good in ["a", "0-a.b", "6f5c1d2e-1111-2222-3333-444455556666.kube-api-access-x7k2p"] {
            assert_eq!(VolumeId::parse(good).expect(good).as_str(), good);
        }
        let long = "a".repeat(129);
        for bad in ["", ".", "..", "a..b", "A", "a/b", "a\0b", "-a", "a-", "a.", "ä", "a b", &long]
        {
            assert!(VolumeId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_stay_inside() {
        for good in ["a", ".dockerconfigjson", "conf/app/x.yaml", "a..b", "a/..b", "ä", "...x/a"] {
            let accepted = TreePath::parse(good).is_ok();
            assert_eq!(accepted, !good.starts_with(".."), "{good}");
        }
        let (long, component) = ("a/".repeat(600), "a".repeat(256));
        let (deep, deepest) = (["a"; 17].join("/"), "a/".repeat(10_000));
        for bad in [
            "", "/", "/a", "a/", "a//b", ".", "./a", "a/.", "..", "../a", "a/../b", "..data",
            "..data/a", "a\0", "\0", "a\nb", "\x1b[2J", &long, &component, &deep, &deepest,
        ] {
            assert!(TreePath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn categories_have_one_name_each() {
        for category in Category::ALL {
            assert_eq!(Category::parse(category.as_str()), Some(category));
        }
        assert_eq!(Category::parse("other-files"), None);
    }
}
