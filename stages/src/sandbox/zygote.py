"""The zygote: one warm interpreter that forks a jailed child for every program. Trusted; it never sees a program or a test.

Started by `zygote.rs` as `python3 -s -S -B -c <this> <config as JSON>` with an empty environment; descriptor 0 is a SEQPACKET
socket. Each message carries limits and five descriptors (request, stdin, stdout, stderr, result). The child reads the request
itself, inside its jail, so that nothing of one program is ever in the memory that the next one inherits. Expected values come
nowhere near either.
"""
import sys

sys.path[:] = [p for p in sys.path if p]
import _sitebuiltins
import array, builtins, ctypes, errno, gc, io, json, os, resource, select, signal, socket, threading, time, traceback, types
import atexit, bisect, collections, copy, datetime, decimal, enum, fractions, functools, hashlib, heapq, inspect, itertools
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
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 0x40000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_SET_SUBREAPER = 1, 4, 22, 38, 36
NOBODY = 65534
RESULT_FD, READY_FD, REQUEST_FD = 63, 62, 61
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


def write_map(proc, uid, gid):
    """Maps this process's only user and group to nobody, in the user namespace that it is the first of."""
    for name, text in (("setgroups", "deny"), ("uid_map", "%d %d 1" % uid), ("gid_map", "%d %d 1" % gid)):
        fd = os.open("self/" + name, os.O_WRONLY, dir_fd=proc)
        try:
            os.write(fd, text.encode())
        finally:
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
    write_map(proc, (0, uid), (0, gid))
    return False


def build_root(folder):
    """Makes `folder` the root: read-only binds of the interpreter and the system's libraries, /dev/null, an empty /tmp."""
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
    state = types.SimpleNamespace(force=[], missing={}, proc=-1, flags=0, abi=0, filters=[], full_root=False)
    try:
        state.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        state.missing["namespaces"] = "/proc: %s" % error
    if "namespaces" in DISABLED:
        state.missing["namespaces"] = "switched off"
    elif state.proc >= 0 and SYS_CLONE is not None:
        pid = os.fork()  # tried in a child first: half a jail cannot be undone
        if pid == 0:
            try:
                enter_namespaces(state.proc)
                os._exit(0)
            except BaseException:
                os._exit(1)
        if os.waitpid(pid, 0)[1] == 0:
            try:
                was_root = enter_namespaces(state.proc)
                build_root(CONFIG["root"])
                state.full_root = True
                if was_root:
                    become_nobody()
                    if not readable():
                        raise Failed("the interpreter's files cannot be read by an ordinary user")
                state.flags = NEWUSER | NEWPID | NEWNS | NEWIPC | NEWUTS
                state.force += ["network namespace", "user namespace", "pid namespace", "mount namespace"]
            except (Failed, OSError) as error:
                # The host's files may be half hidden by now; the caller starts again without namespaces.
                raise Failed("namespaces: %s" % error)
        else:
            state.missing["namespaces"] = "unshare(2) is refused"
    elif SYS_CLONE is None:
        state.missing["namespaces"] = "not known for %s" % MACHINE
    if not state.flags:
        LIBC.prctl(PR_SET_SUBREAPER, 1, 0, 0, 0)
    state.abi = 0 if "landlock" in DISABLED else landlock_abi()
    if state.abi:
        state.force.append("landlock")
    else:
        state.missing["landlock"] = "switched off" if "landlock" in DISABLED else "the kernel has it not, or not switched on"
    if "seccomp" in DISABLED:
        state.missing["seccomp"] = "switched off"
    elif CONFIG["filters"]:
        extra = [] if state.flags else [CONFIG["no_namespace_filter"]]
        for code in CONFIG["filters"] + extra:
            raw = ctypes.create_string_buffer(bytes.fromhex(code), len(code) // 2)
            program = SockFprog(len(code) // 16, ctypes.cast(raw, ctypes.c_void_p))
            state.filters.append((raw, program))
        state.force.append("seccomp")
    else:
        state.missing["seccomp"] = "no filter for %s" % MACHINE
    state.force.append("rlimits")
    return state


class SockFprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


# ---- what every child does before a line of the program runs -------------------------------------------------------------


def restrict_files(abi, work):
    """Landlock: everything can be read and run that is visible, only the work folder written; no TCP, no signals to outside."""
    all_rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    read_rights = 0b1101  # execute, read file, read folder
    attr = [all_rights]
    if abi >= 4:
        attr.append(3)
    if abi >= 6:
        attr.append(3)
    packed = array.array("Q", attr).tobytes()
    ruleset = check(LIBC.syscall(444, packed, len(packed), 0), "landlock_create_ruleset")

    def rule(path, rights):
        try:
            fd = os.open(path, os.O_PATH)
        except OSError:
            return
        if not os.path.isdir(path):
            rights &= 0b111 | (1 << 14)  # what there is to allow of a file: run, write, read, truncate
        beneath = array.array("Q", [rights]).tobytes() + array.array("i", [fd]).tobytes()
        check(LIBC.syscall(445, ruleset, 1, beneath, 0), "landlock_add_rule %s" % path)
        os.close(fd)

    if STATE.full_root:
        rule("/", read_rights)
    else:
        for path in CONFIG["visible"] + ["/dev/urandom"]:
            rule(path, read_rights)
    rule(work, all_rights & ~(1 << 13) if abi < 2 else all_rights)
    rule("/dev/null", 0b110 | (1 << 14 if abi >= 3 else 0))
    return ruleset


def jail(header, fds, ready):
    """Shuts this process in. From the last line on nothing but the request, three streams and the result is within reach."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.close(ALIVE_WRITE)
    if select.select([ALIVE_READ], [], [], 0)[0]:
        os._exit(9)  # the zygote died before the line above
    os.setsid()
    if STATE.flags:
        write_map(STATE.proc, (NOBODY, UID), (NOBODY, GID))
        mount("work", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=%d,nr_inodes=4096,mode=700" % header["tmpfs"])
        work = "/tmp"
    else:
        work = CONFIG["work"]
    os.chdir(work)
    ruleset = restrict_files(STATE.abi, work) if STATE.abi else -1
    for fd, target in zip(fds, (REQUEST_FD, 0, 1, 2, RESULT_FD)):
        os.dup2(fd, target)
    os.dup2(ready, READY_FD)
    if ruleset >= 0:
        os.dup2(ruleset, 60)
    os.closerange(3, 60)
    close_from(64)  # RLIMIT_NOFILE keeps new ones out and closes none
    lowest = lambda kind, value: min(value, resource.getrlimit(kind)[1]) if resource.getrlimit(kind)[1] >= 0 else value
    for kind, value in (
        (resource.RLIMIT_CPU, int(header["cpu"]) + 2),
        (resource.RLIMIT_DATA, header["memory"]),
        (resource.RLIMIT_AS, header["memory"] * 4 + (2 << 30)),
        (resource.RLIMIT_FSIZE, header["output"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, header["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_STACK, 64 << 20),
    ):
        if kind == resource.RLIMIT_NPROC and not STATE.flags:
            continue  # counts all processes of the user there, not this program's
        value = lowest(kind, value)
        resource.setrlimit(kind, (value, value))
    check(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if ruleset >= 0:
        check(LIBC.syscall(446, 60, 0), "landlock_restrict_self")
        os.close(60)
    if STATE.flags:
        head = array.array("I", [0x20080522, 0]).tobytes()
        check(LIBC.syscall(SYS_CAPSET, head, bytes(24)), "capset")
    for raw, program in STATE.filters:
        check(LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0), "seccomp")


def read_all(fd):
    parts = []
    while True:
        part = os.read(fd, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)


def child(header, fds, ready):
    try:
        jail(header, fds, ready)
        request = json.loads(read_all(REQUEST_FD))
        os.close(REQUEST_FD)
        os.write(READY_FD, b"1")
        os.close(READY_FD)
    except BaseException as error:
        for fd in (READY_FD, ready):
            try:
                os.write(fd, ("%s: %s" % (type(error).__name__, error)).encode()[:500])
                break
            except OSError:
                continue
        os._exit(70)
    code = 1
    try:
        os.environ.clear()
        os.environ.update(ENVIRONMENT)
        sys.argv[:] = ["program.py"]
        random.seed(0)  # the same random numbers in every run: a verdict is to be repeatable
        sys.stdin = open(0, "r", encoding="utf-8", errors="surrogateescape")
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape")
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        code = MODES[request["mode"]](request)
    finally:
        os._exit(code)


# ---- the three ways to run a program, and the check of syntax ------------------------------------------------------------


def entry(kind, index, text=b""):
    """A part of the result: kind, number of the case, length, payload."""
    return b"%s %d %d\n%s\n" % (kind, index, len(text), text)


def append(data):
    while data:
        data = data[os.write(RESULT_FD, data):]


def record(kind, index, text=b""):
    append(entry(kind, index, text))


def describe(error):
    try:
        kind, text = type(error).__name__, str(error)
    except BaseException:
        kind, text = "an exception that cannot be shown", ""
    return ("%s: %s" % (kind, text) if text else kind).encode("utf-8", "backslashreplace")[:300]


def entry_of(index, error):
    """E: an exception. M: out of memory. O: too much output."""
    if isinstance(error, MemoryError):
        kind = b"M"
    elif isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOSPC):
        kind = b"O"
    else:
        kind = b"E"
    return entry(kind, index, describe(error))


def record_error(index, error):
    try:
        append(entry_of(index, error))
    except OSError:
        pass


def as_main(program):
    """Runs the program as the main module; returns its names."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__="/tmp/program.py")
    sys.modules["__main__"] = module
    exec(compile(program, "program.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


def run_stdio(request):
    code = 0
    try:
        as_main(request["program"])
    except SystemExit as leave:
        code = leave.code
        if code is None:
            code = 0
        elif not isinstance(code, int):
            code = 1
            record(b"E", 0, ("SystemExit: %s" % leave).encode("utf-8", "backslashreplace")[:300])
        elif code != 0:
            record(b"E", 0, b"SystemExit: %d" % code)
    except BaseException as error:
        code = 1
        record_error(0, error)
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        record_error(0, error)
        code = 1
    return code & 255


def find_function(names, entry_point):
    if entry_point in names:
        return names[entry_point]
    solution = names.get("Solution")
    if solution is not None and hasattr(solution, entry_point):
        return getattr(solution(), entry_point)
    raise NameError("name '%s' is not defined" % entry_point)


LITERALS = {"__builtins__": {}, "float": float, "set": set, "frozenset": frozenset, "complex": complex, "bytearray": bytearray,
            "dict": dict, "list": list, "tuple": tuple, "inf": math.inf, "nan": math.nan}


def run_call(request):
    start = request["start"]
    texts = [text.strip() for text in request["inputs"][start:]]
    inputs = plain_arguments(texts)
    if inputs is None:
        inputs = []
        try:
            for text in texts:
                inputs.append((plain_arguments([text]) or [arguments_of(text)])[0])
        except BaseException as error:
            record(b"E", -1, b"the arguments of test %d cannot be read: " % (start + len(inputs) + 1) + describe(error))
            return 0
    try:
        function = find_function(as_main(request["program"]), request["entry_point"])
    except BaseException as error:
        record_error(-1, error)
        return 0
    before = b""  # what became of the last case; written with the start of the next one
    for index, arguments in enumerate(inputs, start):
        append(before + entry(b"C", index))
        try:
            value = function(*arguments)
        except BaseException as error:
            before = entry_of(index, error)
            continue
        try:
            text = encode(value).encode("utf-8", "surrogatepass")
        except BaseException as error:
            text = b"<opaque 1 %s>" % type(error).__name__.encode()
        before = entry(b"R", index, text)
    try:
        append(before)
    except OSError as error:
        record_error(index, error)
    return 0


def arguments_of(text):
    """The arguments that a literal stands for."""
    value = eval(text, dict(LITERALS))
    return value if isinstance(value, tuple) else (value,)


def plain_arguments(texts):
    """As `arguments_of` for each text, where all are JSON in brackets, as most are: that is read much faster, at once fastest. None
    where one is not, or holds escapes or JSON's own words, which may mean something else."""
    for word in ("\\", "true", "false", "null", "NaN", "Infinity"):
        for text in texts:
            if word in text:
                return None
    inside = []
    for text in texts:
        if text[:1] != "(" or text[-1:] != ")":
            return None
        text = text[1:-1].rstrip()
        inside.append(text if text[-1:] != "," else text[:-1].strip() or ",")
    try:
        found = json.loads("[[%s]]" % "],[".join(inside)) if inside else []
    except (ValueError, RecursionError):
        return None
    return [tuple(arguments) for arguments in found] if len(found) == len(texts) else None


PLAIN = frozenset((int, str, bool, float, type(None)))


def encode(value, depth=0):
    """A value as literal text that says its exact built-in type; whatever else is opaque, with its truth value."""
    kind = type(value)
    if kind is int:
        return int.__repr__(value) if -(1 << 200) < value < 1 << 200 else hex(value)
    if kind is str:
        return str.__repr__(value)
    if kind is bool or value is None or kind is bytes:
        return repr(value)
    if kind is float:
        return "float('%s')" % float.__repr__(value) if value - value != 0.0 else float.__repr__(value)
    if kind is complex:
        return "complex(%s, %s)" % (encode(value.real), encode(value.imag))
    if depth > 90:
        return "<opaque 1 nested too deep>"
    depth += 1
    if kind in (list, tuple) and PLAIN.issuperset(map(type, value)):
        try:
            return repr(value)
        except ValueError:
            pass  # an integer of more digits than Python shows
    if kind is list:
        return "[%s]" % ", ".join([encode(item, depth) for item in value])
    if kind is tuple or (kind.__mro__[1:2] == (tuple,) and type(getattr(kind, "_fields", None)) is tuple and kind.__eq__ is tuple.__eq__):
        items = [encode(item, depth) for item in tuple.__iter__(value)]
        return "(%s,)" % items[0] if len(items) == 1 else "(%s)" % ", ".join(items)
    if kind in (dict, collections.Counter, collections.OrderedDict, collections.defaultdict):
        return "{%s}" % ", ".join(["%s: %s" % (encode(k, depth), encode(v, depth)) for k, v in dict.items(value)])
    if kind is set:
        return "{%s}" % ", ".join([encode(item, depth) for item in value]) if value else "set()"
    if kind is frozenset:
        return "frozenset({%s})" % ", ".join([encode(item, depth) for item in value]) if value else "frozenset()"
    if value is Ellipsis:
        return "..."
    return "<opaque %d %s>" % (bool(value), str(kind.__name__).replace(">", "")[:60])


def run_assert(request):
    """The weak mode: test code in the program's own process. Builtins and library modules are put back first, tracing is off,
    names that hide builtins or modules are not handed on, and the nonce is written only behind the last line of the test."""
    try:
        names = as_main(request["program"])
    except BaseException as error:
        record_error(-1, error)
        return 1
    for module, contents in PRISTINE:
        now = module.__dict__  # put back without a comparison, which the program's objects could answer
        for name in [name for name in now if name not in contents]:
            del now[name]
        now.update(contents)

    def untraced():
        sys.settrace(None)
        sys.setprofile(None)
        threading.settrace(None)

    entry_point = request["entry_point"]

    def guard(function):
        def call(*arguments, **keywords):
            value = function(*arguments, **keywords)
            untraced()
            refuse_lies(value)
            return value

        return call

    space = {"__name__": "tests", "__builtins__": dict(BUILTINS)}
    for name, value in names.items():
        if name.startswith("__") or (name != entry_point and (name in BUILTINS or name in MODULES)):
            continue
        space[name] = value
    for name in names:
        if name in MODULES and name != entry_point:
            space[name] = MODULES[name]
    try:
        if entry_point:
            space[entry_point] = guard(find_function(names, entry_point))
        untraced()
        test = request["code"]
        exec(compile(test, "test.py", "exec", dont_inherit=True), space)
        if entry_point and callable(space.get("check")) and not re.search(r"^check\(", test, re.M):
            space["check"](space[entry_point])
        run_unittests(space)
    except BaseException as error:
        if isinstance(error, AssertionError):
            record(b"W", 0, describe(error))
        else:
            record_error(0, error)
        return 1
    record(b"P", 0, request["nonce"].encode())
    return 0


def refuse_lies(value, depth=0):
    """Refuses objects of the program's own classes that redefine comparison: they could equal anything."""
    kind = type(value)
    if kind in (int, str, float, bool, bytes, complex, type(None)):
        return
    if kind in (list, tuple, set, frozenset) and depth < 50:
        for item in value:
            refuse_lies(item, depth + 1)
        return
    if kind is dict and depth < 50:
        for key, item in value.items():
            refuse_lies(key, depth + 1)
            refuse_lies(item, depth + 1)
        return
    for base in kind.__mro__:
        if base.__module__ == "__main__":
            for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__sub__", "__rsub__", "__abs__", "__contains__"):
                if name in base.__dict__:
                    raise AssertionError("the value is of class %s, which redefines %s" % (kind.__name__, name))


def run_unittests(space):
    loaded = sys.modules.get("unittest")
    if loaded is None:
        return
    suite = loaded.TestSuite()
    for value in list(space.values()):
        if isinstance(value, type) and issubclass(value, loaded.TestCase) and value.__module__ == "tests":
            suite.addTests(loaded.defaultTestLoader.loadTestsFromTestCase(value))
    if suite.countTestCases():
        result = loaded.TestResult()
        suite.run(result)
        if not result.wasSuccessful():
            found = (result.failures + result.errors)[:1]
            raise AssertionError(found[0][1].strip().splitlines()[-1] if found else "a test succeeded unexpectedly")


def run_parse(request):
    start = request["start"]
    warnings.simplefilter("ignore")
    for index, source in enumerate(request["sources"][start:], start):
        record(b"C", index)
        try:
            compile(source, "program.py", "exec", dont_inherit=True)
        except BaseException as error:
            record_error(index, error)
        else:
            record(b"R", index, b"True")
    return 0


MODES = {"stdio": run_stdio, "call": run_call, "assert": run_assert, "parse": run_parse}


# ---- the supervisor: forks, watches, reaps -------------------------------------------------------------------------------


def fork(pidfd):
    if not STATE.flags:
        pid = os.fork()
        return pid
    return check(LIBC.syscall(SYS_CLONE, STATE.flags | CLONE_PIDFD | signal.SIGCHLD, None, ctypes.byref(pidfd), None, None), "clone")


def read_proc(path):
    fd = os.open(path, os.O_RDONLY, dir_fd=STATE.proc)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def usage_of_tree(pid):
    """CPU seconds and resident bytes of a process and all that it started, now."""
    cpu = memory = 0
    todo = [pid]
    while todo:
        now = todo.pop()
        try:
            fields = read_proc("%d/stat" % now).rsplit(b")", 1)[1].split()
            cpu += int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
            memory += int(fields[21]) * PAGE
            for task in os.listdir("/proc/%d/task" % now) if not STATE.full_root else list_tasks(now):
                todo += [int(found) for found in read_proc("%d/task/%s/children" % (now, task)).split()]
        except (OSError, IndexError, ValueError):
            continue
    return cpu / TICKS, memory


def list_tasks(pid):
    fd = os.open("%d/task" % pid, os.O_RDONLY | os.O_DIRECTORY, dir_fd=STATE.proc)
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def kill_orphans():
    """Without a pid namespace what a program left behind is handed to the zygote, which ends it."""
    while True:
        try:
            left = [int(x) for x in read_proc("self/task/%d/children" % os.getpid()).split()]
        except OSError:
            left = []
        for pid in left:
            kill(pid)
        # Never waits for one: a child of what was just killed is handed over in its turn, alive, and has to be found first.
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def supervise(header, fds):
    """Runs one child to its end. Returns what became of it."""
    begin = time.monotonic()
    ready_read, ready_write = os.pipe()
    number = ctypes.c_int(-1)
    pid = fork(number)
    if pid == 0:
        child(header, fds, ready_write)
    os.close(ready_write)
    for fd in fds:
        os.close(fd)
    pidfd = number.value if STATE.flags else os.pidfd_open(pid)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    poller.register(CONTROL.fileno(), 0)
    reason, peak, tick = None, 0, 10
    while True:
        events = [fd for fd, _ in poller.poll(tick)]
        if pidfd in events:
            break
        if CONTROL.fileno() in events:
            kill(pid)  # the runner is gone
            os.waitpid(pid, 0)
            os._exit(0)
        tick = min(tick * 2, 50)
        cpu, memory = usage_of_tree(pid)
        peak = max(peak, memory)
        if reason is None:
            if cpu > header["cpu"]:
                reason = "cpu"
            elif memory > header["memory"]:
                reason = "memory"
            elif time.monotonic() - begin > header["wall"]:
                reason = "wall"
            if reason:
                kill(pid)
    _, status, usage = os.wait4(pid, 0)
    if not STATE.flags:
        kill_orphans()
    os.close(pidfd)
    ready = os.read(ready_read, 600)
    os.close(ready_read)
    cpu = usage.ru_utime + usage.ru_stime
    if reason is None and os.WIFSIGNALED(status) and cpu > header["cpu"]:
        reason = "cpu"
    return {
        "setup": None if ready == b"1" else ready.decode("utf-8", "replace") or "the child died while it was shut in",
        "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "reason": reason,
        "wall_s": time.monotonic() - begin,
        "cpu_s": cpu,
        "peak_memory_bytes": max(peak, usage.ru_maxrss * 1024),
    }


def serve():
    while True:
        data, ancillary, _, _ = CONTROL.recvmsg(4096, socket.CMSG_SPACE(5 * 4))
        if not data:
            os._exit(0)
        fds = array.array("i")
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        try:
            answer = supervise(json.loads(data), list(fds))
        except (Failed, OSError) as error:
            answer = {"setup": str(error), "exit": None, "signal": None, "reason": None, "wall_s": 0, "cpu_s": 0, "peak_memory_bytes": 0}
        CONTROL.send(json.dumps(answer).encode())


os.setsid()
close_from(3)  # whatever was inherited would be inherited by every program
# What the module `site` gives to every script, without its search through the file system.
builtins.exit, builtins.quit = _sitebuiltins.Quitter("exit", ""), _sitebuiltins.Quitter("quit", "")
builtins.help = _sitebuiltins._Helper()
CONTROL = socket.socket(fileno=os.dup(0))
null = os.open("/dev/null", os.O_RDWR)
os.dup2(null, 0)
os.dup2(null, 1)
os.close(null)
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
ALIVE_READ, ALIVE_WRITE = os.pipe()
try:
    STATE = set_up()
except Failed as error:
    CONTROL.send(json.dumps({"failed": str(error)}).encode())
    os._exit(1)
UID, GID = os.geteuid(), os.getegid()
BUILTINS = dict(builtins.__dict__)
MODULES = {name: module for name, module in sys.modules.items() 
           if name != "__main__" and not name.startswith("_") and type(module) is types.ModuleType}
PRISTINE = [(module, dict(module.__dict__)) for module in {id(m): m for m in MODULES.values() if m is not sys}.values()]
CONTROL.send(json.dumps({"in_force": STATE.force, "missing": STATE.missing}).encode())
gc.collect()
gc.freeze()
serve()
