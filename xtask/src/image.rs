//! `cargo xtask image`: what clusters run, as OCI images without a daemon.
//!
//! Each is one program without libraries on a base of four files: no shell, no package manager. The
//! same commit, compiler and Debian release give the same digests, wherever the repository lies.

mod archive;
mod papers;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use self::archive::{Archive, Config, Tree};
use self::papers::Source;
use crate::arch::Arch;
use crate::setup;
use crate::setup::vm::is_static;
use crate::vm::guest_program;
use crate::workspace::{cargo, release, target_dir};

/// An image: one program, and as whom it runs.
struct Image {
    name: &'static str,
    /// Also that of its package, and its path in the image.
    program: &'static str,
    /// The name that it is started by, if that is another one.
    alias: Option<&'static str>,
    user: &'static str,
    about: &'static str,
}

/// KServe's own initializer runs as 1000, too. The two agents mount, which is root's.
const IMAGES: [Image; 4] = [
    Image {
        name: "sealift-init",
        program: "sealift",
        // By which it takes what KServe passes.
        alias: Some("storage-initializer"),
        user: "1000:1000",
        about: "KServe storage initializer for sealed models, and the sealift command",
    },
    Image {
        name: "sealift-broker",
        program: "sealift-broker",
        alias: None,
        user: "1000:1000",
        about: "Releases keys to guests that prove what they are",
    },
    Image {
        name: "sealift-host",
        program: "sealift-host",
        alias: None,
        user: "0:0",
        about: "Copies volumes into Kata guests without a shared filesystem: the node's side",
    },
    Image {
        name: "sealift-guest",
        program: "sealift-guest",
        alias: None,
        user: "0:0",
        about: "Copies volumes into Kata guests without a shared filesystem: the guest's side",
    },
];

/// Each image's name, and that of its program.
pub(crate) fn programs() -> impl Iterator<Item = (&'static str, &'static str)> {
    IMAGES.iter().map(|image| (image.name, image.program))
}

/// Builds all images, says what they are, and gives the directory of their archives, `NAME.tar`.
pub(crate) fn run(arch: Arch) -> Result<PathBuf> {
    let source = Source::here(arch)?;
    let programs = build(arch)?;
    let out = target_dir()?.join("image").join(arch.name());
    let base = base(&out.join("base"))?;
    let mut made = Vec::new();
    for (image, (_, program)) in IMAGES.iter().zip(&programs) {
        let (digest, size) = pack(image, &source, &base, program, &out)?;
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        println!(
            "{:<15} {digest}  {:5.1} MB to pull, {:5.1} MB unpacked",
            image.name,
            megabytes(size),
            megabytes(fs::metadata(program)?.len()),
        );
        fs::write(
            out.join(format!("{}.cdx.json", image.name)),
            source.bill(image.name, image.program, &digest)?,
        )?;
        made.push((image.name.to_owned(), digest));
    }
    fs::write(out.join("provenance.json"), source.provenance(&made)?)?;
    println!(
        "linux/{}: archives, bills of materials and provenance: {}",
        arch.name(),
        out.display()
    );
    Ok(out)
}

/// The images' programs by their names, in the images' order.
pub(crate) fn build(arch: Arch) -> Result<Vec<(&'static str, PathBuf)>> {
    let building =
        setup::Doing::new(format!("building the programs for {} without libraries", arch.name()));
    let mut build = cargo();
    // The whole workspace's choice of features, so that every recipe shares what was built.
    build.args(["build", "--quiet", "--locked", "--workspace"]);
    build.args(["--bin", "sealift", "--bin", "sealift-broker", "--bin", "sealift-host"]);
    let programs = release(&mut build, arch)?;
    building.done();
    let guest = guest_program(arch)?;
    let path = |image: &Image| match image.program {
        "sealift-guest" => guest.clone(),
        name => programs.join(name),
    };
    Ok(IMAGES.iter().map(|image| (image.program, path(image))).collect())
}

/// What every image has below its program: whom to trust on the web, who is who, and how names are
/// looked up, which a program without libraries reads from files, too.
fn base(path: &Path) -> Result<Tree> {
    let tree = Tree::new(path.to_owned())?;
    tree.file("etc/passwd", 0o644, b"root:x:0:0::/:/\nsealift:x:1000:1000::/:/\n")?;
    tree.file("etc/group", 0o644, b"root:x:0:\nsealift:x:1000:\n")?;
    tree.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    tree.file("etc/ssl/certs/ca-certificates.crt", 0o644, &authorities()?)?;
    tree.directory("tmp", 0o1777)?;
    Ok(tree)
}

/// Mozilla's list as Debian's package `ca-certificates` has it, without what this machine's owner
/// may have added.
pub(crate) fn authorities() -> Result<Vec<u8>> {
    let directory = Path::new("/usr/share/ca-certificates/mozilla");
    let mut paths = fs::read_dir(directory)
        .context("needs the Debian package ca-certificates")?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<PathBuf>>>()?;
    paths.sort();
    let mut bundle = Vec::new();
    for path in paths {
        bundle.extend(fs::read(&path).with_context(|| path.display().to_string())?);
    }
    Ok(bundle)
}

/// Makes one image: its digest, and the bytes that a registry keeps of it.
fn pack(
    image: &Image,
    source: &Source,
    base: &Tree,
    program: &Path,
    out: &Path,
) -> Result<(String, u64)> {
    if !is_static(program)? {
        bail!("{} needs a loader and libraries", program.display());
    }
    let tree = Tree::new(out.join("program"))?;
    tree.file(image.program, 0o755, &fs::read(program)?)?;
    if let Some(alias) = image.alias {
        tree.link(alias, image.program)?;
    }
    let mut archive = Archive::new(out.join("layout"))?;
    archive.layer(base)?;
    archive.layer(&tree)?;
    let config = Config {
        name: image.name,
        about: image.about,
        entrypoint: &format!("/{}", image.alias.unwrap_or(image.program)),
        user: image.user,
        arch: source.arch,
        created: &source.created,
        version: &source.version,
        revision: &source.revision,
    };
    archive.write(&config, &out.join(format!("{}.tar", image.name)))
}
