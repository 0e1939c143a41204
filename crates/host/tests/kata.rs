//! Volumes in a guest that has only Kata's agent.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host::agent::{Agent, Options, VolumeReport};
use host::guest::Guest;
use host::kubelet::{Kubelet, Source};
use tempfile::TempDir;
use testkit::kata::{Copied, KataAgent, Policy};
use testkit::kubelet::{AtomicWriter, Payload, make_volume, payload, pod_uid, stamp};
use volumes::name::VolumeId;

const PATIENCE: Duration = Duration::from_secs(30);

struct World {
    dir: TempDir,
    kata: KataAgent,
}

/// `None`: kata-agent gives files to their owners, which only root may.
fn world() -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        testkit::skip("only root may give files away, as kata-agent does");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let kata = KataAgent::start(dir.path()).unwrap();
    kata.set_policy(Policy::Genpolicy);
    Some(World { dir, kata })
}

struct Written {
    id: VolumeId,
    writer: AtomicWriter,
    guest: PathBuf,
}

impl World {
    fn agent(&self) -> Agent {
        Agent::start(Options {
            state_dir: self.dir.path().join("state"),
            timeout: Duration::from_secs(10),
            rescan: Duration::from_secs(3600),
            backoff_max: Duration::from_millis(200),
            tls: None,
        })
        .unwrap()
    }

    /// A volume that is attached, with its first revision in the guest.
    fn volume(&self, agent: &Agent, plugin: &'static str, payload: &Payload) -> Written {
        let root = self.dir.path().join("kubelet");
        let volume = make_volume(&root, &pod_uid(1), plugin, plugin).unwrap();
        volume.writer.write(payload).unwrap();
        let kubelet = Kubelet::open(&root).unwrap();
        let Source::Volume(found) = kubelet.classify(volume.writer.target()) else { panic!() };
        let guest: Guest = format!("kata:unix:{}", self.kata.socket().display()).parse().unwrap();
        agent.attach(std::slice::from_ref(&found), &guest).unwrap();
        agent.sync(&found.id, PATIENCE).unwrap();
        let path = report(agent, &found.id).guest_path.unwrap();
        Written { id: found.id, writer: volume.writer, guest: self.kata.path(&path) }
    }

    /// Writes a revision, brings it to the guest, and says what was asked of kata-agent for it.
    fn update(&self, agent: &Agent, volume: &Written, payload: &Payload) -> Vec<Copied> {
        self.kata.take_copied();
        volume.writer.write(payload).unwrap();
        agent.sync(&volume.id, PATIENCE).unwrap();
        self.kata.take_copied()
    }
}

fn report(agent: &Agent, volume: &VolumeId) -> VolumeReport {
    agent.report(volume).unwrap()
}

/// Everything that is there, below every directory: kind and mode, owner, content or target.
fn all(dir: &Path) -> BTreeMap<String, (u32, u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut pending = vec![String::new()];
    while let Some(at) = pending.pop() {
        for entry in fs::read_dir(dir.join(&at)).unwrap() {
            let path = format!("{at}{}", entry.unwrap().file_name().into_string().unwrap());
            let full = dir.join(&path);
            let stat = fs::symlink_metadata(&full).unwrap();
            let content = match (stat.is_dir(), stat.is_symlink()) {
                (true, _) => Vec::new(),
                (_, true) => fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes(),
                _ => fs::read(&full).unwrap(),
            };
            let mode = if stat.is_symlink() { 0 } else { stat.mode() };
            if stat.is_dir() {
                pending.push(format!("{path}/"));
            }
            found.insert(path, (mode, stat.uid(), stat.gid(), content));
        }
    }
    found
}

/// The guest has what the host has, in the same layout, and nothing else: only the revision's
/// directory has a name of its own.
#[track_caller]
fn same(volume: &Written) {
    let as_one = |dir: &Path| {
        let revision = fs::read_link(dir.join("..data")).unwrap().into_os_string();
        let revision = revision.into_string().unwrap();
        let rename = |text: &str| text.replacen(&revision, "..revision", 1);
        let renamed = all(dir).into_iter().map(|(path, (mode, uid, gid, content))| {
            let content = match path.as_str() {
                "..data" => rename(str::from_utf8(&content).unwrap()).into_bytes(),
                _ => content,
            };
            (rename(&path), (mode, uid, gid, content))
        });
        renamed.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(as_one(&volume.guest), as_one(volume.writer.target()));
}

#[test]
fn what_kubelet_does_the_guest_has_in_the_end_and_nothing_else() {
    let Some(world) = world() else { return };
    let agent = world.agent();
    let config =
        world.volume(&agent, "configmap", &payload(1, &["conf/app/x.yaml", "conf/y", "z"]));
    same(&config);
    for (generation, paths) in [
        (2, &["conf/app/x.yaml", "conf/y", "z"][..]),
        (3, &["conf/app/x.yaml", "conf/y", "z", "new"]),
        (4, &["conf/y", "new"]),
        (5, &["conf", "new/deep/er"]),
        // kata-agent assembles all of these in `a.tmp`.
        (6, &["a", "a.tmp", "a.yaml", "b/a.tmp", "b/a.x"]),
    ] {
        world.update(&agent, &config, &payload(generation, paths));
        same(&config);
    }
    let mut odd = payload(7, &["empty", "large", "script", "own/token"]);
    odd.get_mut("empty").unwrap().bytes.clear();
    odd.get_mut("large").unwrap().bytes = (0..=255).cycle().take((3 << 20) + 5).collect();
    odd.get_mut("script").unwrap().mode = 0o550;
    (odd.get_mut("own/token").unwrap().mode, odd.get_mut("own/token").unwrap().uid) =
        (0o400, Some(1000));
    let copied = world.update(&agent, &config, &odd);
    same(&config);
    let large = copied.iter().filter(|one| one.mode >> 12 == 0o10 && one.path.ends_with("/large"));
    let pieces: Vec<_> = large.map(|one| one.bytes).collect();
    assert_eq!(pieces, [1 << 20, 1 << 20, 1 << 20, 5]);
    let owners = fs::metadata(config.guest.join("own")).unwrap();
    assert_eq!((owners.uid(), owners.gid()), (0, 0), "and not the token's");
    let status = report(&agent, &config.id);
    assert!(status.current && !status.atomic && status.failure.is_none(), "{status:?}");
    assert!(status.guest.starts_with("kata:unix:"), "{status:?}");
}

/// New files, then new links, then the switch, and only then is anything removed: K + 3 calls for
/// K files in one directory, and one for each name that comes or goes.
#[test]
fn nothing_that_is_seen_is_touched_before_the_switch() {
    let Some(world) = world() else { return };
    let agent = world.agent();
    let config = world.volume(&agent, "configmap", &payload(1, &["a", "b", "old"]));
    let copied = world.update(&agent, &config, &payload(2, &["a", "b", "new"]));
    let kinds: Vec<(u32, String)> = copied
        .iter()
        .map(|one| {
            let (_, below) = one.path.trim_start_matches('/').split_once('/').unwrap();
            (one.mode >> 12, below.to_owned())
        })
        .collect();
    let revision = fs::read_link(config.guest.join("..data")).unwrap();
    let revision = revision.to_str().unwrap();
    let file = |name: &str| (0o10, format!("{revision}/{name}"));
    let link = |name: &str| (0o12, name.to_owned());
    let wanted = [
        (0o4, revision.to_owned()),
        file("a"),
        file("b"),
        file("new"),
        link("new"),
        link("..data"),
        link("old"),
    ];
    let (last, before) = kinds.split_last().unwrap();
    assert_eq!(before, wanted);
    assert!(last.0 == 0o12 && last.1.starts_with("..") && last.1 != revision, "{last:?}");
    assert_eq!(copied.last().unwrap().bytes, 0, "a link to nothing");
    for generation in 3..6 {
        let copied = world.update(&agent, &config, &payload(generation, &["a", "b", "new"]));
        assert_eq!(copied.len(), 3 + 3, "what is removed is forgotten: {copied:?}");
    }
}

/// A token that changes alone: two calls, and whoever reads meanwhile finds a whole token.
#[test]
fn a_token_is_replaced_in_one_step() {
    let Some(world) = world() else { return };
    let agent = world.agent();
    let of = |generation: u64| {
        let mut payload = payload(1, &["token", "ca.crt", "namespace"]);
        let token = payload.get_mut("token").unwrap();
        token.bytes = format!("generation {generation} of {}\n", "x".repeat(4000)).into_bytes();
        (token.mode, token.uid) = (0o600, Some(1000));
        payload
    };
    let token = world.volume(&agent, "projected", &of(1));
    let done = AtomicBool::new(false);
    let path = token.guest.join("token");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::SeqCst) || reads == 0 {
                let bytes = fs::read(&path).expect("there at every moment");
                assert!(stamp(&bytes).is_some() && bytes.len() > 4000, "{} bytes", bytes.len());
                reads += 1;
            }
        });
        for generation in 2..60 {
            let copied = world.update(&agent, &token, &of(generation));
            let data: Vec<_> = copied.iter().filter(|one| one.mode >> 12 == 0o10).collect();
            assert_eq!(data.len(), 2, "{copied:?}");
            assert!(copied.len() <= 3, "and the directory's owner: {copied:?}");
            assert_eq!(stamp(&fs::read(&path).unwrap()), Some(generation));
        }
        done.store(true, Ordering::SeqCst);
        reader.join().unwrap();
    });
    same(&token);
    // Together with something else it takes a new directory, as everywhere.
    let mut both = of(60);
    both.get_mut("ca.crt").unwrap().bytes = b"another".to_vec();
    assert!(world.update(&agent, &token, &both).len() > 3);
    same(&token);
}

#[test]
fn a_restarted_agent_sends_all_again_and_removes_what_it_had_left() {
    let Some(world) = world() else { return };
    let agent = world.agent();
    let config = world.volume(&agent, "configmap", &payload(1, &["a", "old"]));
    drop(agent);
    world.kata.take_copied();
    // Kubelet is not idle meanwhile.
    config.writer.write(&payload(2, &["a", "new"])).unwrap();
    let agent = world.agent();
    agent.sync(&config.id, PATIENCE).unwrap();
    same(&config);
    drop(agent);
    world.kata.take_copied();
    let agent = world.agent();
    agent.sync(&config.id, PATIENCE).unwrap();
    same(&config);
    let copied = world.kata.take_copied();
    let files = copied.iter().filter(|one| one.mode >> 12 == 0o10).count();
    assert_eq!(files, 2, "it cannot ask what is there: {copied:?}");
    // Its policy leaves the volume's own directory, and nothing in it.
    agent.detach(std::slice::from_ref(&config.id)).unwrap();
    assert!(agent.report(&config.id).is_none());
    assert_eq!(all(&config.guest), BTreeMap::new());
    world.kata.set_policy(Policy::AllowAll);
    let config = world.volume(&agent, "configmap", &payload(3, &["a"]));
    agent.detach(std::slice::from_ref(&config.id)).unwrap();
    assert!(!config.guest.exists());
}

#[test]
fn a_guest_that_comes_back_empty_is_filled_again() {
    let Some(mut world) = world() else { return };
    let agent = world.agent();
    let config = world.volume(&agent, "configmap", &payload(1, &["a", "b"]));
    let dir = world.dir.path().to_path_buf();
    let elsewhere = tempfile::tempdir().unwrap();
    world.kata = KataAgent::start(elsewhere.path()).unwrap();
    fs::remove_dir_all(dir.join("shared")).unwrap();
    config.writer.write(&payload(2, &["a", "c"])).unwrap();
    assert!(agent.sync(&config.id, Duration::from_millis(200)).is_err());
    assert!(report(&agent, &config.id).failure.is_some());
    world.kata = KataAgent::start(&dir).unwrap();
    agent.sync(&config.id, PATIENCE).unwrap();
    same(&config);
}

#[test]
fn what_policy_forbids_is_said_and_made_up_for() {
    let Some(world) = world() else { return };
    let agent = world.agent();
    let config = world.volume(&agent, "configmap", &payload(1, &["a"]));
    world.kata.set_policy(Policy::DenyAll);
    config.writer.write(&payload(2, &["a"])).unwrap();
    assert!(agent.sync(&config.id, Duration::from_millis(500)).is_err());
    let failure = report(&agent, &config.id).failure.unwrap();
    assert!(failure.contains("blocked by policy"), "{failure}");
    assert_eq!(stamp(&fs::read(config.guest.join("a")).unwrap()), Some(1), "the last good one");
    world.kata.set_policy(Policy::Genpolicy);
    agent.sync(&config.id, PATIENCE).unwrap();
    same(&config);
}

/// What an attempt that failed has left is never seen: it is removed before the next.
#[test]
fn half_a_revision_is_neither_seen_nor_kept() {
    let Some(world) = world() else { return };
    let agent = world.agent();
    let config = world.volume(&agent, "configmap", &payload(1, &["a"]));
    // A directory in the place where kata-agent assembles `z.x`: it cannot.
    config.writer.write(&payload(2, &["a", "gone", "z.tmp/file", "z.x"])).unwrap();
    assert!(agent.sync(&config.id, Duration::from_millis(500)).is_err());
    assert_eq!(stamp(&fs::read(config.guest.join("a")).unwrap()), Some(1), "the last good one");
    let revisions = || {
        let names = fs::read_dir(&config.guest).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("..") && name != "..data").count()
    };
    assert!(revisions() <= 2, "{}", revisions());
    config.writer.write(&payload(3, &["a", "gone"])).unwrap();
    let until = Instant::now() + PATIENCE;
    while agent.sync(&config.id, PATIENCE).is_err() {
        assert!(Instant::now() < until);
    }
    same(&config);
}

/// The agent that all of this is tried with does what the real one does.
#[test]
fn the_agent_in_these_tests_has_the_real_ones_faults() {
    let Some(world) = world() else { return };
    let agent = world.agent();
    let config = world.volume(&agent, "configmap", &payload(1, &["a"]));
    // A link that leads out of the shared directory is not followed.
    let outside = world.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let top = config.guest.clone();
    fs::remove_dir_all(&top).unwrap();
    symlink(&outside, &top).unwrap();
    config.writer.write(&payload(2, &["a"])).unwrap();
    assert!(agent.sync(&config.id, Duration::from_millis(500)).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
