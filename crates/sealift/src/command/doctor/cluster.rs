//! What the cluster is, as its API server shows it to the pod's service account: every account may ask
//! what a server serves (the role `system:discovery`).

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde::Deserialize;
use store::Settings;
use url::Url;

use super::finding::Finding;
use super::place::{Machine, Place};

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(5);
/// A group's version with all of KServe's resources is below 10 KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

const VERSION: &str = "cluster.version";
const ADMISSION: &str = "cluster.admission";
const KSERVE: &str = "cluster.kserve";

/// The versions in which the chart's policies may be served, and what to install them with.
const ADMISSION_VERSIONS: [(&str, &str); 2] = [
    ("v1", "as the chart is"),
    ("v1beta1", "policy.apiVersion=admissionregistration.k8s.io/v1beta1"),
];

/// What the API server says to a question.
#[derive(Debug)]
enum Answer {
    Said(Vec<u8>),
    /// 404: no such group or version.
    Absent,
    /// 401, 403.
    Denied,
    /// Nothing that could be used, and why.
    Silent(String),
}

pub(crate) async fn look(machine: &Machine<'_>, place: Place) -> Vec<Finding> {
    if place != Place::Pod {
        return skipped("this is no pod");
    }
    let server = match server(machine) {
        Ok(server) => server,
        Err(why) => return skipped(why),
    };
    let versions = ADMISSION_VERSIONS
        .map(|(version, _)| format!("/apis/admissionregistration.k8s.io/{version}"));
    let (version, kserve, admission) = tokio::join!(
        server.ask("/version"),
        server.ask("/apis/serving.kserve.io/v1alpha1"),
        futures::future::join_all(versions.iter().map(|path| server.ask(path))),
    );
    vec![self::version(version), self::admission(admission), self::kserve(kserve)]
}

pub(super) fn skipped(why: &str) -> Vec<Finding> {
    [VERSION, ADMISSION, KSERVE].map(|id| Finding::skipped(id, why)).into()
}

/// The API server, and as whom it is asked.
struct Server {
    base: Url,
    token: String,
    client: Client,
}

fn server(machine: &Machine<'_>) -> Result<Server, &'static str> {
    let variable = |name| machine.set(name).ok_or("Kubernetes' variables are not set");
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let base = Url::parse(&format!("https://{host}:{port}"))
        .map_err(|_| "Kubernetes' variables name no address")?;
    let token = machine
        .text(&format!("{ACCOUNT}/token"))
        .map_err(|_| "no service account's token is mounted (automountServiceAccountToken)")?;
    // Never through a proxy: it would get the token.
    let mut settings = Settings::default();
    settings.ca_bundle = Some(machine.path(&format!("{ACCOUNT}/ca.crt")));
    settings.connect_timeout = LIMIT;
    let client =
        store::http_client(&settings).map_err(|_| "the service account's ca.crt cannot be used")?;
    Ok(Server { base, token, client })
}

impl Server {
    async fn ask(&self, path: &str) -> Answer {
        match tokio::time::timeout(LIMIT, self.exchange(path)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Silent("no answer within 5 s".to_owned()),
        }
    }

    async fn exchange(&self, path: &str) -> Answer {
        let mut url = self.base.clone();
        url.set_path(path);
        let mut response = match self.client.get(url).bearer_auth(&self.token).send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => {
                return Answer::Silent("no connection, or not with this ca.crt".to_owned());
            }
            Err(_) => return Answer::Silent("the connection broke".to_owned()),
        };
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Answer::Absent,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Answer::Denied,
            status => return Answer::Silent(format!("HTTP {}", status.as_u16())),
        }
        let mut said = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if said.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                    said.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => return Answer::Silent("the answer is too long".to_owned()),
                Ok(None) => return Answer::Said(said),
                Err(_) => return Answer::Silent("the connection broke".to_owned()),
            }
        }
    }
}

/// `/version`.
#[derive(Deserialize)]
struct Version {
    #[serde(rename = "gitVersion")]
    git_version: String,
}

/// A group's version: `APIResourceList`.
#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

fn version(answer: Answer) -> Finding {
    let read = |said: &[u8]| serde_json::from_slice::<Version>(said).ok();
    match answer {
        Answer::Said(said) => match read(&said) {
            Some(Version { git_version }) => {
                let plain = |c: &char| c.is_ascii_alphanumeric() || ".-+".contains(*c);
                let word: String = git_version.chars().filter(plain).take(64).collect();
                Finding::ok(VERSION, format!("Kubernetes {word}"))
            }
            None => silent(VERSION, "an answer that is none"),
        },
        Answer::Absent => silent(VERSION, "HTTP 404"),
        Answer::Denied => denied(VERSION),
        Answer::Silent(why) => silent(VERSION, &why),
    }
}

/// The answers for [`ADMISSION_VERSIONS`].
fn admission(answers: Vec<Answer>) -> Finding {
    for ((version, how), answer) in ADMISSION_VERSIONS.into_iter().zip(answers) {
        match answer {
            Answer::Said(said) => match lists(&said, "mutatingadmissionpolicies") {
                Some(true) => {
                    let seen = format!("MutatingAdmissionPolicy in {version}: {how}");
                    return Finding::ok(ADMISSION, seen);
                }
                Some(false) => {}
                None => return silent(ADMISSION, "an answer that is none"),
            },
            Answer::Absent => {}
            Answer::Denied => return denied(ADMISSION),
            Answer::Silent(why) => return silent(ADMISSION, &why),
        }
    }
    Finding::warning(
        ADMISSION,
        "this API server has no MutatingAdmissionPolicy: no annotation makes a volume memory",
        "Write the volume yourself (docs/kubernetes.md); Kubernetes 1.36 has it, 1.34 by feature gate",
    )
}

fn kserve(answer: Answer) -> Finding {
    let fix = "Install KServe 0.15 or later; pods without KServe need only the annotations";
    match answer {
        Answer::Said(said) => match lists(&said, "clusterstoragecontainers") {
            Some(true) => Finding::ok(KSERVE, "ClusterStorageContainer in v1alpha1"),
            Some(false) => Finding::warning(KSERVE, "KServe without ClusterStorageContainer", fix),
            None => silent(KSERVE, "an answer that is none"),
        },
        Answer::Absent => Finding::warning(KSERVE, "KServe's resources are not served here", fix),
        Answer::Denied => denied(KSERVE),
        Answer::Silent(why) => silent(KSERVE, &why),
    }
}

/// Whether a list of resources has one. `None`: it is no list.
fn lists(said: &[u8], resource: &str) -> Option<bool> {
    let list: Resources = serde_json::from_slice(said).ok()?;
    Some(list.resources.iter().any(|listed| listed.name == resource))
}

fn denied(id: &'static str) -> Finding {
    Finding::skipped(id, "the pod's service account may not ask")
}

fn silent(id: &'static str, why: &str) -> Finding {
    Finding::skipped(id, format!("the API server: {why}"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};

    use super::super::fake::Fake;
    use super::super::finding::Level;
    use super::*;

    const POLICIES: &str = r#"{"kind":"APIResourceList","resources":[{"name":"mutatingadmissionpolicies"},{"name":"x"}]}"#;

    /// A server without TLS that answers by path: what comes behind the head, or only a status.
    fn api(answers: &'static [(&str, u16, &str)]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.contains("authorization: Bearer t0ken\r\n"), "{head}");
                let path = head.split(' ').nth(1).unwrap_or_default();
                let found = answers.iter().find(|(known, ..)| *known == path);
                let (_, status, body) = found.copied().unwrap_or(("", 404, ""));
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        address
    }

    async fn ask(answers: &'static [(&str, u16, &str)], path: &str) -> Answer {
        let base = Url::parse(&format!("http://{}", api(answers))).unwrap();
        let client = store::http_client(&Settings::default()).unwrap();
        Server { base, token: "t0ken".to_owned(), client }.ask(path).await
    }

    #[tokio::test]
    async fn a_server_that_has_all_that_is_needed_is_well() {
        const ALL: &[(&str, u16, &str)] = &[
            ("/version", 200, r#"{"gitVersion":"v1.34.1","major":"1"}"#),
            ("/apis/admissionregistration.k8s.io/v1beta1", 200, POLICIES),
            (
                "/apis/serving.kserve.io/v1alpha1",
                200,
                r#"{"resources":[{"name":"clusterstoragecontainers"}]}"#,
            ),
        ];
        let found = version(ask(ALL, "/version").await);
        assert_eq!((found.level, &*found.seen), (Level::Ok, "Kubernetes v1.34.1"));
        let mut answers = Vec::new();
        for (version, _) in ADMISSION_VERSIONS {
            answers.push(ask(ALL, &format!("/apis/admissionregistration.k8s.io/{version}")).await);
        }
        let found = admission(answers);
        assert_eq!(found.level, Level::Ok);
        assert!(found.seen.ends_with("io/v1beta1"), "{found:?}");
        assert_eq!(kserve(ask(ALL, "/apis/serving.kserve.io/v1alpha1").await).level, Level::Ok);
    }

    #[tokio::test]
    async fn what_is_missing_is_a_warning_and_what_may_not_be_asked_is_none() {
        let nothing = || vec![Answer::Absent, Answer::Said(br#"{"resources":[]}"#.to_vec())];
        assert_eq!(admission(nothing()).level, Level::Warning);
        assert_eq!(
            kserve(ask(&[], "/apis/serving.kserve.io/v1alpha1").await).level,
            Level::Warning
        );
        assert_eq!(kserve(Answer::Said(br#"{"resources":[]}"#.to_vec())).level, Level::Warning);
        let refused = ask(&[("/version", 403, "{}")], "/version").await;
        assert!(matches!(refused, Answer::Denied), "{refused:?}");
        assert_eq!(version(refused).level, Level::Skipped);
        for garbage in [&b""[..], b"<html>", b"{}", br#"{"gitVersion":7}"#] {
            assert_eq!(version(Answer::Said(garbage.to_vec())).level, Level::Skipped);
            assert_eq!(kserve(Answer::Said(garbage.to_vec())).level, Level::Skipped);
        }
        let broken = ask(&[("/version", 500, "")], "/version").await;
        assert!(matches!(&broken, Answer::Silent(why) if why == "HTTP 500"), "{broken:?}");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A client does not read before it has asked.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n");
            while stream.write_all(&[b' '; 65_536]).is_ok() {}
        });
        let client = store::http_client(&Settings::default()).unwrap();
        let answer = Server { base, token: "t".to_owned(), client }.ask("/version").await;
        assert!(matches!(&answer, Answer::Silent(why) if why.contains("too long")), "{answer:?}");
    }

    #[tokio::test]
    async fn without_an_account_nobody_is_asked() {
        let fake = Fake::new(&[]).with("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        let fake = fake.with("KUBERNETES_SERVICE_PORT", "443");
        let found = look(&fake.machine(), Place::Pod).await;
        assert!(found.iter().all(|found| found.level == Level::Skipped), "{found:?}");
        assert!(found[0].seen.contains("automountServiceAccountToken"), "{found:?}");
        assert!(look(&fake.machine(), Place::Laptop).await[0].seen.contains("no pod"));
    }
}
