//! The cases, the same for every source.

use bytes::Bytes;
use store::{Error, Store};
use testkit::line::{Bend, Line};

use super::common::{MIB, names, open, pattern, put, range};
use super::record::Row;

/// Longer than any listing, so that a [`Line`] can tell; shorter than a part of an upload.
pub(crate) const WEIGHTS_BYTES: usize = 3 * MIB + 3;
/// Answers below it are none with weights in them.
pub(crate) const LINE_BYTES_MIN: u64 = MIB as u64;
const WEIGHTS: &str = "weights.bin";

/// The folder [`FOLDER`] of every source, sorted by name.
pub(crate) fn model() -> [(&'static str, Vec<u8>); 4] {
    [
        ("config.json", b"{}".to_vec()),
        ("empty", Vec::new()),
        ("sub/a b+ü.json", b"[1]".to_vec()),
        (WEIGHTS, pattern(WEIGHTS_BYTES)),
    ]
}

/// Where the model lies.
pub(crate) const FOLDER: &str = "m";
/// A folder beside it, of one file, whose name begins alike.
pub(crate) const NEIGHBOUR: &str = "m-evil";

/// What every source is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// Every file below the folder, with its length, and nothing beside it.
    List,
    /// Files come back as they are: large, small, empty, and of difficult names.
    Bytes,
    /// Any part of a file is exactly that part, and none lies behind its end.
    Ranges,
    /// What is not there is told apart from what fails.
    Missing,
    /// So is what one may not read; the refusal shows no credential.
    Denied,
    /// A file that is replaced while it is read is never mixed.
    Replaced,
    /// A connection that ends early may be tried again, and is no file.
    Cut,
    /// So may one on which nothing comes.
    Slow,
    /// More or fewer bytes than the file has are refused.
    Length,
    /// What is written is read back, in one part or many; what is given up leaves nothing.
    Written,
}

impl Case {
    pub(crate) const ALL: [Self; 10] = [
        Self::List,
        Self::Bytes,
        Self::Ranges,
        Self::Missing,
        Self::Denied,
        Self::Cut,
        Self::Slow,
        Self::Length,
        Self::Written,
        // Last, as it changes the model.
        Self::Replaced,
    ];

    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// How a source holds a reader to the file that was there first.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pinned {
    /// By its version: another one is refused.
    ByVersion,
    /// The old one is still read.
    AtSnapshot,
}

/// What this source does not have, and why.
pub(crate) type Or<T> = Result<T, &'static str>;

/// A place that holds [`model`], and a server that plays it.
pub(crate) trait Source {
    /// As its URIs begin.
    const SOURCE: &'static str;
    /// What plays it.
    const SERVER: &'static str;
    /// Bytes of an object that is written in parts.
    const LONG_BYTES: usize = 20 * MIB + 3;

    /// The variable that says who we are, and what somebody says who may not read.
    const STRANGER: Or<(&'static str, &'static str)>;
    /// How it holds a reader to one file.
    const PINNED: Or<Pinned> = Ok(Pinned::ByVersion);
    /// Whether it can list; it says why not.
    const LISTS: Or<()> = Ok(());
    /// Whether it can be written.
    const WRITES: Or<()> = Ok(());

    /// The URI of a folder: [`FOLDER`], [`NEIGHBOUR`], or one that is not there.
    fn uri(&self, folder: &str) -> String;
    /// The variables with which it is reached, through the line if there is one.
    fn env(&self) -> Vec<(&'static str, String)>;
    /// What the source is reached through.
    fn line(&self) -> Or<&Line>;
    /// Puts another file in place of one of the model's.
    async fn replace(&self, object: &str, bytes: &[u8]) {
        put(&store(self, FOLDER), object, bytes).await.unwrap();
    }
    /// Makes what was written visible.
    async fn commit(&self, _: &Store) {}
}

/// A folder of the source.
pub(crate) fn store(source: &(impl Source + ?Sized), folder: &str) -> Store {
    opened(source, folder, &source.env())
}

fn opened(source: &(impl Source + ?Sized), folder: &str, env: &[(&'static str, String)]) -> Store {
    open(&source.uri(folder), env.iter().map(|(name, value)| (*name, value.as_str()))).unwrap()
}

/// Writes the model into a source, and what lies beside it.
pub(crate) async fn fill(source: &impl Source) {
    let store = store(source, FOLDER);
    for (name, bytes) in model() {
        put(&store, name, &bytes).await.unwrap();
    }
    source.commit(&store).await;
    let neighbour = self::store(source, NEIGHBOUR);
    put(&neighbour, "x", b"x").await.unwrap();
    source.commit(&neighbour).await;
}

/// Every case, and a line for each.
pub(crate) async fn conform<S: Source>(source: &S) {
    for case in Case::ALL {
        let row = Row::begin(S::SOURCE, S::SERVER, case);
        match run(source, case).await {
            Ok(()) => row.passed(),
            Err(why) => row.impossible(why),
        }
    }
}

/// The server is not installed.
pub(crate) fn skip<S: Source>() {
    for case in Case::ALL {
        Row::begin(S::SOURCE, S::SERVER, case).skipped();
    }
}

async fn run<S: Source>(source: &S, case: Case) -> Or<()> {
    match case {
        Case::List => list(source).await,
        Case::Bytes => bytes(source).await,
        Case::Ranges => ranges(source).await,
        Case::Missing => missing(source).await,
        Case::Denied => denied(source).await,
        Case::Replaced => replaced(source).await,
        Case::Cut => bent(source, Bend::Cut { after: MIB as u64 }).await,
        Case::Slow => bent(source, Bend::Stall { after: MIB as u64 }).await,
        Case::Length => length(source).await,
        Case::Written => written(source).await,
    }
}

async fn list<S: Source>(source: &S) -> Or<()> {
    S::LISTS?;
    let store = store(source, FOLDER);
    let listed = names(store.list(100).await.unwrap());
    let expected = model().map(|(name, bytes)| (name.to_owned(), bytes.len() as u64));
    assert_eq!(listed, expected);
    assert!(matches!(store.list(3).await, Err(Error::TooLarge { .. })));
    Ok(())
}

async fn bytes(source: &impl Source) -> Or<()> {
    let store = store(source, FOLDER);
    for (name, bytes) in model() {
        assert_eq!(store.stat(name).await.unwrap().bytes, bytes.len() as u64, "{name}");
        assert!(store.read(name, bytes.len() as u64).await.unwrap() == bytes, "{name}");
    }
    let short = store.read(WEIGHTS, 100).await;
    assert!(matches!(short, Err(Error::TooLarge { .. })), "{short:?}");
    Ok(())
}

async fn ranges(source: &impl Source) -> Or<()> {
    let store = store(source, FOLDER);
    let (content, end) = (pattern(WEIGHTS_BYTES), WEIGHTS_BYTES);
    let etag = store.stat(WEIGHTS).await.unwrap().etag;
    for (start, end) in [(0, 1), (0, end), (MIB - 1, 2 * MIB + 1), (end - 1, end), (7, 7)] {
        for etag in [None, etag.as_deref()] {
            let got = range(&store, WEIGHTS, start as u64..end as u64, etag).await.unwrap();
            assert!(got == content[start..end], "{start}..{end}");
        }
    }
    for beyond in [(end - 1, end + 1), (end, end + 1), (end + 5, end + 6)] {
        let refused = range(&store, WEIGHTS, beyond.0 as u64..beyond.1 as u64, None).await;
        let refused = refused.unwrap_err();
        assert!(!refused.is_transient(), "{beyond:?}: {refused:?}");
    }
    assert!(!range(&store, "empty", 0..1, None).await.unwrap_err().is_transient());
    Ok(())
}

async fn missing<S: Source>(source: &S) -> Or<()> {
    let store = store(source, FOLDER);
    let absent = [
        store.stat("none").await.err(),
        store.read("none", 10).await.err(),
        range(&store, "none", 0..1, None).await.err(),
        // A part of a name is no name.
        store.stat("weights").await.err(),
    ];
    for error in absent {
        assert!(matches!(error, Some(Error::NotFound { .. })), "{error:?}");
    }
    if S::LISTS.is_ok() {
        let nothing = self::store(source, "none").list(10).await;
        let nothing = match nothing {
            Ok(listed) => listed.is_empty(),
            Err(error) => matches!(error, Error::NotFound { .. }),
        };
        assert!(nothing);
    }
    Ok(())
}

async fn denied<S: Source>(source: &S) -> Or<()> {
    let (name, other) = S::STRANGER?;
    let known = source.env();
    let mut stranger = known.clone();
    stranger.push((name, other.to_owned()));
    let store = opened(source, FOLDER, &stranger);
    let refused = [
        store.stat(WEIGHTS).await.err(),
        store.read(WEIGHTS, u64::MAX).await.err(),
        range(&store, WEIGHTS, 0..1, None).await.err(),
        store.list(100).await.err().filter(|_| S::LISTS.is_ok()),
    ];
    for error in refused.into_iter().take(if S::LISTS.is_ok() { 4 } else { 3 }) {
        let error = error.expect("a stranger is refused");
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        let said = format!("{error:?}");
        let ours = known.iter().filter(|it| it.0 == name).map(|it| it.1.as_str());
        assert!(ours.chain([other]).all(|secret| !said.contains(secret)), "{said}");
    }
    Ok(())
}

async fn replaced<S: Source>(source: &S) -> Or<()> {
    let pinned = S::PINNED?;
    let (content, end) = (pattern(WEIGHTS_BYTES), WEIGHTS_BYTES as u64);
    let store = store(source, FOLDER);
    let etag = store.stat(WEIGHTS).await.unwrap().etag;
    let half = range(&store, WEIGHTS, 0..end / 2, etag.as_deref()).await.unwrap();
    let other: Vec<u8> = content.iter().map(|byte| byte ^ 1).collect();
    source.replace(WEIGHTS, &other).await;
    let rest = range(&store, WEIGHTS, end / 2..end, etag.as_deref()).await;
    match pinned {
        Pinned::ByVersion => {
            assert!(etag.is_some(), "no version to hold it to");
            assert!(matches!(rest, Err(Error::Changed { .. })), "{:?}", rest.map(|it| it.len()));
        }
        Pinned::AtSnapshot => assert!([half, rest.unwrap()].concat() == content),
    }
    Ok(())
}

/// A fault that may pass, in parts and in whole files; when it has, nothing is wrong any more.
async fn bent(source: &impl Source, bend: Bend) -> Or<()> {
    let line = source.line()?;
    let store = store(source, FOLDER);
    let mut env = source.env();
    if let Bend::Stall { .. } = bend {
        // What is slow shall not make the tests so.
        env.push(("S3_READ_TIMEOUT", "2".to_owned()));
    }
    let hasty = opened(source, FOLDER, &env);
    let (content, end) = (pattern(WEIGHTS_BYTES), WEIGHTS_BYTES as u64);
    for part in [0..end, 5..end - 5] {
        line.bend(Some(bend));
        let broken = range(&hasty, WEIGHTS, part.clone(), None).await.map(|it| it.len());
        let error = broken.expect_err("the line is broken");
        assert!(error.is_transient(), "{error:?}");
        if let Bend::Stall { .. } = bend {
            assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
        }
        line.bend(None);
        let got = range(&store, WEIGHTS, part.clone(), None).await.unwrap();
        let start = usize::try_from(part.start).unwrap();
        assert!(got == content[start..start + got.len()], "{part:?}");
    }
    Ok(())
}

async fn length(source: &impl Source) -> Or<()> {
    let line = source.line()?;
    let store = store(source, FOLDER);
    let end = WEIGHTS_BYTES as u64;
    for off_by in [1, -1] {
        line.bend(Some(Bend::Length { off_by }));
        for part in [0..end, 5..end - 5] {
            let lie = range(&store, WEIGHTS, part.clone(), None).await.map(|it| it.len());
            assert!(lie.is_err(), "{off_by} {part:?}: {lie:?}");
        }
    }
    line.bend(None);
    Ok(())
}

async fn written<S: Source>(source: &S) -> Or<()> {
    if let Err(why) = S::WRITES {
        let refused = store(source, FOLDER).writer("x").await;
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
        return Err(why);
    }
    let store = store(source, "written");
    let long = pattern(S::LONG_BYTES);
    for (name, bytes) in [("long", &long[..]), ("short", b"x"), ("empty", b"")] {
        put(&store, name, bytes).await.unwrap();
    }
    let mut given_up = store.writer("half").await.unwrap();
    given_up.write(Bytes::from(pattern(9 * MIB))).await.unwrap();
    given_up.abort().await.unwrap();
    source.commit(&store).await;
    let store = self::store(source, "written");
    if S::LISTS.is_ok() {
        let written: Vec<_> = names(store.list(9).await.unwrap());
        let written: Vec<_> = written.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(written, ["empty", "long", "short"]);
    }
    assert!(store.read("long", u64::MAX).await.unwrap() == long);
    assert_eq!(store.read("short", 1).await.unwrap(), b"x");
    assert_eq!(store.read("empty", 0).await.unwrap(), b"");
    assert!(matches!(store.stat("half").await, Err(Error::NotFound { .. })));
    Ok(())
}
