//! Sealed contents are opened by threads of its own, so that a key source that is slow
//! or hangs holds up no volume but the one whose contents it is asked to open.
//!
//! The store commits nothing that is sealed. A commit that finds such contents hands them over and is
//! refused with [`Reason::Opening`]; the host says it again, and by then they are replaced, or the
//! refusal says why not. What is remembered here is only what is under way or has failed: whether a
//! content is opened, the store alone knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, Weak};
use std::time::SystemTime;

use volumes::audience::{Audience, File as Bound, Place};
use volumes::chain;
use volumes::name::{TreePath, VolumeId};
use volumes::refusal::{Reason, Refusal};
use volumes::tree::{Digest, Node, Tree};
use volumes::wire::cdh::VALUE_BYTES_MAX;
use zeroize::Zeroizing;

use crate::agent::Agent;
use crate::cdh::Cdh;
use crate::server::lock;

/// Threads that wait for the key source at a time.
const THREADS_MAX: usize = 8;
/// Of which are one volume's.
const VOLUME_THREADS_MAX: usize = 2;
/// A thread's stack: what it holds is on the heap.
const STACK_BYTES: usize = 128 << 10;

/// What is being opened.
pub(crate) struct Unsealer {
    agent: Weak<Mutex<Agent>>,
    opener: Arc<Opener>,
    volumes: BTreeMap<VolumeId, Contents>,
    threads: usize,
}

/// Who opens sealed values, and for which pod.
#[derive(Debug)]
pub struct Opener {
    /// The key source.
    pub cdh: Cdh,
    /// The namespace of the guest's pod. `None`: values that are for one are refused.
    pub namespace: Option<String>,
    /// Its service account, likewise.
    pub service_account: Option<String>,
}

/// What was sealed, and the one path where it may be.
type Opened = (Zeroizing<Vec<u8>>, Option<TreePath>);

/// One volume's.
#[derive(Default)]
struct Contents {
    /// Those of the commit that was tried last: nobody hears of others' failures.
    wanted: BTreeSet<Digest>,
    waiting: BTreeSet<Digest>,
    running: BTreeSet<Digest>,
    failed: BTreeMap<Digest, String>,
}

impl Unsealer {
    pub(crate) fn new(agent: &Arc<Mutex<Agent>>, opener: Opener) -> Self {
        let (agent, opener) = (Arc::downgrade(agent), Arc::new(opener));
        Self { agent, opener, volumes: BTreeMap::new(), threads: 0 }
    }

    /// Why `tree` cannot be committed yet: its `sealed` contents are being opened from now on, or
    /// could not be. A failure is told once, and tried again the next time.
    pub(crate) fn open(
        &mut self,
        volume: &VolumeId,
        tree: &Tree,
        sealed: &BTreeMap<Digest, u64>,
    ) -> Refusal {
        let contents = self.volumes.entry(volume.clone()).or_default();
        // Those of an earlier revision are of no interest any more.
        contents.wanted = sealed.keys().copied().collect();
        contents.waiting.retain(|digest| sealed.contains_key(digest));
        let failed = std::mem::take(&mut contents.failed);
        if let Some((digest, why)) = failed.iter().find(|(digest, _)| sealed.contains_key(*digest))
        {
            let what = format!("{}: {why}", path_of(tree, digest));
            return Refusal::new(Reason::Sealed, what);
        }
        let running = &contents.running;
        contents.waiting.extend(sealed.keys().filter(|digest| !running.contains(*digest)));
        self.start();
        let what = format!("sealed values are being opened: {}", sealed.len());
        Refusal::new(Reason::Opening, what)
    }

    /// A volume's staged contents are gone. What is running ends in vain.
    pub(crate) fn forget(&mut self, volume: &VolumeId) {
        if let Some(contents) = self.volumes.get_mut(volume) {
            contents.wanted.clear();
            contents.waiting.clear();
            contents.failed.clear();
            if contents.running.is_empty() {
                self.volumes.remove(volume);
            }
        }
    }

    /// As many threads as there is work for. A thread that cannot be made leaves it to the others,
    /// or to the host's next attempt.
    fn start(&mut self) {
        while self.threads < THREADS_MAX {
            let Some((volume, digest)) = self.next() else { return };
            let (agent, opener) = (self.agent.clone(), Arc::clone(&self.opener));
            let thread = std::thread::Builder::new().name("unseal".into()).stack_size(STACK_BYTES);
            let first = (volume.clone(), digest);
            if let Err(error) = thread.spawn(move || run(&agent, &opener, first)) {
                tracing::warn!(%error, "no thread to open sealed values");
                self.ended(&volume, &digest, Err("the guest has no thread for it".into()));
                return;
            }
            self.threads += 1;
        }
    }

    /// The next one to open: of the volume that has the fewest under way.
    fn next(&mut self) -> Option<(VolumeId, Digest)> {
        let ready = self.volumes.iter_mut().filter(|(_, contents)| {
            !contents.waiting.is_empty() && contents.running.len() < VOLUME_THREADS_MAX
        });
        let (volume, contents) = ready.min_by_key(|(_, contents)| contents.running.len())?;
        let digest = contents.waiting.pop_first()?;
        contents.running.insert(digest);
        Some((volume.clone(), digest))
    }

    fn ended(&mut self, volume: &VolumeId, digest: &Digest, result: Result<(), String>) {
        let Some(contents) = self.volumes.get_mut(volume) else { return };
        contents.running.remove(digest);
        // A host could else leave failures behind for any number of volumes that are not there.
        if let Err(why) = result
            && contents.wanted.contains(digest)
        {
            contents.failed.insert(*digest, why);
        } else if contents.waiting.is_empty()
            && contents.running.is_empty()
            && contents.failed.is_empty()
        {
            self.volumes.remove(volume);
        }
    }
}

impl fmt::Debug for Unsealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealer").field("opener", &self.opener).finish_non_exhaustive()
    }
}

/// Why sealed contents cannot even be tried.
pub(crate) fn hopeless(
    has_unsealer: bool,
    tree: &Tree,
    sealed: &BTreeMap<Digest, u64>,
) -> Option<Refusal> {
    let (digest, why) = if has_unsealer {
        let long = sealed.iter().find(|(_, bytes)| **bytes > VALUE_BYTES_MAX as u64)?;
        (long.0, format!("is sealed, and longer than {VALUE_BYTES_MAX} bytes"))
    } else {
        (sealed.keys().next()?, "is sealed, and this guest has no --key-source".to_owned())
    };
    Some(Refusal::new(Reason::Sealed, format!("{} {why}", path_of(tree, digest))))
}

/// The first path that has these contents, for people.
fn path_of(tree: &Tree, digest: &Digest) -> String {
    let has = |node: &Node| matches!(node, Node::File { digest: of, .. } if of == digest);
    let path = tree.nodes().iter().find(|(_, node)| has(node)).map(|(path, _)| path.to_string());
    path.unwrap_or_default()
}

/// A thread: opens one content after the other, until there is none left, or no agent. The agent is
/// locked to read and to write a content, never while the key source is asked.
fn run(agent: &Weak<Mutex<Agent>>, opener: &Opener, first: (VolumeId, Digest)) {
    let mut next = Some(first);
    while let Some((volume, digest)) = next {
        let Some(shared) = agent.upgrade() else { return };
        let staged = lock(&shared).store.staged(&volume, digest);
        drop(shared);
        let opened = match staged {
            Ok(Some(file)) => Some(opener.open(file)),
            // Discarded in the meantime: nobody waits for it.
            Ok(None) | Err(_) => None,
        };
        let Some(shared) = agent.upgrade() else { return };
        let mut agent = lock(&shared);
        let result = match opened {
            Some(Ok((plaintext, only_at))) => agent.opened(&volume, digest, &plaintext, only_at),
            Some(Err(why)) => Err(why),
            None => Ok(()),
        };
        let Some(unsealer) = &mut agent.unsealer else { return };
        unsealer.ended(&volume, &digest, result);
        next = unsealer.next();
        if next.is_none() {
            unsealer.threads -= 1;
        }
    }
}

impl From<Cdh> for Opener {
    /// For a pod of which nothing is known.
    fn from(cdh: Cdh) -> Self {
        Self { cdh, namespace: None, service_account: None }
    }
}

impl Opener {
    fn open(&self, file: File) -> Result<Opened, String> {
        // Its length was looked at before; a bound costs nothing.
        let (mut sealed, limit) = (Vec::new(), VALUE_BYTES_MAX as u64);
        let read = file.take(limit).read_to_end(&mut sealed);
        read.map_err(|error| format!("it cannot be read: {error}"))?;
        // Here and not by the key source alone, since upstream's knows nothing of it. What is opened
        // afterwards has the signature of these very bytes.
        let audience = Audience::claimed(&sealed).map_err(|error| error.to_string())?;
        let place = Place {
            namespace: self.namespace.as_deref(),
            service_account: self.service_account.as_deref(),
            // The store commits it at no other path.
            file: Bound::KeptByCaller,
            now: SystemTime::now(),
        };
        audience.admits(&place).map_err(|refused| refused.to_string())?;
        let only_at = audience.key.as_deref().map(TreePath::parse).transpose();
        let only_at = only_at.map_err(|error| error.to_string())?;
        let plaintext = self.cdh.unseal(&sealed).map_err(|error| chain(&error))?;
        Ok((plaintext, only_at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use volumes::tree::{Limits, Meta};

    use super::*;

    #[test]
    fn a_failure_after_the_volume_is_gone_leaves_nothing() {
        let cdh = Cdh::new("nowhere", Duration::from_secs(1));
        let opener = Arc::new(cdh.into());
        // It starts none of its own.
        let (agent, threads) = (Weak::new(), THREADS_MAX);
        let mut unsealer = Unsealer { agent, opener, volumes: BTreeMap::new(), threads };
        let meta = Meta { mode: 0o755, uid: 0, gid: 0 };
        let tree = Tree::new(meta, [].into(), Limits { entries: 1, bytes: 1 }).unwrap();
        let sealed = BTreeMap::from([(Digest::of(b"sealed.x"), 8)]);
        let id = VolumeId::parse("v").unwrap();
        let refuse = || Err("no".to_owned());

        assert_eq!(unsealer.open(&id, &tree, &sealed).reason, Reason::Opening);
        let (_, digest) = unsealer.next().unwrap();
        unsealer.forget(&id);
        unsealer.ended(&id, &digest, refuse());
        assert!(unsealer.volumes.is_empty());

        // One that is there again meanwhile hears of it, once.
        unsealer.open(&id, &tree, &sealed);
        unsealer.next().unwrap();
        unsealer.forget(&id);
        unsealer.open(&id, &tree, &sealed);
        unsealer.ended(&id, &digest, refuse());
        assert_eq!(unsealer.open(&id, &tree, &sealed).reason, Reason::Sealed);
        unsealer.forget(&id);
        assert!(unsealer.volumes.is_empty());
    }
}
