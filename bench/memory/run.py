"""Peak memory of the runner over a table and one ten times as long: load, filter, segment, references.

    cargo build --release
    python3 bench/memory/run.py target/release/ablate bench/memory/result.json [ROWS]

A row is about 2 KB of text that does not compress away. Each stage runs in a process of its own, on what the one before has
stored. Peak memory is that of the process and its workers, as the kernel counts it.
"""

import json
import os
import platform
import random
import sys
import tempfile
import time

PIPELINE = """\
name: memory
stages:
  problems: { use: load, with: { path: problems.jsonl } }
  clean:    { use: filter, from: problems, with: { where: "question|length > 10" } }
  blocks:   { use: segment, from: clean, with: { kinds: [if, for] } }
  programs: { use: references, from: clean }
"""
STAGES = {"load": "problems", "filter": "clean", "segment": "blocks", "references": "programs"}
WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyz", k=7)) for i in range(20_000)]


def problem(number):
    draw = random.Random(number)
    name = draw.choice(WORDS)
    return {
        "problem_id": f"p{number}",
        "question": " ".join(draw.choices(WORDS, k=230)),
        "solutions": [f"def {name}(n):\n    for i in range({number}):\n        if i % 7 == n:\n            n += {draw.random()}\n    return n\n"],
        "entry_point": name,
        "tests": {"style": "call", "cases": [{"input": f"({draw.random()},)", "output": "1"}]},
        "source": "memory",
    }


def run(command, cache):
    """Runs a command; its peak resident memory in bytes, and its seconds."""
    began = time.monotonic()
    pid = os.posix_spawn(command[0], command, dict(os.environ, ABLATE_CACHE=cache), file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)])
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, f"{command} ended with {status}"
    return usage.ru_maxrss * 1024, time.monotonic() - began


def measure(ablate, rows):
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/problems.jsonl", "w") as file:
            for number in range(rows):
                file.write(json.dumps(problem(number)) + "\n")
        with open(folder + "/memory.yaml", "w") as file:
            file.write(PIPELINE)
        result = {"rows": rows, "file_bytes": os.path.getsize(folder + "/problems.jsonl")}
        for kind, stage in STAGES.items():
            peak, seconds = run([ablate, "run", folder + "/memory.yaml", stage], folder + "/cache")
            result[kind] = {"peak_bytes": peak, "seconds": round(seconds, 2)}
        return result


ablate, out = os.path.abspath(sys.argv[1]), sys.argv[2]
rows = int(sys.argv[3]) if len(sys.argv) > 3 else 20_000
small, large = measure(ablate, rows), measure(ablate, 10 * rows)
result = {
    "small": small,
    "large": large,
    "bytes_more_for_each_row_more": {
        kind: round((large[kind]["peak_bytes"] - small[kind]["peak_bytes"]) / (9 * rows)) for kind in STAGES
    },
    "build": "debug" if "/debug/" in ablate else "release",
    "machine": platform.machine(),
    "cpus": os.cpu_count(),
}
json.dump(result, open(out, "w"), indent=2)
open(out, "a").write("\n")
print(json.dumps(result, indent=2))
