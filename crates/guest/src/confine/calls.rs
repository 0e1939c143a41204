//! Which system calls, by seccomp: lists of what may be called, and of what else kills the process.

use confine::calls::{Rules, compile, equal, masked};
use libc::c_long;
use seccompiler::{BackendError, BpfProgram, Error, SeccompAction, apply_filter};

/// Of both processes: files below directories that are open, the socket between them, the log,
/// memory, time.
const BOTH: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmod,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mkdirat,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    // A call that the kernel itself makes, when a process that waited was stopped and goes on.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    libc::SYS_write,
    libc::SYS_writev,
    // Where the older forms exist they are taken for a path of its own and for whole milliseconds.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// Of the receiver besides: contents, links and owners, connections, threads.
const RECEIVER: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_fchown,
    libc::SYS_flock,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_geteuid,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvmsg,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sendfile,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_symlinkat,
    // Answered with an error below.
    libc::SYS_clone3,
];

/// Of the mounter besides: mounts, and the end of the receiver.
const MOUNTER: &[c_long] = &[
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_move_mount,
    libc::SYS_umount2,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// Filters the calling thread as a receiver.
pub(super) fn receiver(connects_unix: bool) -> Result<(), Error> {
    // Its flags are out of a filter's sight. The C library then takes `clone`, whose flags are not.
    let clone3 = Rules::from([(libc::SYS_clone3, vec![])]);
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    apply_filter(&compile(clone3, SeccompAction::Allow, missing)?)?;
    apply_filter(&allow_only(receiver_rules(connects_unix)?)?)
}

/// Filters the calling thread as a mounter.
pub(super) fn mounter(connects_unix: bool) -> Result<(), Error> {
    apply_filter(&allow_only(mounter_rules(connects_unix)?)?)
}

fn receiver_rules(connects_unix: bool) -> Result<Rules, BackendError> {
    let mut rules = both()?;
    rules.extend(RECEIVER.iter().map(|call| (*call, vec![])));
    // Threads, no processes.
    rules.insert(libc::SYS_clone, vec![masked(0, libc::CLONE_THREAD, libc::CLONE_THREAD)?]);
    rules.insert(libc::SYS_prctl, vec![equal(0, libc::PR_SET_NAME)?]);
    rules.insert(libc::SYS_ioctl, vec![equal(1, FIONBIO)?]);
    if connects_unix {
        rules.extend(connecting()?);
    }
    Ok(rules)
}

fn mounter_rules(connects_unix: bool) -> Result<Rules, BackendError> {
    let mut rules = both()?;
    rules.extend(MOUNTER.iter().map(|call| (*call, vec![])));
    rules.insert(libc::SYS_mount, vec![masked(3, MS_REMOUNT, MS_REMOUNT)?]);
    rules.insert(libc::SYS_kill, vec![equal(1, libc::SIGKILL)?]);
    if connects_unix {
        rules.extend(connecting()?);
        // With the connection.
        rules.insert(libc::SYS_sendmsg, vec![]);
    }
    Ok(rules)
}

fn connecting() -> Result<Rules, BackendError> {
    Ok(Rules::from([
        (libc::SYS_socket, vec![equal(0, libc::AF_UNIX)?]),
        (libc::SYS_connect, vec![]),
    ]))
}

fn both() -> Result<Rules, BackendError> {
    let mut rules: Rules = BOTH.iter().map(|call| (*call, vec![])).collect();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![masked(2, libc::PROT_EXEC, 0)?]);
    }
    // How a process aborts: a signal to itself.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    rules.insert(libc::SYS_tgkill, vec![equal(0, own)?]);
    Ok(rules)
}

// As ints, like the other constants here.
#[allow(clippy::cast_possible_truncation, reason = "a bit below 32")]
const MS_REMOUNT: i32 = libc::MS_REMOUNT as i32;
#[allow(clippy::cast_possible_truncation, reason = "a number below 2^31")]
const FIONBIO: i32 = libc::FIONBIO as i32;

fn allow_only(rules: Rules) -> Result<BpfProgram, BackendError> {
    compile(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

#[cfg(test)]
mod tests;
