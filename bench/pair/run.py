"""Making preference pairs: the kind `pair` beside the same in Python with rapidfuzz, same targets, one thread each, in one run.

    cargo build --release -p ablate-stages --example pair
    pip install rapidfuzz
    python3 bench/pair/run.py target/release/examples/pair DATA bench/pair/result.json

DATA is the folder with humaneval/ and mbpp/. Targets are the blocks of their references; each has 5 samples, which are the reference with
seeded edits of characters, and seeded verdicts. The Rust side goes from Arrow tables to Arrow tables, the Python side from lists of
dictionaries to lists of dictionaries. The two sides alternate; the best pass of each counts.
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


def main():
    binary, data, result = sys.argv[1:4]
    rows = list(targets(data))
    ours, theirs = [], []
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
        "ablate_seconds": min(ours),
        "ratio": min(theirs) / min(ours),
    }
    json.dump(report, open(result, "w"), indent=2)
    print(json.dumps(report, indent=2))


main()
