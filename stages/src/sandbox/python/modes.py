# ---- how a process starts, and how it tells what happened ----------------------------------------------------------------


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


def record(kind, index, text=b""):
    """Appends to the result: kind, number of the case, length, payload."""
    data = b"%s %d %d\n%s\n" % (kind, index, len(text), text)
    while data:
        data = data[os.write(RESULT_FD, data):]


def describe(error):
    try:
        kind, text = type(error).__name__, str(error)
    except BaseException:
        kind, text = "an exception that cannot be shown", ""
    return ("%s: %s" % (kind, text) if text else kind).encode("utf-8", "backslashreplace")[:300]


def record_error(index, error):
    """E: an exception. M: out of memory. O: too much output."""
    if isinstance(error, MemoryError):
        kind = b"M"
    elif isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOSPC):
        kind = b"O"
    else:
        kind = b"E"
    try:
        record(kind, index, describe(error))
    except OSError:
        pass


# ---- the ways to run a program -------------------------------------------------------------------------------------------


def as_main(request):
    """Runs the program as the main module; returns its names."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__="/tmp/program.py")
    sys.modules["__main__"] = module
    program = compile(request["program"], "program.py", "exec", dont_inherit=True)
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
    inputs = []
    try:
        for text in request["inputs"][start:]:
            value = eval(text.strip(), dict(LITERALS))
            inputs.append(value if isinstance(value, tuple) else (value,))
    except BaseException as error:
        record(b"T", start + len(inputs), describe(error))
        return 0
    try:
        function = find_function(as_main(request), request["entry_point"])
    except BaseException as error:
        record_error(-1, error)
        return 0
    for index, arguments in enumerate(inputs, start):
        record(b"C", index)
        try:
            value = function(*arguments)
        except BaseException as error:
            record_error(index, error)
            continue
        try:
            text = encode(value)
        except BaseException as error:
            text = "opaque(1, %r)" % type(error).__name__
        try:
            record(b"R", index, text.encode("utf-8", "surrogatepass"))
        except BaseException as error:
            record_error(index, error)
    return 0


# ---- values as text ------------------------------------------------------------------------------------------------------


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
        return "opaque(1, 'nested too deep')"
    depth += 1
    if kind is list:
        return "[%s]" % ", ".join([encode(item, depth) for item in value])
    if kind is tuple:
        return encode_tuple(value, depth)
    if kind is dict:
        return encode_dict(value, depth)
    if kind is set:
        return "{%s}" % ", ".join([encode(item, depth) for item in value]) if value else "set()"
    if kind is frozenset:
        return "frozenset({%s})" % ", ".join([encode(item, depth) for item in value]) if value else "frozenset()"
    if value is Ellipsis:
        return "..."
    if kind.__mro__[1] is tuple and type(getattr(kind, "_fields", None)) is tuple and kind.__eq__ is tuple.__eq__:
        return LOSSY % encode_tuple(value, depth)
    if kind in (collections.Counter, collections.OrderedDict, collections.defaultdict):
        return LOSSY % encode_dict(value, depth)
    return opaque(value, kind)


def encode_tuple(value, depth):
    items = [encode(item, depth) for item in tuple.__iter__(value)]
    return "(%s,)" % items[0] if len(items) == 1 else "(%s)" % ", ".join(items)


def encode_dict(value, depth):
    return "{%s}" % ", ".join(["%s: %s" % (encode(k, depth), encode(v, depth)) for k, v in dict.items(value)])


def opaque(value, kind):
    return "opaque(%d, %r)" % (bool(value), str.__str__(kind.__name__)[:60])


LOSSY = "%s"  # how a namedtuple or a Counter is told apart from the tuple or dict that it is; by default it is not


# ---- test code: two processes, the program in one and its test in the other ---------------------------------------------


class Gone(BaseException):
    """The program's process has ended, or answers what cannot be read."""


class Crossing(BaseException):
    """The test needs something of the program that cannot go from one process to the other."""


def send(kind, text):
    data = text.encode("utf-8", "surrogatepass")
    data = b"%s%16d" % (kind, len(data)) + data
    while data:
        data = data[os.write(LINK_FD, data):]


def receive(most):
    """The next message: its kind, and its text."""
    head = read_exactly(17)
    length = int(head[1:])
    if not 0 <= length <= most:
        raise ValueError("a message of %d bytes" % length)
    return head[:1], read_exactly(length).decode("utf-8", "surrogatepass")


def read_exactly(length):
    parts = []
    while length:
        part = os.read(LINK_FD, min(length, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def run_serve(request):
    """The program's side: answers calls until the test's side hangs up."""
    global LOSSY
    LOSSY = "lossy(%s)"
    try:
        names = as_main(request)
        if request["entry_point"]:
            find_function(names, request["entry_point"])
    except BaseException as error:
        record_error(-1, error)
        return 1
    while True:
        try:
            kind, text = receive(1 << 40)
        except EOFError:
            return 0
        what = eval(text, dict(LITERALS))  # the test's side is trusted
        if kind == b"N":
            send(b"N", encode([kind_of_name(names, name, request["entry_point"]) for name in what]))
        else:
            send(*answer(names, *what))


def kind_of_name(names, name, entry_point):
    """What the program has under a name: (`function` | `module` | `value` | `other` | `nothing`, module name or value)."""
    if name == entry_point:
        return "function", None
    if name not in names:
        return "nothing", None
    value = names[name]
    if isinstance(value, types.ModuleType):
        return "module", str(value.__name__)
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, functools._lru_cache_wrapper)):
        return "function", None
    text = encode(value)
    return ("other", None) if "opaque(" in text else ("value", value)


def answer(names, name, arguments, keywords):
    before = encode((arguments, keywords))
    try:
        value = find_function(names, name)(*arguments, **keywords)
    except BaseException as error:
        kinds = [base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins"]
        return b"E", encode((kinds, type(error).__name__, describe(error).decode(), mutated(before, arguments, keywords)))
    try:
        text = encode(value)
    except BaseException as error:
        text = "opaque(1, %r)" % type(error).__name__
    return b"R", "(%s, %s)" % (text, encode(mutated(before, arguments, keywords)))


def mutated(before, arguments, keywords):
    """The arguments, where the call has changed them."""
    return None if encode((arguments, keywords)) == before else (arguments, keywords)


def run_test(request):
    """The test's side: test code with the program's functions at the other end of the link. What it records can be trusted."""
    global opaque
    opaque = refuse_to_send
    space = {"__name__": "tests", "__builtins__": builtins}
    code = request["code"]
    try:
        exec(compile(request["setup"] or "", "setup.py", "exec", dont_inherit=True), space)
        tree = ast.parse(code, "test.py")
    except Exception as error:
        record(b"T", 0, describe(error))
        return 1
    try:
        refuse_what_needs_one_process(tree)
        entry_point = request["entry_point"]
        fetch(space, names_from_outside(tree, space), entry_point, request["most"])
        exec(compile(tree, "test.py", "exec", dont_inherit=True), space)
        if entry_point and callable(space.get("check")) and not re.search(r"^check\(", code, re.M):
            space["check"](space[entry_point])
        run_unittests(space)
    except BaseException as error:
        # A test that catches everything has hidden the first reason, not undone it.
        error = STOPPED[0] if STOPPED else error
        if isinstance(error, Crossing):
            record(b"X", 0, describe(error))
        elif isinstance(error, Gone):
            record(b"G", 0, describe(error))
        elif isinstance(error, AssertionError):
            record(b"W", 0, describe(error))
        elif isinstance(error, ModuleNotFoundError) and error.name:
            record(b"T", 0, describe(error))  # the test's own import: the program's errors come without a name
        else:
            record_error(0, error)
        return 1
    if STOPPED:
        record(b"X" if isinstance(STOPPED[0], Crossing) else b"G", 0, describe(STOPPED[0]))
        return 1
    record(b"P", 0)
    return 0


STOPPED = []


def stop(error):
    STOPPED.append(error)
    raise error


def cross(what):
    stop(Crossing(what))


def refuse_to_send(value, kind):
    cross("the test passes an object of class %s" % kind.__name__)


# Names of test code that is about the process itself, which is not the program's.
IN_PROCESS = {"patch", "mock", "MagicMock", "redirect_stdout", "redirect_stderr", "stdin", "stdout", "stderr", "__main__"}


def refuse_what_needs_one_process(tree):
    """Refuses test code that looks at its own process or at the identity of objects: here the program has other ones."""
    for node in ast.walk(tree):
        name = getattr(node, "id", None) or getattr(node, "attr", None) or (node.name if isinstance(node, ast.alias) else None)
        if name in IN_PROCESS:
            cross("the test uses %s" % name)
        if isinstance(node, ast.Compare) and any(isinstance(way, (ast.Is, ast.IsNot)) for way in node.ops):
            sides = [node.left] + node.comparators
            if not any(isinstance(side, ast.Constant) for side in sides):
                cross("the test asks whether two values are the same object")


def names_from_outside(tree, space):
    """The names that test code reads and neither it nor its setup defines."""
    read, defined = set(), set(space) | set(BUILTINS)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
    return sorted(read - defined)


def fetch(space, names, entry_point, most):
    """Puts stand-ins for the program's functions, and copies of its values, among the names of the test."""
    wanted = [name for name in names if name != entry_point] + ([entry_point] if entry_point else [])
    found = ask(b"N", encode(wanted), most)[1]
    for name, (kind, value) in zip(wanted, found):
        if kind == "function":
            space[name] = Remote(name, most)
        elif kind == "value":
            space[name] = value
        elif kind == "module" and value in sys.stdlib_module_names:
            space[name] = __import__(value, fromlist=["*"])
        elif kind != "nothing":
            cross("the test uses %s, which is neither a function nor plain data" % name)


def ask(kind, text, most):
    """One question to the program. What comes back is read as data, never run."""
    if STOPPED:
        raise STOPPED[0]
    try:
        send(kind, text)
        kind, text = receive(most)
        return kind, decode(ast.parse(text, mode="eval").body)
    except (OSError, EOFError):
        stop(Gone("it ended before it returned"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        stop(Gone("what it answers cannot be read: %s" % error))


class Remote:  # a function of the program
    __doc__ = property(lambda self: cross("the test looks at the text of a function"))

    def __init__(self, name, most):
        self.__dict__.update(__name__=name, __qualname__=name, _most=most)

    def __call__(self, *arguments, **keywords):
        kind, found = ask(b"C", encode((self.__name__, arguments, keywords)), self._most)
        try:
            if kind == b"R":
                value, after = found
            else:
                kinds, name, text, after = found
                value = error_like(kinds, name, text)
            if after is not None:
                restore(arguments, after[0])
                restore(keywords, after[1])
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            stop(Gone("what it answers cannot be read: %s" % error))
        if kind != b"R":
            raise value
        return value

    def __getattr__(self, name):
        cross("the test looks at %s of a function" % name)


def error_like(kinds, name, text):
    """The exception of the same built-in class, or of the nearest that there is."""
    for kind in kinds:
        found = BUILTINS.get(kind)
        if isinstance(found, type) and issubclass(found, BaseException):
            try:
                return found(text.partition(": ")[2] if kind == name else text)
            except TypeError:
                continue
    return Exception(text)


def restore(mine, theirs):
    """Gives containers the content that they have at the other side; returns what stands for `theirs`."""
    if type(mine) is not type(theirs):
        return theirs
    if type(mine) is list:
        mine[:] = [restore(a, b) for a, b in zip(mine, theirs)] + theirs[len(mine):]
    elif type(mine) is tuple:
        return tuple([restore(a, b) for a, b in zip(mine, theirs)]) + theirs[len(mine):]
    elif type(mine) is dict:
        now = {key: restore(mine[key], value) if key in mine else value for key, value in theirs.items()}
        mine.clear()
        mine.update(now)
    elif type(mine) is set:
        mine.clear()
        mine.update(theirs)
    else:
        return theirs
    return mine


def decode(node):
    """The value of a literal, of built-in types alone."""
    kind = type(node)
    if kind is ast.Constant:
        return node.value
    if kind is ast.List:
        return [decode(item) for item in node.elts]
    if kind is ast.Tuple:
        return tuple([decode(item) for item in node.elts])
    if kind is ast.Set:
        return {decode(item) for item in node.elts}
    if kind is ast.Dict:
        return {decode(key): decode(value) for key, value in zip(node.keys, node.values)}
    if kind is ast.UnaryOp and type(node.op) is ast.USub:
        return -decode(node.operand)
    if kind is ast.Call and type(node.func) is ast.Name and node.func.id in DECODERS and not node.keywords:
        return DECODERS[node.func.id](*[decode(item) for item in node.args])
    raise ValueError("no literal")


class LossyTuple(tuple):
    """A namedtuple of the program: equal to a tuple; its fields have no names here."""

    def __getattr__(self, name):
        cross("the test looks at %s of a namedtuple" % name)


class LossyDict(dict):
    """A Counter, an OrderedDict or a defaultdict of the program."""

    def __getattr__(self, name):
        cross("the test looks at %s of an object" % name)

    def __missing__(self, key):
        cross("the test reads a key that is not there")


class Opaque:
    """An object of the program: true or false, equal to no plain data, and nothing else can be known of it here."""

    def __init__(self, truth, name):
        self.__dict__.update(_truth=bool(truth), _name=str(name))

    def __bool__(self):
        return self._truth

    def __repr__(self):
        return "<%s>" % self._name

    def __eq__(self, other):
        return False if type(other) in PLAIN else cross("the test compares an object of class %s" % self._name)

    def __getattr__(self, name):
        cross("the test looks at %s of an object of class %s" % (name, self._name))

    @property
    def __class__(self):
        cross("the test asks for the class of an object of class %s" % self._name)


def _refuse(name):
    return lambda self, *arguments: cross("the test does %s with an object of class %s" % (name, self._name))


for _name in ("__call__ __iter__ __next__ __len__ __getitem__ __setitem__ __delitem__ __contains__ __enter__ __exit__ __hash__ "
              "__setattr__ __delattr__ __await__ __aiter__").split():
    setattr(Opaque, _name, _refuse(_name))

PLAIN = {int, str, bool, float, complex, bytes, list, tuple, dict, set, frozenset, type(None), type(Ellipsis)}
DECODERS = {"float": float, "complex": complex, "set": set, "frozenset": frozenset, "opaque": Opaque,
            "lossy": lambda value: (LossyTuple if type(value) is tuple else LossyDict)(value)}


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
        sys.settrace(None)
        sys.setprofile(None)
        threading.settrace(None)

    entry_point = request["entry_point"]

    def guard(function):
        @functools.wraps(function)
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
        if request["setup"]:
            own = dict(space)
            exec(compile(request["setup"], "setup.py", "exec", dont_inherit=True), space)
            space.update(own)  # the program's own helpers go before those of the prompt
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


