//! `sealift secret sync`: named secrets in a directory in memory, for pods whose host brings none.
//!
//! One refresh is all items or none: they are fetched under one attestation, opened, recorded, and
//! then visible together. A refresh that fails changes nothing: the revision before stays, and the
//! log, `DIR/status.json` and with `--once` the exit code say why.

mod notice;
mod volume;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use audit::Event;
use rustix::process::{getegid, geteuid};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use volumes::audience::{File as Bound, Time};
use volumes::name::TreePath;
use volumes::tree::Meta;
use zeroize::Zeroizing;

use self::volume::{File, Volume};
use super::read;
use crate::cli::{Global, Item, ItemSource, SecretSync};
use crate::code::Code;
use crate::failure::Failure;
use crate::opener::Opener;
use crate::recording::record;
use crate::{Stop, stop};

/// How long a revision stays after the next one: for who holds a directory of it open.
const GRACE: Duration = Duration::from_secs(2);
/// Longest pause after a refresh that failed; the shortest is half of it.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Shortest pause before a secret expires.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const STATUS: &str = "status.json";

pub(super) fn run(args: &SecretSync, global: &Global) -> Result<(), Stop> {
    match stop::in_runtime(keep(args, global)) {
        // A sidecar that is told to end has done its work. A commit is never left half-way: nothing
        // waits within it.
        Err(Stop::Exit(143)) if !args.once => Ok(()),
        other => other,
    }
}

async fn keep(args: &SecretSync, global: &Global) -> Result<(), Failure> {
    let mut paths: Vec<&TreePath> = args.items.iter().map(|item| &item.path).collect();
    paths.sort();
    if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Failure::usage(format!("--item {} is given twice", pair[0])));
    }
    if let Some(path) = &args.ready_file {
        remove(path)?;
    }
    let log = crate::command::audit::log(&args.audit)?;
    let opener = Opener::new(&args.key, &args.signers, &args.pod, log)?;
    let grace = if args.once { Duration::ZERO } else { GRACE };
    let volume = Volume::open(&args.dir, args.allow_disk, grace)?;
    let broken = |error| Failure::new(Code::Bug, format!("no signal handler: {error}"));
    let mut hangup = signal(SignalKind::hangup()).map_err(broken)?;
    let mut keeper = Keeper {
        args,
        quiet: global.quiet,
        opener,
        volume,
        status: Status::default(),
        untold: false,
    };

    let first = keeper.refresh().await;
    if args.once {
        keeper.volume.expire();
        first?;
        return keeper.ready();
    }
    // What the run before left serves on, if it is what is asked for now.
    if first.is_err() && !keeper.volume.has(&paths) {
        return first.map(drop);
    }
    keeper.ready()?;
    let mut next = keeper.pause(first.as_ref().ok());
    loop {
        let refresh = Instant::now() + next;
        loop {
            let expiry = keeper.volume.expire();
            let wake = expiry.map_or(refresh, |expiry| expiry.min(refresh));
            tokio::select! {
                () = tokio::time::sleep_until(wake.into()) => {
                    if Instant::now() >= refresh {
                        break;
                    }
                }
                _ = hangup.recv() => break,
            }
        }
        let fetched = keeper.refresh().await;
        next = keeper.pause(fetched.as_ref().ok());
    }
}

/// Until when the items may be opened, the first of them.
type Expiry = Option<Time>;

struct Keeper<'a> {
    args: &'a SecretSync,
    quiet: bool,
    opener: Opener,
    volume: Volume,
    status: Status,
    /// A change that nobody could be told of yet.
    untold: bool,
}

/// `DIR/status.json`: names and times, no values and nothing of them.
#[derive(Default, Serialize)]
struct Status {
    /// What is visible.
    revision: Option<u64>,
    /// When all items were last fetched.
    refreshed: Option<String>,
    /// When one of them expires first.
    expires: Option<Time>,
    items: Vec<String>,
    /// Why the last refresh changed nothing.
    failure: Option<Refused>,
    /// Why nobody was told of the last change.
    notice: Option<String>,
}

#[derive(Serialize)]
struct Refused {
    code: String,
    what: String,
    since: String,
}

impl Keeper<'_> {
    /// All items, visible together; or none, and why.
    async fn refresh(&mut self) -> Result<Expiry, Failure> {
        let had = self.volume.current().is_some();
        let done = self.replace().await;
        let revision = self.volume.current().map(|(revision, _)| revision);
        self.status.revision = revision;
        self.status.items = names(&self.args.items);
        match &done {
            Ok((changed, expires)) => {
                if self.status.failure.take().is_some() && !changed {
                    self.say("all items are current again");
                }
                self.status.refreshed = Some(now());
                self.status.expires = *expires;
                self.untold |= *changed && had;
            }
            Err(failure) => {
                let kept =
                    revision.map_or("nothing is there".into(), |n| format!("revision {n} stays"));
                self.say(&format!("{kept}: {failure}"));
                let (code, what) = (failure.code().to_string(), failure.what().to_owned());
                let since = self.status.failure.take().map_or_else(now, |before| before.since);
                self.status.failure = Some(Refused { code, what, since });
            }
        }
        if let (true, Some(revision)) = (self.untold, revision) {
            self.status.notice = notice::tell(self.args, revision).await.err();
            self.untold = self.status.notice.is_some();
            if let Some(why) = &self.status.notice {
                self.say(&format!("nobody was told of revision {revision}: {why}"));
            }
        }
        if let Err(failure) = self.write_status() {
            self.say(&failure.to_string());
        }
        done.map(|(_, expires)| expires)
    }

    /// Whether anything changed.
    async fn replace(&mut self) -> Result<(bool, Expiry), Failure> {
        let (mut files, mut expires) = (BTreeMap::new(), None::<Time>);
        for item in &self.args.items {
            let fetched = fetch(&self.opener, item).await;
            let (content, until) = fetched.map_err(|failure| failure.at(&item.path))?;
            expires = expires.into_iter().chain(until).min();
            let meta = Meta {
                mode: item.mode.unwrap_or(self.args.mode),
                uid: self.args.uid.unwrap_or_else(|| geteuid().as_raw()),
                gid: self.args.gid.unwrap_or_else(|| getegid().as_raw()),
            };
            files.insert(item.path.clone(), File { meta, content });
        }
        let log = self.opener.log();
        let recorded = |revision| {
            let (destination, items) =
                (self.args.dir.display().to_string(), names(&self.args.items));
            Ok(record(log, Event::SecretsPublished { destination, revision, items })?)
        };
        let published = self.volume.publish(&files, recorded).await?;
        if let Some(revision) = published {
            self.say(&format!("revision {revision}: {} files", files.len()));
        }
        Ok((published.is_some(), expires))
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{}: {line}", self.args.dir.display());
        }
    }

    /// Makes the file that says that all items are there.
    fn ready(&self) -> Result<(), Failure> {
        let Some(path) = &self.args.ready_file else { return Ok(()) };
        let made = std::fs::write(path, b"");
        made.map_err(|error| Failure::new(Code::Publish, error.to_string()).at(path.display()))
    }

    /// Replaced in one step: nobody reads half of it.
    fn write_status(&self) -> Result<(), Failure> {
        let (path, new) = (self.args.dir.join(STATUS), self.args.dir.join(".status.new"));
        let failed = |error: std::io::Error| {
            Failure::new(Code::Publish, error.to_string()).at(path.display())
        };
        let json = serde_json::to_vec_pretty(&self.status)
            .map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
        std::fs::write(&new, json).and_then(|()| std::fs::rename(&new, &path)).map_err(failed)
    }

    /// How long until the next refresh: not all pods at the same time, and some time before a secret
    /// expires, since another may have been put in its place.
    fn pause(&self, last: Option<&Expiry>) -> Duration {
        let Some(expires) = last else {
            return jittered(self.args.interval.min(RETRY_MAX));
        };
        let left = expires.map(|at| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at.unix_seconds());
            (at.duration_since(SystemTime::now()).unwrap_or_default() / 2).max(PAUSE_MIN)
        });
        let pause = jittered(self.args.interval);
        left.map_or(pause, |left| left.min(pause))
    }
}

/// What an item is now, and until when it may be opened.
async fn fetch(opener: &Opener, item: &Item) -> Result<(Zeroizing<Vec<u8>>, Expiry), Failure> {
    match &item.from {
        ItemSource::Resource(resource) => {
            let released = opener.resource(resource, &format!("file {}", item.path)).await?;
            Ok((Zeroizing::new(released.expose().to_vec()), None))
        }
        ItemSource::Sealed(file) => {
            let text = read(file, keys::sealed::TEXT_BYTES_MAX)?;
            let opened = opener.unseal(&text, Bound::At(item.path.as_str())).await?;
            Ok((opened.plaintext, opened.expires))
        }
    }
}

fn names(items: &[Item]) -> Vec<String> {
    let name = |item: &Item| match &item.from {
        ItemSource::Resource(resource) => format!("{}={resource}", item.path),
        ItemSource::Sealed(file) => format!("{}=sealed:{}", item.path, file.display()),
    };
    items.iter().map(name).collect()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Between half of a pause and all of it.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness it is all of it.
    let fraction = match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    };
    pause.mul_f64(0.5 + fraction / 2.0)
}

fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::new(Code::Publish, error.to_string()).at(path.display()))
        }
        _ => Ok(()),
    }
}
