//! Kills at system calls, by strace, of programs that are tried as they are: so nothing is left out
//! that the code forgot to name as a step.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};

/// One system call at which to kill: the `n`th of this name in whichever thread makes so many first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub call: String,
    /// Counted from 1.
    pub n: usize,
}

impl Step {
    /// strace's arguments to kill there.
    pub fn arguments(&self) -> Vec<String> {
        let Self { call, n } = self;
        let inject = format!("inject={call}:signal=KILL:when={n}");
        ["-o", "/dev/null", "-e", &format!("trace={call}"), "-e", &inject].map(Into::into).into()
    }
}

/// strace, following every thread and process, with these arguments.
pub fn strace(arguments: &[String]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(arguments);
    command
}

/// strace on a process that runs already, once it has every thread of it.
pub fn attach(process: i32, arguments: &[String]) -> Child {
    let mut command = strace(arguments);
    command.arg("-p").arg(process.to_string()).stderr(Stdio::null());
    let strace = command.spawn().expect("strace is installed");
    while !is_traced(process) {
        thread::sleep(Duration::from_millis(1));
    }
    strace
}

/// Whether every thread of a process is traced, or gone: one that was killed as soon as it was
/// traced is a zombie until it is waited for.
fn is_traced(process: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return true };
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let is_gone = status.lines().any(|line| line.starts_with("State:\tZ"));
        is_gone || !status.lines().any(|line| line == "TracerPid:\t0")
    })
}

/// Whether strace works here; if not, that is said, and an error where nothing may be skipped.
pub fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status();
    let works = tried.is_ok_and(|status| status.success());
    if !works {
        assert!(std::env::var_os("SEALIFT_TEST_STRICT").is_none(), "strace does not work here");
        crate::skip("killing at system calls, since strace does not work here");
    }
    works
}

/// strace's arguments to count `calls` in a file.
pub fn counting(calls: &[&str], trace: &Path) -> Vec<String> {
    let trace = trace.display().to_string();
    ["-o", &trace, "-e", &format!("trace={}", calls.join(","))].map(Into::into).into()
}

/// strace's arguments for [`confined_calls`].
pub fn numbering(trace: &Path) -> Vec<String> {
    ["-n", "-o", &trace.display().to_string()].map(Into::into).into()
}

/// The numbers of the calls that a program made after it had confined itself with `confine::program`.
///
/// # Panics
///
/// If it has not, or one of them was answered as by a kernel that does not have it. Not so `clone3`,
/// which the C library always tries first.
pub fn confined_calls(trace: &Path) -> BTreeSet<i64> {
    let text = fs::read_to_string(trace).expect("strace has written its trace");
    let mut made = BTreeSet::new();
    let mut filters = 0;
    for line in text.lines() {
        // `7  [ 257] openat(…) = 3`, also in parts.
        let number = line.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let number = number.and_then(|(number, _)| number.trim().parse().ok());
        match number {
            Some(libc::SYS_seccomp) => filters += 1,
            Some(number) if filters == 2 && number != libc::SYS_clone3 => {
                assert!(!line.contains("ENOSYS"), "not on the list: {line}");
                made.insert(number);
            }
            _ => {}
        }
    }
    assert_eq!(filters, 2, "it was not confined");
    made
}

/// Sends a signal to the program below strace, which ends with it.
pub fn signal_traced(strace: &Child, signal: Signal) {
    let children = format!("/proc/{0}/task/{0}/children", strace.id());
    for child in fs::read_to_string(children).unwrap_or_default().split_whitespace() {
        let child = child.parse().ok().and_then(Pid::from_raw).expect("the kernel's numbers");
        kill_process(child, signal).expect("it runs");
    }
}

/// Every step that a run made of which this is the trace.
pub fn steps(trace: &Path) -> Vec<Step> {
    let text = fs::read_to_string(trace).expect("strace has written its trace");
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let call = rest.trim_start().split('(').next().unwrap_or_default();
        if !call.is_empty() && call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            *counts.entry((call, thread)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<&str, usize> = BTreeMap::new();
    for ((call, _), count) in counts {
        let most = most.entry(call).or_default();
        *most = count.max(*most);
    }
    let step = |(call, count): (&str, usize)| {
        (1..=count).map(|n| Step { call: call.to_owned(), n }).collect::<Vec<_>>()
    };
    most.into_iter().flat_map(step).collect()
}

/// As many steps, spread over all of them, as a test that runs with every change may take; all, if
/// `SEALIFT_KILLS` is `all`.
pub fn spread(steps: Vec<Step>, at_most: usize) -> Vec<Step> {
    if std::env::var("SEALIFT_KILLS").is_ok_and(|which| which == "all") || steps.len() <= at_most {
        return steps;
    }
    let count = steps.len();
    (0..at_most).map(|index| steps[index * count / at_most].clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_counted_in_the_thread_that_makes_most_of_it() {
        let trace = tempfile::NamedTempFile::new().expect("a file");
        let text = "7 renameat(3, \"a\") = 0\n8   unlinkat(4, <unfinished ...>\n\
                    7 renameat(3, \"b\") = 0\n8 <... unlinkat resumed>) = 0\n\
                    8 renameat(3, \"c\") = 0\n7 +++ killed by SIGKILL +++\n7 --- SIGCHLD {} ---\n";
        fs::write(trace.path(), text).expect("written");
        let step = |call: &str, n| Step { call: call.into(), n };
        let all = [step("renameat", 1), step("renameat", 2), step("unlinkat", 1)];
        assert_eq!(steps(trace.path()), all);
        assert_eq!(spread(all.to_vec(), 2), [step("renameat", 1), step("renameat", 2)]);
    }
}
