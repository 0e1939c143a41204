use super::*;
use testkit::filter::passes;

/// Numbers of calls that are looked at; those of 2026 are below 480.
const NUMBERS: std::ops::Range<c_long> = 0..1_024;

/// Whatever there is to reach.
const ALL: Reach = Reach {
    internet: true,
    unix: true,
    vsock: true,
    listen: true,
    accept: true,
    watch: true,
    owners: true,
};

#[test]
fn what_is_listed_passes_and_nothing_else() {
    let listed = listed(Reach::default()).unwrap();
    let mut expected: Vec<_> = always().collect();
    // With arguments of zeros.
    expected.extend([libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_prlimit64]);
    expected.sort_unstable();
    let passing: Vec<_> = NUMBERS.filter(|call| passes(&listed, *call, [0; 6])).collect();
    assert_eq!(passing, expected);
}

#[test]
fn an_intruder_is_killed_whatever_the_arguments_and_nobody_else() {
    let (intruder, listed) = (intruder().unwrap(), listed(ALL).unwrap());
    for argument in [0, 1, 9, u64::from(u32::MAX), u64::MAX] {
        for call in NUMBERS {
            let wanted = !INTRUDER.contains(&call);
            assert_eq!(passes(&intruder, call, [argument; 6]), wanted, "{call} {argument}");
            assert!(wanted || !passes(&listed, call, [argument; 6]), "{call} {argument}");
        }
    }
}

#[test]
fn arguments_are_looked_at() {
    let all = listed(ALL).unwrap();
    let listed = listed(Reach { internet: true, ..Reach::default() }).unwrap();
    let at = |position: usize, value: u64| {
        let mut arguments = [0; 6];
        arguments[position] = value;
        arguments
    };
    let own = u64::from(std::process::id());
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned()) | 0x3d_0f00;
    let cases = [
        (libc::SYS_clone, at(0, thread), true),
        (libc::SYS_clone, at(0, 17), false),
        (libc::SYS_clone3, [0; 6], false),
        (libc::SYS_mmap, at(2, 3), true),
        (libc::SYS_mmap, at(2, 5), false),
        (libc::SYS_mprotect, at(2, 7), false),
        (libc::SYS_prctl, at(0, 15), true),
        // PR_SET_DUMPABLE: it stays off.
        (libc::SYS_prctl, at(0, 4), false),
        (libc::SYS_prlimit64, at(2, 1), false),
        (libc::SYS_socket, at(0, 2), true),
        (libc::SYS_socket, at(0, 17), false),
        (libc::SYS_ioctl, at(1, 0x5421), true),
        // TIOCSTI: keys on somebody's terminal.
        (libc::SYS_ioctl, at(1, 0x5412), false),
        (libc::SYS_tgkill, at(0, own), true),
        (libc::SYS_tgkill, at(0, 1), false),
        (libc::SYS_kill, at(0, own), true),
        (libc::SYS_kill, at(0, 1), false),
    ];
    for (call, arguments) in [
        (libc::SYS_socket, at(0, 1)),
        (libc::SYS_socket, at(0, 40)),
        (libc::SYS_listen, [0; 6]),
        (libc::SYS_accept4, [0; 6]),
        (libc::SYS_inotify_init1, [0; 6]),
        (libc::SYS_inotify_add_watch, [0; 6]),
        (libc::SYS_inotify_rm_watch, [0; 6]),
    ] {
        assert_eq!(
            (passes(&all, call, arguments), passes(&listed, call, arguments)),
            (true, false)
        );
    }
    for (call, arguments, expected) in cases {
        assert_eq!(passes(&listed, call, arguments), expected, "{call} {arguments:x?}");
    }
}

#[test]
fn each_thing_to_reach_brings_its_own_calls_and_no_other() {
    let none = Reach::default();
    for (reach, expected) in [
        (Reach { accept: true, ..none }, [false, true, false, false]),
        (Reach { listen: true, ..none }, [true, true, false, false]),
        (Reach { watch: true, ..none }, [false, false, true, false]),
        (Reach { owners: true, ..none }, [false, false, false, true]),
    ] {
        let filter = listed(reach).unwrap();
        let calls =
            [libc::SYS_listen, libc::SYS_accept4, libc::SYS_inotify_add_watch, libc::SYS_fchown];
        assert_eq!(calls.map(|call| passes(&filter, call, [0; 6])), expected, "{reach:?}");
    }
    for (reach, families) in [
        (none, &[][..]),
        (Reach { internet: true, ..none }, &[2, 10, 16]),
        (Reach { unix: true, ..none }, &[1]),
        (Reach { vsock: true, ..none }, &[40]),
    ] {
        let filter = listed(reach).unwrap();
        let made = |family: &u64| passes(&filter, libc::SYS_socket, [*family, 0, 0, 0, 0, 0]);
        let made: Vec<u64> = (0..64).filter(made).collect();
        assert_eq!(made, families, "{reach:?}");
    }
}

#[test]
fn somebody_elses_code_makes_threads_and_processes_but_no_namespaces() {
    let forbidden = forbidden().unwrap();
    for call in NUMBERS {
        assert_eq!(passes(&forbidden, call, [0; 6]), !INTRUDER.contains(&call), "{call}");
    }
    for flag in NAMESPACES {
        let flags = u64::from(flag.cast_unsigned());
        assert!(!passes(&forbidden, libc::SYS_clone, [flags | 17, 0, 0, 0, 0, 0]), "{flag:#x}");
    }
    let thread = u64::from(libc::CLONE_THREAD.cast_unsigned()) | 0x3d_0f00;
    assert!(passes(&forbidden, libc::SYS_clone, [thread, 0, 0, 0, 0, 0]));
}
