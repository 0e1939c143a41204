//! What each command gives up before its first thread: those that hear stores, key sources and
//! bundles' makers, of which they believe nothing, while they may hold a key and plaintext.
//!
//! | commands | write |
//! |---|---|
//! | `init`, `open`, `cache`, `seal`, `secret sync` | where the result goes, or has to be made |
//! | `rewrap` | the bundle, if it is here, or `--manifest-out` |
//! | `unsealer run` | sockets in the directories of its own, where it can also remove files |
//! | `verify`, `inspect`, `key`, `attest`, `audit`, `secret` of other kinds | nothing |
//!
//! All of them read what their user may, connect to others, and write the directory of their audit log
//! and the termination message; none starts another program. Not confined are `doctor`, which looks at
//! the machine as it is, the makers of keys, which hear nobody, and whoever starts a program: with a
//! key in a PKCS#11 token that loads its vendor's library, and `secret sync` may be told to run one.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use audit::Target;
use confine::files::Files;
use confine::{CapabilitySet, KEEPER};
use link::pages::Address;
use seal::name::KeyUri;

use crate::cli::{
    Attest, AttesterArgs, Audit, AuditArgs, Command, Global, Init, Key, NamedKey, Secret,
    SecretSync, Unsealer,
};
use crate::command::init::{name_the_key, targets};
use crate::failure::{Failure, chain};
use crate::source::Source;

/// What a command needs.
#[derive(Default)]
struct Needs<'a> {
    /// Directories that are filled, or made first.
    fills: Vec<PathBuf>,
    /// Files that are written, and others beside them.
    writes: Vec<&'a Path>,
    /// Files that are written only if they are there.
    leaves: Vec<&'a Path>,
    audit: Option<&'a AuditArgs>,
    attester: Option<&'a AttesterArgs>,
    /// Listens in a directory.
    listens: Option<&'a Path>,
    /// Shows its metrics there.
    shows: Option<&'a Address>,
    /// Says whose its files are.
    owners: bool,
    /// That they are others'.
    gives: bool,
    /// Why it cannot be confined.
    program: Option<&'static str>,
}

/// Confines the process, which has one thread, to what `command` needs.
pub(crate) fn confine(command: &Command, global: &Global) -> Result<(), Failure> {
    let Some(needs) = needs(command)? else { return Ok(()) };
    if !global.confine {
        tracing::warn!("not confined: --confine false");
        return Ok(());
    }
    if let Some(why) = needs.program {
        tracing::info!("not confined: {why}");
        return Ok(());
    }
    let owners = CapabilitySet::CHOWN | CapabilitySet::FOWNER | CapabilitySet::FSETID;
    let keep = if needs.gives { KEEPER | owners } else { KEEPER };
    match needs.files().and_then(|files| confine::program(&files, keep)) {
        Ok(confined) => {
            tracing::info!(%confined, "confined");
            Ok(())
        }
        Err(error) => Err(Failure::usage(chain(&error)).hint(
            "Where the sandbox around it has no seccomp, start it with SEALIFT_CONFINE=false",
        )),
    }
}

/// `None`: it hears nobody, or looks at the machine as it is.
fn needs(command: &Command) -> Result<Option<Needs<'_>>, Failure> {
    Ok(Some(match command {
        Command::Init(args) => init(args)?,
        Command::Open(args) => {
            let source = Source::parse(&args.source)?;
            let keys = source.key.iter().chain(&args.opening.resource_id);
            Needs { fills: vec![args.dest.clone()], ..Needs::default() }
                .with_keys(keys)
                .recorded(&args.opening.audit)
                .attested(&args.opening.key.attester)
        }
        Command::Cache(args) => {
            Needs { fills: vec![args.dest.clone()], ..Needs::default() }.recorded(&args.audit)
        }
        Command::Inspect(_) => Needs::default(),
        Command::Verify(args) => {
            let source = Source::parse(&args.source)?;
            Needs::default()
                .with_keys(source.key.iter().chain(&args.resource_id))
                .recorded(&args.audit)
                .attested(&args.key.attester)
        }
        Command::Seal(args) => {
            let named = args.recipients.iter().chain(&args.jwe_key);
            Needs { fills: here(&args.dest)?, ..Needs::default() }
                .with_keys(args.resource_id.iter().chain(named.map(key_of)))
                .recorded(&args.audit)
                .attested(&args.key.attester)
        }
        Command::Rewrap(args) => {
            let written = args.manifest_out.as_deref();
            let fills = if written.is_some() { Vec::new() } else { here(&args.location)? };
            Needs { fills, writes: written.into_iter().collect(), ..Needs::default() }
                .with_keys(
                    [&args.resource_id].into_iter().chain(args.recipients.iter().map(key_of)),
                )
                .recorded(&args.audit)
                .attested(&args.key.attester)
        }
        Command::Key(Key::Put(_) | Key::Bump(_)) => Needs::default(),
        Command::Key(Key::Check(args)) => Needs::default()
            .with_keys([&args.resource_id])
            .recorded(&args.audit)
            .attested(&args.key.attester),
        Command::Unsealer(Unsealer::Run(args)) => {
            let shows = args.metrics.as_ref();
            Needs { listens: args.listen.parent(), shows, ..Needs::default() }
                .recorded(&args.audit)
                .attested(&args.key.attester)
        }
        Command::Secret(Secret::Sync(args)) => sync(args),
        Command::Secret(Secret::Unseal(args)) => {
            Needs::default().recorded(&args.audit).attested(&args.key.attester)
        }
        Command::Secret(Secret::Put(_) | Secret::Seal(_) | Secret::Inspect(_)) => Needs::default(),
        Command::Attest(Attest::TpmKey(args)) => {
            Needs { leaves: vec![&args.tpm.tpm_device], ..Needs::default() }
        }
        Command::Attest(Attest::Evidence(args)) => Needs::default().attested(&args.attester),
        Command::Audit(Audit::Verify { .. }) => Needs::default(),
        _ => return Ok(None),
    }))
}

fn init(args: &Init) -> Result<Needs<'_>, Failure> {
    let targets = targets(&args.pairs)?;
    let mut options = args.opening.clone();
    name_the_key(&mut options, std::env::var("CONFIDENTIAL_RESOURCE_ID").ok())?;
    let keys = targets.iter().filter_map(|target| target.source.key.as_ref());
    let needs = Needs { leaves: vec![&args.termination_log], ..Needs::default() }
        .with_keys(keys.chain(&options.resource_id))
        .recorded(&args.opening.audit)
        .attested(&args.opening.key.attester);
    Ok(Needs { fills: targets.into_iter().map(|target| target.dest).collect(), ..needs })
}

fn sync(args: &SecretSync) -> Needs<'_> {
    let program = match (&args.exec[..], &args.signal) {
        ([], None) => None,
        _ => Some("after a change it runs a program, or signals one"),
    };
    Needs {
        fills: vec![args.dir.clone()],
        writes: args.ready_file.as_deref().into_iter().collect(),
        leaves: vec![&args.termination_log],
        owners: true,
        gives: args.uid.is_some() || args.gid.is_some(),
        program,
        ..Needs::default()
    }
    .recorded(&args.audit)
    .attested(&args.key.attester)
}

fn key_of(named: &NamedKey) -> &KeyUri {
    &named.key
}

/// The directory that a place is, if it is of this machine.
fn here(place: &str) -> Result<Vec<PathBuf>, Failure> {
    let location = Source::parse(place)?.location;
    Ok(location.local_path().map(Path::to_path_buf).into_iter().collect())
}

impl<'a> Needs<'a> {
    fn with_keys<'k>(mut self, keys: impl IntoIterator<Item = &'k KeyUri>) -> Self {
        if keys.into_iter().any(|key| matches!(key, KeyUri::Pkcs11(_))) {
            self.program = Some("a token's library may need anything");
        }
        self
    }

    fn recorded(self, audit: &'a AuditArgs) -> Self {
        Self { audit: Some(audit), ..self }
    }

    fn attested(self, attester: &'a AttesterArgs) -> Self {
        Self { attester: Some(attester), ..self }
    }

    fn files(&self) -> Result<Files, confine::Error> {
        let mut files = Files::new().read("/").connect().write_if_there("/dev/null");
        for path in &self.leaves {
            files = tpm(files.write_if_there(*path), path);
        }
        for dir in &self.fills {
            files = files.keep_or_make(dir)?;
        }
        for path in &self.writes {
            files = files.keep_beside(path)?;
        }
        if let Some(attester) = self.attester {
            let device = &attester.tpm.tpm_device;
            files = tpm(files.write_if_there(device), device).keep_if_there(&attester.tsm_root)?;
        }
        let shown = match self.shows {
            Some(Address::Tcp(_)) => {
                files = files.listen();
                None
            }
            Some(Address::Unix(path)) => path.parent(),
            None => None,
        };
        for dir in self.listens.into_iter().chain(shown).filter(|dir| dir.is_dir()) {
            files = files.listen_unix(dir);
        }
        if self.owners {
            files = files.give_away();
        }
        Ok(match self.audit.map(|audit| Target::parse(&audit.audit_file)) {
            Some(Target::File(log)) => files.keep_beside(&log)?,
            Some(Target::Journal | Target::Syslog(_)) => files.connect_unix(),
            Some(Target::Stdout | Target::Http(_)) | None => files,
        })
    }
}

/// A software TPM is a socket.
fn tpm(files: Files, device: &Path) -> Files {
    match device.metadata().is_ok_and(|file| file.file_type().is_socket()) {
        true => files.connect_unix(),
        false => files,
    }
}
