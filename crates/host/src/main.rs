//! `sealift-host`: the agent, and the questions that one may ask it. The whole life of the process is
//! on this page.

mod cli;
mod print;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use cli::{AgentKind, Cli, Command, Run, Tls};
use host::agent::{Agent, Options};
use host::api::{Answer, Api, Request, ask};
use host::confinement;
use host::nri;
use link::pages::{Page, Pages};
use link::tls;
use volumes::chain;

/// Exit codes, as everywhere in Sealift.
const NETWORK: u8 = 12;
const FAILED: u8 = 42;
const BUG: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let request = match cli.command {
        Command::Run(run) => return finish(serve(&cli.socket, &run)),
        Command::Attach(attach) => Request::Attach {
            guest: match attach.agent {
                AgentKind::Sealift => attach.guest,
                AgentKind::Kata => format!("kata:{}", attach.guest),
            },
            pod: attach.pod,
            path: attach.path,
            wait_seconds: attach.wait,
        },
        Command::Detach(detach) => Request::Detach { pod: detach.pod, volume: detach.volume },
        Command::Sync(sync) => Request::Sync { volume: sync.volume, wait_seconds: sync.wait },
        Command::Diff(diff) => Request::Diff { volume: diff.volume },
        Command::Status(cli::Status { guest: Some(guest), .. }) => Request::GuestStatus { guest },
        Command::Status(status) => {
            let answer = question(&cli.socket, &Request::Status);
            let of_pod = |answer| print::of_pod(answer, status.pod.as_deref());
            return finish(answer.map(of_pod).and_then(|answer| print(&answer, cli.output)));
        }
    };
    finish(question(&cli.socket, &request).and_then(|answer| print(&answer, cli.output)))
}

/// A failure: its exit code, what it is, and what to do next.
struct Failure(u8, String, Option<String>);

fn finish(done: Result<(), Failure>) -> ExitCode {
    let Err(Failure(code, what, hint)) = done else { return ExitCode::SUCCESS };
    let hint = hint.map_or(String::new(), |hint| format!(". {hint}"));
    // Nobody reads it: then nobody is to be told.
    let _ = writeln!(io::stderr(), "E{code:02}: {what}{hint}. Run: sealift explain E{code:02}");
    ExitCode::from(code)
}

fn question(socket: &Path, request: &Request) -> Result<Answer, Failure> {
    ask(socket, request).map_err(|error| {
        let what = format!("the host agent at {}: {error}", socket.display());
        Failure(NETWORK, what, Some("Start it with: sealift host run".into()))
    })
}

fn print(answer: &Answer, output: cli::Output) -> Result<(), Failure> {
    if let Answer::Failed { what, hint } = answer {
        return Err(Failure(FAILED, what.clone(), hint.clone()));
    }
    match io::stdout().write_all(print::answer(answer, output).as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure(BUG, format!("standard output: {error}"), None))
        }
        _ => Ok(()),
    }
}

fn serve(socket: &Path, run: &Run) -> Result<(), Failure> {
    start_log(run);
    let hardening = confine::harden_process();
    if !(hardening.undumpable && hardening.no_core) {
        tracing::warn!(?hardening, "core dumps or tracing could not be forbidden");
    }
    let fail = |what: &str, error: &dyn std::error::Error| {
        Failure(BUG, format!("{what}: {}", chain(error)), None)
    };
    let tls = tls(&run.tls).map_err(|error| Failure(FAILED, chain(&error), None))?;
    let options = Options {
        tls,
        state_dir: run.state_dir.clone(),
        rescan: Duration::from_secs(u64::from(run.rescan)),
        ..Options::default()
    };
    let listen = |error: io::Error| fail(&format!("cannot listen at {}", socket.display()), &error);
    // First: while another agent listens there, this one must not begin.
    let api = Api::bind(socket, &run.kubelet_root).map_err(listen)?;
    let pages = run.metrics.as_ref().map(Pages::bind).transpose();
    let pages = pages.map_err(|error| fail("cannot serve metrics", &error))?;
    confine(run)?;
    let agent = Agent::start(options).map_err(|error| fail("cannot start", &error))?;
    if let Some(socket) = &run.nri {
        start_plugin(&agent, run, socket).map_err(|error| fail("cannot start", &error))?;
    }
    if let Some(pages) = pages {
        start_pages(&agent, pages).map_err(|error| fail("cannot serve metrics", &error))?;
    }
    tracing::info!(socket = %socket.display(), kubelet = %run.kubelet_root.display(), "started");
    // Nothing has to be put in order at the end: what is attached is on disk already, and what is on
    // its way is compared by digest next time.
    api.serve(&agent)
}

/// Gives up what the agent does not need, before its first thread: it reads what pods may have
/// written, and hears guests.
fn confine(run: &Run) -> Result<(), Failure> {
    if !run.confine {
        tracing::warn!("not confined: --confine false");
        return Ok(());
    }
    let Tls { ca, cert, key } = &run.tls;
    let grants = confinement::Grants {
        kubelet_root: &run.kubelet_root,
        state_dir: &run.state_dir,
        tls: [ca, cert, key].into_iter().flatten().map(|path| path.as_path()).collect(),
    };
    let confined = confinement::confine(&grants).map_err(|error| {
        let (code, hint) = match error {
            confine::Error::Grant { .. } => {
                (FAILED, "Name directories and files that are there, --kubelet-root first")
            }
            _ => (BUG, "Where the sandbox around it has no seccomp, say --confine false"),
        };
        Failure(code, chain(&error), Some(hint.into()))
    })?;
    if confined.landlock.is_none() {
        tracing::warn!(
            "this kernel has no Landlock of Linux 5.19 or later: files are not confined"
        );
    }
    tracing::info!(%confined, "confined");
    Ok(())
}

/// What guests at `tls:` addresses need, if it is there.
fn tls(flags: &Tls) -> Result<Option<Arc<tls::Client>>, tls::Error> {
    let Tls { ca: Some(ca), cert: Some(cert), key: Some(key) } = flags else { return Ok(None) };
    let files = tls::Files { chain: cert.clone(), key: key.clone() };
    tls::Client::new(Box::new(files), ca.clone()).map(|client| Some(Arc::new(client)))
}

fn start_pages(agent: &Agent, pages: Pages) -> io::Result<()> {
    let agent = agent.clone();
    let text = move |path: &str| match path {
        "/metrics" => Some(Page::metrics(agent.metrics())),
        "/healthz" => Some(Page::probe("ok", true)),
        "/readyz" => Some(match agent.ready() {
            Ok(()) => Page::probe("ready", true),
            Err(why) => Page::probe(why, false),
        }),
        _ => None,
    };
    let thread = std::thread::Builder::new().name("metrics".into());
    thread.spawn(move || pages.serve(text)).map(drop)
}

fn start_plugin(agent: &Agent, run: &Run, socket: &Path) -> io::Result<()> {
    let given = &run.plugin;
    let plugin = nri::plugin::Options {
        kubelet_root: run.kubelet_root.clone(),
        handlers: given.nri_runtime.clone(),
        shim_dirs: given.nri_shim_dir.clone(),
        protocol: given.agent.into(),
        port: given.nri_port,
        guest_root: given.nri_guest_root.clone(),
        refuse_subpaths: given.nri_refuse_subpath,
    };
    let options = nri::Options {
        socket: socket.to_path_buf(),
        name: given.nri_name.clone(),
        index: given.nri_index,
        // Kubelet makes containers as soon as the runtime is back, and those that it makes before we
        // are, it makes without us.
        backoff_max: Duration::from_millis(500),
    };
    nri::start(nri::plugin::Plugin::new(agent.clone(), plugin), options)
}

fn start_log(run: &Run) {
    let log = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(run.log_level)
        .with_target(false);
    match run.log_json {
        true => log.json().init(),
        false => log.with_ansi(false).init(),
    }
}
