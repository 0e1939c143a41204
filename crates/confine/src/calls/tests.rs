use super::*;
use testkit::filter::passes;

/// Numbers of calls that are looked at; those of 2026 are below 480.
const NUMBERS: std::ops::Range<c_long> = 0..1_024;

#[test]
fn what_is_listed_passes_and_nothing_else() {
    let listed = listed(Sockets::default()).unwrap();
    let mut expected = [PROGRAM, OLDER].concat();
    // With arguments of zeros.
    expected.extend([libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_prlimit64]);
    expected.sort_unstable();
    let passing: Vec<_> = NUMBERS.filter(|call| passes(&listed, *call, [0; 6])).collect();
    assert_eq!(passing, expected);
}

#[test]
fn an_intruder_is_killed_whatever_the_arguments_and_nobody_else() {
    let all = Sockets { unix: true, listen: true };
    let (intruder, listed) = (intruder().unwrap(), listed(all).unwrap());
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
    let all = listed(Sockets { unix: true, listen: true }).unwrap();
    let listed = listed(Sockets::default()).unwrap();
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
    for (call, arguments) in
        [(libc::SYS_socket, at(0, 1)), (libc::SYS_listen, [0; 6]), (libc::SYS_accept4, [0; 6])]
    {
        assert_eq!(
            (passes(&all, call, arguments), passes(&listed, call, arguments)),
            (true, false)
        );
    }
    for (call, arguments, expected) in cases {
        assert_eq!(passes(&listed, call, arguments), expected, "{call} {arguments:x?}");
    }
}
