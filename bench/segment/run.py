"""Splitting programs into blocks: `segment` beside Python's `ast`, same sources, same spans, one thread each, in one run.

    cargo build --release --workspace --example segment
    python3 bench/segment/run.py target/release/examples/segment DATA bench/segment/result.json

DATA is the folder with humaneval/, mbpp/ and apps_coderl/. The two sides alternate; the best pass of each counts.
"""

import ast
import glob
import gzip
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings

warnings.simplefilter("ignore")
KINDS = {ast.If: "if", ast.For: "for", ast.While: "while", ast.FunctionDef: "def"}
ROUNDS, REPEATS = 5, 3


def sources(data):
    for line in gzip.open(data + "/humaneval/HumanEval.jsonl.gz", "rt"):
        row = json.loads(line)
        yield row["prompt"] + row["canonical_solution"]
    for line in open(data + "/mbpp/mbpp.jsonl"):
        yield json.loads(line)["code"]
    for path in sorted(glob.glob(data + "/apps_coderl/APPS/train/*/*solutions.json")):
        for item in json.load(open(path)):
            yield item["code"] if isinstance(item, dict) else item


def split(source):
    """Parse, walk, slice: the blocks of a program as (kind, first line, last line, prefix, middle, suffix)."""
    lines = source.split("\n")
    blocks = []
    for node in ast.walk(ast.parse(source)):
        kind = KINDS.get(type(node))
        if kind is None:
            continue
        first, last = node.lineno - 1, node.end_lineno
        if kind == "if" and lines[first].lstrip().startswith("elif"):
            continue
        prefix = "\n".join(lines[:first]) + "\n" if first else ""
        middle = "\n".join(lines[first:last])
        suffix = "\n" + "\n".join(lines[last:]) if last < len(lines) else ""
        blocks.append((kind, first, last, prefix, middle, suffix))
    return blocks


def one_pass(programs):
    start = time.perf_counter()
    found = [split(program) for program in programs]
    return time.perf_counter() - start, found


def main():
    binary, data, result = sys.argv[1:4]
    programs = []
    for program in sources(data):
        program = program.replace("\r", "")
        try:
            ast.parse(program)
        except (SyntaxError, ValueError):
            continue
        programs.append(program)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(programs, file)
        file.flush()
        ours, theirs = [], []
        for _ in range(ROUNDS):
            out = json.loads(subprocess.run([binary, file.name, str(REPEATS)], check=True, stdout=subprocess.PIPE).stdout)
            ours.append(out["seconds"])
            for _ in range(REPEATS):
                seconds, found = one_pass(programs)
                theirs.append(seconds)
    for program, spans, blocks in zip(programs, out["spans"], found):
        expected = sorted((len(p.encode()), len((p + m).encode()), kind) for kind, _, _, p, m, _ in blocks)
        assert expected == sorted((start, end, kind) for kind, start, end in spans), program
    report = {
        "programs": len(programs),
        "bytes": sum(len(program.encode()) for program in programs),
        "spans": sum(map(len, found)),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "python_seconds": min(theirs),
        "ablate_seconds": min(ours),
        "ratio": min(theirs) / min(ours),
    }
    json.dump(report, open(result, "w"), indent=2)
    print(json.dumps(report, indent=2))


main()
