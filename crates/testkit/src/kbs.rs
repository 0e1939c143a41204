//! A CDH and a KBS on loopback that answer as upstream's do, check what the client sends, and
//! misbehave on demand.
//!
//! The KBS side recomputes what the evidence must be over by itself, from the protocol's text and
//! not from our client's code, so that a client which binds the wrong bytes is refused here as it
//! would be by Trustee. Answers, errors included, have the shapes that Trustee was observed to send: 401 for
//! nearly everything, with the truth in the body's `type`.

mod protocol;
mod wire;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use self::protocol::Session;
use self::wire::Request;

/// One server that is both a CDH (`/cdh/resource/…`) and a KBS (`/kbs/v0/…`) over the same
/// resources. Stops when dropped.
#[derive(Debug)]
pub struct FakeKbs {
    address: SocketAddr,
    state: Arc<State>,
    server: JoinHandle<()>,
}

/// Which request a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `GET /cdh/resource/…`
    Cdh,
    /// `POST /kbs/v0/auth`
    Auth,
    /// `POST /kbs/v0/attest`
    Attest,
    /// `GET /kbs/v0/resource/…`, or of another plugin.
    Resource,
}

/// How an answer goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The request is read and never answered.
    Hang,
    /// The request is read and the connection closed.
    Close,
    /// Bytes that are not HTTP.
    NotHttp,
    /// This status and body.
    Answer(u16, Vec<u8>),
    /// 401 with Trustee's error body of this variant.
    Refuse(&'static str),
    /// 302 to this address.
    Redirect(String),
    /// 200 whose body never ends.
    Endless,
    /// 200 that announces this many bytes.
    Announce(u64),
    /// The right answer, one byte at a time.
    Slow(Duration),
    /// The right answer less its second half, then the connection closes.
    Cut,
    /// `/auth`: a nonce of this many bytes.
    NonceBytes(usize),
    /// `/auth`: no session cookie.
    NoCookie,
    /// Resource: encrypted to another guest's key.
    OtherKey,
    /// Resource: one bit of the authentication tag is flipped.
    FlippedTag,
}

#[derive(Debug, Default)]
struct State {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    resources: BTreeMap<String, Vec<u8>>,
    wrap_key: Option<Vec<u8>>,
    denied: BTreeSet<String>,
    sessions: HashMap<String, Session>,
    faults: VecDeque<(Step, Fault)>,
    requests: Vec<String>,
    complaints: Vec<String>,
    attestations: usize,
    down: bool,
}

impl FakeKbs {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let server = tokio::spawn(wire::accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, server })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base address, for a CDH client and a KBS client alike.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stores or replaces a resource: `<repository>/<type>/<tag>`.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.state.lock().resources.insert(path.to_owned(), bytes.to_owned());
    }

    /// Gives it the plugin `pkcs11`, with this RSA key behind it: PKCS#8.
    pub fn put_wrap_key(&self, pkcs8: Vec<u8>) {
        self.state.lock().wrap_key = Some(pkcs8);
    }

    /// Lets the policy deny a resource.
    pub fn deny(&self, path: &str) {
        self.state.lock().denied.insert(path.to_owned());
    }

    /// While down, connections are accepted and closed.
    pub fn set_down(&self, down: bool) {
        self.state.lock().down = down;
    }

    /// Forgets all sessions, as a restart or five minutes do.
    pub fn expire_sessions(&self) {
        self.state.lock().sessions.clear();
    }

    /// Lets the next request of this step fail. Faults of one step are used up in order.
    pub fn fail_next(&self, step: Step, fault: Fault) {
        self.state.lock().faults.push_back((step, fault));
    }

    /// Method and path of every request so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    /// Number of accepted attestations so far.
    pub fn attestations(&self) -> usize {
        self.state.lock().attestations
    }

    /// What was wrong with the requests that were refused as malformed or unbound.
    pub fn complaints(&self) -> Vec<String> {
        self.state.lock().complaints.clone()
    }
}

impl Drop for FakeKbs {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn take_fault(&mut self, step: Option<Step>) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, _)| Some(*of) == step)?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }

    fn complain(&mut self, request: &Request, why: &str) {
        self.complaints.push(format!("{} {}: {why}", request.method, request.path));
    }
}
