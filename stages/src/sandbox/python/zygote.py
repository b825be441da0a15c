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
    """Of a process and all that it started, now: CPU seconds of each, CPU seconds of those that were waited for, resident bytes, and
    where in /proc each is found."""
    own, waited, memory, processes = {}, 0, 0, []
    todo = [pid]
    while todo:
        now = todo.pop()
        try:
            fields = read_proc("%d/stat" % now).rsplit(b")", 1)[1].split()
            own[now] = (int(fields[11]) + int(fields[12])) / TICKS
            waited += (int(fields[13]) + int(fields[14])) / TICKS
            resident, living = int(fields[21]), str(now)
            for task in list_tasks(now):
                todo += [int(found) for found in read_proc("%d/task/%s/children" % (now, task)).split()]
                if not resident:  # its first thread has ended, the others have not
                    resident = int(read_proc("%d/task/%s/statm" % (now, task)).split()[1])
                    living = "%d/task/%s" % (now, task)
            memory += resident * PAGE
            processes.append(living)
        except (OSError, IndexError, ValueError):
            continue
    return own, waited, memory, processes


def shared_memory(processes):
    """Resident bytes of several processes, what they share counted once. Slow: a kernel walks all their pages."""
    total = 0
    for place in processes:
        try:
            text = read_proc("%s/smaps_rollup" % place)
            total += int(re.search(rb"^Pss: +([0-9]+) kB", text, re.M)[1]) * 1024
        except (OSError, TypeError):
            continue
    return total


def list_tasks(pid):
    if not STATE.full_root:
        return os.listdir("/proc/%d/task" % pid)
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


def in_large_pages():
    """Puts the heap into pages of 2 MiB, where the kernel can: a fork copies, and an exit frees, one entry for 512."""
    if STATE.proc < 0:
        return
    with open(os.open("self/maps", os.O_RDONLY, dir_fd=STATE.proc)) as maps:
        for line in maps:
            place, rights, _, _, _, *name = line.split()
            if rights == "rw-p" and name in ([], ["[heap]"]):
                begin, end = [int(number, 16) for number in place.split("-")]
                begin, end = -(-begin // LARGE_PAGE) * LARGE_PAGE, end // LARGE_PAGE * LARGE_PAGE
                if begin < end:
                    LIBC.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), MADV_COLLAPSE)


class Child:
    """A jailed process and what is known of it."""

    def __init__(self, header, fds):
        self.begin = time.monotonic()
        self.ready, ready_write = os.pipe()
        number = ctypes.c_int(-1)
        self.pid = fork(number)
        if self.pid == 0:
            child(header, fds, ready_write)
        os.close(ready_write)
        self.pidfd = number.value if STATE.flags else os.pidfd_open(self.pid)
        self.reason, self.peak, self.dismissed = None, 0, False
        self.own, self.waited, self.lost = {}, 0.0, 0.0

    def look(self, header):
        """Ends it where a limit is passed."""
        own, waited, memory, processes = usage_of_tree(self.pid)
        if memory > header["memory"] and len(processes) > 1:
            memory = shared_memory(processes) or memory
        self.peak = max(self.peak, memory)
        # What ended since the last look and nobody waited for is in no count of the kernel's.
        gone = sum([cpu for pid, cpu in self.own.items() if pid not in own])
        self.lost += max(gone - (waited - self.waited), 0.0)
        self.own, self.waited = own, waited
        cpu = sum(own.values()) + waited + self.lost
        if self.reason is None:
            if cpu > header["cpu"]:
                self.reason = "cpu"
            elif memory > header["memory"]:
                self.reason = "memory"
            elif time.monotonic() - self.begin > header["wall"]:
                self.reason = "wall"
            if self.reason:
                kill(self.pid)

    def reap(self, header):
        """Waits for its end. Returns what became of it."""
        _, status, usage = os.wait4(self.pid, 0)
        now = time.monotonic()
        os.close(self.pidfd)
        ready = os.read(self.ready, 600)
        os.close(self.ready)
        cpu = usage.ru_utime + usage.ru_stime + self.lost
        peak = max(self.peak, usage.ru_maxrss * 1024)
        if self.reason is None and peak > header["memory"]:
            self.reason = "memory"  # between two looks
        if self.reason is None and os.WIFSIGNALED(status) and cpu > header["cpu"]:
            self.reason = "cpu"
        begun = ready[2:].split() if ready.startswith(b"1 ") else None
        return {
            "setup": None if begun or self.dismissed else ready.decode("utf-8", "replace") or "the child died while it was shut in",
            "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) and not self.dismissed else None,
            "reason": self.reason,
            "wall_s": max(now - (int(begun[1]) / 1e9 if begun else self.begin), 0.0),
            "cpu_s": max(cpu - (int(begun[0]) / 1e9 if begun else 0.0), 0.0),
            "peak_memory_bytes": peak,
        }


def supervise(header, fds):
    """Runs one child to its end, or two that are linked: the last one's end ends the other. Returns what became of each."""
    groups = [fds]
    if header["linked"]:
        ends = [end.detach() for end in socket.socketpair()]
        fds += ends
        groups = [fds[0:5] + ends[:1], fds[5:10] + ends[1:]]
    children = []
    try:
        for group in groups:
            children.append(Child(header, group))
    except BaseException:
        for one in children:
            kill(one.pid)
            one.reap(header)
        raise
    finally:
        for fd in fds:
            os.close(fd)
    last = children[-1]
    poller = select.poll()
    poller.register(last.pidfd, select.POLLIN)
    poller.register(CONTROL.fileno(), select.POLLIN)
    tick = 10
    while True:
        events = [fd for fd, _ in poller.poll(tick)]
        if last.pidfd in events:
            break
        if CONTROL.fileno() in events:
            is_gone = not CONTROL.recv(64)
            for one in children:  # the runner is gone, or has heard enough
                one.dismissed = True
                kill(one.pid)
                if is_gone:
                    os.waitpid(one.pid, 0)
            if is_gone:
                os._exit(0)
            break
        tick = min(tick * 2, 50)
        for one in children:
            one.look(header)
    for one in children[:-1]:
        if not select.select([one.pidfd], [], [], 0)[0]:
            one.dismissed = True
            kill(one.pid)
    answers = [one.reap(header) for one in children]
    if not STATE.flags:
        kill_orphans()
    return answers


def header_of(data):
    """What a message says, as a child needs it."""
    header = json.loads(data)
    header["rlimits"] = rlimits(header)
    header["tmpfs"] = b"size=%d,nr_inodes=4096,mode=700" % header["tmpfs"]
    return header


def serve():
    header = last = None
    while True:
        data, ancillary, _, _ = CONTROL.recvmsg(4096, socket.CMSG_SPACE(10 * 4))
        if not data:
            os._exit(0)
        if data == b"enough":
            continue  # of what has ended by itself meanwhile
        fds = array.array("i")
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        try:
            if data != last:  # the programs of a stage have the same limits
                header, last = header_of(data), data
            answer = supervise(header, list(fds))
        except (Failed, OSError) as error:
            answer = [{"setup": str(error), "exit": None, "signal": None, "reason": None, "wall_s": 0, "cpu_s": 0, "peak_memory_bytes": 0}]
        CONTROL.send(json.dumps(answer).encode())


os.setsid()
close_from(3)  # whatever was inherited would be inherited by every program
# What the module `site` gives to every script, without its search through the file system.
builtins.exit, builtins.quit = _sitebuiltins.Quitter("exit", ""), _sitebuiltins.Quitter("quit", "")
builtins.help = _sitebuiltins._Helper()
CONTROL = socket.socket(fileno=os.dup(0))
PAGE, TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
if CONFIG["pinned"] is not None:
    os.sched_setaffinity(0, {CONFIG["pinned"]})
ALIVE_READ, ALIVE_WRITE = os.pipe()
try:
    STATE = set_up()
except Failed as error:
    CONTROL.send(json.dumps({"failed": str(error)}).encode())
    os._exit(1)
WORK = STATE.work
PLACE = os.path.join(WORK, "program.py")
read_json = json.JSONDecoder().scan_once
make_ready()
BUILTINS = dict(builtins.__dict__)
MODULES = {name: module for name, module in sys.modules.items() 
           if name != "__main__" and not name.startswith("_") and type(module) is types.ModuleType}
LIBRARY_CLASSES = {found for module in (builtins, *MODULES.values()) for found in module.__dict__.values() if isinstance(found, type)}
PRISTINE = [(module, dict(module.__dict__)) for module in {id(m): m for m in MODULES.values() if m is not sys}.values()]
CONTROL.send(json.dumps({"in_force": STATE.force, "missing": STATE.missing}).encode())
gc.collect()
gc.freeze()
in_large_pages()
serve()
