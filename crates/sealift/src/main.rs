//! One program with two names: `sealift`, and `storage-initializer` as KServe starts it.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: secret::WipeOnFree = secret::WipeOnFree;

fn main() -> ExitCode {
    sealift::run(std::env::args_os().collect())
}
