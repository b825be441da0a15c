"""The zygote: one warm interpreter that forks a jailed child for every program. Trusted; it never sees a program or a test.

Five files make one script: `jail.py` shuts a process in, `values.py` says values as text, `stand_ins.py` lets test code work from a
second process, `modes.py` is all that a process can be asked to do there, `zygote.py` forks and watches.
Started by `zygote.rs` as `python3 -s -S -B -c <these> <config as JSON>` with an empty environment; descriptor 0 is a SEQPACKET
socket. Each message carries limits and the descriptors of one process, or of two that are linked (request, stdin, stdout, stderr,
result). The child reads the request itself, inside its jail, so that nothing of one program is ever in the memory that the next
one inherits. Expected values never enter the process that runs a program.
"""
import sys

sys.path[:] = [p for p in sys.path if p]
import _sitebuiltins
import array, ast, builtins, ctypes, errno, gc, io, json, os, resource, select, signal, socket, threading, time, traceback, types
# What programs import, so that it need not be read for each. Not hashlib: its OpenSSL would cost every fork more than it saves a few.
import atexit, bisect, collections, copy, datetime, decimal, enum, fractions, functools, heapq, inspect, itertools
import math, operator, random, re, statistics, string, textwrap, typing, warnings, abc, contextlib, dataclasses, numbers

CONFIG = json.loads(sys.argv[1])
DISABLED = set(CONFIG["disable"])
LIBC = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the GIL: clone(2) must return in a child that holds it
MACHINE = os.uname().machine
# Numbers of clone(2) and capset(2); those of Landlock and of close_range(2) are the same everywhere.
SYS_CLONE, SYS_CAPSET = {"x86_64": (56, 126), "aarch64": (220, 91)}.get(MACHINE, (None, None))
SYS_CLOSE_RANGE = 436
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD = 0x1000
LARGE_PAGE, MADV_COLLAPSE = 2 << 20, 25
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 0x40000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_SUBREAPER = 1, 4, 22, 38, 36
NOBODY = 65534
RESULT_FD, READY_FD, REQUEST_FD, RULES_FD, LINK_FD = 63, 62, 61, 60, 59
STACKS = 512 << 20  # the stacks of threads are reserved whole and used in part; what is used the supervisor sees
NO_CAPABILITIES = array.array("I", [0x20080522, 0]).tobytes()  # the head of what capset(2) takes
ENVIRONMENT = {"LANG": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "HOME": "/tmp", "PATH": "/usr/bin:/bin"}


class Failed(Exception):
    """A step of building the jail failed."""


def check(value, what):
    if value < 0:
        number = ctypes.get_errno()
        raise Failed("%s: %s" % (what, os.strerror(number)))
    return value


def encoded(path):
    return path.encode() if isinstance(path, str) else path


def mount(source, target, kind, flags, data=None):
    check(LIBC.mount(encoded(source), encoded(target), encoded(kind), flags, encoded(data)), "mount %s on %s" % (source, target))


def maps_of(inside, outside):
    """What to write where, that an only user and group of a new user namespace stand for these outside."""
    pairs = [b"%d %d 1" % pair for pair in zip(inside, outside)]
    return (("self/setgroups", b"deny"), ("self/uid_map", pairs[0]), ("self/gid_map", pairs[1]))


def write_maps(proc, maps):
    """Maps users and groups in the namespace that this process is the first of."""
    for name, text in maps:
        fd = os.open(name, os.O_WRONLY, dir_fd=proc)
        os.write(fd, text)
        os.close(fd)


def close_from(lowest):
    """Closes every descriptor from this number up."""
    if LIBC.syscall(SYS_CLOSE_RANGE, lowest, ctypes.c_uint(0xFFFFFFFF), 0) < 0:
        os.closerange(lowest, 1 << 16)  # a kernel before 5.9


# ---- what is done once: namespaces and a root folder that holds the interpreter and nothing else -------------------------


def enter_namespaces(proc):
    """Own network, mounts, IPC and host name: as root directly, else inside an own user namespace."""
    flags = NEWNS | NEWNET | NEWIPC | NEWUTS
    if os.geteuid() == 0 and LIBC.unshare(flags) == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    check(LIBC.unshare(flags | NEWUSER), "unshare user namespace")
    write_maps(proc, maps_of((0, 0), (uid, gid)))
    return False


def build_root():
    """Makes a new root: read-only binds of the interpreter and the system's libraries, /dev/null, an empty /tmp.

    It is put together over /proc: a folder that every machine has, that no interpreter lies in, and that is left as it was when
    the namespace ends, however it ends. The host's /proc stays open as `STATE.proc`.
    """
    folder = "/proc"
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("jail", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in CONFIG["visible"] + ["/dev/null", "/dev/urandom"]:
        target = folder + path
        if os.path.islink(path):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.readlink(path), target)
            continue
        if os.path.isdir(path):
            os.makedirs(target, exist_ok=True)
        elif os.path.exists(path):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        else:
            continue
        mount(path, target, None, MS_BIND)
        if not path.startswith("/dev/"):
            # A bind made in a user namespace must keep the flags that its source is locked with.
            locked = os.statvfs(target).f_flag & (2 | 4 | 8)
            kept = (MS_NOSUID if locked & 2 else 0) | (MS_NODEV if locked & 4 else 0) | (8 if locked & 8 else 0)
            mount("none", target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | kept)
    os.mkdir(folder + "/tmp")
    os.symlink("/tmp", folder + "/dev/shm")
    os.symlink("/tmp/stdin", folder + "/dev/stdin")
    os.mkdir(folder + "/old")
    pivot = {"x86_64": 155, "aarch64": 41}[MACHINE]
    check(LIBC.syscall(pivot, encoded(folder), encoded(folder + "/old")), "pivot_root")
    os.chdir("/")
    check(LIBC.umount2(b"/old", 2), "umount the host's files")
    os.rmdir("/old")
    mount("none", "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def readable():
    """Whether the interpreter's library can still be read, as it must after the user was changed."""
    return os.access(os.__file__, os.R_OK)


def become_nobody():
    """Gives root up for good. RLIMIT_NPROC does not bind root, and root owns what the binds show."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # else /proc/self/uid_map of the children belongs to root


def landlock_abi():
    version = LIBC.syscall(444, None, 0, 1)
    return max(version, 0)


def set_up():
    """Builds the jail, as far as the machine lets it. Returns (in force, missing with reasons)."""
    state = types.SimpleNamespace(force=[], missing={}, proc=-1, flags=0, landlock=None, filter=None, full_root=False, work="/tmp")
    try:
        state.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        state.missing["namespaces"] = "/proc: %s" % error
    if "namespaces" in DISABLED:
        state.missing["namespaces"] = "switched off"
    elif state.proc >= 0 and SYS_CLONE is not None:
        try:
            was_root = enter_namespaces(state.proc)
            build_root()
            state.full_root = True
            if was_root:
                become_nobody()
                if not readable():
                    raise Failed("the interpreter's files cannot be read by an ordinary user")
            state.flags = NEWUSER | NEWPID | NEWNS | NEWIPC | NEWUTS
            state.maps = maps_of((NOBODY, NOBODY), (os.geteuid(), os.getegid()))
            state.force += ["network namespace", "user namespace", "pid namespace", "mount namespace"]
        except (Failed, OSError) as error:
            # Half a jail cannot be undone: the caller starts again without namespaces.
            raise Failed("namespaces: %s" % error)
    elif SYS_CLONE is None:
        state.missing["namespaces"] = "not known for %s" % MACHINE
    if not state.flags:
        LIBC.prctl(PR_SET_SUBREAPER, 1, 0, 0, 0)
        state.work = CONFIG["work"]
    abi = 0 if "landlock" in DISABLED else landlock_abi()
    if abi:
        state.landlock = landlock_rules(abi, state.full_root, state.work)
        state.force.append("landlock")
    else:
        state.missing["landlock"] = "switched off" if "landlock" in DISABLED else "the kernel has it not, or not switched on"
    if "seccomp" in DISABLED:
        state.missing["seccomp"] = "switched off"
    elif CONFIG["filter"]:
        state.filter = SockFprog.of(CONFIG["filter" if state.flags else "filter_without_namespaces"])
        state.force.append("seccomp")
    else:
        state.missing["seccomp"] = "no filter for %s" % MACHINE
    state.force.append("rlimits")
    return state


class SockFprog(ctypes.Structure):
    """A filter as prctl(2) takes it."""
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    @classmethod
    def of(cls, code):
        return cls(len(code) // 16, bytes.fromhex(code))  # which keeps the bytes alive


# ---- what every child does before a line of the program runs -------------------------------------------------------------


def landlock_rules(abi, full_root, work):
    """Landlock: everything can be read and run that is visible, only the work folder written; no TCP, no signals to outside. Returns
    what a ruleset handles, and its rules as paths with the rights beneath them."""
    all_rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    read_rights = 0b1101  # execute, read file, read folder
    of_a_file = 0b111 | (1 << 14)  # run, write, read, truncate
    handled = [all_rights] + [3] * (abi >= 4) + [3] * (abi >= 6)
    readable = ["/"] if full_root else CONFIG["visible"] + ["/dev/urandom"]
    rules = [(path, read_rights if os.path.isdir(path) else read_rights & of_a_file) for path in readable]
    rules += [(work, all_rights), ("/dev/null", 0b110 | (1 << 14 if abi >= 3 else 0))]
    packed = lambda numbers: array.array("Q", numbers).tobytes()
    return packed(handled), [(path, packed([rights])) for path, rights in rules if os.path.exists(path)]


def restrict_files(handled, rules):
    """Makes the ruleset, in every child anew: its work folder is a file system of its own."""
    ruleset = check(LIBC.syscall(444, handled, len(handled), 0), "landlock_create_ruleset")
    for path, rights in rules:
        fd = os.open(path, os.O_PATH)
        check(LIBC.syscall(445, ruleset, 1, rights + fd.to_bytes(4, sys.byteorder), 0), "landlock_add_rule")
        os.close(fd)
    return ruleset


def rlimits(header):
    """The limits that the kernel keeps, none above what the zygote itself has."""
    wanted = {
        resource.RLIMIT_CPU: int(header["cpu"]) + 2,
        resource.RLIMIT_DATA: header["memory"] + STACKS,
        resource.RLIMIT_AS: header["address_space"],
        resource.RLIMIT_FSIZE: header["output"],
        resource.RLIMIT_NOFILE: 64,
        # Without namespaces it counts all processes of the user, not this program's.
        resource.RLIMIT_NPROC: header["processes"] if STATE.flags else None,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: 64 << 20,
    }
    found = []
    for kind, value in wanted.items():
        highest = resource.getrlimit(kind)[1]
        if value is not None:
            value = min(value, highest) if highest >= 0 else value
            found.append((kind, (value, value)))
    return found


def jail(header, fds, ready):
    """Shuts this process in. From the last line on nothing but the request, three streams, the result and the link is within reach.

    Every page of memory that this touches is copied, which is most of what a program costs: what can be made ready in the zygote is.
    """
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.close(ALIVE_WRITE)
    if select.select([ALIVE_READ], [], [], 0)[0]:
        os._exit(9)  # the zygote died before the line above
    os.setsid()
    if STATE.flags:
        write_maps(STATE.proc, STATE.maps)
        check(LIBC.mount(b"work", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, header["tmpfs"]), "mount the work folder")
    os.chdir(WORK)
    ruleset = restrict_files(*STATE.landlock) if STATE.landlock else -1
    for fd, target in zip(fds, (REQUEST_FD, 0, 1, 2, RESULT_FD, LINK_FD)):
        os.dup2(fd, target)
    os.dup2(ready, READY_FD)
    if ruleset >= 0:
        os.dup2(ruleset, RULES_FD)
    os.closerange(3, LINK_FD if len(fds) > 5 else RULES_FD)
    close_from(64)  # RLIMIT_NOFILE keeps new ones out and closes none
    for kind, value in header["rlimits"]:
        resource.setrlimit(kind, value)
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if ruleset >= 0:
        check(LIBC.syscall(446, RULES_FD, 0), "landlock_restrict_self")
        os.close(RULES_FD)
    if STATE.flags:
        check(LIBC.syscall(SYS_CAPSET, NO_CAPABILITIES, bytes(24)), "capset")
    if STATE.filter:
        check(LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(STATE.filter), 0, 0), "seccomp")


