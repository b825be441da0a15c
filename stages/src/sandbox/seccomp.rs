//! The filter of system calls: what no program that answers a problem needs, and an attack might, is refused.
//!
//! A deny list, since programs differ in what they need: it closes the kernel's larger attack surfaces and every way to change
//! namespaces, and to memory that no limit counts: shared segments, message queues and files without a folder outlive or escape
//! what `RLIMIT_DATA` and the supervisor see. It is the third wall, behind namespaces and Landlock.
//!
//! The filter is a search tree over the calls' numbers. The kernel runs a filter once for every call that there is when it is
//! installed, and every program installs it: a list, as the libraries for this make it, costs each program ten times as much.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Refused whatever the arguments.
const DENIED: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_msgget,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_semget,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmget,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// The bits of a socket's type that are no flags.
const SOCKET_KIND: u32 = 0xf;

/// Every `CLONE_NEW*` flag of clone(2).
const NEW_NAMESPACES: u32 = 0x7e02_0080;

/// `AUDIT_ARCH_*` of <linux/audit.h>: whose numbers the calls are.
const ARCHITECTURE: Option<u32> = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => Some(0xc000_003e),
    b"aarch64" => Some(0xc000_00b7),
    _ => None,
};

/// The first number of the calls of the x32 ABI, which would slip through a list of the others.
const X32: u32 = 0x4000_0000;

/// What is answered to a call of some number.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Whatever the kernel answers.
    Allowed,
    /// Not permitted.
    Denied,
    /// Not permitted where all these hold.
    DeniedIf(&'static [Test]),
    /// There is no such call.
    Unknown,
}

/// Asks an argument of a call, of which a filter sees no more than the number.
#[derive(Debug, Clone, Copy)]
struct Test {
    /// Its place, from 0.
    argument: u32,
    /// The bits to look at.
    mask: u32,
    /// What they are compared with.
    values: &'static [u32],
    /// Whether the bits are to be one of the values, or none of them.
    is_one: bool,
}

/// The filter of every program as hexadecimal BPF code; none on a machine that is not known.
pub(super) fn filter() -> Option<String> {
    Some(hex(&compiled(&answers(), ARCHITECTURE?)))
}

/// The filter where there are no namespaces: no signals to other processes by number either, and no socket that could reach a
/// service of the user. Nothing in those services asks who calls beyond the user: a path such as that of `docker.sock` or of D-Bus
/// is a way out.
pub(super) fn filter_without_namespaces() -> Option<String> {
    const DATAGRAM_OR_RAW: &[u32] = &[libc::SOCK_DGRAM as u32, libc::SOCK_RAW as u32];
    let mut answers = answers();
    for call in [
        libc::SYS_connect,
        libc::SYS_kill,
        libc::SYS_pidfd_send_signal,
        libc::SYS_prlimit64,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_socket,
        libc::SYS_tkill,
    ] {
        answers.insert(call as u32, Answer::Denied);
    }
    // A socketpair stays, for asyncio, but none of datagrams: those can be sent to any path without connecting.
    // The kernel takes SOCK_RAW for SOCK_DGRAM there.
    let kind = &[Test { argument: 1, mask: SOCKET_KIND, values: DATAGRAM_OR_RAW, is_one: true }];
    answers.insert(libc::SYS_socketpair as u32, Answer::DeniedIf(kind));
    Some(hex(&compiled(&answers, ARCHITECTURE?)))
}

/// What is refused everywhere, by the number of the call.
fn answers() -> BTreeMap<u32, Answer> {
    const ALL: u32 = u32::MAX;
    const BUFFER_SIZES: &[u32] =
        &[libc::SO_SNDBUF as u32, libc::SO_RCVBUF as u32, libc::SO_SNDBUFFORCE as u32, libc::SO_RCVBUFFORCE as u32];
    let mut answers: BTreeMap<u32, Answer> = DENIED.iter().map(|&call| (call as u32, Answer::Denied)).collect();
    // clone3(2) passes its flags by pointer, which no filter can read: it is said not to exist, and libc falls back to clone(2).
    answers.insert(libc::SYS_clone3 as u32, Answer::Unknown);
    let namespaces = &[Test { argument: 0, mask: NEW_NAMESPACES, values: &[0], is_one: false }];
    answers.insert(libc::SYS_clone as u32, Answer::DeniedIf(namespaces));
    // Sockets of other families than AF_UNIX: asyncio needs a socketpair, nobody needs a network that is not there.
    let other = &[Test { argument: 0, mask: ALL, values: &[libc::AF_UNIX as u32], is_one: false }];
    answers.insert(libc::SYS_socket as u32, Answer::DeniedIf(other));
    // What lies in the buffers of sockets counts as nobody's memory, so they keep the size that they have.
    let sizes = &[
        Test { argument: 1, mask: ALL, values: &[libc::SOL_SOCKET as u32], is_one: true },
        Test { argument: 2, mask: ALL, values: BUFFER_SIZES, is_one: true },
    ];
    answers.insert(libc::SYS_setsockopt as u32, Answer::DeniedIf(sizes));
    answers
}

/// An instruction of classic BPF, as `struct sock_filter` has it: code, how far to jump where it holds and where not, and a constant.
type Instruction = (u16, u8, u8, u32);

// The codes of <linux/bpf_common.h>: what is loaded, compared and masked is the accumulator.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const ALLOW: Instruction = (RETURN, 0, 0, 0x7fff_0000);
const DENY: Instruction = (RETURN, 0, 0, 0x0005_0000 | libc::EPERM as u32);
const SAY_UNKNOWN: Instruction = (RETURN, 0, 0, 0x0005_0000 | libc::ENOSYS as u32);
const KILL: Instruction = (RETURN, 0, 0, 0x8000_0000);

// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const OF_ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

fn compiled(answers: &BTreeMap<u32, Answer>, architecture: u32) -> Vec<Instruction> {
    let mut program = vec![(LOAD, 0, 0, OF_ARCHITECTURE), (IF_EQUAL, 1, 0, architecture), KILL, (LOAD, 0, 0, NUMBER)];
    if cfg!(target_arch = "x86_64") {
        program.extend([(IF_AT_LEAST, 0, 1, X32), SAY_UNKNOWN]);
    }
    let mut runs = vec![(0, Answer::Allowed)];
    for (&number, &answer) in answers {
        // A call's run takes over where that of its predecessor was to end.
        runs.pop_if(|(first, answer)| *first == number && matches!(answer, Answer::Allowed));
        match runs.last() {
            Some((_, Answer::Denied)) if matches!(answer, Answer::Denied) => {}
            _ => runs.push((number, answer)),
        }
        runs.push((number + 1, Answer::Allowed));
    }
    program.extend(search(&runs));
    program
}

/// Finds the run of numbers that the loaded one lies in, each with its first number, and answers.
fn search(runs: &[(u32, Answer)]) -> Vec<Instruction> {
    let (below, from) = runs.split_at(runs.len() / 2);
    match (below, from) {
        (_, []) => vec![ALLOW],
        ([], [(_, answer), ..]) => answered(*answer),
        (_, [(number, _), ..]) => {
            let below = search(below);
            let mut program = vec![(IF_AT_LEAST, distance(below.len()), 0, *number)];
            program.extend(below);
            program.extend(search(from));
            program
        }
    }
}

fn answered(answer: Answer) -> Vec<Instruction> {
    match answer {
        Answer::Allowed => vec![ALLOW],
        Answer::Denied => vec![DENY],
        Answer::Unknown => vec![SAY_UNKNOWN],
        Answer::DeniedIf(tests) => {
            let mut program = Vec::new();
            for test in tests {
                program.push((LOAD, 0, 0, ARGUMENTS + 8 * test.argument));
                program.push((AND, 0, 0, test.mask));
                for (place, value) in test.values.iter().enumerate() {
                    // Past the other comparisons, and past what is done where no value is met.
                    program.push((IF_EQUAL, distance(test.values.len() - place), 0, *value));
                }
                // Then comes what is done where one is met: the next test, or the end of it.
                let (unmet, met) = if test.is_one { (ALLOW, None) } else { ((JUMP, 0, 0, 1), Some(ALLOW)) };
                program.push(unmet);
                program.extend(met);
            }
            program.push(DENY);
            program
        }
    }
}

/// How far a conditional jump goes, in instructions.
#[expect(clippy::expect_used, reason = "the programs are made of constants, and every test makes them")]
fn distance(instructions: usize) -> u8 {
    u8::try_from(instructions).expect("a jump of BPF goes at most 255 instructions")
}

/// A program as the kernel takes it: 8 bytes an instruction, in the machine's byte order.
fn hex(program: &[Instruction]) -> String {
    let mut text = String::with_capacity(program.len() * 16);
    for (code, met, unmet, constant) in program {
        let bytes = code.to_ne_bytes().into_iter().chain([*met, *unmet]).chain(constant.to_ne_bytes());
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program answers, run as `linux/bpf_common.h` defines its instructions, and how many of them it took.
    fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u32; 3]) -> (u32, usize) {
        let (mut at, mut accumulator, mut steps) = (0, 0, 0);
        loop {
            let (code, met, unmet, constant) = program[at];
            (at, steps) = (at + 1, steps + 1);
            match code {
                LOAD => {
                    accumulator = match constant {
                        NUMBER => number,
                        OF_ARCHITECTURE => architecture,
                        offset => arguments[(offset - ARGUMENTS) as usize / 8],
                    }
                }
                AND => accumulator &= constant,
                JUMP => at += constant as usize,
                IF_EQUAL => at += usize::from(if accumulator == constant { met } else { unmet }),
                IF_AT_LEAST => at += usize::from(if accumulator >= constant { met } else { unmet }),
                RETURN => return (constant, steps),
                other => panic!("no instruction {other:#x} at {at}"),
            }
        }
    }

    #[test]
    fn each_call_gets_its_answer_in_few_steps() {
        let Some(architecture) = ARCHITECTURE else { return };
        let program = compiled(&answers(), architecture);
        let ask = |number: i64, arguments| {
            let (answer, steps) = run(&program, architecture, number as u32, arguments);
            assert!(steps < 25, "{steps} steps");
            answer
        };
        for number in 0..600 {
            let known = answers().get(&(number as u32)).copied();
            match known {
                None | Some(Answer::Allowed) => assert_eq!(ask(number, [0; 3]), ALLOW.3, "{number}"),
                Some(Answer::Denied) => assert_eq!(ask(number, [0; 3]), DENY.3, "{number}"),
                Some(Answer::Unknown) => assert_eq!(ask(number, [0; 3]), SAY_UNKNOWN.3, "{number}"),
                Some(Answer::DeniedIf(_)) => {}
            }
        }
        let (stream, datagram) = (libc::SOCK_STREAM as u32, libc::SOCK_DGRAM as u32);
        let (of_socket, internet) = (libc::SOL_SOCKET as u32, libc::AF_INET as u32);
        for (number, arguments, answer) in [
            (libc::SYS_clone, [libc::SIGCHLD as u32, 0, 0], ALLOW),
            (libc::SYS_clone, [libc::CLONE_NEWUSER as u32 | libc::SIGCHLD as u32, 0, 0], DENY),
            (libc::SYS_clone, [libc::CLONE_NEWTIME as u32, 0, 0], DENY),
            (libc::SYS_socket, [libc::AF_UNIX as u32, stream, 0], ALLOW),
            (libc::SYS_socket, [internet, stream, 0], DENY),
            (libc::SYS_setsockopt, [3, of_socket, libc::SO_SNDBUF as u32], DENY),
            (libc::SYS_setsockopt, [3, of_socket, libc::SO_RCVBUFFORCE as u32], DENY),
            (libc::SYS_setsockopt, [3, of_socket, libc::SO_REUSEADDR as u32], ALLOW),
            (libc::SYS_setsockopt, [3, of_socket + 1, libc::SO_SNDBUF as u32], ALLOW),
            (libc::SYS_socketpair, [libc::AF_UNIX as u32, datagram, 0], ALLOW),
            (libc::SYS_kill, [1, 9, 0], ALLOW),
        ] {
            assert_eq!(ask(number, arguments), answer.3, "{number} {arguments:?}");
        }
        assert_eq!(
            run(&program, 0x4000_0003, libc::SYS_read as u32, [0; 3]).0,
            KILL.3,
            "calls of another architecture"
        );
        if cfg!(target_arch = "x86_64") {
            assert_eq!(ask(i64::from(X32) + libc::SYS_read, [0; 3]), SAY_UNKNOWN.3);
        }
    }
}
