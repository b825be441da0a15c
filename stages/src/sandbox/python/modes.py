# ---- how a process starts, and how it tells what happened ----------------------------------------------------------------


def make_ready():
    """What every program is to find, made in the zygote: streams on the descriptors that are put there later, an environment, the same
    random numbers in every run, since a verdict is to be repeatable."""
    os.environ.clear()
    os.environ.update(ENVIRONMENT)
    sys.argv[:] = ["program.py"]
    random.seed(0)
    none = os.memfd_create("none")  # streams ask what they are opened on, and programs get files in memory
    for fd in (0, 1):
        os.dup2(none, fd)
    os.close(none)
    sys.stdin = open(0, "r", encoding="utf-8", errors="surrogateescape", newline="\n")
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape")
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    if STATE.flags:
        for number in FATAL:
            signal.signal(number, end_by_signal)
        os.register_at_fork(after_in_child=be_ended_by_signals)


def child(header, fds, ready):
    try:
        jail(header, fds, ready)
        request, _ = read_json(os.read(REQUEST_FD, os.fstat(REQUEST_FD).st_size).decode("utf-8"), 0)
        os.close(REQUEST_FD)
        # What it took until here is not the program's.
        os.write(READY_FD, b"1 %d %d" % (time.process_time_ns(), time.monotonic_ns()))
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
        code = MODES[request["mode"]](request)
    finally:
        os._exit(code)


# What ends a process that does not say otherwise. The kernel spares the first process of a namespace, so it is done by hand.
FATAL = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGTERM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGPOLL)


def end_by_signal(number, frame):
    if os.getpid() == 1:
        record(b"K", number)
        os._exit(1)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def be_ended_by_signals():
    """Leaves it to the kernel in processes that the program starts. A handler of Python's waits until a system call returns, and one
    that the signal just missed may never."""
    for number in FATAL:
        if signal.getsignal(number) is end_by_signal:
            signal.signal(number, signal.SIG_DFL)


def entry(kind, index, text=b""):
    """A part of the result: kind, number of the case, length, payload."""
    return b"%s %d %d\n%s\n" % (kind, index, len(text), text)


def write(fd, data):
    data = data[os.write(fd, data):]
    if data:
        data = memoryview(data)  # of which what is left is no copy
        while data:
            data = data[os.write(fd, data):]


def record(kind, index, text=b""):
    write(RESULT_FD, entry(kind, index, text))


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
        write(RESULT_FD, entry_of(index, error))
    except OSError:
        pass


# ---- the ways to run a program -------------------------------------------------------------------------------------------


def as_main(request):
    """Runs the program as the main module; returns its names."""
    source = request["program"].removeprefix("\ufeff")
    sys.path.insert(0, WORK)
    file = os.open(PLACE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    write(file, source.encode("utf-8", "surrogatepass"))
    os.close(file)
    if "/dev/stdin" in source and STATE.full_root:
        with open("/tmp/stdin", "wb") as copy:  # where the link leads; /proc, where it leads elsewhere, is not there
            copy.write(os.pread(0, os.fstat(0).st_size, 0))
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__=PLACE)
    sys.modules["__main__"] = module
    program = compile(source, "program.py", "exec", dont_inherit=True)
    if request.get("coverage"):
        trace_lines()
    exec(program, module.__dict__)
    return module.__dict__


def trace_lines():
    """Records every line of the program when it first runs; so they are known however the process ends."""
    seen = set()

    def trace(frame, event, argument):
        if event == "line" and frame.f_lineno not in seen:
            seen.add(frame.f_lineno)
            record(b"L", frame.f_lineno)
        return trace

    def enter(frame, event, argument):
        return trace if frame.f_code.co_filename == "program.py" else None

    threading.settrace(enter)
    sys.settrace(enter)


def run_stdio(request):
    code = 0
    try:
        as_main(request)
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
        flush()
    except BaseException as error:
        record_error(0, error)
        code = 1
    return code & 255


def flush():
    """What the interpreter does at its end: whatever is still in buffers is written, also of streams that were put aside."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()
    found = gc.get_objects()  # of the program alone: the zygote's are frozen
    for kind in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
        for stream in found + [sys.__stdout__]:
            if type(stream) is kind and not stream.closed:
                stream.flush()


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
    texts = [text.strip() for text in request["inputs"]]
    inputs = plain_arguments(texts)
    if inputs is None:
        inputs = []
        try:
            for text in texts:
                inputs.append((plain_arguments([text]) or [arguments_of(text)])[0])
        except BaseException as error:
            record(b"T", start + len(inputs), describe(error))
            return 0
    try:
        function = find_function(as_main(request), request["entry_point"])
    except BaseException as error:
        record_error(-1, error)
        return 0
    before = b""  # what became of the last case; written with the start of the next one
    for index, arguments in enumerate(inputs, start):
        write(RESULT_FD, before + entry(b"C", index))
        try:
            value = function(*arguments)
        except BaseException as error:
            before = entry_of(index, error)
            continue
        try:
            text = encode(value).encode("utf-8", "surrogatepass")
        except BaseException as error:
            text = b"opaque(1, '%s')" % type(error).__name__.encode()
        before = entry(b"R", index, text)
    try:
        write(RESULT_FD, before)
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
        text = "[[%s]]" % "],[".join(inside) if inside else "[]"
        found, end = read_json(text, 0)
    except (ValueError, StopIteration, RecursionError):
        return None
    return [tuple(arguments) for arguments in found] if len(found) == len(texts) and end == len(text) else None


# ---- test code in the program's own process ------------------------------------------------------------------------------


def run_assert(request):
    """The weak mode: test code in the program's own process. Builtins and library modules are put back first, tracing is off,
    names that hide builtins or modules are not handed on, and the nonce is written only behind the last line of the test."""
    try:
        names = as_main(request)
    except BaseException as error:
        record_error(-1, error)
        return 1
    for module, contents in PRISTINE:
        now = module.__dict__  # put back without a comparison, which the program's objects could answer
        for name in [name for name in now if name not in contents]:
            del now[name]
        now.update(contents)

    def untraced():
        if request.get("coverage"):
            return
        sys.setprofile(None)  # first: a profile function is called for what comes next
        sys.settrace(None)
        threading.settrace(None)

    sys.path[:] = [path for path in sys.path if path != WORK]
    for name, module in list(sys.modules.items()):
        if os.path.dirname(str(getattr(module, "__file__", None))) == WORK and name != "__main__":
            del sys.modules[name]  # a library of the program's own making
    test = compile(request["code"], "test.py", "exec", dont_inherit=True)
    named = names_in(test)
    entry_point = request["entry_point"]

    def guard(function):
        @functools.wraps(function)
        def call(*arguments, **keywords):
            value = function(*arguments, **keywords)
            untraced()
            refuse_lies(value, named)
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
        if request["setup"]:
            own = dict(space)
            exec(compile(request["setup"], "setup.py", "exec", dont_inherit=True), space)
            space.update(own)  # the program's own helpers go before those of the prompt
        theirs = space.get("check")
        exec(test, space)
        check = space.get("check")
        if entry_point and check is not theirs and callable(check) and not re.search(r"^check\(", request["code"], re.M):
            space["check"](space[entry_point])
        run_unittests(space, any("skip" in name.lower() for name in named))
    except BaseException as error:
        if isinstance(error, AssertionError):
            record(b"W", 0, describe(error))
        else:
            record_error(0, error)
        return 1
    record(b"P", 0, request["nonce"].encode())
    return 0


def names_in(code):
    """All names that compiled code uses, anywhere in it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= names_in(constant)
    return found


def refuse_lies(value, named, depth=0):
    """Refuses objects of the program's own classes that redefine comparison, and so could equal anything; but for classes that the
    test itself names."""
    kind = type(value)
    if kind in (int, str, float, bool, bytes, complex, type(None)):
        return
    if kind in (list, tuple, set, frozenset) and depth < 50:
        for item in value:
            refuse_lies(item, named, depth + 1)
        return
    if kind is dict and depth < 50:
        for key, item in value.items():
            refuse_lies(key, named, depth + 1)
            refuse_lies(item, named, depth + 1)
        return
    for base in kind.__mro__:
        if base not in LIBRARY_CLASSES and base.__name__ not in named:
            for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__sub__", "__rsub__", "__abs__", "__contains__"):
                if name in base.__dict__:
                    raise AssertionError("the value is of class %s, which redefines %s" % (kind.__name__, name))


def run_unittests(space, may_skip):
    """Runs the test cases that the test code defines, as unittest's own runner does."""
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
        if result.skipped and not may_skip:
            raise AssertionError("a test was skipped that does not say so itself")
        if not result.wasSuccessful():
            found = (result.failures + result.errors)[:1]
            raise AssertionError(found[0][1].strip().splitlines()[-1] if found else "a test succeeded unexpectedly")


# ---- programs in other languages, and the check of syntax ----------------------------------------------------------------


def run_command(request):
    """Runs a command in the work folder; where it is to make a product, that is the result."""
    try:
        for name, text in request["files"].items():
            with open(name, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(text)
        if request["artifact"]:
            with open(LINK_FD, "rb") as source, open(request["artifact"], "wb") as file:
                while part := source.read(1 << 20):
                    file.write(part)
            os.chmod(request["artifact"], 0o700)
    except OSError as error:
        record_error(0, error)
        return 1
    pid = os.fork()  # not in the first process of the namespace, which signals do not end
    if pid == 0:
        os.close(RESULT_FD)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(request["command"][0], request["command"], {**ENVIRONMENT, **request["environment"]})
        except OSError as error:
            os.write(2, ("%s: %s\n" % (request["command"][0], error.strerror)).encode())
            os._exit(127)
    while True:
        ended, status = os.wait()
        if ended == pid:
            break
    if os.WIFSIGNALED(status):
        record(b"K", os.WTERMSIG(status))
        return 1
    code = os.WEXITSTATUS(status)
    if code == 0 and request["product"]:
        with open(request["product"], "rb") as product:
            while part := product.read(1 << 20):
                os.write(RESULT_FD, part)
    return code


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


MODES = {"stdio": run_stdio, "call": run_call, "serve": run_serve, "test": run_test, "assert": run_assert, "command": run_command,
         "parse": run_parse}


