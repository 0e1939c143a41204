//! Which volumes there are, and which one a mount's source means.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use host::Error;
use host::kubelet::{FoundVolume, Kubelet, PodUid, Source};
use testkit::kubelet::{lay_out, make_volume, pod_uid};
use volumes::name::Category;

const STATIC_POD: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn every_volume_is_found_once() {
    let top = tempfile::tempdir().unwrap();
    let laid_out = lay_out(top.path(), 5, 7, &["a"]).unwrap();
    let of_static_pod = make_volume(top.path(), STATIC_POD, "configmap", "ca").unwrap();
    let laid_out: Vec<_> = laid_out.into_iter().chain([of_static_pod]).collect();
    let found = Kubelet::open(top.path()).unwrap().find().unwrap();
    assert_eq!(found.volumes.len(), laid_out.len());
    assert_eq!((found.ignored, found.failed.len()), (0, 0));
    for volume in &laid_out {
        let id = format!("{}.{}", volume.pod_uid, volume.name);
        let found: Vec<_> = found.volumes.iter().filter(|v| v.id.as_str() == id).collect();
        let [FoundVolume { path, pod_uid, category, .. }] = found[..] else { panic!("{found:?}") };
        assert_eq!(path, volume.writer.target());
        assert_eq!(pod_uid.as_str(), volume.pod_uid);
        assert_eq!(category.as_str(), format!("{}-volumes", volume.plugin));
    }
}

#[test]
fn whatever_else_is_there_is_ignored_and_counted() {
    let top = tempfile::tempdir().unwrap();
    let laid_out = lay_out(top.path(), 1, 4, &["a"]).unwrap();
    let pods = top.path().join("pods");
    let uid = pod_uid(0);
    let other = "6F5C1D2E-1111-2222-3333-444455556666";
    for pod in ["not-a-uid", other, "0123456789abcdef0123456789abcde", "....", "pod\n"] {
        let volume = pods.join(pod).join("volumes/kubernetes.io~secret/x");
        fs::create_dir_all(volume).unwrap();
    }
    fs::write(pods.join(STATIC_POD), "a file").unwrap();
    symlink(pods.join(&uid), pods.join(pod_uid(7))).unwrap();
    let secrets = pods.join(&uid).join("volumes/kubernetes.io~secret");
    for name in ["Upper", "-x", "x.y", "..data", "x y", &"x".repeat(64)] {
        fs::create_dir(secrets.join(name)).unwrap();
    }
    fs::write(secrets.join("file"), "").unwrap();
    symlink(laid_out[0].writer.target(), secrets.join("link")).unwrap();
    // The same name in a second category: two volumes cannot be one.
    fs::create_dir(secrets.join(&laid_out[1].name)).unwrap();
    // A whole category that is a link.
    fs::create_dir_all(pods.join(pod_uid(8)).join("volumes")).unwrap();
    let linked = pods.join(pod_uid(8)).join("volumes/kubernetes.io~secret");
    symlink(&secrets, linked).unwrap();

    let found = Kubelet::open(top.path()).unwrap().find().unwrap();
    let names: Vec<_> = found.volumes.iter().map(|volume| volume.id.as_str()).collect();
    let expected: Vec<_> = laid_out.iter().map(|v| format!("{uid}.{}", v.name)).collect();
    assert_eq!(names, expected);
    assert_eq!(found.ignored, 5 + 2 + 6 + 2 + 1 + 1);
    assert!(found.failed.is_empty());
}

#[test]
fn one_crowded_pod_does_not_hide_the_others() {
    let top = tempfile::tempdir().unwrap();
    let laid_out = lay_out(top.path(), 2, 1, &["a"]).unwrap();
    let crowded = laid_out[0].writer.target().parent().unwrap().to_path_buf();
    for index in 0..Kubelet::VOLUMES_PER_CATEGORY_MAX {
        fs::create_dir(crowded.join(format!("extra-{index}"))).unwrap();
    }
    let found = Kubelet::open(top.path()).unwrap().find().unwrap();
    let [Error::TooMany { path, limit, .. }] = &found.failed[..] else { panic!("{found:?}") };
    assert_eq!((path, *limit), (&crowded, Kubelet::VOLUMES_PER_CATEGORY_MAX));
    assert_eq!(found.volumes.len(), 1);
    assert_eq!(found.volumes[0].pod_uid.as_str(), pod_uid(1));
}

#[test]
fn too_many_pods_are_refused() {
    let top = tempfile::tempdir().unwrap();
    for pod in 0..=Kubelet::PODS_MAX {
        fs::create_dir_all(top.path().join("pods").join(pod_uid(pod))).unwrap();
    }
    let found = Kubelet::open(top.path()).unwrap().find();
    assert!(matches!(found, Err(Error::TooMany { what: "pods", .. })), "{found:?}");
}

#[test]
fn the_root_may_be_a_link_and_mounts_may_name_either() {
    let top = tempfile::tempdir().unwrap();
    let (real, link) = (top.path().join("moved/kubelet"), top.path().join("kubelet"));
    let laid_out = lay_out(&real, 1, 2, &["a"]).unwrap();
    symlink("moved/kubelet", &link).unwrap();
    let kubelet = Kubelet::open(&link).unwrap();
    let found = kubelet.find().unwrap();
    assert_eq!(found.volumes.len(), 2);
    for (volume, laid_out) in found.volumes.iter().zip(&laid_out) {
        let below = laid_out.writer.target().strip_prefix(&real).unwrap();
        assert_eq!(volume.path, link.join(below));
        for source in [link.join(below), fs::canonicalize(&real).unwrap().join(below)] {
            assert_eq!(kubelet.classify(&source), Source::Volume(volume.clone()));
        }
    }
    assert!(matches!(Kubelet::open(&top.path().join("nowhere")), Err(Error::Io { .. })));
}

#[test]
fn sources_are_classified_by_component() {
    let top = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(top.path()).unwrap();
    let kubelet = Kubelet::open(&root).unwrap();
    let uid = pod_uid(3);
    let at = |path: &str| root.join(path.replace("UID", &uid));
    let volumes = [
        ("pods/UID/volumes/kubernetes.io~secret/tls", Category::Secret),
        ("pods/UID/volumes/kubernetes.io~configmap/app", Category::ConfigMap),
        ("pods/UID/volumes/kubernetes.io~projected/kube-api-access-x7k2p", Category::Projected),
        ("pods/UID/volumes/kubernetes.io~downward-api/0", Category::DownwardApi),
        ("pods/UID//volumes/./kubernetes.io~secret/tls/", Category::Secret),
        ("pods/0123456789abcdef0123456789abcdef/volumes/kubernetes.io~secret/a", Category::Secret),
    ];
    for (path, category) in volumes {
        let Source::Volume(found) = kubelet.classify(&at(path)) else { panic!("{path}") };
        assert_eq!(found.category, category);
        assert_eq!(found.path, at(path).components().collect::<PathBuf>());
        let name = at(path).file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(found.id.as_str(), format!("{}.{name}", found.pod_uid));
    }

    for volume in ["app", "pvc-0a1b.example"] {
        let source = kubelet.classify(&at(&format!("pods/UID/volume-subpaths/{volume}/main/0")));
        let (volume, container) = (volume.to_owned(), "main".to_owned());
        let pod_uid = PodUid::parse(&uid).unwrap();
        assert_eq!(source, Source::SubPath { pod_uid, volume, container });
    }

    let others = [
        "",
        "pods",
        "pods/UID/volumes/kubernetes.io~secret",
        "pods/UID/volumes/kubernetes.io~secret/tls/..data",
        "pods/UID/volumes/kubernetes.io~secret/tls/..data/tls.crt",
        "pods/UID/volumes/kubernetes.io~secret/../kubernetes.io~secret/tls",
        "pods/UID/volumes/kubernetes.io~secret/..",
        "pods/UID/volumes/kubernetes.io~secret/TLS",
        "pods/UID/volumes/kubernetes.io~empty-dir/kubernetes.io~secret",
        "pods/UID/volumes/kubernetes.io~secret2/tls",
        "pods/UID/volumes/xkubernetes.io~secret/tls",
        "pods/UID/volumes/kubernetes.io~csi/kubernetes.io~secret/mount",
        "pods/uid/volumes/kubernetes.io~secret/tls",
        "plugins/pods/UID/volumes/kubernetes.io~secret/tls",
        "pods/UID/volume-subpaths/app/main",
        "pods/UID/volume-subpaths/app/main/x",
        "pods/UID/volume-subpaths/app/main/0/1",
        "pods/UID/volume-subpaths/../volumes/0",
        "pods/UID/etc-hosts",
        "/pods/UID/volumes/kubernetes.io~secret/tls",
    ];
    for path in others {
        assert_eq!(kubelet.classify(&at(path)), Source::Other, "{path}");
    }
    // Not below the root, though it looks like it.
    for root in ["/var/lib/kubelet", "relative"] {
        let path = Path::new(root).join("pods").join(&uid).join("volumes/kubernetes.io~secret/tls");
        assert_eq!(kubelet.classify(&path), Source::Other);
    }
    let beside = format!("{}2/pods/{uid}/volumes/kubernetes.io~secret/tls", root.display());
    assert_eq!(kubelet.classify(Path::new(&beside)), Source::Other);
    let long = root.join("a/".repeat(100_000));
    assert_eq!(kubelet.classify(&long), Source::Other);
}

#[test]
fn pod_uids_have_one_of_two_forms() {
    for good in [pod_uid(1).as_str(), STATIC_POD] {
        assert_eq!(PodUid::parse(good).unwrap().as_str(), good);
    }
    for bad in [
        "",
        "0123456789ABCDEF0123456789ABCDEF",
        "0123456789abcdef0123456789abcdeg",
        "00000001-1111-4222-8333-44445555666",
        "00000001-1111-4222-8333-4444555566667",
        "000000011111-4222-8333-44445555666-66",
        "00000001_1111_4222_8333_444455556666",
        "000000000000000000000000000000000000",
        "------------------------------------",
        "00000001-1111-4222-8333-44445555666\n",
        "00000001-1111-4222-8333-4444555566é",
    ] {
        assert_eq!(PodUid::parse(bad), None, "{bad}");
    }
}
