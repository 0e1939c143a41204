//! `sealift-broker`: flags in, a served socket out. The whole life of the process is on this page.

mod cli;

use std::error::Error as _;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use audit::{Log, Target};
use broker::server::{Limits, Server};
use broker::service::Service;
use broker::{Error, MasterKey, system_clock};
use clap::Parser;
use cli::{Cli, Command, Export, Import, Init, Kept, LogFormat, Serve};
use confine::files::Files;
use secret::WipeOnFree;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

/// Keys pass through buffers that we do not own; what is freed is wiped.
#[global_allocator]
static ALLOCATOR: WipeOnFree = WipeOnFree;

/// Requests answered at a time: they wait for the audit log's device, which one flush serves for all
/// who wait.
const WORKERS_MAX: usize = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let hardening = confine::harden_process();
    let done = match &cli.command {
        Command::Init(options) => init(options),
        Command::Export(options) => export(options),
        Command::Import(options) => import(options),
        Command::Serve(options) => start_log(options).and_then(|()| {
            if !(hardening.undumpable && hardening.no_core) {
                warn!(?hardening, "core dumps or tracing could not be forbidden");
            }
            serve(options)
        }),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (code, name) = code(&error);
            let mut line = format!("E{code:02} {name}: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                line.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            // Nobody reads it: then nobody is to be told.
            let _ = writeln!(io::stderr(), "{line}. Run: sealift explain E{code:02}");
            ExitCode::from(code)
        }
    }
}

fn serve(options: &Serve) -> Result<(), Error> {
    let config = options.config();
    config.check()?;
    let audit_to = options.audit_to();
    // What is not there cannot be granted.
    make_directory_of(&audit_to)?;
    confine(options, &config, &audit_to)?;
    let log = audit_to.open(options.audit_part_bytes).map_err(Error::Audit)?;
    let service = Arc::new(Service::open(&config, log, system_clock())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(WORKERS_MAX)
        .enable_all()
        .build()
        .map_err(|source| Error::Listen { address: config.listen.to_string(), source })?;
    runtime.block_on(async {
        let stop = stop_signal()
            .map_err(|source| Error::Listen { address: config.listen.to_string(), source })?;
        let server = Server::bind(&config, Limits::default()).await?;
        let address = server.address();
        if config.insecure_dev {
            say("INSECURE: --insecure-dev accepts evidence that anyone can write");
            warn!("--insecure-dev: evidence proves nothing, do not keep real keys here");
        }
        if config.admin_public_keys.is_empty() {
            warn!("no --admin-public-key: the admin API refuses everybody");
        }
        if let Some(path) = &options.ready_file {
            write_ready(path, &address.to_string())
                .map_err(|source| Error::File { path: path.clone(), source })?;
        }
        say(&format!("listening on {address}"));
        info!(%address, tls = config.tls.is_some(), insecure_dev = config.insecure_dev, "started");
        server.run(service, stop).await;
        info!("stopped");
        Ok(())
    })
}

/// Gives up what a broker does not need, before its first thread: it hears everybody. It reads what
/// its user may, and writes only its data, and where its audit log and its address are.
fn confine(options: &Serve, config: &broker::Config, audit_to: &Target) -> Result<(), Error> {
    if !options.confine {
        warn!("not confined: --confine false");
        return Ok(());
    }
    let mut files = Files::new()
        .read("/")
        .listen()
        .connect()
        .keep_if_there(&config.data_dir)
        .map_err(Error::Confine)?;
    match audit_to {
        Target::File(path) => files = files.keep_beside(path).map_err(Error::Confine)?,
        Target::Journal | Target::Syslog(_) => files = files.connect_unix(),
        Target::Stdout | Target::Http(_) => {}
    }
    if let Some(path) = &options.ready_file {
        files = files.keep_beside(path).map_err(Error::Confine)?;
    }
    let confined = confine::program(&files, confine::KEEPER).map_err(Error::Confine)?;
    info!(%confined, "confined");
    Ok(())
}

fn open_audit(target: &Target, part_bytes: u64) -> Result<Log, Error> {
    make_directory_of(target)?;
    target.open(part_bytes).map_err(Error::Audit)
}

fn make_directory_of(target: &Target) -> Result<(), Error> {
    if let Target::File(path) = target
        && let Some(dir) = path.parent()
    {
        std::fs::create_dir_all(dir)
            .map_err(|source| Error::File { path: dir.to_owned(), source })?;
    }
    Ok(())
}

/// A script that waits for the file must never read half an address.
fn write_ready(path: &Path, address: &str) -> io::Result<()> {
    let mut unfinished = path.to_owned().into_os_string();
    unfinished.push(".new");
    std::fs::write(&unfinished, format!("{address}\n"))?;
    std::fs::rename(&unfinished, path)
}

/// Ready when the process is told to end.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn init(options: &Init) -> Result<(), Error> {
    let made = broker::init(&options.data_dir, &options.keys_dir())?;
    let (data, master) = (options.data_dir.display(), made.master_key.display());
    let (key, public) = (made.admin_key.display(), made.admin_public_key.display());
    say(&format!(
        "made {master} (back it up: without it, nothing in {data} can be read)\n\
         made {key} (for `sealift key put --admin-key`)\n\
         made {public}\n\
         next: sealift-broker serve --data-dir {data} --master-key-file {master} \
         --admin-public-key {public}"
    ));
    Ok(())
}

fn export(options: &Export) -> Result<(), Error> {
    let Kept { data_dir, master_key_file, audit_part_bytes, .. } = &options.kept;
    let master = MasterKey::load(master_key_file)?;
    let log = open_audit(&options.kept.audit_to(), *audit_part_bytes)?;
    let count = broker::export(data_dir, &master, &options.out, &log)?;
    let out = options.out.display();
    say(&format!("{count} resources are in {out}, in the clear: remove it when it is imported"));
    Ok(())
}

fn import(options: &Import) -> Result<(), Error> {
    let Kept { data_dir, master_key_file, audit_part_bytes, .. } = &options.kept;
    let master = MasterKey::load(master_key_file)?;
    let log = open_audit(&options.kept.audit_to(), *audit_part_bytes)?;
    let count = broker::import(data_dir, &master, &options.from, options.overwrite, &log)?;
    say(&format!("{count} resources are stored in {}", data_dir.display()));
    Ok(())
}

fn start_log(options: &Serve) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&options.log_level)
        .map_err(|_| Error::Settings("--log-level is neither a level nor a list of directives"))?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colour);
    match options.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The exit code, and its name: those of `sealift explain`.
fn code(error: &Error) -> (u8, &'static str) {
    match error {
        Error::Exists(_)
        | Error::NotAResource(_)
        | Error::ResourceSize { .. }
        | Error::File { .. }
        | Error::Settings(_)
        | Error::Policy(_)
        | Error::AttestationPolicy(_)
        | Error::ReferenceValues { .. }
        | Error::AmdCertificates { .. }
        | Error::AdminKey { .. }
        | Error::TpmKey { .. } => (2, "usage"),
        Error::Listen { .. } => (12, "network"),
        Error::Tls(_) => (13, "tls"),
        Error::MasterKey(_) => (24, "key-unusable"),
        Error::Tampered { .. } => (30, "tampered"),
        Error::Audit(_) => (50, "audit-failed"),
        _ => (1, "bug"),
    }
}
