//! The agent as an NRI plugin: a runtime on one side, guests on the other, and what containers get.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unreachable_pub, reason = "modules of a test program")]

mod containerd;
mod program;
mod runtime;
mod world;

use std::fs;
use std::path::{Path, PathBuf};

use host::agent::VolumeReport;
use runtime::{Connection, Runtime, about, adjusted, container, create, pod, state_change};
use testkit::kubelet::{payload, pod_uid, stamp};
use testkit::proto::put;
use world::{World, until};

const MINUTE_MS: u64 = 60_000;
const KATA: &str = "kata-qemu-coco-dev";
const RUN_POD_SANDBOX: u64 = 1;
const STOP_POD_SANDBOX: u64 = 2;

fn report(world: &World, volume: &str) -> Option<VolumeReport> {
    world.agent.status().into_iter().find(|report| report.volume == volume)
}

fn is_current(world: &World, volume: &str) -> bool {
    report(world, volume).is_some_and(|report| report.current)
}

/// What a container finds where the adjustment's source points to. Our guests are processes here, so
/// that their paths are ours.
fn in_guest(source: &str) -> PathBuf {
    PathBuf::from(source.strip_prefix("/proc/1/root").expect("resolved in the guest"))
}

/// The only mount that is added for a container with this one.
fn one_mount(connection: &mut Connection, pod: &[u8], source: &Path) -> PathBuf {
    let request = create(pod, &container("app", &[("/etc/db", source)]));
    let (removed, added) = adjusted(&connection.call("CreateContainer", &request).unwrap());
    let [(destination, kind, source, _)] = &added[..] else { panic!("{added:?}") };
    assert_eq!(
        (&removed[..], destination.as_str(), kind.as_str()),
        (&["/etc/db".into()][..], "/etc/db", "bind")
    );
    in_guest(source)
}

#[test]
fn a_container_finds_the_guests_volumes_where_the_hosts_would_be() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    let guest = world.guest("guest");
    let vmm = world.vmm("vmm.sock", 1027, &guest);
    world.shim("sandbox1", &format!("hvsock://{}:1024", vmm.display()));
    let uid = pod_uid(1);
    let secret = world.make(&uid, "secret", "db", &["password"]);
    let config = world.make(&uid, "configmap", "app", &["conf/app.yaml", "run.sh"]);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    let pod = pod("sandbox1", &uid, KATA, None);
    assert_eq!(connection.call("StateChange", &state_change(RUN_POD_SANDBOX, &pod)), Ok(vec![]));
    // The volumes are on their way before there is a container.
    for name in ["db", "app"] {
        until("prefetched", || is_current(&world, &format!("{uid}.{name}")));
    }
    let empty_dir = world.path(&format!("kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/tmp"));
    let mounts = [
        ("/proc", Path::new("proc")),
        ("/etc/db", secret.target()),
        ("/tmp/", &empty_dir),
        ("/etc/app/", config.target()),
    ];
    let request = create(&pod, &container("app", &mounts));
    let response = connection.call("CreateContainer", &request).unwrap();
    let (removed, added) = adjusted(&response);
    assert_eq!(removed, ["/etc/db", "/etc/app/"], "as the runtime wrote them");
    let options = |of: &[&str]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
    let volumes = world.path("guest/volumes");
    let source = |name: &str| format!("/proc/1/root{}/{uid}.{name}/data", volumes.display());
    let wanted = [
        ("/etc/db", source("db"), options(&["rbind", "ro", "nosuid", "nodev", "noexec"])),
        ("/etc/app/", source("app"), options(&["rbind", "ro", "nosuid", "nodev"])),
    ];
    let wanted = wanted.map(|(at, source, options)| (at.into(), "bind".into(), source, options));
    assert_eq!(added, wanted);
    // And byte for byte: removals first, then mounts, each field once and in order.
    let mut adjust = Vec::new();
    for at in ["-/etc/db", "-/etc/app/"] {
        let mut mount = Vec::new();
        put(&mut mount, 1, at);
        put(&mut adjust, 3, mount);
    }
    for (at, kind, source, options) in &wanted {
        let mut mount = Vec::new();
        put(&mut mount, 1, at);
        put(&mut mount, 2, kind);
        put(&mut mount, 3, source);
        options.iter().for_each(|option| put(&mut mount, 4, option));
        put(&mut adjust, 3, mount);
    }
    let mut bytes = Vec::new();
    put(&mut bytes, 1, adjust);
    assert_eq!(response, bytes);

    let password = in_guest(&added[0].2).join("password");
    assert_eq!(stamp(&fs::read(&password).unwrap()), Some(1));
    assert!(in_guest(&added[1].2).join("conf/app.yaml").exists());
    // What kubelet writes later arrives in the same place.
    secret.write(&payload(2, &["password"])).unwrap();
    until("an update", || stamp(&fs::read(&password).unwrap()) == Some(2));
    // At the end the guest has nothing of it.
    connection.call("StateChange", &state_change(STOP_POD_SANDBOX, &pod)).unwrap();
    until("detached", || world.agent.status().is_empty() && !password.exists());
}

#[test]
fn a_volume_of_two_containers_is_in_the_guest_once() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    let secret = world.make(&pod_uid(1), "secret", "db", &["password"]);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    let pod = pod("s", &pod_uid(1), KATA, None);
    // Later releases have a call for it, and containers may be made at the same time.
    connection.call("RunPodSandbox", &about(&pod)).unwrap();
    let requests = ["app", "sidecar"].map(|name| {
        let request = create(&pod, &container(name, &[("/etc/db", secret.target())]));
        connection.send("CreateContainer", &request, 0)
    });
    let mut answers = [connection.answer(), connection.answer()];
    answers.sort_by_key(|(stream, _)| *stream);
    assert_eq!(answers.each_ref().map(|(stream, _)| *stream), requests);
    let [one, other] = answers.map(|(_, answer)| adjusted(&answer.unwrap()));
    assert_eq!(one, other);
    assert_eq!(fs::read_dir(world.path("guest/volumes")).unwrap().count(), 1);
    // The end of one container is nothing to the other: it is not even told to us.
    secret.write(&payload(2, &["password"])).unwrap();
    let password = in_guest(&one.1[0].2).join("password");
    until("an update", || stamp(&fs::read(&password).unwrap()) == Some(2));
    connection.call("StopPodSandbox", &about(&pod)).unwrap();
    until("detached", || world.agent.status().is_empty());
    connection.call("RemovePodSandbox", &about(&pod)).unwrap();
}

#[test]
fn whoever_cannot_be_served_is_refused_in_time() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    // One that accepts nobody, one that does not exist, one whose shim is silent.
    let deaf = world.path("deaf.sock");
    let _deaf = std::os::unix::net::UnixListener::bind(&deaf).unwrap();
    world.shim("deaf", &format!("unix://{}", deaf.display()));
    world.shim("gone", &format!("unix://{}", world.path("gone.sock").display()));
    world.shim("remote", "remote:///run/peerpod/hypervisor.sock");
    fs::create_dir_all(world.path("sbs/silent")).unwrap();
    let silent = world.path("sbs/silent/shim-monitor.sock");
    let _silent = std::os::unix::net::UnixListener::bind(silent).unwrap();
    // A day, says the configuration; this call's own timeout is shorter. The 30 s of the test's own
    // patience are shorter than the day.
    let mut connection = runtime.greet(24 * 60 * MINUTE_MS, &[]);
    let request = |sandbox: &str, index: usize| {
        let secret = world.make(&pod_uid(index), "secret", "db", &["password"]);
        let container = container("app", &[("/etc/db", secret.target())]);
        create(&pod(sandbox, &pod_uid(index), KATA, None), &container)
    };
    for (index, (sandbox, says)) in [
        ("deaf", "not current"),
        ("gone", "not current"),
        ("remote", "remote:///run/peerpod"),
        ("silent", "cannot be learnt"),
        ("none", "shim-monitor.sock"),
    ]
    .into_iter()
    .enumerate()
    {
        let refused =
            connection.call_within("CreateContainer", &request(sandbox, index), 200_000_000);
        let (code, what) = refused.unwrap_err();
        assert_eq!(code, 9, "FAILED_PRECONDITION, and never what a runtime takes for a timeout");
        assert!(what.contains(says), "{sandbox}: {what}");
    }
    drop(connection);
    // Without a timeout of its own the call has what `Configure` said.
    let mut connection = runtime.greet(200, &[]);
    assert_eq!(connection.call("CreateContainer", &request("gone", 9)).unwrap_err().0, 9);
}

#[test]
fn the_plugin_comes_back_to_a_runtime_that_restarts() {
    let world = World::new(|_| {});
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    let secret = world.make(&pod_uid(1), "secret", "db", &["password"]);
    let pod = pod("s", &pod_uid(1), KATA, None);
    let path = world.path("nri.sock");
    let runtime = Runtime::start(&path);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    connection.call("Shutdown", &[]).unwrap();
    drop((connection, runtime));
    // Now there is a pod that nobody told of.
    let runtime = Runtime::start(&path);
    let mut connection = runtime.greet(MINUTE_MS, std::slice::from_ref(&pod));
    until("prefetched", || is_current(&world, &format!("{}.db", pod_uid(1))));
    let found = one_mount(&mut connection, &pod, secret.target());
    drop((connection, runtime));
    // The pod goes away meanwhile, of both runtime and kubelet.
    fs::remove_dir_all(world.path(&format!("kubelet/pods/{}", pod_uid(1)))).unwrap();
    let runtime = Runtime::start(&path);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    until("given up", || world.agent.status().is_empty() && !found.exists());
    connection.call("Shutdown", &[]).unwrap();
}

#[test]
fn pods_that_run_in_no_guest_are_left_alone_and_annotations_decide() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    let secret = world.make(&pod_uid(1), "secret", "db", &["password"]);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    let mut made = |handler: &str, annotation: Option<&str>, uid: &str| {
        let pod = pod("s", uid, handler, annotation);
        connection.call("RunPodSandbox", &about(&pod)).unwrap();
        let request = create(&pod, &container("app", &[("/etc/db", secret.target())]));
        let made = connection.call("CreateContainer", &request);
        connection.call("StopPodSandbox", &about(&pod)).unwrap();
        until("detached", || world.agent.status().is_empty());
        made.map(|response| adjusted(&response).1.len())
    };
    let uid = pod_uid(1);
    assert_eq!(made("", None, &uid), Ok(0));
    assert_eq!(made("runc", None, &uid), Ok(0));
    assert_eq!(made(KATA, Some("off"), &uid), Ok(0));
    assert_eq!(made("runc", Some("on"), &uid), Ok(1));
    assert_eq!(made("kata", None, &uid), Ok(1));
    assert!(made(KATA, Some("yes"), &uid).unwrap_err().1.contains("neither on nor off"));
    assert!(made(KATA, None, "../../etc").unwrap_err().1.contains("UID"));
    // Another pod's volume is a hostPath, which is not for us to bring elsewhere.
    assert_eq!(made(KATA, None, &pod_uid(2)), Ok(0));
}

#[test]
fn handlers_can_be_named() {
    let world = World::new(|options| options.handlers = vec!["my-vm".into()]);
    let runtime = Runtime::start(&world.path("nri.sock"));
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    let secret = world.make(&pod_uid(1), "secret", "db", &["password"]);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    for (handler, mounts) in [(KATA, 0), ("my-vm", 1), ("my-vm-2", 0)] {
        let pod = pod("s", &pod_uid(1), handler, None);
        let request = create(&pod, &container("app", &[("/etc/db", secret.target())]));
        let response = connection.call("CreateContainer", &request).unwrap();
        assert_eq!(adjusted(&response).1.len(), mounts, "{handler}");
    }
}

#[test]
fn a_sub_path_stays_or_is_refused_as_one_wishes() {
    for refuse in [false, true] {
        let world = World::new(|options| options.refuse_subpaths = refuse);
        let runtime = Runtime::start(&world.path("nri.sock"));
        world.shim("s", &format!("unix://{}", world.guest("guest").display()));
        let uid = pod_uid(1);
        world.make(&uid, "configmap", "app", &["app.yaml"]);
        let mut connection = runtime.greet(MINUTE_MS, &[]);
        let pod = pod("s", &uid, KATA, None);
        let mut made = |volume: &str| {
            let source = format!("kubelet/pods/{uid}/volume-subpaths/{volume}/app/0");
            let request = create(&pod, &container("app", &[("/a", &world.path(&source))]));
            connection.call("CreateContainer", &request).map(|response| adjusted(&response).1.len())
        };
        match refuse {
            false => assert_eq!(made("app"), Ok(0)),
            true => assert!(made("app").unwrap_err().1.contains("never be updated")),
        }
        assert_eq!(made("a-claim"), Ok(0), "of other volumes nothing is known");
    }
}

/// Kubelet makes a directory for what is mounted in a volume. The guest has none, and a runtime there
/// would say no more than that something is read-only.
#[test]
fn what_is_mounted_in_a_volume_is_refused() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    let secret = world.make(&pod_uid(1), "secret", "db", &["password"]);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    let pod = pod("s", &pod_uid(1), KATA, None);
    let mut made = |at: &str, other: &str| {
        let mounts = [(other, Path::new("/var/cache")), (at, secret.target())];
        let request = create(&pod, &container("app", &mounts));
        connection.call("CreateContainer", &request).map(|response| adjusted(&response).1.len())
    };
    for (at, other) in [("/etc/db", "/etc/db/certs"), ("/etc/db/", "/etc/db/a/b/")] {
        let (code, what) = made(at, other).unwrap_err();
        assert!(code == 9 && what.contains(other) && what.contains("below"), "{code} {what}");
    }
    for (at, other) in [("/etc/db", "/etc/db2"), ("/etc/db", "/etc"), ("/etc/db/", "/etc/dbx/y")] {
        assert_eq!(made(at, other), Ok(1), "{at} {other}");
    }
}

/// Otherwise a wrong --kubelet-root would have every container made with what Kata copies.
#[test]
fn a_volume_of_a_kubelet_elsewhere_is_refused() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    let (uid, other) = (pod_uid(1), pod_uid(2));
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    let pod = pod("s", &uid, KATA, None);
    let mut made = |source: String| {
        let source = std::path::PathBuf::from(source);
        let request = create(&pod, &container("app", &[("/a", &source)]));
        connection.call("CreateContainer", &request).map(|response| adjusted(&response).1.len())
    };
    for source in [
        format!("/data/kubelet/pods/{uid}/volumes/kubernetes.io~secret/db"),
        format!("/data/kubelet/pods/{uid}/volumes/kubernetes.io~projected/kube-api"),
        format!("/pods/{uid}/volume-subpaths/db/app/0"),
    ] {
        let (code, what) = made(source).unwrap_err();
        assert!(code == 9 && what.contains("see --kubelet-root"), "{code} {what}");
    }
    for source in [
        format!("/data/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/e"),
        format!("/data/kubelet/pods/{other}/volumes/kubernetes.io~secret/db"),
        "/etc/hosts".into(),
    ] {
        assert_eq!(made(source), Ok(0));
    }
}

/// Where a guest says that it keeps a volume becomes a source that a shim sees on the host.
#[test]
fn a_guest_that_names_another_place_is_not_believed() {
    let world = World::new(|options| options.guest_root = "/run/sealift".into());
    let runtime = Runtime::start(&world.path("nri.sock"));
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    let secret = world.make(&pod_uid(1), "secret", "db", &["password"]);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    let pod = pod("s", &pod_uid(1), KATA, None);
    let request = create(&pod, &container("app", &[("/etc/db", secret.target())]));
    let (code, what) = connection.call("CreateContainer", &request).unwrap_err();
    assert!(code == 9 && what.contains("not below \"/run/sealift\""), "{what}");
}

/// A node's reboot of a pod: the same UID, another sandbox, and the old one is removed late.
#[test]
fn a_pod_that_is_made_again_takes_its_volumes_along() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    let (old, new) = (world.guest("old"), world.guest("new"));
    let vmm = world.vmm("vmm.sock", 1027, &old);
    world.shim("s1", &format!("hvsock://{}:1024", vmm.display()));
    world.shim("s2", &format!("unix://{}", new.display()));
    let secret = world.make(&pod_uid(1), "secret", "db", &["password"]);
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    let [first, second] = ["s1", "s2"].map(|id| pod(id, &pod_uid(1), KATA, None));
    connection.call("RunPodSandbox", &about(&first)).unwrap();
    assert!(one_mount(&mut connection, &first, secret.target()).starts_with(world.path("old")));
    // The machine is gone when the runtime says so.
    fs::remove_file(vmm).unwrap();
    connection.call("StopPodSandbox", &about(&first)).unwrap();
    connection.call("RunPodSandbox", &about(&second)).unwrap();
    let found = one_mount(&mut connection, &second, secret.target());
    assert!(found.starts_with(world.path("new")), "{found:?}");
    connection.call("RemovePodSandbox", &about(&first)).unwrap();
    // And once more, by a runtime that is confused: the volumes are where they are.
    connection.call("RunPodSandbox", &about(&first)).unwrap();
    let request = create(&first, &container("app", &[("/etc/db", secret.target())]));
    let refused = connection.call_within("CreateContainer", &request, 200_000_000).unwrap_err();
    assert!(refused.1.contains("is attached to"), "{refused:?}");
    connection.call("StopPodSandbox", &about(&first)).unwrap();
    assert!(report(&world, &format!("{}.db", pod_uid(1))).is_some());
    secret.write(&payload(2, &["password"])).unwrap();
    until("an update", || stamp(&fs::read(found.join("password")).unwrap()) == Some(2));
}

#[test]
fn a_synchronisation_in_parts_is_one() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    world.shim("s", &format!("unix://{}", world.guest("guest").display()));
    for index in 1..=3 {
        world.make(&pod_uid(index), "secret", "db", &["password"]);
    }
    let known = pod("s", &pod_uid(3), KATA, None);
    let mut connection = runtime.greet(MINUTE_MS, &[known]);
    let last = format!("{}.db", pod_uid(3));
    until("prefetched", || is_current(&world, &last));
    // It is on its way out, and not gone before the runtime says so.
    fs::remove_dir_all(world.path(&format!("kubelet/pods/{}", pod_uid(3)))).unwrap();
    for (index, more) in [(1, true), (2, true), (3, false)] {
        let mut part = Vec::new();
        put(&mut part, 1, pod("s", &pod_uid(index), KATA, None));
        // As long as a ttrpc message may be, and cut into pieces on its way.
        put(&mut part, 2, vec![0; 3 << 20]);
        if more {
            testkit::proto::put_number(&mut part, 3, 1);
        }
        let wanted: &[u8] = if more { &[0x10, 1] } else { &[] };
        assert_eq!(connection.call("Synchronize", &part).unwrap(), wanted);
    }
    until("all of them", || {
        (1..=2).all(|index| is_current(&world, &format!("{}.db", pod_uid(index))))
    });
    assert!(report(&world, &last).is_some());
}

#[test]
fn what_is_no_message_is_refused_and_what_is_too_long_ends_the_connection() {
    let world = World::new(|_| {});
    let runtime = Runtime::start(&world.path("nri.sock"));
    let mut connection = runtime.greet(MINUTE_MS, &[]);
    for method in ["Configure", "Synchronize", "StateChange", "RunPodSandbox", "CreateContainer"] {
        assert_eq!(connection.call(method, &[0x0a, 0x7f, 1]).unwrap_err().0, 3, "{method}");
    }
    assert_eq!(connection.call("CreateContainer", &[]).unwrap_err().0, 3);
    assert_eq!(connection.call("Reboot", &[]).unwrap_err().0, 12);
    // A connection that nobody opened is skipped.
    connection.write_raw(&[0, 0, 0, 9, 0, 0, 0, 3, 1, 2, 3]);
    assert_eq!(connection.call("Reboot", &[]).unwrap_err().0, 12);
    for bytes in [
        &[0, 0, 0, 1, 0x00, 0x40, 0, 11][..],
        &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
        &[0, 0, 0, 1, 0, 0, 0, 10, 0x00, 0x40, 0, 1, 0, 0, 0, 1, 1, 0],
        &[0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 7, 0],
        &[0, 0, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0],
        &[0, 0, 0, 2, 0, 0, 0, 10, 0xff, 0, 0, 0, 0, 0, 0, 1, 2, 0],
    ] {
        connection.write_raw(bytes);
        assert!(connection.hangs_up(), "{bytes:?}");
        connection = runtime.greet(MINUTE_MS, &[]);
    }
}
