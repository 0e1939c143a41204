//! A stand-in for what a confidential machine on Azure has around it: the vTPM's index and key, in a
//! real software TPM, and the metadata service.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use crate::swtpm::Swtpm;

impl Swtpm {
    /// Makes the attestation key as Azure's vTPM has it, at 0x81000003. `None`, with a note, if
    /// there are no tpm2-tools.
    ///
    /// # Errors
    /// If a tool fails.
    pub fn make_azure_key(&self) -> Result<Option<()>> {
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
        let algorithm = "rsa2048:rsassa-sha256:null";
        let create = ["-Q", "-C", "o", "-G", algorithm, "-a", attributes, "-c", "ak.ctx"];
        if self.tool("tpm2_createprimary", &create)?.is_none() {
            return Ok(None);
        }
        self.tool("tpm2_evictcontrol", &["-Q", "-C", "o", "-c", "ak.ctx", "0x81000003"])?;
        self.tool("tpm2_flushcontext", &["-t"])?;
        Ok(Some(()))
    }

    /// Puts a report of the paravisor into the index where Azure's vTPM has it, 0x01400001.
    ///
    /// # Errors
    /// If a tool fails.
    pub fn put_azure_report(&self, report: &[u8]) -> Result<()> {
        std::fs::write(self.dir().join("report"), report)?;
        let size = report.len().to_string();
        let attributes = "ownerread|ownerwrite";
        let define = ["-Q", "-C", "o", "-s", &size, "-a", attributes, "0x01400001"];
        self.tool("tpm2_nvdefine", &define)?;
        self.tool("tpm2_nvwrite", &["-Q", "-C", "o", "-i", "report", "0x01400001"])?;
        Ok(())
    }
}

/// A metadata service: HTTP, one answer for each method and path, connections that stay open.
#[derive(Debug)]
pub struct Metadata {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Status and body, by `GET /path`.
    answers: Mutex<BTreeMap<String, (u16, Vec<u8>)>>,
    /// What was asked: method and path, head in lower case, body.
    asked: Mutex<Vec<(String, String, Vec<u8>)>>,
}

impl Metadata {
    /// Starts it. Everything is a 404 until [`Self::answer`] says otherwise.
    ///
    /// # Errors
    /// If it cannot listen.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || while serve(&stream, &shared).is_some() {});
            }
        });
        Ok(Self { address, shared })
    }

    /// `http://` and its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers `GET /path` or `POST /path` so from now on.
    pub fn answer(&self, request: &str, status: u16, body: impl Into<Vec<u8>>) {
        let mut answers = self.shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert(request.to_owned(), (status, body.into()));
    }

    /// All requests until now: method and path, head in lower case, body.
    pub fn asked(&self) -> Vec<(String, String, Vec<u8>)> {
        self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One request; `None` if the other side has gone.
fn serve(stream: &TcpStream, shared: &Shared) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let request = head.split(" HTTP/").next().unwrap_or_default().to_owned();
    let head = head.to_lowercase();
    let length = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
    let mut body = vec![0; length.and_then(|text| text.trim().parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    let answers = shared.answers.lock().unwrap_or_else(PoisonError::into_inner);
    let (status, answer) = answers.get(&request).cloned().unwrap_or((404, Vec::new()));
    drop(answers);
    shared.asked.lock().unwrap_or_else(PoisonError::into_inner).push((request, head, body));
    let length = answer.len();
    let mut response =
        format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    response.extend(answer);
    (&mut &*stream).write_all(&response).ok()
}
