"""Making preference pairs: the kind `pair` beside the same in Python with rapidfuzz, same targets, one thread each, in one run.

    cargo build --release --workspace --example pair
    pip install rapidfuzz pyarrow
    python3 bench/pair/run.py target/release/examples/pair DATA bench/pair/result.json

DATA is the folder with humaneval/ and mbpp/. Targets are the blocks of their references; each has 5 samples, which are the reference with
seeded edits of characters, and seeded verdicts. The Rust side goes from Arrow tables to Arrow tables. The Python side is timed twice: from lists of
dictionaries to a list of dictionaries (`python_seconds`), and from Arrow tables to an Arrow table as the stage does
(`python_arrow_seconds`). The sides alternate; the best pass of each counts.
"""

import ast
import gzip
import hashlib
import json
import platform
import random
import subprocess
import sys
import tempfile
import time

import pyarrow
import rapidfuzz
from rapidfuzz.distance import Levenshtein

ROUNDS, REPEATS, SAMPLES = 5, 3, 5
KINDS = {ast.If: "if", ast.For: "for", ast.While: "while", ast.FunctionDef: "def"}


def programs(data):
    for line in gzip.open(data + "/humaneval/HumanEval.jsonl.gz", "rt"):
        row = json.loads(line)
        yield row["task_id"], row["prompt"], row["prompt"] + row["canonical_solution"]
    for line in open(data + "/mbpp/mbpp.jsonl"):
        row = json.loads(line)
        yield "mbpp/%d" % row["task_id"], row["text"], row["code"].replace("\r", "")


def targets(data):
    rng = random.Random(17)
    for problem_id, question, source in programs(data):
        lines = source.split("\n")
        for node in ast.walk(ast.parse(source)):
            kind = KINDS.get(type(node))
            if kind is None or lines[node.lineno - 1].lstrip().startswith("elif"):
                continue
            first, last = node.lineno - 1, node.end_lineno
            middle = "\n".join(lines[first:last])
            block_id = "%s:%d" % (problem_id, first)
            samples, verdicts = [], []
            for i in range(SAMPLES):
                text = list(middle)
                for _ in range(rng.randrange(0, 12)):
                    at = rng.randrange(len(text))
                    text[at : at + rng.randrange(2)] = rng.choice(["x", " + 1", "\n", "", "not "])
                sample_id = "%s#%d" % (block_id, i)
                verdict = rng.choice(["passed", "passed", "wrong", "wrong", "error"])
                samples.append({"sample_id": sample_id, "problem_id": problem_id, "block_id": block_id, "sample_index": i, "text": "".join(text)})
                verdicts.append({"sample_id": sample_id, "verdict": verdict, "flaky": False})
            yield {
                "samples": samples,
                "verdicts": verdicts,
                "problem": {"problem_id": problem_id, "question": question, "starter_code": None, "tests": {"style": "call"}},
                "block": {
                    "block_id": block_id,
                    "kind": kind,
                    "depth": 1,
                    "num_lines": last - first,
                    "prefix": "".join(line + "\n" for line in lines[:first]),
                    "suffix": "".join("\n" + line for line in lines[last:]),
                },
            }


def target_span(text):
    return {"text": text, "special": None, "spans": [{"start": 0, "end": len(text.encode()), "weight": 1.0}]}


def plain(text):
    return {"text": text, "special": None, "spans": []}


def special(name, spans=()):
    return {"text": None, "special": name, "spans": list(spans)}


END = special("end", [{"start": 0, "end": 1, "weight": 1.0}])


def comment(question):
    return "\n".join("# " + line if line.strip() else "" for line in question.split("\n"))


def pair(targets, chosen_rejected):
    """The pairs. Which sample is rejected is given, so that both sides make the same pairs."""
    examples = []
    for target in targets:
        block, problem = target["block"], target["problem"]
        verdict_of = {verdict["sample_id"]: verdict for verdict in target["verdicts"]}
        merged = {}
        for sample in target["samples"]:
            text = sample["text"].strip("\n")
            verdict = verdict_of[sample["sample_id"]]["verdict"]
            if text in merged:
                if merged[text][1] != verdict:
                    merged[text] = (merged[text][0], None)
            else:
                merged[text] = (sample["sample_id"], verdict)
        passed = [(text, found[0]) for text, found in merged.items() if found[1] == "passed" and text.strip()]
        wrong = [(text, found[0]) for text, found in merged.items() if found[1] == "wrong" and text.strip()]
        if not passed or not wrong:
            continue
        wanted = chosen_rejected.get(block["block_id"])
        rejected = next((item for item in wrong if item[0] == wanted), wrong[0])
        chosen = min(passed, key=lambda item: Levenshtein.distance(rejected[0], item[0]))
        examples.append(
            {
                "example_id": hashlib.blake2b((chosen[1] + "|" + rejected[1]).encode(), digest_size=16).hexdigest(),
                "problem_id": problem["problem_id"],
                "block_id": block["block_id"],
                "block_kind": block["kind"],
                "num_lines": block["num_lines"],
                "depth": block["depth"],
                "format": "fim",
                "prompt": [
                    special("fim_prefix"),
                    plain(comment(problem["question"]) + "\n\n" + block["prefix"]),
                    special("fim_suffix"),
                    plain(block["suffix"]),
                    special("fim_middle"),
                ],
                "chosen": [target_span(chosen[0]), END],
                "rejected": [target_span(rejected[0]), END],
            }
        )
    return examples


def columns(targets):
    """The tables of the stage: samples, verdicts, problems, blocks."""
    problems = {target["problem"]["problem_id"]: target["problem"] for target in targets}
    return {
        "samples": pyarrow.Table.from_pylist([row for target in targets for row in target["samples"]]),
        "verdicts": pyarrow.Table.from_pylist([row for target in targets for row in target["verdicts"]]),
        "problems": pyarrow.Table.from_pylist(list(problems.values())),
        "blocks": pyarrow.Table.from_pylist([target["block"] for target in targets]),
    }


def pair_tables(tables, chosen_rejected, schema):
    """The same from Arrow tables to an Arrow table; samples of a target stand together."""
    verdicts = {row["sample_id"]: row for row in tables["verdicts"].to_pylist()}
    problems = {row["problem_id"]: row for row in tables["problems"].to_pylist()}
    blocks = {row["block_id"]: row for row in tables["blocks"].to_pylist()}
    targets = {}
    for sample in tables["samples"].to_pylist():
        target = targets.get(sample["block_id"])
        if target is None:
            target = targets[sample["block_id"]] = {
                "samples": [],
                "verdicts": [],
                "problem": problems[sample["problem_id"]],
                "block": blocks[sample["block_id"]],
            }
        target["samples"].append(sample)
        target["verdicts"].append(verdicts[sample["sample_id"]])
    return pyarrow.Table.from_pylist(pair(targets.values(), chosen_rejected), schema=schema)


def main():
    binary, data, result = sys.argv[1:4]
    rows = list(targets(data))
    tables = columns(rows)
    schema = None
    ours, theirs, theirs_arrow = [], [], []
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(rows, file)
        file.flush()
        for _ in range(ROUNDS):
            out = json.loads(subprocess.run([binary, file.name, str(REPEATS)], check=True, stdout=subprocess.PIPE).stdout)
            ours.append(out["seconds"])
            rejected = {block_id: text for block_id, _, text in out["pairs"]}
            for _ in range(REPEATS):
                start = time.perf_counter()
                examples = pair(rows, rejected)
                theirs.append(time.perf_counter() - start)
                schema = schema or pyarrow.Table.from_pylist(examples).schema
                start = time.perf_counter()
                table = pair_tables(tables, rejected, schema)
                theirs_arrow.append(time.perf_counter() - start)
                assert table.num_rows == len(examples)
    made = [[e["block_id"], e["chosen"][0]["text"], e["rejected"][0]["text"]] for e in examples]
    assert made == out["pairs"], "the two sides made different pairs"
    report = {
        "targets": len(rows),
        "samples": SAMPLES * len(rows),
        "pairs": len(examples),
        "python": platform.python_version(),
        "rapidfuzz": rapidfuzz.__version__,
        "machine": platform.machine(),
        "python_seconds": min(theirs),
        "python_arrow_seconds": min(theirs_arrow),
        "ablate_seconds": min(ours),
        "ratio": min(theirs) / min(ours),
        "ratio_arrow": min(theirs_arrow) / min(ours),
    }
    json.dump(report, open(result, "w"), indent=2)
    print(json.dumps(report, indent=2))


main()
