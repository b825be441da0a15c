//! Tests of [`super`]: fixed cases, properties, and Python's own `ast` as the judge.

use super::*;
use proptest::prelude::*;
use serde::Deserialize;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn all_kinds() -> [BlockKind; 4] {
    [BlockKind::If, BlockKind::For, BlockKind::While, BlockKind::Def]
}

fn split(source: &str) -> Vec<Span> {
    Splitter::new(all_kinds(), DefFilter::None).split(source).expect("the fixture is Python")
}

/// `kind@first line..last line`, `d` its depth.
fn summary(source: &str) -> Vec<String> {
    split(source)
        .iter()
        .map(|span| {
            let first = span.prefix(source).matches('\n').count() + 1;
            format!("{}@{}..{} d{}", span.kind.as_str(), first, first + span.num_lines as usize - 1, span.depth)
        })
        .collect()
}

#[test]
fn a_span_is_whole_lines_with_the_line_breaks_outside() {
    let source = "a = 1\nfor i in x:\n    if i:\n        a += 1\nprint(a)\n";
    let spans = split(source);
    assert_eq!(spans[1].prefix(source), "a = 1\nfor i in x:\n");
    assert_eq!(spans[1].middle(source), "    if i:\n        a += 1");
    assert_eq!(spans[1].suffix(source), "\nprint(a)\n");
    assert_eq!((spans[0].depth, spans[1].depth), (2, 1));
}

#[test]
fn a_block_on_the_first_line_has_an_empty_prefix_and_one_on_the_last_an_empty_suffix() {
    let source = "while f():\n    pass";
    let spans = split(source);
    assert_eq!(spans[0].prefix(source), "");
    assert_eq!(spans[0].middle(source), source);
    assert_eq!(spans[0].suffix(source), "");
}

#[test]
fn elif_and_else_belong_to_their_statement_and_are_no_targets() {
    let source = "if a:\n    x\nelif b:\n    y\nelse:\n    if c:\n        z\nfor i in j:\n    k\nelse:\n    l\n";
    assert_eq!(summary(source), ["if@1..7 d2", "if@6..7 d1", "for@8..11 d1"]);
}

#[test]
fn with_try_class_match_and_async_are_looked_into_but_are_no_targets() {
    let source = "\
class A:
    def f(self):
        with open(p) as h:
            for line in h:
                pass
try:
    if a: b
except E:
    while c:
        d
finally:
    if e: f
match m:
    case 1:
        if g: h
async def k():
    async for x in y:
        if x: z
";
    assert_eq!(
        summary(source),
        ["def@2..5 d2", "for@4..5 d1", "if@7..7 d1", "while@9..10 d1", "if@12..12 d1", "if@15..15 d1", "if@18..18 d1"]
    );
}

#[test]
fn decorators_stay_in_the_prefix() {
    let source = "@cache\n@other(1)\ndef f(x):\n    return x\n";
    assert_eq!(split(source)[0].prefix(source), "@cache\n@other(1)\n");
}

#[test]
fn comments_behind_a_block_are_not_part_of_it() {
    let source = "for i in x:\n    a(i)  # kept: same line\n    # not kept\n# nor this\nb()\n";
    assert_eq!(split(source)[0].middle(source), "for i in x:\n    a(i)  # kept: same line");
    let source = "if a:\n    b\n    # before the else\nelse:\n    c\n    # last\n";
    assert_eq!(split(source)[0].middle(source), "if a:\n    b\n    # before the else\nelse:\n    c");
}

#[test]
fn names_decide_which_functions_are_targets() {
    let source = "class A:\n    def __init__(self): pass\n    def my_name(self): pass\n    def f(self, a_b): pass\n    def __x(self): pass\n";
    let kept = |filter| {
        let spans = Splitter::new(all_kinds(), filter).split(source).expect("the fixture is Python");
        spans.iter().map(|span| span.prefix(source).matches('\n').count()).collect::<Vec<_>>()
    };
    assert_eq!(kept(DefFilter::None), [1, 2, 3, 4]);
    assert_eq!(kept(DefFilter::Dunder), [2, 3, 4]);
    assert_eq!(kept(DefFilter::Underscore), [3]);
}

#[test]
fn lines_end_where_python_says() {
    let crlf = "x = 1\r\nif x:\r\n    y\r\nz\r\n";
    let span = split(crlf)[0];
    assert_eq!((span.prefix(crlf), span.middle(crlf), span.suffix(crlf)), ("x = 1\r\n", "if x:\r\n    y", "\r\nz\r\n"));
    let strings = "if a:\n    s = '''\nnot a line of its own\n'''; t = 2\nu\n";
    assert_eq!(split(strings)[0].num_lines, 4);
    let tabs = "def f():\n\tfor i in 'äöü':\n\t\tprint('日本')\n\treturn 1";
    assert_eq!(split(tabs)[1].middle(tabs), "\tfor i in 'äöü':\n\t\tprint('日本')");
    assert_eq!(summary("if a: b; c; \nd"), ["if@1..1 d1"]);
}

#[test]
fn what_is_not_python_is_refused_with_its_line() {
    let mut splitter = Splitter::new(all_kinds(), DefFilter::None);
    assert_eq!(splitter.split("a = 1\nif (:\n  b\n"), Err(SplitError::NotPython { line: 2 }));
    assert_eq!(splitter.split("a = 1\rif b: c"), Err(SplitError::LoneCarriageReturn { byte: 5 }));
    assert_eq!(splitter.split(""), Ok(Vec::new()));
}

#[test]
fn random_spans_are_whole_lines_and_depend_on_the_stream_alone() {
    let source = "a\nb\n\n\nc\r\nd\ne";
    let draw = |id| random_spans(source, 5, 3, &mut Random::new(1, "segment", "spans", id));
    assert_eq!(draw("p"), draw("p"));
    assert_ne!(draw("p"), draw("q"));
    for span in draw("p") {
        assert!(!span.middle(source).trim().is_empty());
        assert!(!span.middle(source).ends_with(['\n', '\r']));
        assert!(span.prefix(source).is_empty() || span.prefix(source).ends_with('\n'));
        assert_eq!(span.middle(source).lines().count() as u32, span.num_lines);
    }
    assert!(random_spans("", 5, 3, &mut Random::new(1, "segment", "spans", "p")).is_empty());
    assert_eq!(random_spans("a", 5, 8, &mut Random::new(1, "segment", "spans", "p")).len(), 1);
}

proptest! {
    #[test]
    fn prefix_middle_and_suffix_are_the_source(statements in prop::collection::vec(0..8_usize, 1..30), crlf in any::<bool>()) {
        let source = program(&statements, if crlf { "\r\n" } else { "\n" });
        let spans = split(&source);
        for span in &spans {
            prop_assert_eq!(format!("{}{}{}", span.prefix(&source), span.middle(&source), span.suffix(&source)), source.clone());
            prop_assert!(span.prefix(&source).is_empty() || span.prefix(&source).ends_with('\n'));
            prop_assert!(span.suffix(&source).is_empty() || span.suffix(&source).starts_with(['\r', '\n']));
            let keyword = span.kind.keyword().unwrap();
            prop_assert!(span.middle(&source).trim_start().starts_with(keyword));
        }
        let nested = statements.iter().filter(|&&statement| statement < 4).count();
        prop_assert_eq!(spans.len(), nested);
    }
}

/// A program of nested statements: a number below 4 opens a target, 4 closes a level, the others are simple statements and comments.
fn program(statements: &[usize], line_break: &str) -> String {
    let heads = ["if a:", "for b in c:", "while d:", "def e():"];
    let mut indent = 0;
    let mut lines = Vec::new();
    for &statement in statements {
        let pad = "    ".repeat(indent);
        match statement {
            0..4 => {
                lines.push(format!("{pad}{}", heads[statement]));
                indent += 1;
                lines.push(format!("{}x = 1", "    ".repeat(indent)));
            }
            4 => indent = indent.saturating_sub(1),
            5 => lines.push(format!("{pad}# ünïcode")),
            6 => lines.push(String::new()),
            _ => lines.push(format!("{pad}s = '''\nno indentation\n''' # c").replace('\n', line_break)),
        }
    }
    lines.join(line_break)
}

/// What Python's `ast` says of a program.
#[derive(Deserialize)]
struct Expected {
    source: String,
    /// kind, start byte, end byte; none where CPython does not compile it.
    spans: Option<Vec<(String, usize, usize)>>,
}

const JUDGE: &str = r#"
import ast, glob, gzip, json, os, sys, warnings
warnings.simplefilter("ignore")
data = sys.argv[1]
sources = json.load(sys.stdin)
if data:
    for line in gzip.open(data + "/humaneval/HumanEval.jsonl.gz", "rt"):
        row = json.loads(line)
        sources.append(row["prompt"] + row["canonical_solution"])
    for line in open(data + "/mbpp/mbpp.jsonl"):
        sources.append(json.loads(line)["code"])
    for path in sorted(glob.glob(data + "/apps_coderl/APPS/train/*/*solutions.json")):
        for item in json.load(open(path)):
            sources.append(item["code"] if isinstance(item, dict) else item)
kinds = {ast.If: "if", ast.For: "for", ast.While: "while", ast.FunctionDef: "def"}
for source in sources:
    spans = None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        tree = None
    if tree is not None:
        spans = []
        lines = source.encode().split(b"\n")
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        for node in ast.walk(tree):
            if type(node) in kinds:
                first, last = node.lineno - 1, node.end_lineno - 1
                if type(node) is ast.If and lines[first].lstrip().startswith(b"elif"):
                    continue
                end = starts[last] + len(lines[last]) - lines[last].endswith(b"\r")
                spans.append((kinds[type(node)], starts[first], end))
        spans.sort(key=lambda span: span[1])
    print(json.dumps({"source": source, "spans": spans}))
"#;

/// The folder of data sets, where there is one.
fn data() -> Option<PathBuf> {
    let named = std::env::var_os("ABLATE_DATA").map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    named.or(Some(beside)).filter(|path| path.join("humaneval/HumanEval.jsonl.gz").exists())
}

fn judged_by_python(sources: &[String], data: &str) -> Vec<Expected> {
    let mut python = Command::new("python3")
        .args(["-c", JUDGE, data])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tests need python3");
    serde_json::to_writer(python.stdin.take().unwrap(), sources).unwrap();
    let out = python.wait_with_output().unwrap();
    assert!(out.status.success());
    serde_json::Deserializer::from_slice(&out.stdout).into_iter().collect::<Result<_, _>>().unwrap()
}

#[test]
fn spans_are_those_of_pythons_ast() {
    let mut fixtures: Vec<String> = include_str!("fixtures.py.txt").split("# ----\n").map(str::to_owned).collect();
    fixtures.push("def f():\r\n    if a:\r\n        return b\r".into());
    fixtures.extend(fixtures.clone().iter().map(|source| source.replace("\r\n", "\n").replace('\n', "\r\n")));
    let data = data().map(|path| path.to_str().unwrap().to_owned()).unwrap_or_default();
    let judged = judged_by_python(&fixtures, &data);
    assert!(judged.iter().take(fixtures.len()).all(|program| program.spans.is_some()), "a fixture is not Python");
    let mut splitter = Splitter::new(all_kinds(), DefFilter::None);
    let mut differing = Vec::new();
    for Expected { source, spans } in judged {
        let Some(expected) = spans else { continue };
        let found = splitter.split(&source).map(|spans| {
            spans.iter().map(|span| (span.kind.as_str().to_owned(), span.start_byte, span.end_byte)).collect::<Vec<_>>()
        });
        if found.as_ref() != Ok(&expected) {
            differing.push(format!("{source}\nexpected {expected:?}\nfound {found:?}"));
        }
    }
    assert!(differing.is_empty(), "{} programs differ; the first:\n{}", differing.len(), differing[0]);
}
