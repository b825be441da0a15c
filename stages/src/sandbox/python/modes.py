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
        sys.stdin = open(0, "r", encoding="utf-8", errors="surrogateescape", newline="\n")
        sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape")
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
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


# ---- the ways to run a program -------------------------------------------------------------------------------------------


def as_main(request):
    """Runs the program as the main module; returns its names."""
    source = request["program"].removeprefix("\ufeff")
    place = os.path.join(os.getcwd(), "program.py")
    sys.path.insert(0, os.getcwd())
    with open(place, "w", encoding="utf-8", errors="surrogatepass", newline="") as file:
        file.write(source)
    if "/dev/stdin" in source and STATE.full_root:
        with open("/tmp/stdin", "wb") as copy:  # where the link leads; /proc, where it leads elsewhere, is not there
            copy.write(os.pread(0, os.fstat(0).st_size, 0))
    module = types.ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __file__=place)
    sys.modules["__main__"] = module
    program = compile(source, "program.py", "exec", dont_inherit=True)
    if STATE.flags:
        for number in FATAL:
            signal.signal(number, end_by_signal)
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
    texts = [text.strip() for text in request["inputs"][start:]]
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
        append(before + entry(b"C", index))
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
    if depth >= MAX_DEPTH:
        return "opaque(1, 'nested too deep')"
    depth += 1
    if kind in (list, tuple) and PLAIN.issuperset(map(type, value)):
        try:
            return repr(value)
        except ValueError:
            pass  # an integer of more digits than Python shows
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
    if kind in (fractions.Fraction, decimal.Decimal):
        # Equal to a whole number or to a float, or to no plain number at all.
        number = int(value) if value == value // 1 else float(value)
        return LOSSY % encode(number) if number == value else opaque(value, kind)
    if kind is collections.Counter or kind is collections.OrderedDict:
        return LOSSY % encode_dict(value, depth)
    for base in (int, str, float, tuple, dict, list, set, frozenset, bytes):
        if base in kind.__mro__ and kind.__eq__ is base.__eq__:  # it compares as what it is made of
            plain = BASE_COPIES[base](value)
            return LOSSY % encode(plain, depth - 1)
    return opaque(value, kind)


def encode_tuple(value, depth):
    items = [encode(item, depth) for item in tuple.__iter__(value)]
    return "(%s,)" % items[0] if len(items) == 1 else "(%s)" % ", ".join(items)


def encode_dict(value, depth):
    return "{%s}" % ", ".join(["%s: %s" % (encode(k, depth), encode(v, depth)) for k, v in dict.items(value)])


def opaque(value, kind):
    return "opaque(%d, %r)" % (bool(value), str.__str__(kind.__name__)[:60])


# Copies of what a value of a subclass is made of, by the methods of the base class.
BASE_COPIES = {
    int: int.__pos__, str: str.__str__, float: float.__pos__, bytes: lambda value: bytes.__getitem__(value, slice(None)),
    tuple: lambda value: tuple([*tuple.__iter__(value)]), dict: lambda value: {key: item for key, item in dict.items(value)},
    list: lambda value: [*list.__iter__(value)], set: lambda value: {*set.__iter__(value)},
    frozenset: lambda value: frozenset([*frozenset.__iter__(value)]),
}
PLAIN = frozenset((int, str, bool, float, type(None)))
MAX_DEPTH = 100  # as deep as tests may be: `literal_parser.rs` reads as much
LOSSY = "%s"  # how a namedtuple or a Counter is told apart from the tuple or dict that it is; by default it is not


# ---- test code: two processes, the program in one and its test in the other ---------------------------------------------
#
# Plain data crosses as text; of any other object the test's side has a stand-in, and what is done to that is done to the object at
# the program's side. Comparisons with plain data are never left to the program: there a stand-in is equal to nothing.


class Gone(BaseException):
    """The program's process has ended, or answers what cannot be read."""


class Crossing(BaseException):
    """The test needs something that cannot go from one process to the other."""


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


# The program's side.

HANDED_OUT = []  # objects that the test's side has stand-ins for, by number
NUMBERS = {}  # their numbers, by id


def hand_out(value, kind):
    number = NUMBERS.setdefault(id(value), len(HANDED_OUT))
    if number == len(HANDED_OUT):
        HANDED_OUT.append(value)
    return "opaque(%r, %d)" % (str.__str__(kind.__name__)[:60], number)


def run_serve(request):
    """Does what the test's side asks for, until that hangs up."""
    global LOSSY, opaque
    LOSSY, opaque = "lossy(%s)", hand_out
    try:
        names = as_main(request)
        if request["entry_point"]:
            names = {**names, request["entry_point"]: find_function(names, request["entry_point"])}
    except BaseException as error:
        record_error(-1, error)
        return 1
    readable = {**LITERALS, "handle": HANDED_OUT.__getitem__}
    while True:
        try:
            kind, text = receive(1 << 40)
        except EOFError:
            return 0
        what = eval(text, readable)  # the test's side is trusted
        if kind == b"N":
            send(b"N", "[%s]" % ", ".join([what_is(names, name) for name in what]))
        else:
            send(*do(*what))


def what_is(names, name):
    """What the program has under a name, as (`nothing` | `module` | `exception` | `value`, the module's name or the value)."""
    if name not in names:
        return "('nothing', None)"
    value = names[name]
    if isinstance(value, types.ModuleType):
        return encode(("module", str(value.__name__)))
    if isinstance(value, type) and issubclass(value, BaseException):
        return "('exception', None)"
    return "('value', %s)" % encode(value)


OPERATIONS = {
    "call": lambda value, *arguments, **keywords: value(*arguments, **keywords), "getattr": getattr, "setattr": setattr,
    "delattr": delattr, "iter": iter, "next": next, "len": len, "bool": bool, "hash": hash, "str": str, "repr": repr, "abs": abs,
    "isinstance": isinstance, **{name: getattr(operator, name) for name in (
        "getitem", "setitem", "delitem", "contains", "eq", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod",
        "pow", "matmul", "and_", "or_", "xor", "neg", "invert")},
}


def do(operation, arguments, keywords):
    before = encode((arguments, keywords))
    try:
        value = OPERATIONS[operation](*arguments, **keywords)
    except BaseException as error:
        kinds = [base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins"]
        return b"E", encode((kinds, type(error).__name__, describe(error).decode(), mutated(before, arguments, keywords)))
    return b"R", "(%s, %s)" % (encode(value), encode(mutated(before, arguments, keywords)))


def mutated(before, arguments, keywords):
    """The arguments, where the call has changed them."""
    return None if encode((arguments, keywords)) == before else (arguments, keywords)


# The test's side.


def run_test(request):
    """Runs test code whose names of the program are stand-ins. What it records can be trusted."""
    global opaque, MOST
    opaque, MOST = stand_in_or_refuse, request["most"]
    space = {"__name__": "tests", "__builtins__": builtins}
    code, entry_point = request["code"], request["entry_point"]
    try:
        exec(compile(request["setup"] or "", "setup.py", "exec", dont_inherit=True), space)
        tree = ast.parse(code, "test.py")
    except Exception as error:
        record(b"T", 0, describe(error))
        return 1
    try:
        refuse_what_needs_one_process(tree)
        fetch(space, names_from_outside(tree, space), entry_point)
        exec(compile(tree, "test.py", "exec", dont_inherit=True), space)
        if entry_point and isinstance(space.get("check"), types.FunctionType) and not re.search(r"^check\(", code, re.M):
            space["check"](space[entry_point])
        run_unittests(space, True)
        outcome = None
    except BaseException as error:
        outcome = error
    # A test that catches everything has hidden the first reason to stop, not undone it.
    outcome = STOPPED[0] if STOPPED else outcome
    if outcome is None:
        record(b"P", 0)
    elif isinstance(outcome, Crossing):
        record(b"X", 0, describe(outcome))
    elif isinstance(outcome, AssertionError):
        record(b"W", 0, describe(outcome))
    elif isinstance(outcome, ModuleNotFoundError) and outcome.name:
        record(b"T", 0, describe(outcome))  # the test's own import: the program's errors come without a name
    else:
        record_error(0, outcome)
    return int(outcome is not None)


STOPPED = []


def stop(error):
    STOPPED.append(error)
    raise error


def cross(what):
    stop(Crossing(what))


def stand_in_or_refuse(value, kind):
    if kind is StandIn:
        return "handle(%d)" % object.__getattribute__(value, "_number")
    cross("the test hands over an object of class %s" % kind.__name__)


# Names of test code that is about its own process, which is not the program's.
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


NAMED = set()  # what the test reads by name


def names_from_outside(tree, space):
    """The names that test code reads and neither it nor its setup defines."""
    defined, bases = set(space) | set(BUILTINS), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (NAMED if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.ClassDef):
            defined.add(node.name)
            bases |= {base.id for base in node.bases if isinstance(base, ast.Name)}
        elif isinstance(node, ast.FunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
    if bases - defined:
        cross("the test makes a class of %s" % sorted(bases - defined)[0])
    return sorted(NAMED - defined)


def fetch(space, names, entry_point):
    """Puts what the program has under these names among the names of the test."""
    wanted = [name for name in names if name != entry_point] + ([entry_point] if entry_point else [])
    for name, (kind, value) in zip(wanted, ask(b"N", encode(wanted))[1]):
        if name in MODULES and name != entry_point:
            space[name] = MODULES[name]  # whatever the program means by it
        elif kind == "value":
            space[name] = value
        elif kind == "module" and value in sys.stdlib_module_names:
            space[name] = __import__(value, fromlist=["*"])
        elif kind != "nothing":
            cross("the test uses the %s %s" % (kind, name))


def ask(kind, text):
    """One question to the program. What comes back is read as data, never run."""
    if STOPPED:
        raise STOPPED[0]
    try:
        send(kind, text)
        kind, text = receive(MOST)
        return kind, decode(ast.parse(text, mode="eval").body)
    except (OSError, EOFError):
        stop(Gone("it ended before it returned"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        stop(Gone("what it answers cannot be read: %s" % error))


def remote(operation, *arguments, **keywords):
    """Has the program's side do something, with copies of plain arguments; gives them the content that they have there afterwards."""
    kind, found = ask(b"C", encode((operation, arguments, keywords)))
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
    """The value of a literal, of built-in types and stand-ins alone."""
    kind = type(node)
    if kind is ast.Constant:
        return node.value
    if kind is ast.Name and node.id in ("inf", "nan"):
        return float(node.id)
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


def lossy(value):
    """A copy of an object of a subclass: equal to what it is made of; what its class added is not known here."""
    base = type(value)
    if base not in LOSSY_CLASSES:
        names = {"__getattr__": lambda self, name: cross("the test looks at %s of an object" % name)}
        if base is dict:
            names["__missing__"] = lambda self, key: cross("the test reads a key that is not there")
        LOSSY_CLASSES[base] = type("Lossy", (base,), names)
    return LOSSY_CLASSES[base](value)


LOSSY_CLASSES = {}


class StandIn:  # an object of the program
    __slots__ = ("_number", "_name")
    __doc__, __module__, __class__ = [property(lambda self, name=name: remote("getattr", self, name))
                                      for name in ("__doc__", "__module__", "__class__")]

    def __eq__(self, other):
        return remote("eq", self, other) if type(other) is StandIn else False

    def __ne__(self, other):
        return not self == other

    def __contains__(self, item):
        if is_named(self):
            return remote("contains", self, item)
        return any(found is item or found == item for found in self)

    def __getattr__(self, name):
        return remote("getattr", self, name)

    def __setattr__(self, name, value):
        return remote("setattr", self, name, value)

    def __instancecheck__(self, value):
        return remote("isinstance", value, self)

    def __enter__(self):
        return remote("getattr", self, "__enter__")()

    def __exit__(self, kind, error, trace):
        if error is not None:
            cross("the test raises inside a `with` of the program")
        return remote("getattr", self, "__exit__")(None, None, None)


def is_named(stand_in):
    """Whether the test itself names the class: then what it means to be equal or less is the class's to say."""
    return object.__getattribute__(stand_in, "_name") in NAMED


def forward(operation, only_alike):
    def method(self, *arguments, **keywords):
        if only_alike and not is_named(self) and any(type(one) is not StandIn for one in arguments):
            return NotImplemented
        return remote(operation, self, *arguments, **keywords)

    return method


for _name in ("call", "delattr", "iter", "next", "len", "bool", "hash", "str", "repr", "getitem", "setitem", "delitem"):
    setattr(StandIn, "__%s__" % _name, forward(_name, False))
for _name in ("lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    setattr(StandIn, "__%s__" % _name.strip("_"), forward(_name, True))
for _name in ("abs", "neg", "invert"):
    setattr(StandIn, "__%s__" % _name, forward(_name, True))


def stand_in(name, number):
    """The one stand-in for an object."""
    if type(number) is not int or type(name) is not str:
        raise ValueError("no stand-in")
    if number not in STAND_INS:
        found = STAND_INS[number] = object.__new__(StandIn)
        object.__setattr__(found, "_number", number)
        object.__setattr__(found, "_name", name)
    return STAND_INS[number]


STAND_INS = {}
DECODERS = {"float": float, "complex": complex, "set": set, "frozenset": frozenset, "opaque": stand_in, "lossy": lossy}


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

    sys.path.remove(os.getcwd())
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) and os.path.dirname(str(module.__file__)) == os.getcwd() and name != "__main__":
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


