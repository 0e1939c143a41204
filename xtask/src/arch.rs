//! [`Arch`]: processors that programs are built for, this machine's and others'.

use std::process::Command;

use anyhow::Result;

use crate::setup;

/// A kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// This machine's.
    pub(crate) fn here() -> Self {
        if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 }
    }

    /// By its name in images and packages.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::X86_64, Self::Aarch64].into_iter().find(|arch| arch.name() == name)
    }

    /// In images (OCI's words are Go's) and in Debian's packages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// In names of compilers and emulators.
    pub(crate) fn machine(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Rust's name of Linux on it.
    pub(crate) fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.machine())
    }

    /// The C compiler for it.
    pub(crate) fn compiler(self) -> String {
        if self == Self::here() { "cc".into() } else { format!("{}-linux-gnu-gcc", self.machine()) }
    }

    /// Tells `cargo build` to build for it; installs what that takes.
    pub(crate) fn prepare(self, build: &mut Command) -> Result<&mut Command> {
        let target = self.target();
        build.args(["--target", &target]);
        if self != Self::here() {
            setup::compiler(self)?;
            let linker = format!("CARGO_TARGET_{}_LINKER", target.replace('-', "_").to_uppercase());
            build.env(linker, self.compiler());
        }
        Ok(build)
    }
}
