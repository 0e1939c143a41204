//! `sealift-guest`: flags in, volumes out. The whole life of the process is on this page.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use cli::{Bind, Cli, Command, Hook, Output, Run, Status, Tls};
use guest::agent::{Agent, spawn_keeper, unseal_by};
use guest::bind::bind;
use guest::cdh::Cdh;
use guest::policy::Policy;
use guest::server::{Limits, Server};
use link::listen::{Address, Listener};
use link::pages::{self, Pages};
use link::tls;
use publish::volumes::{Mounter, Options, PlainDirectories, Tmpfs};
use volumes::chain;
use volumes::name::Category;
use volumes::report::{self, GuestVolume};

/// Exit code of whatever keeps the agent from its work.
const FAILED: u8 = 42;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => serve(&run),
        Command::Status(status) => show(&status),
        Command::Hook(Hook { root, wait }) => {
            let patience = Duration::from_secs(u64::from(wait));
            let mounted = guest::hook::run(&root, io::stdin().lock(), patience);
            mounted.map(drop).map_err(|error| chain(&error))
        }
        Command::Bind(Bind { root, volume, target }) => {
            bind(&root, &volume, &target).map_err(|error| chain(&error))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            // Nobody reads it: then nobody is to be told.
            let _ = writeln!(io::stderr(), "E{FAILED}: {what}. Run: sealift explain E{FAILED}");
            ExitCode::from(FAILED)
        }
    }
}

fn serve(run: &Run) -> Result<(), String> {
    start_log(run);
    let tls = tls(run)?;
    let mounter: Box<dyn Mounter> = match run.plain_directories {
        true => Box::new(PlainDirectories::prepare(&run.root, None).map_err(|e| chain(&e))?),
        false => Box::new(Tmpfs::prepare(&run.root, None).map_err(|e| chain(&e))?),
    };
    let categories = match run.categories.is_empty() {
        true => Category::ALL.into(),
        false => run.categories.iter().copied().collect(),
    };
    let limits = volumes::tree::Limits { entries: run.max_entries, bytes: run.max_mib << 20 };
    let policy = Policy { categories, volumes: usize::from(run.max_volumes), limits };
    let grace = Duration::from_millis(u64::from(run.grace_ms));
    let options = Options { grace, ..Options::default() };
    let agent = Agent::open(&run.root, policy, options, mounter).map_err(|error| chain(&error))?;
    let agent = Arc::new(Mutex::new(agent));
    spawn_keeper(&agent).map_err(|error| format!("no thread: {error}"))?;
    if let Some(path) = &run.unseal {
        unseal_by(&agent, Cdh::new(path, Duration::from_secs(run.unseal_timeout.into())));
    }
    let own = pages::Address::Unix(run.root.join(STATUS_SOCKET));
    for address in run.metrics.iter().chain([&own]) {
        let bound = Pages::bind(address);
        let bound = bound.map_err(|error| format!("cannot listen at {address}: {error}"))?;
        let agent = Arc::clone(&agent);
        let thread = std::thread::Builder::new().name("metrics".into()).stack_size(128 << 10);
        let page = move |path: &str| guest::report::page(path, &*guest::server::lock(&agent));
        let spawned = thread.spawn(move || bound.serve(page));
        spawned.map_err(|error| format!("no thread: {error}"))?;
    }
    let server = Arc::new(Server::new(agent, Limits::default()));
    // The first listener that ends is the end of the agent: half of it would go unnoticed.
    let (ended, first) = std::sync::mpsc::channel();
    for address in &run.listen {
        let listener =
            Listener::bind(address, tls.as_ref()).map_err(|error| format!("{address}: {error}"))?;
        tracing::info!(%address, root = %run.root.display(), "listening");
        let (server, ended, address) = (Arc::clone(&server), ended.clone(), address.clone());
        std::thread::spawn(move || {
            let result = server.run(&listener);
            // Nobody waits any more: then another one was first.
            let _ = ended.send((address, result));
        });
    }
    drop(ended);
    match first.recv() {
        Ok((address, Err(error))) => Err(format!("{address}: {error}")),
        Ok((address, Ok(()))) => Err(format!("{address} is not listened to any more")),
        Err(_) => Err("a listener's thread panicked".into()),
    }
}

/// Below the root: where `status` asks, and what stands in for `--metrics` in a guest without network.
const STATUS_SOCKET: &str = "status.sock";

fn show(status: &Status) -> Result<(), String> {
    let address = pages::Address::Unix(status.root.join(STATUS_SOCKET));
    let text = pages::get(&address, "/status")
        .map_err(|error| format!("the guest agent at {address}: {error}"))?;
    let text = match status.output {
        Output::Json => text + "\n",
        Output::Table => {
            let volumes: Vec<GuestVolume> = serde_json::from_str(&text)
                .map_err(|error| format!("what the guest agent at {address} says: {error}"))?;
            report::table(&report::rows(&volumes))
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// What `tls:` addresses need, if it is there.
fn tls(run: &Run) -> Result<Option<Arc<tls::Server>>, String> {
    let Tls { cert, key, client_ca, client_names } = &run.tls;
    let (Some(cert), Some(key), Some(ca)) = (cert, key, client_ca) else {
        let needs = |address: &&Address| matches!(address, Address::Tls(_));
        return match run.listen.iter().find(needs) {
            Some(address) => Err(format!(
                "{address} needs --tls-cert, --tls-key and --tls-client-ca: without them anybody \
                 on the network would be the host"
            )),
            None => Ok(None),
        };
    };
    let files = tls::Files { chain: cert.clone(), key: key.clone() };
    let server = tls::Server::new(Box::new(files), ca.clone(), client_names.clone());
    server.map(|server| Some(Arc::new(server))).map_err(|error| chain(&error))
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
