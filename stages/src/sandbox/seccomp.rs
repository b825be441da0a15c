//! The filter of system calls: what no program that answers a problem needs, and an attack might, is refused.
//!
//! A deny list, since programs differ in what they need: it closes the kernel's larger attack surfaces and every way to change
//! namespaces, and to memory that no limit counts: shared segments, message queues and files without a folder outlive or escape
//! what `RLIMIT_DATA` and the supervisor see. It is the third wall, behind namespaces and Landlock.

use super::SandboxError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};
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
const SOCKET_KIND: u64 = 0xf;

/// Every `CLONE_NEW*` flag of clone(2).
const NEW_NAMESPACES: u64 = 0x7e02_0080;

fn architecture() -> Option<TargetArch> {
    TargetArch::try_from(std::env::consts::ARCH).ok()
}

/// The filters of every program as hexadecimal BPF code; none on a machine that is not known.
pub(super) fn filters() -> Result<Vec<String>, SandboxError> {
    let Some(arch) = architecture() else { return Ok(Vec::new()) };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|&call| (call, Vec::new())).collect();
    let condition = |operator, value| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value);
    let mut namespaces = Vec::new();
    for bit in (0..32).map(|bit| 1_u64 << bit).filter(|bit| NEW_NAMESPACES & bit != 0) {
        namespaces.push(rule(vec![condition(SeccompCmpOp::MaskedEq(bit), bit)])?);
    }
    rules.insert(libc::SYS_clone, namespaces);
    // Sockets of other families than AF_UNIX: asyncio needs a socketpair, nobody needs a network that is not there.
    let other = condition(SeccompCmpOp::Ne, libc::AF_UNIX as u64);
    rules.insert(libc::SYS_socket, vec![rule(vec![other])?]);
    // What lies in the buffers of sockets counts as nobody's memory, so they keep the size that they have.
    let option = |number| {
        let is = |argument, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
        rule(vec![is(1, libc::SOL_SOCKET as u64), is(2, number)])
    };
    let sizes = [libc::SO_SNDBUF, libc::SO_RCVBUF, libc::SO_SNDBUFFORCE, libc::SO_RCVBUFFORCE];
    let sizes = sizes.into_iter().map(|number| option(number as u64)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_setsockopt, sizes);
    let denied = compiled(rules, libc::EPERM as u32, arch)?;
    Ok(vec![hex(&denied), hex(&unknown_to_libc())])
}

/// Where there are no namespaces: no signals to other processes by number, and no socket that could reach a service of the user.
/// Nothing in those services asks who calls beyond the user: a path such as that of `docker.sock` or of D-Bus is a way out.
pub(super) fn no_namespace_filter() -> Result<String, SandboxError> {
    let Some(arch) = architecture() else { return Ok(String::new()) };
    let calls = [
        libc::SYS_connect,
        libc::SYS_kill,
        libc::SYS_pidfd_send_signal,
        libc::SYS_prlimit64,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_socket,
        libc::SYS_tkill,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls.iter().map(|&call| (call, Vec::new())).collect();
    // A socketpair stays, for asyncio, but none of datagrams: those can be sent to any path without connecting.
    // The kernel takes SOCK_RAW for SOCK_DGRAM there.
    let kind = |kind| {
        let masked = SeccompCmpOp::MaskedEq(SOCKET_KIND);
        rule(vec![SeccompCondition::new(1, SeccompCmpArgLen::Dword, masked, kind)])
    };
    rules.insert(libc::SYS_socketpair, vec![kind(libc::SOCK_DGRAM as u64)?, kind(libc::SOCK_RAW as u64)?]);
    Ok(hex(&compiled(rules, libc::EPERM as u32, arch)?))
}

/// clone3(2) passes its flags by pointer, which no filter can read: it is said not to exist, and libc falls back to clone(2).
/// On x86-64 so are the calls of the x32 ABI, whose numbers would slip through a list of the others.
fn unknown_to_libc() -> BpfProgram {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let refuse = 0x0005_0000 | libc::ENOSYS as u32;
    let (load, equal, at_least, ret) = (0x20, 0x15, 0x35, 0x06);
    let mut program = vec![instruction(load, 0, 0, 0)]; // offset 0 of seccomp_data: the call's number
    if cfg!(target_arch = "x86_64") {
        program.push(instruction(at_least, 2, 0, 0x4000_0000));
        program.push(instruction(equal, 1, 0, libc::SYS_clone3 as u32));
    } else {
        program.push(instruction(equal, 1, 0, libc::SYS_clone3 as u32));
    }
    program.push(instruction(ret, 0, 0, 0x7fff_0000));
    program.push(instruction(ret, 0, 0, refuse));
    program
}

fn rule(conditions: Vec<Result<SeccompCondition, seccompiler::BackendError>>) -> Result<SeccompRule, SandboxError> {
    let conditions = conditions
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| SandboxError::Start(error.to_string()))?;
    SeccompRule::new(conditions).map_err(|error| SandboxError::Start(error.to_string()))
}

fn compiled(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: u32, arch: TargetArch) -> Result<BpfProgram, SandboxError> {
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| SandboxError::Start(format!("the filter of system calls does not compile: {error}")))
}

/// A program as the kernel takes it: 8 bytes an instruction, in the machine's byte order.
fn hex(program: &[sock_filter]) -> String {
    let mut text = String::with_capacity(program.len() * 16);
    for instruction in program {
        let jumps = [instruction.jt, instruction.jf];
        let bytes = instruction.code.to_ne_bytes().into_iter().chain(jumps).chain(instruction.k.to_ne_bytes());
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
    }
    text
}
