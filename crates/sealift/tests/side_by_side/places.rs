//! What both bring alike, from every kind of place.

use std::path::Path;
use std::process::Command;

use testkit::clouds::{Azurite, GcsEmulator};
use testkit::hostile::Hostile;
use testkit::registry::{Door, Registry};
use testkit::s3::S3Server;
use testkit::tls::Authority;
use testkit::tunnel::Tunnel;
use testkit::web::{Asked, Web};

use crate::common::{copy_tree, succeed, text, tree, write_tree};
use crate::harness::{Files, Sides, Variables};

/// What each place holds below `model/`.
fn standard(sides: &Sides) -> std::path::PathBuf {
    let dir = sides.dir.path().join("standard");
    let weights: Vec<u8> =
        (0..9_000_001_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    write_tree(
        &dir.join("folder"),
        &[
            ("config.json", b"{}"),
            ("sub/weights.bin", &weights),
            ("sub/deeper/vocab.txt", b"a\nb"),
            ("a b.txt", b"a name to be escaped"),
        ],
    );
    write_tree(&dir, &[("one/m.onnx", b"one"), ("one/n.onnx", b"another")]);
    std::fs::create_dir_all(dir.join("packed")).unwrap();
    for (name, option) in [("a.tar", "-cf"), ("b.tar.gz", "-czf"), ("c.tgz", "-czf")] {
        let mut pack = Command::new("tar");
        pack.current_dir(dir.join("folder")).arg(option).arg(dir.join("packed").join(name));
        succeed(pack.arg("."));
    }
    let mut pack = sides.script("zip.py");
    succeed(pack.arg(dir.join("folder")).arg(dir.join("packed/d.zip")));
    std::fs::create_dir_all(dir.join("alone")).unwrap();
    std::fs::copy(dir.join("packed/d.zip"), dir.join("alone/m.zip")).unwrap();
    dir
}

fn with(variables: &Variables, name: &'static str, value: &str) -> Variables {
    let mut variables = variables.clone();
    variables.push((name, value.to_owned()));
    variables
}

/// Everything that a place with folders can be asked for.
fn a_place(sides: &Sides, name: &str, root: &str, variables: &Variables, patterns: bool) {
    let folder = format!("{root}/model/folder");
    let found = sides.agree(name, "folders", &[&folder], variables);
    assert_eq!(found[0].len(), 4);
    let slash = format!("{folder}/");
    sides.agree(name, "folders", &[&slash], variables);
    let one = format!("{root}/model/one/m.onnx");
    let found = sides.agree(name, "single objects", &[&one], variables);
    assert_eq!(found[0], Files::from([("m.onnx".to_owned(), b"one".to_vec())]));
    for archive in ["packed/a.tar", "packed/b.tar.gz", "packed/c.tgz", "packed/d.zip", "alone"] {
        let uri = format!("{root}/model/{archive}");
        let found = sides.agree(name, "archives", &[&uri], variables);
        assert_eq!(found[0].len(), 4, "{archive}");
    }
    sides.agree(name, "several sources", &[&folder, &one], variables);
    if !patterns {
        return;
    }
    for (allow, ignore, files) in [
        (r#"["*.bin", "*.json"]"#, "", 2),
        ("", "sub/*", 2),
        ("*.bin,*.json", r#"["config*"]"#, 1),
        (r#""*.bin""#, "", 1),
        ("[!b-z] b.*", "", 1),
    ] {
        let mut variables = with(variables, "STORAGE_ALLOW_PATTERNS", allow);
        variables = with(&variables, "STORAGE_IGNORE_PATTERNS", ignore);
        let found = sides.agree(name, "patterns", &[&folder], &variables);
        assert_eq!(found[0].len(), files, "{allow} {ignore}");
    }
    // One archive is left of several objects.
    let packed = format!("{root}/model/packed");
    let variables = with(variables, "STORAGE_ALLOW_PATTERNS", "*.zip");
    let found = sides.agree(name, "patterns", &[&packed], &variables);
    assert_eq!(found[0].len(), 4);
}

#[test]
fn from_s3() {
    let Some(sides) = Sides::new() else { return };
    let Some(server) = S3Server::start().unwrap() else { return };
    copy_tree(&standard(&sides), &server.bucket_dir().join("model"));
    let root = format!("s3://{}", S3Server::BUCKET);
    let variables: Variables = server.env().into();
    a_place(&sides, "`s3://`", &root, &variables, true);
    // Patterns are for folders: an object that is named is what is wanted.
    let variables = with(&variables, "STORAGE_ALLOW_PATTERNS", "*.bin");
    let one = format!("{root}/model/one/m.onnx");
    sides.agree("`s3://`", "patterns", &[&one], &variables);
}

/// As KServe hands it to a model that has its store from `spec.storage`.
#[test]
fn from_s3_with_a_storage_config() {
    let Some(sides) = Sides::new() else { return };
    let Some(server) = S3Server::start().unwrap() else { return };
    copy_tree(&standard(&sides), &server.bucket_dir().join("model"));
    let config = serde_json::json!({
        "type": "s3", "endpoint_url": server.endpoint(), "region": "us-east-1",
        "access_key_id": "replaced", "secret_access_key": S3Server::SECRET_KEY,
    });
    let replaces = serde_json::json!({ "access_key_id": S3Server::ACCESS_KEY });
    let variables = vec![
        ("STORAGE_CONFIG", config.to_string()),
        ("STORAGE_OVERRIDE_CONFIG", replaces.to_string()),
    ];
    let folder = format!("s3://{}/model/folder", S3Server::BUCKET);
    sides.agree("`s3://`", "`spec.storage`", &[&folder], &variables);
}

#[test]
fn from_google_cloud_storage() {
    let Some(sides) = Sides::new() else { return };
    let Some(server) = GcsEmulator::start().unwrap() else { return };
    let [(_, host), token] = server.env();
    let url = format!("http://{host}");
    let mut put = sides.script("upstream_put.py");
    put.args(["gs", &url, GcsEmulator::BUCKET, text(&standard(&sides))]);
    succeed(&mut put);
    let variables = vec![("STORAGE_EMULATOR_HOST", url), token];
    let root = format!("gs://{}", GcsEmulator::BUCKET);
    a_place(&sides, "`gs://`", &root, &variables, true);
}

/// Under its own name: a proxy leads both to the emulator, whose certificate KServe's bundle vouches
/// for.
#[test]
fn from_azure() {
    const HOST: &str = "devstoreaccount1.blob.core.windows.net";
    let Some(sides) = Sides::new() else { return };
    let authority = Authority::new().unwrap();
    let issued = authority.issue(&[HOST]).unwrap();
    let Some(server) = Azurite::start_tls(&issued).unwrap() else { return };
    let tunnel = Tunnel::start(server.port()).unwrap();
    write_tree(sides.dir.path(), &[("ca/cabundle.crt", authority.pem().as_bytes())]);
    let bundle = sides.dir.path().join("ca");
    let variables: Variables = vec![
        ("HTTPS_PROXY", tunnel.url().to_owned()),
        ("CA_BUNDLE_CONFIGMAP_NAME", "ca".to_owned()),
        ("CA_BUNDLE_VOLUME_MOUNT_POINT", text(&bundle).to_owned()),
        ("AZURE_STORAGE_ACCESS_KEY", Azurite::KEY.to_owned()),
    ];
    let mut put = sides.script("upstream_put.py");
    let account = Azurite::ACCOUNT;
    let connection = format!(
        "DefaultEndpointsProtocol=https;AccountName={account};AccountKey={};BlobEndpoint=https://{HOST}",
        Azurite::KEY
    );
    put.args(["azure", &connection, "models", text(&standard(&sides))]);
    put.env("HTTPS_PROXY", tunnel.url()).env("REQUESTS_CA_BUNDLE", bundle.join("cabundle.crt"));
    succeed(&mut put);
    a_place(&sides, "Azure's blobs", &format!("https://{HOST}/models"), &variables, true);
}

#[test]
fn from_a_directory() {
    let Some(sides) = Sides::new() else { return };
    let mounted = sides.dir.path().join("mnt/pvc-1");
    copy_tree(&standard(&sides), &mounted.join("model"));
    for root in [text(&mounted).to_owned(), format!("file://{}", text(&mounted))] {
        let folder = format!("{root}/model/folder");
        sides.agree("directories", "folders", &[&folder], &vec![]);
        let one = format!("{root}/model/one/m.onnx");
        sides.agree("directories", "single objects", &[&one], &vec![]);
        sides.agree("directories", "several sources", &[&folder, &one], &vec![]);
        let variables = vec![("STORAGE_ALLOW_PATTERNS", "m*".to_owned())];
        let folder = format!("{root}/model/one");
        sides.agree("directories", "patterns", &[&folder], &variables);
    }
    for archive in ["a.tar", "b.tar.gz", "c.tgz", "d.zip"] {
        // Upstream removes what it unpacked, and so the link alone.
        let uri = format!("{}/model/packed/{archive}", text(&mounted));
        sides.agree("directories", "archives", &[&uri], &vec![]);
    }
}

#[test]
fn from_the_web() {
    let Some(sides) = Sides::new() else { return };
    let dir = standard(&sides);
    let server = Hostile::start().unwrap();
    let put = |name: &str, kind: &str| {
        let headers = vec![("Content-Type", kind.to_owned())];
        server.put_with(&format!("pub/{name}"), std::fs::read(dir.join(name)).unwrap(), headers);
        format!("{}/pub/{name}", server.endpoint())
    };
    let one = put("one/m.onnx", "application/octet-stream");
    sides.agree("`http(s)://`", "single objects", &[&one], &vec![]);
    let signed = format!("{one}?signature=hunter2");
    let found = sides.agree("`http(s)://`", "signed URIs", &[&signed], &vec![]);
    assert!(found[0].contains_key("m.onnx"));
    for (archive, kind) in [
        ("packed/a.tar", "application/x-tar"),
        ("packed/b.tar.gz", "application/gzip"),
        ("packed/c.tgz", "application/x-gzip"),
        ("packed/d.zip", "application/zip"),
    ] {
        let uri = put(archive, kind);
        let found = sides.agree("`http(s)://`", "archives", &[&uri], &vec![]);
        assert_eq!(found[0].len(), 4, "{archive}");
    }
    server.clear_log();
    let headers = vec![("127.0.0.1-headers", r#"{"Authorization": "Basic x"}"#.to_owned())];
    sides.agree("`http(s)://`", "`<host>-headers`", &[&one], &headers);
    let told =
        |it: &testkit::hostile::Served| it.request.authorization.as_deref() == Some("Basic x");
    assert!(server.log().iter().all(told) && server.log().len() >= 2);
}

/// A stand-in for the hub, which both libraries ask in their own words.
pub(crate) fn hub(files: &Files) -> Hostile {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let server = Hostile::start().unwrap();
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| serde_json::json!({ "rfilename": name, "size": bytes.len() }))
        .collect();
    let info = serde_json::json!({ "id": "team/llama", "sha": COMMIT, "siblings": siblings });
    let json = || vec![("Content-Type", "application/json".to_owned())];
    for revision in ["main", "v1", COMMIT] {
        let path = format!("api/models/team/llama/revision/{revision}");
        server.put_with(&path, info.to_string(), json());
        let path = format!("team/llama/resolve/{revision}");
        for (name, bytes) in files {
            let headers = vec![("X-Repo-Commit", COMMIT.to_owned())];
            server.put_with(&format!("{path}/{name}"), bytes.clone(), headers);
        }
    }
    let entries: Vec<_> = files
        .iter()
        .map(|(name, bytes)| {
            serde_json::json!({
                "type": "file", "path": name, "size": bytes.len(), "oid": COMMIT,
            })
        })
        .collect();
    let tree = serde_json::Value::from(entries).to_string();
    server.put_with(&format!("api/models/team/llama/tree/{COMMIT}"), tree, json());
    server
}

#[test]
fn from_the_hub() {
    let Some(sides) = Sides::new() else { return };
    let mut files = tree(&standard(&sides).join("folder"));
    files.retain(|name, _| !name.ends_with('/'));
    let server = hub(&files);
    let variables: Variables = vec![("HF_ENDPOINT", server.endpoint())];
    let place = "`hf://`";
    sides.agree(place, "revisions", &["hf://team/llama:v1"], &variables);
    let found = sides.agree(place, "folders", &["hf://team/llama"], &variables);
    assert_eq!(found[0], files);
    let some = with(&variables, "STORAGE_ALLOW_PATTERNS", r#"["*.bin", "*.json"]"#);
    let some = with(&some, "STORAGE_IGNORE_PATTERNS", "config*");
    let found = sides.agree(place, "patterns", &["hf://team/llama"], &some);
    assert_eq!(found[0].len(), 1);
    sides.agree(place, "several sources", &["hf://team/llama", "hf://team/llama:v1"], &variables);
}

/// A stand-in for WebHDFS, written from Hadoop's published REST reference.
pub(crate) fn webhdfs(files: Files) -> Web {
    fn answer(status: u16, more: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n{more}\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }
    Web::start(move |asked| {
        let query = Asked::form(&asked.query);
        if let Some(path) = asked.path.strip_prefix("/data/") {
            let content = &files[&path.replace("%20", " ")];
            let number = |name: &str| query.get(name).and_then(|text| text.parse::<usize>().ok());
            let start = number("offset").unwrap_or(0).min(content.len());
            let end = number("length").map_or(content.len(), |l| (start + l).min(content.len()));
            return answer(200, "", &content[start..end]);
        }
        let path = asked.path.strip_prefix("/webhdfs/v1/").unwrap().replace("%20", " ");
        let path = path.trim_end_matches('/');
        let status = |path: &str, suffix: &str| {
            let below = format!("{path}/");
            let (kind, length) = match files.get(path) {
                Some(content) => ("FILE", content.len()),
                None if files.keys().any(|file| file.starts_with(&below)) => ("DIRECTORY", 0),
                None => return None,
            };
            Some(serde_json::json!({
                "pathSuffix": suffix, "type": kind, "length": length, "fileId": 1,
                "modificationTime": 1, "owner": "me", "group": "us", "permission": "644",
            }))
        };
        let Some(found) = status(path, "") else {
            let absent =
                r#"{"RemoteException":{"exception":"FileNotFoundException","message":"no"}}"#;
            return answer(404, "", absent.as_bytes());
        };
        match query["op"].as_str() {
            "GETFILESTATUS" => {
                answer(200, "", serde_json::json!({ "FileStatus": found }).to_string().as_bytes())
            }
            "LISTSTATUS" => {
                let below = format!("{path}/");
                let mut names: Vec<_> = files
                    .keys()
                    .filter_map(|file| file.strip_prefix(&below)?.split('/').next())
                    .collect();
                names.dedup();
                let listed: Vec<_> =
                    names.iter().map(|name| status(&format!("{below}{name}"), name)).collect();
                let body = serde_json::json!({ "FileStatuses": { "FileStatus": listed } });
                answer(200, "", body.to_string().as_bytes())
            }
            "OPEN" => {
                let at = asked.path.trim_start_matches("/webhdfs/v1/");
                let (host, query) = (asked.header("host"), &asked.query);
                answer(307, &format!("Location: http://{host}/data/{at}?{query}\r\n"), b"")
            }
            other => panic!("{other}"),
        }
    })
    .unwrap()
}

/// A Secret as KServe mounts it.
pub(crate) fn hdfs_secret(sides: &Sides, server: &Web) -> Variables {
    let secret = sides.dir.path().join("hdfs");
    let node = server.url();
    write_tree(&secret, &[("HDFS_NAMENODE", node.as_bytes()), ("HDFS_ROOTPATH", b"/")]);
    vec![("HDFS_SECRET_DIR", text(&secret).to_owned())]
}

#[test]
fn from_hdfs() {
    let Some(sides) = Sides::new() else { return };
    let mut files = Files::new();
    for (name, bytes) in tree(&standard(&sides)) {
        if !name.ends_with('/') {
            files.insert(format!("user/me/model/{name}"), bytes);
        }
    }
    let server = webhdfs(files);
    let variables = hdfs_secret(&sides, &server);
    for scheme in ["hdfs", "webhdfs"] {
        let uri = |path: &str| format!("{scheme}://user/me/model/{path}");
        let place = "`hdfs://`, `webhdfs://`";
        sides.agree(place, "single objects", &[&uri("one/m.onnx")], &variables);
        sides.agree(place, "folders", &[&uri("one")], &variables);
        for archive in ["packed/b.tar.gz", "packed/d.zip", "alone"] {
            sides.agree(place, "archives", &[&uri(archive)], &variables);
        }
        let some = with(&variables, "STORAGE_ALLOW_PATTERNS", "m*");
        sides.agree(place, "patterns", &[&uri("one")], &some);
        sides.agree(place, "folders", &[&uri("folder")], &variables);
    }
}

/// Packs `dir` as the n-th layer of an image.
pub(crate) fn layer(layers: &Path, number: u32, dir: &Path, names: &[&str]) {
    std::fs::create_dir_all(layers).unwrap();
    let mut pack = Command::new("tar");
    pack.current_dir(dir).arg("-czf").arg(layers.join(format!("{number}.tar.gz"))).args(names);
    succeed(&mut pack);
}

pub(crate) fn push_image(sides: &Sides, registry: &Registry, repository: &str, layers: &Path) {
    let mut put = sides.script("upstream_put.py");
    succeed(put.args(["image", &registry.host(), repository, text(layers)]));
}

#[test]
fn from_a_registry() {
    let Some(sides) = Sides::new() else { return };
    let Some(registry) = Registry::start(&Door::Open).unwrap() else { return };
    let (image, layers) = (sides.dir.path().join("image"), sides.dir.path().join("layers"));
    copy_tree(&standard(&sides).join("folder"), &image.join("models"));
    write_tree(&image, &[("etc/passwd", b"root")]);
    layer(&layers, 1, &image, &["etc", "models"]);
    write_tree(&image, &[("models/config.json", b"the last one counts")]);
    layer(&layers, 2, &image, &["models/config.json"]);
    push_image(&sides, &registry, "team/llama", &layers);
    let variables = vec![("KSERVE_OCI_INSECURE_REGISTRY", "true".to_owned())];
    let uri = format!("oci://{}/team/llama:v1", registry.host());
    let found = sides.agree("`oci://`", "images of several layers", &[&uri], &variables);
    assert_eq!(found[0]["config.json"], b"the last one counts");
}
