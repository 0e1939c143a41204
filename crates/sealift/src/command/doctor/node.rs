//! What the volumes lane needs of a Kubernetes node.

use super::finding::Finding;
use super::place::{Machine, Place};

/// Where containerd and CRI-O offer NRI.
const NRI: &str = "/var/run/nri/nri.sock";

/// Where Kata's packages put the configuration that is in force, an administrator's first.
const KATA: [&str; 3] = [
    "/etc/kata-containers/configuration.toml",
    "/opt/kata/share/defaults/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
];

/// The agent watches a directory a volume; the kernel's own default, fewer than which a full node needs.
const INSTANCES_MIN: u64 = 128;

pub(crate) fn look(machine: &Machine<'_>, place: Place) -> Vec<Finding> {
    if place != Place::Node {
        return ["node.nri", "node.kata", "node.inotify"]
            .map(|id| Finding::skipped(id, "this is no node"))
            .into();
    }
    vec![nri(machine), kata(machine), inotify(machine)]
}

fn nri(machine: &Machine<'_>) -> Finding {
    const ID: &str = "node.nri";
    // What /var/run is a link to, where it is one.
    if machine.has(NRI) || machine.has("/run/nri/nri.sock") {
        return Finding::ok(ID, NRI);
    }
    Finding::warning(
        ID,
        format!("no {NRI}: sealift-host cannot take part in the creation of pods"),
        "containerd 1.7 or later with [plugins.'io.containerd.nri.v1.nri'] disable = false (its \
         default from 2.0 on), then restart it",
    )
}

fn kata(machine: &Machine<'_>) -> Finding {
    const ID: &str = "node.kata";
    let Some((path, text)) = KATA.iter().find_map(|path| Some((path, machine.text(path).ok()?)))
    else {
        return Finding::skipped(
            ID,
            "no configuration of Kata in the places that its packages use",
        );
    };
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "shared_fs").then(|| {
            value.split('#').next().unwrap_or_default().trim().trim_matches('"').to_owned()
        })
    });
    match value.as_deref() {
        Some("none") => Finding::ok(ID, format!("shared_fs is none in {path}")),
        other => Finding::warning(
            ID,
            format!(
                "shared_fs is {} in {path}: the host serves files into guests",
                other.unwrap_or("not set")
            ),
            "For confidential guests set shared_fs = \"none\" in the runtime class's configuration",
        ),
    }
}

fn inotify(machine: &Machine<'_>) -> Finding {
    const ID: &str = "node.inotify";
    let limit = machine.text("/proc/sys/fs/inotify/max_user_instances");
    match limit.ok().and_then(|text| text.parse::<u64>().ok()) {
        None => Finding::skipped(ID, "fs.inotify.max_user_instances cannot be read"),
        Some(limit) if limit < INSTANCES_MIN => Finding::warning(
            ID,
            format!("fs.inotify.max_user_instances is {limit}"),
            "sysctl -w fs.inotify.max_user_instances=512",
        ),
        Some(limit) => Finding::ok(ID, format!("fs.inotify.max_user_instances is {limit}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Level;
    use super::*;

    fn levels(files: &[(&str, &str)], place: Place) -> Vec<Level> {
        look(&Fake::new(files).machine(), place).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn a_node_has_what_volumes_need_or_not() {
        let limit = "/proc/sys/fs/inotify/max_user_instances";
        let well = [(NRI, ""), (KATA[1], " shared_fs = \"none\" # x\n"), (limit, "128\n")];
        assert_eq!(levels(&well, Place::Node), [Level::Ok; 3]);
        assert_eq!(levels(&well, Place::Pod), [Level::Skipped; 3]);
        let ill = [(KATA[0], "#shared_fs = \"none\"\n"), well[1], (limit, "127\n")];
        assert_eq!(levels(&ill, Place::Node), [Level::Warning; 3]);
        assert_eq!(levels(&[(KATA[2], "shared_fs=\"virtio-fs\"")], Place::Node)[1], Level::Warning);
        let none = [Level::Warning, Level::Skipped, Level::Skipped];
        assert_eq!(levels(&[], Place::Node), none);
    }
}
