//! Verdicts on honest and on hostile programs.

use super::*;
use crate::columns::{Case, Check, TestStyle, Tests};
use std::sync::{Mutex, MutexGuard};

/// One sandbox for all tests: a zygote takes 0.2 s to start.
fn sandbox() -> MutexGuard<'static, Sandbox> {
    static OPEN: std::sync::OnceLock<Mutex<Sandbox>> = std::sync::OnceLock::new();
    OPEN.get_or_init(|| Mutex::new(Sandbox::open(Config::default()).expect("this machine shuts programs in")))
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn limits() -> Limits {
    Limits { cpu_s: 1.0, memory_bytes: 256 << 20, output_bytes: 1 << 20, ..Limits::default() }
}

fn case(input: &str, output: &str) -> Case {
    Case { input: input.into(), output: output.into(), check: Check::Equal, tolerance: None }
}

fn tests(style: TestStyle, cases: &[(&str, &str)], code: Option<&str>) -> Tests {
    Tests {
        style,
        cases: cases.iter().map(|(input, output)| case(input, output)).collect(),
        code: code.map(Into::into),
        setup: None,
    }
}

fn judged(source: &str, entry_point: Option<&str>, tests: &Tests, limits: &Limits) -> Judgement {
    let program = Program {
        source,
        entry_point,
        tests,
        output: OutputComparator::Lines,
        value: ValueComparator::PyEq,
        coverage: false,
    };
    sandbox().run(&program, limits).expect("judged")
}

/// Judges a program by its standard output.
fn stdio(source: &str, cases: &[(&str, &str)]) -> Judgement {
    judged(source, None, &tests(TestStyle::Stdio, cases, None), &limits())
}

/// Judges a function `f`.
fn call(source: &str, cases: &[(&str, &str)]) -> Judgement {
    judged(source, Some("f"), &tests(TestStyle::Call, cases, None), &limits())
}

/// Judges a function `f` by test code.
fn assert_code(source: &str, code: &str) -> Judgement {
    judged(source, Some("f"), &tests(TestStyle::Assert, &[], Some(code)), &limits())
}

#[track_caller]
fn expect(found: &Judgement, verdict: Verdict, passed: u32) {
    assert_eq!((found.verdict, found.tests_passed), (verdict, passed), "{found:?}");
}

/// A program that reads and prints, judged line by line.
fn script<'a>(source: &'a str, tests: &'a Tests) -> Program<'a> {
    Program {
        source,
        entry_point: None,
        tests,
        output: OutputComparator::Lines,
        value: ValueComparator::PyEq,
        coverage: false,
    }
}

#[test]
fn the_machine_at_hand_shuts_programs_in_or_says_why_not() {
    let sandbox = sandbox();
    let isolation = sandbox.isolation();
    assert!(isolation.grade >= Grade::Partial, "{isolation:?}");
    assert_eq!(isolation.grade == Grade::Full, isolation.missing.is_empty(), "{isolation:?}");
    let python = sandbox.interpreter();
    assert!(python.version().starts_with("cpython 3."), "{python:?}");
    assert!(python.path().is_absolute(), "{python:?}");
}

#[test]
fn honest_scripts_pass_whatever_way_they_read_and_write() {
    for (source, input, output) in [
        ("print(sum(map(int, input().split())))", "1 2\n", "3"),
        ("import sys\nprint(sum(int(x) for x in sys.stdin))", "1\n2\n", "3\n"),
        ("import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])", "abc", "cba"),
        ("while True:\n    try:\n        print(int(input()) * 2)\n    except EOFError:\n        break", "1\n2", "2\n4"),
        ("def main():\n    print('x')\nif __name__ == '__main__':\n    main()", "", "x"),
        ("import sys\nprint('ok')\nsys.exit(0)", "", "ok"),
        ("print('ok')\nexit()", "", "ok"),
        (
            "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\ndef f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\n\
             t = threading.Thread(target=lambda: print(f(50000)))\nt.start()\nt.join()",
            "",
            "50000",
        ),
        (
            "import sys\nsys.setrecursionlimit(10**6)\ndef f(n):\n    return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000))",
            "",
            "20000",
        ),
        ("import threading\nthreading.Thread(target=lambda: print('late')).start()", "", "late"),
        ("import atexit\natexit.register(print, 'bye')", "", "bye"),
        ("print('x' * 900_000)", "", &"x".repeat(900_000)),
        (
            "import os, sys\nprint(os.getcwd(), sys.argv, sorted(os.environ))",
            "",
            "/tmp ['program.py'] ['HOME', 'LANG', 'PATH', 'PYTHONHASHSEED', 'TZ']",
        ),
        ("open('a.txt', 'w').write('kept'); print(open('a.txt').read())", "", "kept"),
        (
            "import subprocess, sys\nprint(subprocess.run([sys.executable, '-S', '-c', 'print(6 * 7)'], capture_output=True, text=True).stdout)",
            "",
            "42",
        ),
        ("print('h\u{e9}llo \u{1f600}')", "", "h\u{e9}llo \u{1f600}"),
        ("import asyncio\nasync def f():\n    print('a')\nasyncio.run(f())", "", "a"),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nprint(A(1))", "", "A(x=1)"),
    ] {
        let found = stdio(source, &[(input, output)]);
        assert_eq!(found.verdict, Verdict::Passed, "{source}: {found:?}");
        assert_eq!(found.trust, Trust::Full);
    }
}

#[test]
fn output_that_is_no_text_is_wrong_and_not_fatal() {
    expect(&stdio("import sys\nsys.stdout.buffer.write(b'\\xff\\xfe')", &[("", "x")]), Verdict::Wrong, 0);
}

#[test]
fn every_bad_end_of_a_script_has_its_verdict() {
    for (source, verdict) in [
        ("print(1)", Verdict::Wrong),
        ("1/0", Verdict::Error),
        ("def f(:", Verdict::Error),
        ("import sys\nprint('x')\nsys.exit(3)", Verdict::Error),
        ("print('x'); import os; os._exit(0)", Verdict::Wrong),
        ("while True: pass", Verdict::Timeout),
        ("while True: print('y' * 1000)", Verdict::OutputLimit),
        ("a = []\nwhile True: a.append(bytes(10**6))", Verdict::Memory),
        ("import ctypes; ctypes.string_at(0)", Verdict::Killed),
        ("sum(range(10**12))", Verdict::Timeout),
        ("import re; re.match('(a*)*b', 'a' * 100)", Verdict::Timeout),
    ] {
        let found = stdio(source, &[("", "x")]);
        assert_eq!(found.verdict, verdict, "{source}: {found:?}");
        assert!(found.first_failure.is_some());
    }
}

#[test]
fn each_case_is_judged_and_the_worst_is_the_verdict() {
    let source = "n = int(input())\nprint(n if n < 3 else 1 / 0 if n == 3 else 0)";
    let found = stdio(source, &[("1", "1"), ("2", "2"), ("3", "3"), ("4", "4")]);
    expect(&found, Verdict::Error, 2);
    assert!(
        found.first_failure.as_deref().is_some_and(|text| text.starts_with("test 3: ZeroDivisionError")),
        "{found:?}"
    );
    assert_eq!((found.tests_total, found.comparator.as_str()), (4, "lines"));
}

#[test]
fn functions_are_judged_by_value() {
    expect(&call("def f(a, b):\n    return a + b", &[("(1, 2)", "3"), ("([1], [2])", "[1, 2]")]), Verdict::Passed, 2);
    expect(&call("class Solution:\n    def f(self, x):\n        return x * 2", &[("(2,)", "4")]), Verdict::Passed, 1);
    expect(&call("def f(x):\n    return (x, x)", &[("(1,)", "[1, 1]")]), Verdict::Wrong, 0);
    expect(
        &call("def f(x):\n    x.append(1)\n    return len(x)", &[("([],)", "1"), ("([],)", "1")]),
        Verdict::Passed,
        2,
    );
    let types = "from collections import *\nP = namedtuple('P', 'a b')\ndef f(k):\n    d = defaultdict(int); d['a'] = 1\n    \
                 return [Counter('a'), OrderedDict(a=1), d, P(1, 2), float('inf'), -0.0, 2**300, 1+2j, b'\\xff', {1, 2}, '\\ud800', ...][k]";
    let expected = [
        "{'a': 1}",
        "{'a': 1}",
        "{'a': 1}",
        "(1, 2)",
        "float('inf')",
        "0",
        "2**300",
        "1+2j",
        "b'\\xff'",
        "{2, 1}",
        "'\\ud800'",
        "...",
    ];
    let cases: Vec<(String, &str)> =
        expected.iter().enumerate().map(|(k, value)| (format!("({k},)"), *value)).collect();
    let cases: Vec<(&str, &str)> = cases.iter().map(|(input, output)| (input.as_str(), *output)).collect();
    expect(&call(types, &cases), Verdict::Passed, 12);
    expect(&call("def g(): pass", &[("()", "1")]), Verdict::Error, 0);
}

#[test]
fn checks_of_truth_and_closeness() {
    let mut tests = tests(TestStyle::Call, &[("('a',)", ""), ("('',)", ""), ("('b',)", "0.5")], None);
    tests.cases[0].check = Check::Truthy;
    tests.cases[1].check = Check::Falsy;
    tests.cases[2] = Case { check: Check::Close, tolerance: Some(1e-3), ..tests.cases[2].clone() };
    let source = "import re\ndef f(x):\n    return 0.5001 if x == 'b' else re.match('a', x)";
    expect(&judged(source, Some("f"), &tests, &limits()), Verdict::Passed, 3);
}

#[test]
fn a_crash_or_a_timeout_in_one_case_costs_that_case_alone() {
    let source = "import os, ctypes\ndef f(x):\n    if x == 1: ctypes.string_at(0)\n    if x == 2: os._exit(0)\n    \
                  if x == 3:\n        while True: pass\n    return x";
    let found = call(source, &[("(0,)", "0"), ("(1,)", "1"), ("(2,)", "2"), ("(3,)", "3"), ("(4,)", "4")]);
    expect(&found, Verdict::Killed, 2);
    let once = Limits { stop_at_first_failure: true, ..limits() };
    let tests = tests(TestStyle::Call, &[("(0,)", "0"), ("(2,)", "2"), ("(4,)", "4")], None);
    expect(&judged(source, Some("f"), &tests, &once), Verdict::Error, 1);
}

#[test]
fn a_process_ends_with_the_first_failure_where_that_is_enough() {
    let source = "def f(x):\n    while x: pass\n    return x";
    let cases = [("(0,)", "0"), ("(0,)", "1"), ("(1,)", "1")];
    let tests = tests(TestStyle::Call, &cases, None);
    let once = Limits { stop_at_first_failure: true, cpu_s: 20.0, ..limits() };
    let found = judged(source, Some("f"), &tests, &once);
    expect(&found, Verdict::Wrong, 1);
    assert!(found.cpu_s < once.cpu_s, "the last call, which never ends, was not waited for: {found:?}");
    expect(&stdio("print(1)", &[("", "1")]), Verdict::Passed, 1);
}

#[test]
fn every_case_has_the_whole_time_limit() {
    let source = "import time\ndef f(x):\n    end = time.process_time() + 0.4\n    while time.process_time() < end: pass\n    return x";
    let found = call(source, &[("(0,)", "0"), ("(1,)", "1"), ("(2,)", "2"), ("(3,)", "3")]);
    expect(&found, Verdict::Passed, 4);
    assert!(found.cpu_s > 1.0, "{found:?}");
}

/// Ways to be counted as right without being right.
#[test]
fn nobody_passes_a_call_test_by_cheating() {
    for source in [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "import sys\ndef f(x): sys.exit(0)",
        "import os\ndef f(x): os._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os, sys\ndef f(x): os.execv(sys.executable, [sys.executable, '-c', ''])",
        "class Yes:\n    def __eq__(self, other): return True\n    def __bool__(self): return True\ndef f(x): return Yes()",
        "class Yes(int):\n    def __eq__(self, other): return True\ndef f(x): return Yes(0)",
        "class Yes(str):\n    def __eq__(self, other): return True\ndef f(x): return [Yes()]",
        "import gc\ndef f(x):\n    return next((o for o in gc.get_objects() if type(o) is dict and 'output' in o), None)",
        "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n        for v in frame.f_locals.values():\n            if v == 41: return v\n        frame = frame.f_back",
        "import sys\ndef f(x):\n    text = repr([fr.f_locals for fr in sys._current_frames().values()]) + repr(sys.modules['__main__'].__dict__)\n    return 41 if '41' in text.replace('.41', '') and x != 41 and False else text",
        "import builtins, math\nbuiltins.abs = lambda x: 0\nmath.isclose = lambda *a, **k: True\nbuiltins.int = bool\ndef f(x): return 0",
        "import sys\nsys.settrace(lambda *a: None)\ndef f(x): return None",
        "import sys\nsys.excepthook = lambda *a: None\ndef f(x): raise ValueError",
        "import os\nfor fd in range(64):\n    try: os.write(fd, b'R 0 2\\n42\\n')\n    except OSError: pass\ndef f(x): return 0",
        "import os\nfor fd in range(3, 64):\n    try: os.close(fd)\n    except OSError: pass\ndef f(x): return 42",
        "import threading, os\nthreading.Timer(0, os._exit, (0,)).start()\ndef f(x):\n    while True: pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\ndef f(x): return 1",
        "def f(x): return 40 + 1 - 1",
        "import json\njson.dumps = lambda *a: '41'\ndef f(x): return 40",
        "__name__ = 'x'\nf = lambda x: object()",
        "import sys\nsys.setrecursionlimit(50)\ndef f(x): return f(x)",
    ] {
        let found = call(source, &[("(1,)", "41")]);
        assert_ne!(found.verdict, Verdict::Passed, "{source}: {found:?}");
    }
}

#[test]
fn nobody_passes_test_code_by_the_known_tricks() {
    let test = "def check(candidate):\n    assert abs(candidate(1) - 41) < 1e-6\n    assert candidate(2) == 42\n";
    let honest = assert_code("def f(x): return x + 40", test);
    expect(&honest, Verdict::Passed, 1);
    assert_eq!(honest.trust, Trust::Full);
    expect(&assert_code("def f(x): return x", test), Verdict::Wrong, 0);
    for source in [
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "import sys\ndef f(x): sys.exit(0)",
        "import os\ndef f(x): os._exit(0)",
        "import os\nos.execv('/bin/true', ['true'])",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
        "class Yes:\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\ndef f(x): return Yes()",
        "class Yes(float):\n    def __eq__(self, o): return True\n    def __sub__(self, o): return 0\ndef f(x): return Yes()",
        "import builtins\nbuiltins.abs = lambda x: 0\ndef f(x): return 42",
        "def abs(x): return 0\ndef f(x): return 42",
        "import sys\ndef jump(frame, event, arg):\n    return jump\ndef f(x):\n    sys.settrace(jump)\n    fr = sys._getframe()\n    while fr:\n        fr.f_trace = jump\n        fr = fr.f_back\n    return 0",
        "import builtins\nbuiltins.AssertionError = type('A', (SystemExit,), {})\ndef f(x): return 0",
        "def check(candidate): pass\ndef f(x): return 0",
    ] {
        let found = assert_code(source, test);
        assert_ne!(found.verdict, Verdict::Passed, "{source}: {found:?}");
    }
    let fake = "import math\nmath.isclose = lambda *a, **k: True\ndef f(x): return 0";
    expect(&assert_code(fake, "import math\nassert math.isclose(f(1), 41)"), Verdict::Wrong, 0);
    let fake = "class math:\n    isclose = lambda *a, **k: True\ndef f(x): return 0";
    assert_ne!(assert_code(fake, "assert math.isclose(f(1), 41)").verdict, Verdict::Passed);
}

/// Test code that can be judged from outside, and what it sees of the program.
#[test]
fn test_code_calls_the_program_from_another_process() {
    for (source, code) in [
        ("def f(a): a.append(1); return len(a)", "a = []\nassert f(a) == 1 and a == [1] and f(a) == 2"),
        (
            "def f(d): d['x'][0].add(1); d.pop('y')",
            "d = {'x': ({0},), 'y': 2}\ns = d['x'][0]\nassert f(d) is None\nassert d == {'x': ({0, 1},)} and s == {0, 1}",
        ),
        ("def f(x, *, y=2): return x * y", "assert f(2) == 4 and f(2, y=5) == 10"),
        ("def g(x): return x + 1\ndef f(x): return g(x)", "assert f(1) == g(1)"),
        ("LIMIT = [1, (2,)]\ndef f(): return LIMIT", "assert f() == LIMIT == [1, (2,)]"),
        ("import math as m\ndef f(x): return m.sqrt(x)", "assert m.isclose(f(2), 1.41421356, rel_tol=1e-6)"),
        (
            "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
            "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'negative'",
        ),
        (
            "class Bad(KeyError): pass\ndef f(x): raise Bad(x)",
            "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        with self.assertRaises(KeyError): f(1)",
        ),
        (
            "from collections import Counter, namedtuple\nP = namedtuple('P', 'a b')\ndef f(x): return Counter(x), P(1, 2)",
            "assert f('aa') == ({'a': 2}, (1, 2))",
        ),
        (
            "def f(x): return float('nan'), -0.0, 1e400, 2**300, -3+2j, b'\\xff', '\\n\\ud800', frozenset({1}), ..., None",
            "n, *rest = f(1)\nassert n != n and rest == [0.0, float('inf'), 2**300, -3+2j, b'\\xff', '\\n\\ud800', frozenset({1}), ..., None]",
        ),
        ("import re\ndef f(x): return re.match('a', x)", "assert f('a')\nassert not f('b')"),
        ("class Solution:\n    def f(self, x): return x + 1", "assert f(1) == 2"),
        (
            "import functools\n@functools.lru_cache\ndef f(x): return x if x < 2 else f(x - 1) + f(x - 2)",
            "assert f(50) == 12586269025",
        ),
        (
            "def f(n): return list(range(n))",
            "import random\nfor _ in range(300):\n    n = random.randint(0, 50)\n    assert f(n) == list(range(n))",
        ),
    ] {
        let found = assert_code(source, code);
        assert_eq!((found.verdict, found.trust), (Verdict::Passed, Trust::Full), "{source}\n{code}: {found:?}");
    }
}

/// Objects of the program's own classes stay with the program; the test has stand-ins.
#[test]
fn test_code_may_use_the_programs_objects_from_afar() {
    let stack = "class Stack:\n    size = 3\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n    \
                 def __len__(self): return len(self.items)\n    def __iter__(self): return iter(self.items)\ndef f(): return Stack()";
    let point = "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n    \
                 def __add__(self, o): return P(self.x + o.x)\n    def __lt__(self, o): return self.x < o.x\n    \
                 def __contains__(self, y): return y == self.x\n    def __enter__(self): return self\n    \
                 def __exit__(self, *e): self.x = 0\ndef f(x): return P(x)";
    for (source, code) in [
        (
            stack,
            "s = f()\ns.push([1])\ns.push('a')\nassert s.items == [[1], 'a'] and len(s) == 2 and list(s) == [[1], 'a'] and 'a' in s",
        ),
        (stack, "assert Stack().size == 3 and isinstance(f(), Stack) and not isinstance(1, Stack) and not Stack()"),
        (
            stack,
            "s = f()\ns.size = 4\nassert s.size == 4 and not hasattr(s, 'colour') and s.__class__.__name__ == 'Stack'",
        ),
        (
            point,
            "assert f(1) == P(1) and f(1) != P(2) and f(1) + P(2) == P(3) and sorted([P(2), f(1)])[0].x == 1 and 1 in P(1)",
        ),
        (point, "with P(3) as p:\n    assert p.x == 3\nassert p.x == 0"),
        (
            "def f(x):\n    yield x\n    yield [x]",
            "assert list(f(1)) == [1, [1]]\nfor a, b in zip(f(2), [2, [2]]): assert a == b",
        ),
        (
            "def f(x):\n    'Doc.'\n    return lambda y: x + y",
            "assert f.__doc__ == 'Doc.' and f(1)(2) == 3 and callable(f)",
        ),
        ("def f(g, x): return g(x)\ndef g(x): return x + 1", "assert f(g, 1) == 2"),
        (
            "import functools\n@functools.cache\ndef f(x): return x",
            "f(1); f(1)\nassert f.cache_info().hits == 1 if False else f.cache_info()[0] == 1",
        ),
    ] {
        let found = assert_code(source, code);
        assert_eq!((found.verdict, found.trust), (Verdict::Passed, Trust::Full), "{source}\n{code}: {found:?}");
        let wrong =
            assert_code(&format!("{source}\ndef f(*args): raise ValueError\nclass Stack: size = 0\nP = 1"), code);
        assert_ne!(wrong.verdict, Verdict::Passed, "{code}: {wrong:?}");
    }
}

/// What cannot cross between two processes is judged in one, and says so.
#[test]
fn test_code_that_must_run_beside_the_program_is_trusted_less() {
    for (source, code) in [
        ("def f(x): return x", "a = [1]\nassert f(a) is a"),
        ("import os\nos.mkdir('d')\nos.chdir('d')\ndef f(x): return x", "a = [1]\nassert f(a) is a"),
        ("def f(g): return g(2)", "assert f(lambda x: x + 1) == 3"),
        (
            "from collections import namedtuple\nP = namedtuple('P', 'a b')\ndef f(): return P(1, 2)",
            "assert f().b == 2",
        ),
        ("class Bad(Exception): pass\ndef f(): raise Bad", "try:\n    f()\n    assert False\nexcept Bad:\n    pass"),
        (
            "class A:\n    def g(self): return 1\ndef f(a): return a.g()",
            "class B(A):\n    def g(self): return 2\nassert f(B()) == 2",
        ),
        (
            "def f(): print('hi')",
            "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out): f()\nassert out.getvalue() == 'hi\\n'",
        ),
    ] {
        let found = assert_code(source, code);
        assert_eq!((found.verdict, found.trust), (Verdict::Passed, Trust::Weak), "{source}\n{code}: {found:?}");
        let wrong = assert_code(&format!("{source}\ndef f(*args): raise ValueError"), code);
        assert_ne!(wrong.verdict, Verdict::Passed, "{code}: {wrong:?}");
    }
}

#[test]
fn a_test_that_cannot_run_is_no_fault_of_the_program() {
    fn program(tests: &Tests) -> Program<'_> {
        Program { entry_point: Some("f"), ..script("def f(x): return x", tests) }
    }
    let mut faulty = tests(TestStyle::Assert, &[], Some("assert f(1) =="));
    for code in ["assert f(1) ==", "import a_module_of_nowhere\nassert f(1) == 1"] {
        faulty.code = Some(code.into());
        let error = sandbox().run(&program(&faulty), &limits()).expect_err("a faulty test");
        assert!(matches!(error, SandboxError::Test { .. }), "{error}");
    }
    let unreadable = tests(TestStyle::Call, &[("(1,)", "1"), ("(1, oops)", "1")], None);
    let error = sandbox().run(&program(&unreadable), &limits()).expect_err("a faulty input");
    assert!(matches!(error, SandboxError::Test { index: 2, .. }), "{error}");
    // A program whose own import fails, or that pretends that the arguments were unreadable, has failed by itself.
    let test = "assert f(1) == 1";
    assert_eq!(assert_code("import a_module_of_nowhere\ndef f(x): return x", test).verdict, Verdict::Error);
    assert_eq!(assert_code("def f(x): import a_module_of_nowhere", test).verdict, Verdict::Error);
    let liar = "import os\nos.write(63, b'T 0 3\\nbad\\n')\ndef f(x): return x";
    assert_eq!(call(liar, &[("(1,)", "1")]).verdict, Verdict::Error);
}

#[test]
fn the_lines_that_ran_are_told_where_it_is_asked() {
    let source = "def f(x):\n    if x > 1:\n        return 2\n    return 1\n\ndef unused():\n    pass\n";
    let covered = |tests: &Tests| {
        let program = Program { entry_point: Some("f"), coverage: true, ..script(source, tests) };
        let found = sandbox().run(&program, &limits()).expect("judged");
        (found.verdict, found.covered_lines.expect("asked for").into_iter().collect::<Vec<_>>())
    };
    let all = tests(TestStyle::Call, &[("(1,)", "1"), ("(2,)", "2")], None);
    assert_eq!(covered(&all), (Verdict::Passed, vec![1, 2, 3, 4, 6]));
    let some = tests(TestStyle::Call, &[("(2,)", "2")], None);
    assert_eq!(covered(&some), (Verdict::Passed, vec![1, 2, 3, 6]));
    let code = tests(TestStyle::Assert, &[], Some("assert f(0) == 1"));
    assert_eq!(covered(&code), (Verdict::Passed, vec![1, 2, 4, 6]));
    let weak = tests(TestStyle::Assert, &[], Some("a = f\nassert a is f and f(0) == 1"));
    assert_eq!(covered(&weak), (Verdict::Passed, vec![1, 2, 4, 6]));
    assert_eq!(call(source, &[("(1,)", "1")]).covered_lines, None);
}

#[test]
fn test_cases_of_unittest_run() {
    let test =
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(f(1), 2)\n";
    expect(&assert_code("def f(x): return x + 1", test), Verdict::Passed, 1);
    expect(&assert_code("def f(x): return x", test), Verdict::Wrong, 0);
}

/// What a program tries to do to the machine; it prints `ok` where it was kept from it.
#[test]
fn nothing_of_the_host_is_within_reach() {
    let guarded =
        |body: &str| format!("try:\n    {body}\n    print('reached')\nexcept (OSError, ValueError):\n    print('ok')");
    for body in [
        "open('/etc/passwd').read()",
        "open('/proc/self/status').read()",
        "import os; os.listdir('/var')",
        "import os; os.listdir('/home')",
        "open('/usr/pwned', 'w')",
        "open('/pwned', 'w')",
        "import socket; socket.create_connection(('127.0.0.1', 80), 1)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "import os; os.kill(1 << 14, 9)",
        "import os; os.chroot('/tmp')",
        "import os; os.setuid(0)",
        "import ctypes\n    if ctypes.CDLL(None).unshare(0x10000000) != 0: raise OSError",
        "import os; os.execv('/bin/sh', ['sh'])",
        "import os; os.mknod('/tmp/x', 0o60644, 0x800)",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (100, 100))",
        "import os; os.memfd_create('x')",
        "import ctypes\n    if ctypes.CDLL(None).shmget(0, 1 << 20, 0o1600) < 0: raise OSError",
        "import ctypes\n    if ctypes.CDLL(None).msgget(0, 0o1600) < 0: raise OSError",
        "import ctypes\n    if ctypes.CDLL(None).semget(0, 1, 0o1600) < 0: raise OSError",
    ] {
        let source = guarded(body);
        let found = stdio(&source, &[("", "ok")]);
        assert_eq!(found.verdict, Verdict::Passed, "{body}: {found:?}");
    }
}

#[test]
fn swarms_and_floods_end_with_the_program() {
    let bomb = "import os\ntry:\n    while True: os.fork()\nexcept OSError:\n    while True: pass";
    assert!(stdio(bomb, &[("", "x")]).verdict >= Verdict::Error);
    let hogs = "import os\nfor _ in range(5): os.fork()\na = bytearray(200 << 20)\nfor i in range(0, len(a), 4096): a[i] = 1\nimport time\ntime.sleep(3)";
    assert_eq!(stdio(hogs, &[("", "x")]).verdict, Verdict::Memory);
    let disk =
        "try:\n    for i in range(1000): open(str(i), 'wb').write(bytes(1 << 19))\nexcept OSError: print('full')";
    expect(&stdio(disk, &[("", "full")]), Verdict::Passed, 1);
    let daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(1000)\n    os._exit(0)\nos.wait()\nprint('gone')";
    expect(&stdio(daemon, &[("", "gone")]), Verdict::Passed, 1);
    let killer = "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\nprint('done')";
    expect(&stdio(killer, &[("", "done")]), Verdict::Passed, 1);
    // Whatever they did, the next program finds the machine as it should be, and no process is left.
    expect(&stdio("print('fine')", &[("", "fine")]), Verdict::Passed, 1);
    let sandbox = sandbox();
    assert_eq!(sandbox.zygote.children().expect("read"), Vec::<i32>::new());
}

#[test]
fn a_program_that_waits_is_ended_by_the_wall_clock_after_a_second_try() {
    let short = Limits { cpu_s: 0.1, ..limits() };
    let begin = std::time::Instant::now();
    let found = judged("import time\ntime.sleep(100)", None, &tests(TestStyle::Stdio, &[("", "x")], None), &short);
    assert_eq!(found.verdict, Verdict::Timeout);
    // Each of the two tries had half a second.
    assert!(found.wall_s >= 0.4 && begin.elapsed().as_secs_f64() >= 1.0, "{found:?}");
}

#[test]
fn time_outs_are_counted_and_the_rest_is_not_run() {
    let short = Limits { cpu_s: 0.2, max_timeouts: 2, ..limits() };
    let cases = [("1", "1"); 50];
    let found = judged("while True: pass", None, &tests(TestStyle::Stdio, &cases, None), &short);
    expect(&found, Verdict::Timeout, 0);
    assert!(found.cpu_s < 2.0 && found.tests_total == 50, "{found:?}");
}

#[test]
fn one_program_leaves_nothing_for_the_next() {
    let first =
        "import builtins, math, os\nbuiltins.secret = 41\nmath.pi = 3\nopen('/tmp/left', 'w').write('x')\nprint('x')";
    expect(&stdio(first, &[("", "x")]), Verdict::Passed, 1);
    let second = "import math, os, gc\nprint('secret' in dir(__builtins__), round(math.pi, 2), os.listdir('/tmp'))";
    expect(&stdio(second, &[("", "False 3.14 ['program.py']")]), Verdict::Passed, 1);
}

#[test]
fn runs_repeat_to_the_letter() {
    let source = "import random\nprint(random.random(), hash('a'), {'a', 'b', 'c'}, id)";
    let other = stdio(source, &[("", "x")]).first_failure;
    assert_eq!(stdio(source, &[("", "x")]).first_failure, other);
}

#[test]
fn cpython_itself_says_what_parses() {
    let sources = [
        "x = 1",
        "print 'x'",
        "def f(a, a): pass",
        "x = 08",
        "a <> b",
        "x = 1\0",
        "def f():\n    return 1",
        "return 1",
    ];
    let found = sandbox().parses(&sources).expect("checked");
    let accepted: Vec<bool> = found.iter().map(Option::is_none).collect();
    assert_eq!(accepted, [true, false, false, false, false, false, true, false], "{found:?}");
}

#[test]
fn a_program_without_tests_is_not_judged() {
    let tests = tests(TestStyle::Stdio, &[], None);
    let program = Program {
        source: "",
        entry_point: None,
        tests: &tests,
        output: OutputComparator::Lines,
        value: ValueComparator::PyEq,
        coverage: false,
    };
    assert!(matches!(sandbox().run(&program, &limits()), Err(SandboxError::Test { .. })));
}

#[test]
fn less_isolation_is_graded_and_refused_below_the_floor() {
    let without = vec![Feature::Namespaces, Feature::Landlock, Feature::Seccomp];
    let refused = Sandbox::open(Config { without: without.clone(), ..Config::default() }).expect_err("below the floor");
    let text = refused.to_string();
    assert!(text.contains("isolation is None") && text.contains("kernel.unprivileged_userns_clone"), "{text}");
    let mut bare =
        Sandbox::open(Config { without, floor: Grade::None, ..Config::default() }).expect("unsafe is allowed");
    let cases = tests(TestStyle::Stdio, &[("", "1")], None);
    let program = script("print(1)", &cases);
    assert_eq!(bare.run(&program, &limits()).expect("judged").verdict, Verdict::Passed);
}

#[test]
fn landlock_alone_keeps_programs_from_the_hosts_files() {
    let config = Config { without: vec![Feature::Namespaces], floor: Grade::None, ..Config::default() };
    let mut sandbox = Sandbox::open(config).expect("opens");
    if sandbox.isolation().grade < Grade::Partial {
        return; // a kernel without Landlock
    }
    let cases = tests(TestStyle::Stdio, &[("", "ok")], None);
    for source in [
        "try: open('/etc/passwd').read(); print('read')\nexcept OSError: print('ok')",
        "try: open('/var/tmp/pwned', 'w'); print('written')\nexcept OSError: print('ok')",
        "open('mine', 'w').write('x'); print('ok' if open('mine').read() == 'x' else 'lost')",
        "import os\nprint('ok' if not os.path.exists('mine') else 'left over')",
        "import os\ntry: os.kill(os.getppid(), 0); print('reached')\nexcept OSError: print('ok')",
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\nprint('ok')",
        "import socket\ntry: socket.socket(socket.AF_UNIX); print('reached')\nexcept OSError: print('ok')",
        "import socket\ntry: socket.socketpair(type=socket.SOCK_DGRAM); print('reached')\nexcept OSError: print('ok')",
        "import socket\na, b = socket.socketpair()\na.send(b'ok')\nprint(b.recv(2).decode())",
        "import asyncio\nasync def f(): print('ok')\nasyncio.run(f())",
    ] {
        let program = script(source, &cases);
        let found = sandbox.run(&program, &limits()).expect("judged");
        assert_eq!(found.verdict, Verdict::Passed, "{source}: {found:?}");
    }
    assert_eq!(sandbox.zygote.children().expect("read"), Vec::<i32>::new());
}

#[test]
fn a_dead_zygote_is_replaced() {
    let mut own = Sandbox::open(Config::default()).expect("opens");
    own.zygote.kill();
    let cases = tests(TestStyle::Stdio, &[("", "1")], None);
    let program = script("print(1)", &cases);
    assert_eq!(own.run(&program, &limits()).expect("judged").verdict, Verdict::Passed);
}

#[test]
fn an_interpreter_that_is_not_there_is_named() {
    let error =
        Sandbox::open(Config { interpreter: "python-of-nowhere".into(), ..Config::default() }).expect_err("not there");
    assert!(error.to_string().contains("python-of-nowhere"), "{error}");
}

#[test]
fn an_interpreter_that_is_too_old_is_named_with_its_version() {
    let folder = tempfile::tempdir().expect("made");
    let old = folder.path().join("python3");
    let answer = r#"{"exe": "/x", "version": "cpython 3.8.1", "visible": [], "is_new": false}"#;
    std::fs::write(&old, format!("#!/bin/sh\necho '{answer}'\n")).expect("written");
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    let config = Config { interpreter: old.to_string_lossy().into_owned(), ..Config::default() };
    let error = Sandbox::open(config).expect_err("too old").to_string();
    assert!(error.contains("cpython 3.8.1") && error.contains("3.10 or newer"), "{error}");
}

#[test]
fn without_namespaces_orphans_of_orphans_are_ended_at_once() {
    let config = Config { without: vec![Feature::Namespaces], floor: Grade::None, ..Config::default() };
    let mut sandbox = Sandbox::open(config).expect("opens");
    let source = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        os.setsid()\n    \
                  time.sleep(1000)\ntime.sleep(0.2)\nprint('ok')";
    let cases = tests(TestStyle::Stdio, &[("", "ok")], None);
    let program = script(source, &cases);
    for _ in 0..3 {
        let found = sandbox.run(&program, &limits()).expect("judged");
        assert_eq!(found.verdict, Verdict::Passed, "{found:?}");
    }
    assert_eq!(sandbox.zygote.children().expect("read"), Vec::<i32>::new());
}

#[test]
fn no_descriptor_of_the_runner_reaches_a_program() {
    // A copy is inherited by what is started, unlike all that Rust opens.
    let inherited = nix::unistd::dup(std::io::stderr()).expect("copied");
    let high: Vec<_> = (0..80).map(|_| nix::unistd::dup(&inherited).expect("copied")).collect();
    let source = "import os\ndef is_open(fd):\n    try: os.fstat(fd)\n    except OSError: return False\n    return True\n\
                  print([fd for fd in range(4096) if is_open(fd)])";
    let cases = tests(TestStyle::Stdio, &[("", "[0, 1, 2, 63]")], None);
    let program = script(source, &cases);
    for without in [vec![], vec![Feature::Namespaces]] {
        let mut sandbox = Sandbox::open(Config { without, floor: Grade::None, ..Config::default() }).expect("opens");
        let found = sandbox.run(&program, &limits()).expect("judged");
        assert_eq!(found.verdict, Verdict::Passed, "{found:?}");
    }
    drop(high);
}

#[test]
fn a_zygote_that_does_not_answer_is_not_called_out_of_memory() {
    let (stuck, gone) = (SandboxError::Stuck.to_string(), SandboxError::Gone.to_string());
    assert!(!stuck.contains("memory") && gone.contains("memory"), "{stuck}; {gone}");
}
