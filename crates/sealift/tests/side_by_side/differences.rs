//! What is different on purpose: a case for each row of docs/places.md's table. Upstream does the
//! one, and we do the other.

use std::os::unix::fs::symlink;
use std::process::Command;

use aws_lc_rs::digest;
use testkit::hostile::{Fault, Hostile};
use testkit::registry::{Door, Registry};
use testkit::s3::S3Server;

use crate::common::{succeed, text, tree, write_tree};
use crate::harness::{Files, Sides, Variables, record};
use crate::places::{hdfs_secret, hub, layer, push_image, webhdfs};

/// A bucket `models` of these objects, and how to reach it.
fn bucket(objects: &[(&str, &[u8])]) -> (Hostile, Variables) {
    let server = Hostile::start().unwrap();
    // The bucket is there.
    server.put("models", "");
    for (key, bytes) in objects {
        server.put(&format!("models/{key}"), bytes.to_vec());
    }
    let variables = vec![
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("AWS_ACCESS_KEY_ID", "x".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "x".to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
    ];
    (server, variables)
}

#[test]
fn a_folder_ends_at_its_slash() {
    let Some(sides) = Sides::new() else { return };
    let Some(server) = S3Server::start().unwrap() else { return };
    write_tree(&server.bucket_dir(), &[("m/model.bin", b"model"), ("m-evil/x", b"another's")]);
    let uri = format!("s3://{}/m", S3Server::BUCKET);
    let [upstream, ours] = sides.both(&[&uri], &server.env().into());
    assert_eq!(upstream.names(), ["-evil/x", "model.bin"]);
    assert_eq!(ours.names(), ["model.bin"]);
    record("`s3://b/m`", "beside it lies `m-evil/x`", "takes that too", "takes what is below `m/`");
}

#[test]
fn a_folder_wins_over_an_object_of_its_name() {
    let Some(sides) = Sides::new() else { return };
    let (_server, variables) = bucket(&[("m", b"object"), ("m/model.bin", b"model")]);
    let [upstream, ours] = sides.both(&["s3://models/m"], &variables);
    assert_eq!(upstream.names(), ["m"]);
    assert_eq!(ours.names(), ["model.bin"]);
    record("`s3://b/m`", "an object `m`, and a folder", "takes the object", "takes the folder");
}

#[test]
fn empty_files_arrive() {
    let Some(sides) = Sides::new() else { return };
    let Some(server) = S3Server::start().unwrap() else { return };
    write_tree(&server.bucket_dir(), &[("m/pkg/__init__.py", b""), ("m/model.bin", b"model")]);
    let uri = format!("s3://{}/m/", S3Server::BUCKET);
    let [upstream, ours] = sides.both(&[&uri], &server.env().into());
    assert_eq!(upstream.names(), ["model.bin"]);
    assert_eq!(ours.names(), ["model.bin", "pkg/__init__.py"]);
    record("`s3://`", "empty files", "left out", "arrive");
}

/// Upstream joins the key to the destination as it is.
#[test]
fn no_name_leads_out_of_the_destination() {
    let Some(sides) = Sides::new() else { return };
    let (_server, variables) =
        bucket(&[("m/model.bin", b"model"), ("m/../../escaped", b"outside")]);
    let [upstream, ours] = sides.both(&["s3://models/m/"], &variables);
    assert_eq!(upstream.names(), ["model.bin"]);
    let outside = sides.dir.path().join("escaped");
    assert!(std::fs::read(&outside).unwrap() == b"outside");
    let code = ours.refused_whole();
    record("`s3://`", "a key that leads out of the destination", "written outside", &code);
}

#[test]
fn all_arrives_or_nothing() {
    let Some(sides) = Sides::new() else { return };
    let (server, variables) = bucket(&[("m/a.bin", b"a"), ("m/b.bin", b"b")]);
    server.plan(|seen| {
        let denied = seen.object.ends_with("b.bin");
        denied.then_some(Fault::Status { status: 403, code: "AccessDenied" })
    });
    let [upstream, ours] = sides.both(&["s3://models/m/"], &variables);
    assert!(upstream.refused.is_some());
    assert_eq!(upstream.found[0].keys().collect::<Vec<_>>(), ["a.bin"]);
    let code = ours.refused_whole();
    let theirs = "fails, the others stay";
    record(
        "`s3://`",
        "one file of several cannot be read",
        theirs,
        &format!("{code}, nothing stays"),
    );
}

#[test]
fn nothing_is_no_model() {
    let Some(sides) = Sides::new() else { return };
    let files = Files::from([("model/m.onnx".to_owned(), b"m".to_vec())]);
    let server = webhdfs(files.clone());
    let mut variables = hdfs_secret(&sides, &server);
    variables.push(("STORAGE_ALLOW_PATTERNS", "*.pt".to_owned()));
    let hub = hub(&files);
    variables.push(("HF_ENDPOINT", hub.endpoint()));
    for uri in ["hdfs://model", "hf://team/llama"] {
        let [upstream, ours] = sides.both(&[uri], &variables);
        assert!(upstream.files().is_empty());
        let code = ours.refused_whole();
        let place = "`hdfs://`, `hf://`";
        record(place, "patterns that take nothing", "starts the server without a model", &code);
    }
}

#[test]
fn what_arrives_is_no_link_to_where_it_was() {
    let Some(sides) = Sides::new() else { return };
    let source = sides.dir.path().join("source");
    write_tree(&source, &[("model.bin", b"model"), ("sub/.hidden", b"1"), (".hidden", b"2")]);
    let [upstream, ours] = sides.both(&[text(&source)], &vec![]);
    // Of names that begin with a dot, upstream sees those of folders below.
    assert_eq!(upstream.names(), ["model.bin", "sub/.hidden"]);
    assert_eq!(ours.names(), [".hidden", "model.bin", "sub/.hidden"]);
    record("directories", "files that begin with a dot", "left out at the top", "arrive");
    let destinations = sides.dir.path().join("destinations");
    assert!(destinations.join("0/model.bin").is_symlink());
    assert!(!destinations.join("1/model.bin").is_symlink());
    record("directories", "what arrives", "links to the source", "copies, in memory");

    symlink("/etc/hostname", source.join("link")).unwrap();
    let [upstream, ours] = sides.both(&[text(&source)], &vec![]);
    assert_eq!(upstream.names(), ["link", "model.bin", "sub/.hidden"]);
    let code = ours.refused_whole();
    record("directories", "a link in it", "followed", &code);
}

/// Upstream looks at the names of the directory's own entries.
#[test]
fn patterns_are_for_files_of_folders_too() {
    let Some(sides) = Sides::new() else { return };
    let source = sides.dir.path().join("source");
    write_tree(&source, &[("a.bin", b"1"), ("sub/b.bin", b"2"), ("sub/c.txt", b"3")]);
    let variables = vec![("STORAGE_ALLOW_PATTERNS", "*.bin".to_owned())];
    let [upstream, ours] = sides.both(&[text(&source)], &variables);
    assert_eq!(upstream.names(), ["a.bin"]);
    assert_eq!(ours.names(), ["a.bin", "sub/b.bin"]);
    record("directories", "patterns", "for what is at the top", "for all files, as in a bucket");
}

#[test]
fn archives_hold_files_alone() {
    let Some(sides) = Sides::new() else { return };
    let (source, packed) = (sides.dir.path().join("source"), sides.dir.path().join("m.tar.gz"));
    write_tree(&source, &[("model.bin", b"model")]);
    symlink("model.bin", source.join("link")).unwrap();
    let mut pack = Command::new("tar");
    succeed(pack.current_dir(&source).arg("-czf").arg(&packed).arg("."));
    let (server, variables) = bucket(&[("m.tar.gz", &std::fs::read(&packed).unwrap())]);
    let [upstream, ours] = sides.both(&["s3://models/m.tar.gz"], &variables);
    assert_eq!(upstream.names(), ["link", "model.bin"]);
    let code = ours.refused_whole();
    record("archives", "links in them", "unpacked", &code);
    drop(server);
}

#[test]
fn a_name_says_what_a_file_is() {
    let Some(sides) = Sides::new() else { return };
    let server = Hostile::start().unwrap();
    let headers = vec![("Content-Type", "binary/octet-stream".to_owned())];
    server.put_with("pub/m.onnx", "model", headers);
    let uri = format!("{}/pub/m.onnx", server.endpoint());
    let [upstream, ours] = sides.both(&[&uri], &vec![]);
    assert!(upstream.refused.as_ref().unwrap().contains("application/octet-stream"));
    assert_eq!(ours.names(), ["m.onnx"]);
    let case = "a `Content-Type` other than `application/octet-stream`";
    record("`http(s)://`", case, "fails", "arrives");
}

#[test]
fn the_hubs_library_leaves_its_own_files() {
    let Some(sides) = Sides::new() else { return };
    let server = hub(&Files::from([("m.onnx".to_owned(), b"m".to_vec())]));
    sides.agree(
        "`hf://`",
        "folders",
        &["hf://team/llama"],
        &vec![("HF_ENDPOINT", server.endpoint())],
    );
    let left = |number| {
        let found = tree(&sides.dir.path().join("destinations").join(number));
        found.into_keys().filter(|name| name.starts_with(".cache/")).count()
    };
    assert!(left("0") > 0 && left("1") == 0);
}

#[test]
fn an_image_is_its_last_state() {
    let Some(sides) = Sides::new() else { return };
    let Some(registry) = Registry::start(&Door::Open).unwrap() else { return };
    let (image, layers) = (sides.dir.path().join("image"), sides.dir.path().join("layers"));
    write_tree(&image, &[("models/old.bin", b"old"), ("models/.wh.old.bin", b"")]);
    write_tree(&image, &[("models/new.bin", b"new")]);
    layer(&layers, 1, &image, &["models/old.bin"]);
    layer(&layers, 2, &image, &["models/.wh.old.bin", "models/new.bin"]);
    push_image(&sides, &registry, "team/llama", &layers);
    let variables = vec![("KSERVE_OCI_INSECURE_REGISTRY", "true".to_owned())];
    let uri = format!("oci://{}/team/llama:v1", registry.host());
    let [upstream, ours] = sides.both(&[&uri], &variables);
    assert_eq!(upstream.names(), [".wh.old.bin", "new.bin", "old.bin"]);
    assert_eq!(ours.names(), ["new.bin"]);
    record("`oci://`", "a file that a later layer deletes", "is there", "is gone");
}

/// A registry, or whoever is in between, hands out another layer.
#[test]
fn layers_are_held_against_their_digests() {
    let Some(sides) = Sides::new() else { return };
    let (image, layers) = (sides.dir.path().join("image"), sides.dir.path().join("layers"));
    let Some(registry) = Registry::start(&Door::Open).unwrap() else { return };
    write_tree(&image, &[("models/m.bin", b"evil")]);
    layer(&layers, 1, &image, &["models"]);
    let blob = layers.join("1.tar.gz");
    let mut evil = std::fs::read(&blob).unwrap();
    write_tree(&image, &[("models/m.bin", b"good")]);
    layer(&layers, 1, &image, &["models"]);
    let mut good = std::fs::read(&blob).unwrap();
    // Zeros may follow a gzip file; so the length does not tell them apart.
    let length = good.len().max(evil.len());
    evil.resize(length, 0);
    good.resize(length, 0);
    std::fs::write(&blob, &good).unwrap();
    push_image(&sides, &registry, "team/llama", &layers);
    let digest = digest::digest(&digest::SHA256, &good);
    std::fs::write(registry.blob_file(&hex::encode(digest)), evil).unwrap();
    let variables = vec![("KSERVE_OCI_INSECURE_REGISTRY", "true".to_owned())];
    let uri = format!("oci://{}/team/llama:v1", registry.host());
    let [upstream, ours] = sides.both(&[&uri], &variables);
    assert_eq!(upstream.files()["m.bin"], b"evil");
    let code = ours.refused_whole();
    record("`oci://`", "a layer that is not what its digest says", "arrives", &code);
}
