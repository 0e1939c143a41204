# Appended to genpolicy's rules.rego: lets a container have the guest's own volume where genpolicy
# expects one that the host has copied (Secret, ConfigMap, projected, downward API: a read-only bind
# mount of that destination). Without CopyFileRequest for volumes in the settings, as
# docs/kubernetes.md has it, nothing else can be mounted there.

check_mount(p_mount, i_mount, _, _) if {
    p_mount.destination == i_mount.destination
    p_mount.type_ == "bind"
    "ro" in p_mount.options
    i_mount.type_ == "bind"
    regex.match("^/proc/1/root/run/sealift/volumes/[a-z0-9-]+[.][a-z0-9.-]+/data$", i_mount.source)
    every option in {"ro", "nosuid", "nodev"} {
        option in i_mount.options
    }
    every option in i_mount.options {
        option in {"rbind", "ro", "nosuid", "nodev", "noexec", "rprivate"}
    }
}
