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


