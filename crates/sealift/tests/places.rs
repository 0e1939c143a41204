//! Models in every kind of place that can be written, sealed and plain.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::Path;
use std::process::Command;

use common::broker::Broker;
use common::{RESOURCE, Sealed, model_tree, refuse, sealift, succeed, text, tree};
use sealift::code::Code;
use testkit::clouds::{Azurite, GcsEmulator};
use testkit::hostile::{Fault, Hostile};
use testkit::ocicrypt::{self, Encrypted};
use testkit::registry::{Door, Registry};
use testkit::s3::S3Server;

type Variables = Vec<(&'static str, String)>;

fn with(command: &mut Command, variables: &Variables) {
    command.envs(variables.iter().map(|(name, value)| (name, value)));
}

/// Seals into a place, looks at it there, opens it from there, and is refused what is not sealed.
fn round_trip(root: &str, variables: &Variables) {
    let sealed = Sealed::small();
    let place = format!("{root}/models/llama");
    let run = |arguments: &[&str]| {
        let mut command = sealift();
        command.args(arguments);
        with(&mut command, variables);
        command
    };
    let key = ["--resource-id", RESOURCE, "--key-file", text(&sealed.key)];
    succeed(run(&["seal", text(&sealed.model), &place, "--generation", "1"]).args(key));
    succeed(&mut run(&["inspect", &place]));
    succeed(run(&["verify", &place]).args(key));
    let dest = sealed.dest("dest");
    succeed(run(&["init", &place, text(&dest)]).args(key));
    assert!(model_tree(&dest) == tree(&sealed.model));

    let nothing = format!("{root}/models/none");
    let other = sealed.dest("other");
    refuse(run(&["init", &nothing, text(&other)]).args(key), Code::NotSealed);
    assert!(tree(&other).is_empty());
}

#[test]
fn a_bundle_lives_in_s3() {
    let Some(server) = S3Server::start().unwrap() else { return };
    round_trip(&format!("s3://{}", S3Server::BUCKET), &server.env().into());
}

#[test]
fn a_bundle_lives_in_a_cloud_that_speaks_s3() {
    let Some(server) = S3Server::start().unwrap() else { return };
    let variables = vec![
        ("OSS_ENDPOINT", server.endpoint()),
        ("OSS_REGION", "us-east-1".to_owned()),
        ("OSS_ACCESS_KEY_ID", S3Server::ACCESS_KEY.to_owned()),
        ("OSS_ACCESS_KEY_SECRET", S3Server::SECRET_KEY.to_owned()),
    ];
    round_trip(&format!("oss://{}", S3Server::BUCKET), &variables);
}

#[test]
fn a_bundle_lives_in_azure_under_each_of_its_names() {
    let Some(server) = Azurite::start().unwrap() else { return };
    server.create_container("bundles").unwrap();
    let account = Azurite::ACCOUNT;
    let variables = server.env().into();
    round_trip(&format!("https://{account}.blob.core.windows.net/bundles"), &variables);
    round_trip(&format!("abfss://bundles@{account}.dfs.core.windows.net/x"), &variables);
}

#[test]
fn a_bundle_lives_in_google_cloud_storage() {
    let Some(server) = GcsEmulator::start().unwrap() else { return };
    round_trip(&format!("gs://{}", GcsEmulator::BUCKET), &server.env().into());
}

#[test]
fn a_bundle_is_opened_out_of_a_repository_of_a_hub() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    let sealed = Sealed::small();
    let server = Hostile::start().unwrap();
    let mut files = vec![(".gitattributes".to_owned(), b"*.bin filter=lfs".to_vec())];
    files.push(("README.md".to_owned(), b"# Sealed".to_vec()));
    let bundle = tree(&sealed.bundle).into_iter().filter(|(name, _)| !name.ends_with('/'));
    files.extend(bundle);
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| serde_json::json!({ "rfilename": name, "size": bytes.len() }))
        .collect();
    let info = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
    server.put("api/models/team/llama/revision/v1", info);
    for (name, bytes) in files {
        server.put(&format!("team/llama/resolve/{COMMIT}/{name}"), bytes);
    }
    let dest = sealed.dest("dest");
    let mut command = sealift();
    command.args(["init", "hf://team/llama:v1", text(&dest), "--resource-id", RESOURCE]);
    command.args(["--key-file", text(&sealed.key)]).env("HF_ENDPOINT", server.endpoint());
    succeed(&mut command);
    assert!(model_tree(&dest) == tree(&sealed.model));
}

/// What a hub says that a file hashes to is what is published, or nothing is.
#[test]
fn a_plain_file_of_a_hub_is_held_against_its_digest() {
    let sealed = Sealed::small();
    let content: Vec<u8> = (0..9_000_001_u32).map(|i| i.to_le_bytes()[1] ^ 3).collect();
    let digest = seal::name::Digest::of(&content).hex();
    let listing = move |sha256: &str| {
        let file = serde_json::json!({
            "Path": "w.tar", "Type": "blob", "Size": 9_000_001, "Sha256": sha256,
            "Revision": "0123456789abcdef0123456789abcdef01234567",
        });
        serde_json::json!({ "Success": true, "Data": { "Files": [file] } }).to_string()
    };
    let server = Hostile::start().unwrap();
    server.put("api/v1/models/team/llama/repo", content.clone());
    let run = |dest: &str| {
        let dest = sealed.dest(dest);
        let mut command = sealift();
        command.args(["init", "modelscope://team/llama", text(&dest)]);
        command.env("SEALIFT_REQUIRE_SEALED", "false").env("MODELSCOPE_DOMAIN", server.endpoint());
        (command, dest)
    };
    server.put("api/v1/models/team/llama/repo/files", listing(&digest));
    let (mut command, dest) = run("1");
    succeed(&mut command);
    // It is one file, whatever its name: hubs' archives are not unpacked.
    assert!(std::fs::read(dest.join("w.tar")).unwrap() == content);
    server.plan(|seen| {
        let file = seen.object.ends_with("repo");
        file.then_some(Fault::Garbage { after: 8_000_000 })
    });
    let (mut command, dest) = run("2");
    refuse(&mut command, Code::Tampered);
    assert!(tree(&dest).is_empty());
}

/// A file of several requests, from servers with ranges and without, from one that loses the
/// connection, and one that replaces the file meanwhile.
#[test]
fn one_file_is_fetched_from_any_web_server() {
    let sealed = Sealed::small();
    let content: Vec<u8> = (0..20_000_001_u32).map(|i| i.to_le_bytes()[1] ^ 7).collect();
    let server = Hostile::start().unwrap();
    server.put("pub/a b.onnx", content.clone());
    let uri = format!("{}/pub/a%20b.onnx?signature=hunter2", server.endpoint());
    let mut fetched = 0;
    let mut fetch = |code: Option<Code>| {
        fetched += 1;
        let dest = sealed.dest(&fetched.to_string());
        let mut command = sealift();
        command.args(["init", &uri, text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
        let Some(code) = code else {
            succeed(&mut command);
            return assert!(std::fs::read(dest.join("a b.onnx")).unwrap() == content);
        };
        let said = refuse(&mut command, code);
        assert!(!said.contains("hunter2") && tree(&dest).is_empty(), "{said}");
    };
    fetch(None);
    assert!(server.log().iter().all(|it| it.request.query == "signature=hunter2"));
    server.plan(|_| Some(Fault::IgnoreRange));
    server.clear_log();
    fetch(None);
    let gets = |it: &&testkit::hostile::Served| {
        it.request.method == "GET" && it.request.object.ends_with(".onnx")
    };
    assert_eq!(server.log().iter().filter(gets).count(), 2, "a question and one request");
    server.plan(|seen| match (seen.method.as_str(), seen.nth) {
        ("GET", 1) => Some(Fault::Cut { after: 9_000_000 }),
        _ => Some(Fault::IgnoreRange),
    });
    server.clear_log();
    fetch(None);
    server.plan(|seen| {
        let replaced = seen.method == "GET" && seen.nth == 2;
        replaced.then(|| Fault::ClaimEtag { value: "\"other\"".to_owned() })
    });
    server.clear_log();
    fetch(Some(Code::Network));
}

/// An archive is unpacked, as upstream does, also when the connection is lost in it; one that is
/// replaced or damaged publishes nothing.
#[test]
fn archives_arrive_unpacked_or_not_at_all() {
    let sealed = Sealed::small();
    let content: Vec<u8> =
        (0..3_000_001_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
    let source = sealed.dir.path().join("source");
    common::write_tree(&source, &[("m/weights.bin", &content), ("config.json", b"{}")]);
    let packed = |name: &str, how: &str| {
        let archive = sealed.dir.path().join(name);
        let mut command = Command::new("tar");
        command.current_dir(&source).args([how, text(&archive), "."]);
        assert!(command.output().unwrap().status.success(), "{command:?}");
        std::fs::read(archive).unwrap()
    };
    let server = Hostile::start().unwrap();
    let mut names = vec!["m.tar", "m.tgz", "m.tar.gz"];
    server.put("pub/m.tar", packed("m.tar", "-cf"));
    for name in ["m.tgz", "m.tar.gz"] {
        server.put(&format!("pub/{name}"), packed(name, "-czf"));
    }
    let has_zip = Command::new("python3").arg("--version").output().is_ok();
    if has_zip {
        let archive = sealed.dir.path().join("m.zip");
        let mut command = Command::new("python3");
        command.args(["-m", "zipfile", "-c", text(&archive), "m", "config.json"]);
        assert!(command.current_dir(&source).output().unwrap().status.success());
        server.put("pub/m.zip", std::fs::read(archive).unwrap());
        names.push("m.zip");
    } else {
        testkit::skip("no python3 to make a zip file with");
    }
    let run = |name: &str, dest: &str| {
        let dest = sealed.dest(dest);
        let mut command = sealift();
        command.args(["init", &format!("{}/pub/{name}", server.endpoint()), text(&dest)]);
        command.env("SEALIFT_REQUIRE_SEALED", "false");
        (command, dest)
    };
    for name in &names {
        for cut in [false, true] {
            server.clear_log();
            server.plan(move |seen| {
                let cuts = cut && seen.method == "GET" && seen.nth % 3 == 0;
                cuts.then_some(Fault::Cut { after: 500_000 })
            });
            let (mut command, dest) = run(name, &format!("{name}{cut}"));
            succeed(&mut command);
            assert!(model_tree(&dest) == tree(&source), "{name} {cut}");
        }
        let (mut command, dest) = run(name, &format!("{name}-garbage"));
        server.plan(|_| Some(Fault::Garbage { after: 1_000 }));
        refuse(&mut command, Code::Tampered);
        assert!(tree(&dest).is_empty());
        let (mut command, dest) = run(name, &format!("{name}-replaced"));
        server.clear_log();
        server.plan(|seen| {
            let second = seen.method == "GET" && seen.nth >= 1;
            second.then(|| Fault::ClaimEtag { value: "\"other\"".to_owned() })
        });
        refuse(&mut command, Code::Network);
        assert!(tree(&dest).is_empty());
    }
}

#[test]
fn headers_for_a_web_server_go_to_it_alone() {
    let sealed = Sealed::small();
    let (server, other) = (Hostile::start().unwrap(), Hostile::start().unwrap());
    for server in [&server, &other] {
        server.put("pub/m.onnx", "model");
    }
    let uri = format!("{}/pub/m.onnx", server.endpoint());
    let run = |dest: &str| {
        let dest = sealed.dest(dest);
        let mut command = sealift();
        command.args(["init", &uri, text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
        command.env("127.0.0.1-headers", r#"{"Authorization": "Basic hunter2"}"#);
        command
    };
    succeed(&mut run("1"));
    let authorized = |it: &testkit::hostile::Served| {
        it.request.authorization.as_deref() == Some("Basic hunter2")
    };
    assert!(server.log().iter().all(authorized));
    let to = format!("{}/pub/m.onnx", other.endpoint());
    server.plan(move |_| Some(Fault::Redirect { to: to.clone() }));
    refuse(&mut run("2"), Code::Network);
    assert!(other.log().is_empty());
    refuse(run("3").env("127.0.0.1-headers", "hunter2"), Code::Usage);
}

/// `init` of a plain model into a new directory: what arrived.
fn fetch(sealed: &Sealed, name: &str, source: &str, more: &[(&str, &str)]) -> Vec<String> {
    let dest = sealed.dest(name);
    let mut command = sealift();
    command.args(["init", source, text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
    command.envs(more.iter().copied());
    succeed(&mut command);
    model_tree(&dest).into_keys().filter(|name| !name.ends_with('/')).collect()
}

#[test]
fn plain_models_arrive_under_the_names_that_kserve_gives_them() {
    let Some(server) = S3Server::start().unwrap() else { return };
    let sealed = Sealed::small();
    let files = ["m/model.joblib", "m/sub/weights.bin", "m-evil/x", "m.onnx", "deep/er/m.onnx"];
    for file in files {
        let path = server.bucket_dir().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    let env = server.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let uri = |path: &str| format!("s3://{}/{path}", S3Server::BUCKET);
    // A folder is its own: upstream takes `m-evil/x` for a part of `m`.
    assert_eq!(fetch(&sealed, "1", &uri("m"), &env), ["model.joblib", "sub/weights.bin"]);
    assert_eq!(fetch(&sealed, "2", &uri("m/"), &env), ["model.joblib", "sub/weights.bin"]);
    // One object has its own name, whatever folder it is in.
    assert_eq!(fetch(&sealed, "3", &uri("deep/er/m.onnx"), &env), ["m.onnx"]);
    assert_eq!(fetch(&sealed, "4", &uri("m.onnx"), &env), ["m.onnx"]);
    let local = server.bucket_dir().join("m.onnx");
    assert_eq!(fetch(&sealed, "5", text(&local), &[]), ["m.onnx"]);

    let patterns = |allow, ignore| {
        let patterns = [("STORAGE_ALLOW_PATTERNS", allow), ("STORAGE_IGNORE_PATTERNS", ignore)];
        [&env[..], &patterns[..]].concat()
    };
    let some = patterns(r#"["*.bin", "*.joblib"]"#, "model*");
    assert_eq!(fetch(&sealed, "6", &uri("m"), &some), ["sub/weights.bin"]);

    let dest = sealed.dest("none");
    for (path, patterns) in [("nothing", patterns("", "")), ("m", patterns("*.pt", ""))] {
        let mut command = sealift();
        command.args(["init", &uri(path), text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
        refuse(command.envs(patterns), Code::NotFound);
        assert!(tree(&dest).is_empty());
    }
}

/// Runs `sealift` with the registry's credentials.
fn with_registry(registry: &Registry, arguments: &[&str]) -> Command {
    let mut command = sealift();
    command.args(arguments).env("KSERVE_OCI_DOCKER_CONFIG", registry.docker_config().unwrap());
    command
}

#[test]
fn a_bundle_lives_in_a_container_registry() {
    let Some(registry) = Registry::start(&Door::Token).unwrap() else { return };
    let sealed = Sealed::small();
    let place = format!("oci://{}/team/llama:v1", registry.host());
    let run = |arguments: &[&str]| with_registry(&registry, arguments);
    let key = ["--resource-id", RESOURCE, "--key-file", text(&sealed.key)];
    let named = ["--name", "model", "--generation", "1"];
    let dest = sealed.dest("dest");
    refuse(run(&["init", &place, text(&dest)]).args(key), Code::NotFound);
    succeed(run(&["seal", text(&sealed.model), &place]).args(key).args(named));
    refuse(run(&["seal", text(&sealed.model), &place]).args(key).args(named), Code::Usage);
    succeed(&mut run(&["inspect", &place]));
    succeed(run(&["verify", &place]).args(key));
    succeed(run(&["init", &place, text(&dest)]).args(key));
    assert!(model_tree(&dest) == tree(&sealed.model));

    // Another key: the data stay where they are.
    let (other, resource) = (sealed.dir.path().join("other.jwk"), "kbs:///team/model/v2");
    common::keygen(&other, resource, "model@1");
    let recipient = format!("{resource}={}", text(&other));
    let rewrap = ["--to", recipient.as_str()];
    succeed(run(&["rewrap", &place]).args(key).args(rewrap));
    let dest = sealed.dest("rewrapped");
    refuse(run(&["init", &place, text(&dest)]).args(key), Code::Tampered);
    let key = ["--resource-id", resource, "--key-file", text(&other)];
    succeed(run(&["init", &place, text(&dest)]).args(key));
    assert!(model_tree(&dest) == tree(&sealed.model));

    // A new bundle takes the whole tag.
    std::fs::remove_file(sealed.model.join("config.json")).unwrap();
    succeed(run(&["seal", text(&sealed.model), &place, "--overwrite"]).args(key).args(named));
    let dest = sealed.dest("overwritten");
    succeed(run(&["init", &place, text(&dest)]).args(key));
    assert!(model_tree(&dest) == tree(&sealed.model));
}

/// An artifact as CNCF's ModelPack describes it, from a registry that moves its tag and changes its
/// blobs.
#[test]
fn plain_files_of_an_artifact_are_held_against_their_digests() {
    use aws_lc_rs::digest::{SHA256, digest};
    let sealed = Sealed::small();
    let server = Hostile::start().unwrap();
    let host = server.endpoint().replace("http://", "oci://");
    let large: Vec<u8> = (0..20_000_001_u32).map(|i| i.to_le_bytes()[1] ^ 7).collect();
    let files = [("model.tar", b"no archive".to_vec()), ("sub/w.bin", large), ("empty", vec![])];
    let mut layers = Vec::new();
    for (name, bytes) in &files {
        let digest = format!("sha256:{}", hex::encode(digest(&SHA256, bytes)));
        server.put(&format!("v2/team/m/blobs/{digest}"), bytes.clone());
        layers.push(serde_json::json!({
            "mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": digest,
            "size": bytes.len(), "annotations": { "org.cncf.model.filepath": name },
        }));
    }
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.model.manifest.v1+json", "layers": layers,
    });
    server.put("v2/team/m/manifests/v1", manifest.to_string());
    let uri = format!("{host}/team/m:v1");
    let fetch = |name: &str, code: Option<Code>| {
        let dest = sealed.dest(name);
        let mut command = sealift();
        command.args(["init", &uri, text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
        match code {
            Some(code) => {
                refuse(&mut command, code);
                assert!(tree(&dest).is_empty());
            }
            None => {
                succeed(&mut command);
                for (name, bytes) in &files {
                    assert!(std::fs::read(dest.join(name)).unwrap() == *bytes, "{name}");
                }
                assert_eq!(model_tree(&dest).len(), files.len() + 1, "and a directory");
            }
        }
    };
    fetch("1", None);
    // A connection breaks, in the middle of a segment.
    server.clear_log();
    server.plan(|seen| {
        let first = seen.object.contains("/blobs/") && seen.nth == 0 && seen.method == "GET";
        first.then_some(Fault::Cut { after: 9_000_000 })
    });
    fetch("2", None);
    // The tag moves as soon as it was read.
    server.clear_log();
    server.plan(|seen| {
        let moved = seen.object.ends_with("/v1") && seen.nth > 0;
        moved.then(|| Fault::Body { bytes: "{\"layers\":[]}".into() })
    });
    fetch("3", None);
    // Another content of the right length: in the first segment, in the last one, in a small file.
    for after in [0, 19_999_000, 5] {
        server
            .plan(move |seen| seen.object.contains("/blobs/").then_some(Fault::Garbage { after }));
        fetch("4", Some(Code::Tampered));
    }
    refuse(
        sealift().args(["init", &uri, text(&sealed.dest("5")), "--resource-id", RESOURCE]),
        Code::NotSealed,
    );
}

/// One layer of an image: entries by name, content and type, perhaps compressed.
fn layer(entries: &[(&str, &str, tar::EntryType)], gzip: bool) -> (Vec<u8>, Vec<u8>) {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let content = match kind {
            tar::EntryType::Regular => content.as_bytes(),
            _ => {
                header.set_link_name(if content.is_empty() { "x" } else { content }).unwrap();
                b""
            }
        };
        header.set_size(content.len() as u64);
        // `set_path` would refuse the names that matter here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }
    let tar = archive.into_inner().unwrap();
    let blob = if gzip { gzipped(&tar) } else { tar.clone() };
    (tar, blob)
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// Serves an image of these layers (each as a tar file, and as its blob).
fn serve_image(server: &Hostile, layers: &[(Vec<u8>, Vec<u8>)]) {
    use aws_lc_rs::digest::{SHA256, digest};
    let sha256 = |bytes: &[u8]| format!("sha256:{}", hex::encode(digest(&SHA256, bytes)));
    let put = |bytes: &[u8]| {
        server.put(&format!("v2/team/m/blobs/{}", sha256(bytes)), bytes.to_vec());
        serde_json::json!({ "digest": sha256(bytes), "size": bytes.len() })
    };
    let ids: Vec<_> = layers.iter().map(|(tar, _)| sha256(tar)).collect();
    let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": ids } });
    let mut described = Vec::new();
    for (tar, blob) in layers {
        let mut layer = put(blob);
        let suffix = match blob {
            blob if tar == blob => "",
            blob if blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => "+zstd",
            _ => "+gzip",
        };
        layer["mediaType"] = format!("application/vnd.oci.image.layer.v1.tar{suffix}").into();
        described.push(layer);
    }
    let config = put(config.to_string().as_bytes());
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": described });
    server.put("v2/team/m/manifests/v1", manifest.to_string());
}

/// ModelPack, KitOps and `oras` with files in archives, beside files that are not.
#[test]
fn packed_files_of_an_artifact_arrive_unpacked() {
    use aws_lc_rs::digest::{SHA256, digest};
    use tar::EntryType::{Directory, Regular, Symlink};
    let sealed = Sealed::small();
    let server = Hostile::start().unwrap();
    let uri = format!("{}/team/m:v1", server.endpoint().replace("http://", "oci://"));
    let serve = |layers: &[(&str, &str, &[u8])]| {
        let described = layers.iter().map(|(media, name, bytes)| {
            let digest = format!("sha256:{}", hex::encode(digest(&SHA256, bytes)));
            server.put(&format!("v2/team/m/blobs/{digest}"), bytes.to_vec());
            serde_json::json!({
                "mediaType": media, "digest": digest, "size": bytes.len(),
                "annotations": { "org.cncf.model.filepath": name },
            })
        });
        let layers: Vec<_> = described.collect();
        server.put("v2/team/m/manifests/v1", serde_json::json!({ "layers": layers }).to_string());
    };
    let fetch = |name: &str| {
        let dest = sealed.dest(name);
        let mut command = sealift();
        command.args(["init", &uri, text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
        (command, dest)
    };
    let large = "weights ".repeat(400_000);
    let (weights, _) = layer(&[("sub/", "", Directory), ("sub/w.bin", &large, Regular)], false);
    let weights = zstandard(&weights);
    let (_, config) = layer(&[("./config.json", "{}", Regular)], true);
    let (doc, _) = layer(&[("docs/a.md", "words", Regular)], false);
    let [zst, gz, tar, raw] = [
        "application/vnd.cncf.model.weight.v1.tar+zstd",
        "application/vnd.kitops.modelkit.model.v1.tar+gzip",
        "application/vnd.cncf.model.doc.v1.tar",
        "application/vnd.cncf.model.code.v1.raw",
    ];
    let code = "print()".repeat(200_000);
    let all = [
        (zst, "sub", &weights[..]),
        (gz, "config.json", &config),
        (tar, "docs", &doc),
        (raw, "run.py", code.as_bytes()),
    ];
    serve(&all);
    let (mut command, dest) = fetch("1");
    succeed(&mut command);
    let found = model_tree(&dest);
    let names: Vec<_> = found.keys().filter(|name| !name.ends_with('/')).collect();
    assert_eq!(names, ["config.json", "docs/a.md", "run.py", "sub/w.bin"]);
    assert!(found["sub/w.bin"] == large.as_bytes() && found["run.py"] == code.as_bytes());

    let refused = |code: Code| {
        let (mut command, dest) = fetch("2");
        refuse(&mut command, code);
        assert!(tree(&dest).is_empty());
    };
    for entry in [("../x", "x", Regular), ("/x", "x", Regular), ("x", "/etc/passwd", Symlink)] {
        let (evil, _) = layer(&[entry], false);
        serve(&[(tar, "x", &evil), (raw, "run.py", b"x")]);
        refused(Code::Tampered);
    }
    // The same name twice: nothing says which is meant.
    serve(&[(gz, "config.json", &config), (raw, "config.json", b"other")]);
    refused(Code::Tampered);
    // Blobs are what their digests name, however they are packed.
    for index in 0..all.len() {
        serve(&all);
        let digest = hex::encode(digest(&SHA256, all[index].2));
        let mut another = all[index].2.to_vec();
        let last = another.len() - 1;
        another[last] ^= 1;
        server.put(&format!("v2/team/m/blobs/sha256:{digest}"), another);
        refused(Code::Tampered);
    }
    refuse(
        sealift().args(["init", &uri, text(&sealed.dest("3")), "--resource-id", RESOURCE]),
        Code::NotSealed,
    );
}

/// KServe's modelcar: a model below `models/` of a container image, in the image's last state.
#[test]
fn a_model_inside_of_a_container_image_is_its_last_state() {
    use tar::EntryType::{Block, Directory, Link, Regular, Symlink};
    let sealed = Sealed::small();
    let server = Hostile::start().unwrap();
    let uri = format!("{}/team/m:v1", server.endpoint().replace("http://", "oci://"));
    let fetch = |name: &str| {
        let dest = sealed.dest(name);
        let mut command = sealift();
        command.args(["init", &uri, text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
        (command, dest)
    };
    let large = "weights ".repeat(400_000);
    let base = [
        ("etc/passwd", "root", Regular),
        ("bin", "usr/bin", Symlink),
        ("dev/sda", "", Block),
        ("../../escape", "x", Regular),
        ("models/", "", Directory),
        ("models/old.bin", "old", Regular),
        ("models/keep", "first", Regular),
        ("models/dir/a", "a", Regular),
        ("models/dir2/a", "a", Regular),
        ("models/was-a-file", "x", Regular),
        ("models/w.bin", &large, Regular),
    ];
    let upper = [
        ("./models/.wh.old.bin", "", Regular),
        ("models/dir/b", "b", Regular),
        ("models/dir/.wh..wh..opq", "", Regular),
        ("models/.wh.dir2", "", Regular),
        ("models/keep", "second", Regular),
        ("models/was-a-file/now", "in a directory", Regular),
        ("models-evil/x", "x", Regular),
    ];
    let lower = layer(&base, true);
    let empty = layer(&[], false).0;
    let top = (empty.clone(), zstandard(&empty));
    serve_image(&server, &[lower.clone(), layer(&upper, false), top]);
    let (mut command, dest) = fetch("1");
    succeed(&mut command);
    let found = model_tree(&dest);
    let files: Vec<_> = found.iter().filter(|(name, _)| !name.ends_with('/')).collect();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dir/b", "keep", "w.bin", "was-a-file/now"]);
    assert!(found["keep"] == b"second" && found["w.bin"] == large.as_bytes());
    // All of it goes, and comes again.
    for whiteout in [".wh.models", ".wh..wh..opq"] {
        serve_image(&server, &[lower.clone(), layer(&[(whiteout, "", Regular)], true)]);
        refuse(&mut fetch("2").0, Code::NotFound);
        let again = [("models/new", "new", Regular), (whiteout, "", Regular)];
        serve_image(&server, &[lower.clone(), layer(&again, true)]);
        let (mut command, dest) = fetch(whiteout);
        succeed(&mut command);
        assert_eq!(model_tree(&dest).into_keys().collect::<Vec<_>>(), ["new"]);
    }

    let refused = |code: Code| {
        let (mut command, dest) = fetch("3");
        refuse(&mut command, code);
        assert!(tree(&dest).is_empty());
    };
    for entry in [
        ("models/link", "/etc/passwd", Symlink),
        ("models/link", "models/keep", Link),
        ("models/sda", "", Block),
        ("models", "/etc", Symlink),
        ("models/../x", "x", Regular),
        ("models//x", "x", Regular),
    ] {
        serve_image(&server, &[lower.clone(), layer(&[entry], true)]);
        refused(Code::Tampered);
    }
    let twice = [("models/x", "1", Regular), ("models/x", "2", Regular)];
    let both = [("models/x", "1", Regular), ("models/x/y", "2", Regular)];
    for entries in [twice, both] {
        serve_image(&server, &[layer(&entries, true)]);
        refused(Code::Tampered);
    }
    // What a layer unpacks to, and what it is itself, is what its digests name.
    let other = layer(&[("models/x", "other", Regular)], true);
    serve_image(&server, &[(other.0, lower.1.clone())]);
    refused(Code::Tampered);
    // The time in gzip's header: what it unpacks to stays the same.
    serve_image(&server, std::slice::from_ref(&lower));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &lower.1);
    let mut another = lower.1.clone();
    another[4] ^= 1;
    server.put(&format!("v2/team/m/blobs/sha256:{}", hex::encode(digest)), another);
    refused(Code::Tampered);
    let (tar, blob) = layer(&[("models/x", &large, Regular)], false);
    serve_image(&server, &[(tar, blob)]);
    for (from, after) in [(0, 1_000_000), (1, 1_000_000)] {
        server.clear_log();
        server.plan(move |seen| {
            let chosen = seen.range.is_none() && seen.object.contains("/blobs/");
            (chosen && seen.nth >= from).then_some(Fault::Garbage { after })
        });
        refused(Code::Tampered);
    }
    server.plan(|_| None);
    succeed(&mut fetch("4").0);
    // Nobody's image is replaced by mistake.
    let key = ["--resource-id", RESOURCE, "--key-file", text(&sealed.key)];
    let named = ["--name", "model", "--generation", "1"];
    let said = refuse(
        sealift().args(["seal", text(&sealed.model), &uri]).args(key).args(named),
        Code::Usage,
    );
    assert!(said.contains("something else"), "{said}");
    assert!(server.log().iter().all(|it| it.request.method == "GET"));
    refuse(
        sealift().args(["init", &uri, text(&sealed.dest("5")), "--resource-id", RESOURCE]),
        Code::NotSealed,
    );
}

/// Serves an image of layers that are encrypted, if they are, for [`RESOURCE`]; its digest.
fn serve_encrypted(server: &Hostile, layers: &[(Vec<u8>, Vec<u8>, Option<&Encrypted>)]) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let sha256 = |bytes: &[u8]| format!("sha256:{}", hex::encode(digest(&SHA256, bytes)));
    let put = |bytes: &[u8]| {
        server.put(&format!("v2/team/m/blobs/{}", sha256(bytes)), bytes.to_vec());
        serde_json::json!({ "digest": sha256(bytes), "size": bytes.len() })
    };
    let ids: Vec<_> = layers.iter().map(|(tar, ..)| sha256(tar)).collect();
    let config = put(serde_json::json!({ "rootfs": { "diff_ids": ids } }).to_string().as_bytes());
    let described = layers.iter().map(|(tar, blob, encrypted)| {
        let gzip = if tar == blob { "" } else { "+gzip" };
        let media = format!("application/vnd.oci.image.layer.v1.tar{gzip}");
        let Some(encrypted) = encrypted else {
            let mut layer = put(blob);
            layer["mediaType"] = media.into();
            return layer;
        };
        let mut layer = put(&encrypted.ciphertext);
        layer["mediaType"] = format!("{media}+encrypted").into();
        layer["annotations"] = serde_json::json!({
            ocicrypt::PACKETS: encrypted.packets, ocicrypt::PUBLIC: encrypted.public,
        });
        layer
    });
    let layers: Vec<_> = described.collect();
    let manifest = serde_json::json!({ "config": config, "layers": layers }).to_string();
    server.put("v2/team/m/manifests/v1", manifest.clone());
    let digest = sha256(manifest.as_bytes());
    server.put(&format!("v2/team/m/manifests/{digest}"), manifest);
    digest
}

/// The 32 bytes of a key's file.
fn key_bytes(file: &Path) -> Vec<u8> {
    use base64::Engine as _;
    let jwk: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(jwk["k"].as_str().unwrap()).unwrap()
}

/// Confidential Containers' encrypted images, of layers that OpenSSL encrypted.
#[test]
fn an_encrypted_image_opens_with_its_key_and_under_its_digest() {
    use tar::EntryType::{Directory, Regular};
    let sealed = Sealed::small();
    let server = Hostile::start().unwrap();
    let place = format!("{}/team/m", server.endpoint().replace("http://", "oci://"));
    let kek = key_bytes(&sealed.key);
    let encrypt = |layer: &[u8]| Encrypted::new(layer, RESOURCE, &kek).unwrap();
    let init = |digest: &str, name: &str, more: &[&str]| {
        let dest = sealed.dest(name);
        let mut command = sealift();
        command.args(["init", &format!("{place}@{digest}"), text(&dest)]).args(more);
        (command, dest)
    };
    let accept = "--accept-encrypted-images";
    let key = ["--resource-id", RESOURCE, "--key-file", text(&sealed.key)];
    let all = [&[accept][..], &key].concat();

    let large = "weights ".repeat(400_000);
    let base = layer(&[("etc/passwd", "root", Regular), ("dir", "", Directory)], true);
    let lower = layer(&[("models/w.bin", &large, Regular), ("models/old", "old", Regular)], true);
    let upper = layer(&[("models/.wh.old", "", Regular), ("models/a", "a", Regular)], false);
    let Some(first) = encrypt(&lower.1) else { return };
    let second = encrypt(&upper.1).unwrap();
    let layers = |lower: &(Vec<u8>, Vec<u8>)| {
        [
            (base.0.clone(), base.1.clone(), None),
            (lower.0.clone(), lower.1.clone(), Some(&first)),
            (upper.0.clone(), upper.1.clone(), Some(&second)),
        ]
    };
    let digest = serve_encrypted(&server, &layers(&lower));
    let (mut command, dest) = init(&digest, "1", &all);
    let audit = sealed.dir.path().join("audit");
    succeed(command.args(["--audit-file", text(&audit)]));
    let found = model_tree(&dest);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "w.bin"]);
    assert!(found["w.bin"] == large.as_bytes() && found["a"] == b"a");
    let recorded = std::fs::read_to_string(audit).unwrap();
    assert!(recorded.contains(RESOURCE) && !recorded.contains(&hex::encode(&kek)), "{recorded}");

    // By hand, with the key from a real broker.
    let broker = Broker::start(sealed.dir.path());
    succeed(&mut broker.key("put", RESOURCE, &["--key-file", text(&sealed.key)]));
    let url = broker.url();
    let dest = sealed.dest("by-hand");
    let mut by_hand = sealift();
    by_hand.args(["open", &format!("{place}@{digest}"), text(&dest), accept, "--insecure-dev"]);
    succeed(by_hand.args(["--resource-id", RESOURCE, "--kbs-url", &url]));
    assert!(model_tree(&dest) == found);

    let refused = |digest: &str, more: &[&str], code: Code| {
        let (mut command, dest) = init(digest, "2", more);
        let said = refuse(&mut command, code);
        assert!(tree(&dest).is_empty());
        said
    };
    // Nobody asked for such images, or named the key, or another key than the image's.
    let said = refused(&digest, &key, Code::NotSealed);
    assert!(said.contains(accept), "{said}");
    let said = refused(&digest, &[accept], Code::NoKeyNamed);
    assert!(said.contains(RESOURCE), "{said}");
    let other = ["--resource-id", "kbs:///team/other/v1", "--key-file", text(&sealed.key)];
    refused(&digest, &[&[accept][..], &other].concat(), Code::Tampered);
    let wrong = sealed.dir.path().join("wrong.jwk");
    common::keygen(&wrong, RESOURCE, "model@1");
    let wrong = ["--resource-id", RESOURCE, "--key-file", text(&wrong)];
    refused(&digest, &[&[accept][..], &wrong].concat(), Code::Tampered);
    // A tag says not which layers belong together.
    let tag = |more: &[&str]| {
        let mut command = sealift();
        command.args(["init", &format!("{place}:v1"), text(&sealed.dest("3"))]).args(&all);
        command.args(more);
        command
    };
    refuse(&mut tag(&[]), Code::Stale);
    succeed(&mut tag(&["--allow-unpinned"]));

    // What is not encrypted says nothing of the model, not even that it is gone.
    for entry in
        [("models/b", "b", Regular), ("models/.wh.a", "", Regular), ("models/d", "", Directory)]
    {
        let plain = layer(&[entry], false);
        let mixed = [&layers(&lower)[..], &[(plain.0, plain.1, None)]].concat();
        let digest = serve_encrypted(&server, &mixed);
        refused(&digest, &all, Code::NotSealed);
        // Where plain models are allowed, it may.
        let (mut command, _) = init(&digest, &entry.0.replace('/', "-"), &key);
        succeed(command.env("SEALIFT_REQUIRE_SEALED", "false"));
    }
    // Of none of its layers: a plain image.
    let digest = serve_encrypted(&server, &[(lower.0.clone(), lower.1.clone(), None)]);
    refused(&digest, &all, Code::NotSealed);

    // The manifest names what was changed: only the layer's own code and digest tell.
    for at in [0, first.ciphertext.len() / 2, first.ciphertext.len() - 1] {
        let mut changed = first.clone();
        changed.ciphertext[at] ^= 1;
        let digest =
            serve_encrypted(&server, &[(lower.0.clone(), lower.1.clone(), Some(&changed))]);
        refused(&digest, &all, Code::Tampered);
    }
    let mut cut = first.clone();
    cut.ciphertext.pop();
    let mut public = first.clone();
    public.public = second.public.clone();
    let mut packets = first.clone();
    packets.packets = second.packets.clone();
    let mut provider = first.clone();
    provider.packets = "e30=".to_owned();
    for changed in [cut, public, packets, provider] {
        let digest =
            serve_encrypted(&server, &[(lower.0.clone(), lower.1.clone(), Some(&changed))]);
        refused(&digest, &all, Code::Tampered);
    }
    // What it unpacks to is what the image's configuration says.
    let digest = serve_encrypted(&server, &[(upper.0.clone(), lower.1.clone(), Some(&first))]);
    refused(&digest, &all, Code::Tampered);
    // The second time that it is read, it is another.
    let digest = serve_encrypted(&server, &layers(&lower));
    let blob =
        hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &first.ciphertext));
    server.clear_log();
    server.plan(move |seen| {
        let again = seen.object.ends_with(&blob) && seen.nth > 0;
        again.then_some(Fault::Garbage { after: 1_000 })
    });
    refused(&digest, &all, Code::Tampered);
}

/// Real tools on real ground: skopeo compresses with zstd, and encrypts with containers/ocicrypt.
#[test]
fn an_image_that_skopeo_compressed_and_encrypted_opens() {
    use aws_lc_rs::digest::{SHA256, digest};
    let Some(registry) = Registry::start(&Door::Open).unwrap() else { return };
    let sealed = Sealed::small();
    let dir = sealed.dir.path();
    let large = "weights ".repeat(400_000);
    let (tar, _) = layer(&[("models/w.bin", &large, tar::EntryType::Regular)], false);
    let source = dir.join("source");
    std::fs::create_dir_all(source.join("blobs/sha256")).unwrap();
    let put = |bytes: &[u8], media: &str| {
        let name = hex::encode(digest(&SHA256, bytes));
        std::fs::write(source.join("blobs/sha256").join(&name), bytes).unwrap();
        serde_json::json!({
            "digest": format!("sha256:{name}"), "size": bytes.len(),
            "mediaType": format!("application/vnd.oci.image.{media}"),
        })
    };
    let layer = put(&tar, "layer.v1.tar");
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = put(config.to_string().as_bytes(), "config.v1+json");
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json");
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    std::fs::write(source.join("index.json"), index.to_string()).unwrap();
    std::fs::write(source.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let from = format!("oci:{}", source.display());
    let place = format!("{}/team/m", registry.host());
    let copy = |arguments: &[&str]| ocicrypt::skopeo_copy(arguments).unwrap();
    let plain_http = "--dest-tls-verify=false";
    let fetched = |name: &str, uri: &str, more: &[&str]| {
        let dest = sealed.dest(name);
        let mut command = sealift();
        command.args(["init", uri, text(&dest)]).args(more);
        if more.is_empty() {
            command.env("SEALIFT_REQUIRE_SEALED", "false");
        }
        succeed(&mut command);
        assert!(model_tree(&dest)["w.bin"] == large.as_bytes());
    };
    let to = format!("docker://{place}:zstd");
    let zstd = ["--dest-compress", "--dest-compress-format", "zstd", plain_http, &from, &to];
    if copy(&zstd).is_none() {
        return;
    }
    fetched("unpacked", &format!("oci://{place}:zstd"), &[]);

    let rsa = rsa_key(dir);
    let encrypted = dir.join("encrypted");
    let directory = format!("dir:{}", encrypted.display());
    // Compressed on the way: what it notes as the layer's digest is that of the tar file.
    let recipient = format!("jwe:{}", rsa.1.display());
    copy(&["--encryption-key", &recipient, "--dest-compress", &from, &directory]).unwrap();
    let kek = key_bytes(&sealed.key);
    let manifest = encrypted.join("manifest.json");
    ocicrypt::rewrap(&manifest, &rsa.0, RESOURCE, &kek).unwrap();
    let digest = hex::encode(digest(&SHA256, &std::fs::read(&manifest).unwrap()));
    let to = format!("docker://{place}:encrypted");
    copy(&["--preserve-digests", plain_http, &directory, &to]).unwrap();
    let key = ["--resource-id", RESOURCE, "--key-file", text(&sealed.key)];
    let all = [&["--accept-encrypted-images"][..], &key].concat();
    fetched("decrypted", &format!("oci://{place}@sha256:{digest}"), &all);
}

/// An RSA key in PEM, and the file of its public half.
fn rsa_key(dir: &Path) -> (String, std::path::PathBuf) {
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
    use base64::Engine as _;
    let pem = |kind: &str, der: &[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
    };
    let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().unwrap();
    let file = dir.join("rsa.pub");
    std::fs::write(&file, pem("PUBLIC KEY", public.as_ref())).unwrap();
    (pem("PRIVATE KEY", private.as_ref()), file)
}

/// A bundle's manifest has a limit of its own; what a listing names has this one.
#[test]
fn a_plain_model_may_have_more_files_than_a_bundle() {
    let sealed = Sealed::small();
    let many = sealed.dir.path().join("many");
    std::fs::create_dir(&many).unwrap();
    let add = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            std::fs::write(many.join(number.to_string()), [1]).unwrap();
        }
    };
    add(0..20_000);
    let fetch = |name: &str| {
        let dest = sealed.dest(name);
        let mut command = sealift();
        command.args(["init", text(&many), text(&dest)]).env("SEALIFT_REQUIRE_SEALED", "false");
        (command, dest)
    };
    let (mut command, dest) = fetch("1");
    succeed(&mut command);
    assert_eq!(model_tree(&dest).len(), 20_000);
    add(20_000..publish::FILES_MAX + 1);
    let (mut command, dest) = fetch("2");
    let said = refuse(&mut command, Code::Tampered);
    assert!(said.contains("32768") && tree(&dest).is_empty(), "{said}");
}
