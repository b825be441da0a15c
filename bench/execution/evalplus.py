"""Judging HumanEval+: `pipelines/judge-plus.yaml` beside EvalPlus 0.3.1, same programs, same workers, same limits, in turns.

    cargo build --release
    python3 -m venv VENV
    VENV/bin/pip install --no-deps evalplus==0.3.1
    VENV/bin/pip install numpy psutil tqdm termcolor fire appdirs tempdir wget rich tree-sitter tree-sitter-python
    VENV/bin/python bench/execution/evalplus.py target/release/ablate DATA/HumanEvalPlus.jsonl.gz bench/execution/evalplus.json [what ran beside]

Three sets of programs: the canonical solutions of all tasks; those of tasks that take less than LIGHT seconds on all their inputs, since a
few take seconds, which no judge can spare; and mutants of canonical solutions, which this writes (one change of the syntax tree each, fixed
seed). Before the clock starts both sides have computed what the canonical solutions return, and `ablate` has loaded inputs and samples
into its tables. What the canonical solutions themselves take is measured beside: one process, no isolation, nothing compared. Timed is what a user waits for: starting, reading the tables, judging base and plus tests, writing
the verdicts and the scores. EvalPlus is timed until its results are written, not until it ends: a thread of it sleeps up to 20 s more.
Both stop at the first test that fails, and give an input a second: of the clock there, of CPU time here. CPU time is that of all
processes, as rusage has it. The best pass of each side counts. Then every verdict is compared.
"""

import ast
import copy
import gzip
import importlib.metadata
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time

ROUNDS, WORKERS, MUTANTS, SEED, LIGHT = 2, 2, 300, 17, 0.5
SETTINGS = [f"{stage}.{name}" for stage in ("base-verdicts", "plus-verdicts") for name in ("cpu_limit_s=1", "stop_at_first_failure=true")]
# Why verdicts differ that do.
EXPLANATIONS = {
    "HumanEval/32": "EvalPlus 0.3.1 goes on to the next input before it notes that find_zero passed this one, so the count of passed inputs is never full and no program can pass",
}


# ---- mutants -------------------------------------------------------------------------------------------------------------


def changes(node):
    """Ways to change a node, each a function that gives its replacement."""
    found = []
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for kind in (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq):
            if isinstance(node.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)) and not isinstance(node.ops[0], kind):
                found.append(lambda kind=kind: ast.Compare(node.left, [kind()], node.comparators))
    elif isinstance(node, ast.BinOp):
        for kind in (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Div, ast.Mod):
            if not isinstance(node.op, kind):
                found.append(lambda kind=kind: ast.BinOp(node.left, kind(), node.right))
    elif isinstance(node, ast.BoolOp):
        found.append(lambda: ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found.append(lambda: node.operand)
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float, str):
        value = node.value
        others = {bool: lambda: [not value], int: lambda: [value + 1, value - 1], float: lambda: [value + 1, value * 1.00000001], str: lambda: [value + "x", value[1:]]}
        found += [lambda other=other: ast.Constant(other) for other in others[type(value)]() if other != value]
    elif isinstance(node, ast.If):
        found.append(lambda: ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse))
    elif isinstance(node, ast.Return) and node.value is not None:
        call = lambda name: ast.Return(ast.Call(ast.Name(name, ast.Load()), [node.value], []))
        plus = lambda much: ast.Return(ast.BinOp(node.value, ast.Add(), ast.Constant(much)))
        found += [lambda: ast.Return(ast.Constant(None)), lambda: call("float"), lambda: call("tuple"), lambda: plus(1e-7), lambda: plus(1e-5)]
    return found


class Change(ast.NodeTransformer):
    """Replaces one node."""

    def __init__(self, target, replacement):
        self.target, self.replacement = target, replacement

    def visit(self, node):
        return self.replacement if node is self.target else self.generic_visit(node)


def mutants(problems):
    """Programs that differ from a canonical solution by one change behind the prompt; different ones, in an order that the seed gives."""
    drawn, made, seen = random.Random(SEED), [], set()
    while len(made) < MUTANTS:
        problem = drawn.choice(problems)
        tree = ast.parse(problem["prompt"] + problem["canonical_solution"])
        first = problem["prompt"].count("\n") + 1
        sites = [(node, change) for node in ast.walk(tree) if getattr(node, "lineno", 0) >= first for change in changes(node)]
        if not sites:
            continue
        node, change = drawn.choice(sites)
        program = ast.unparse(ast.fix_missing_locations(Change(node, change()).visit(tree)))
        if program not in seen:
            seen.add(program)
            made.append({"task_id": problem["task_id"], "solution": program, "kind": "mutant"})
    return made


def own_work(problem):
    """CPU seconds of a canonical solution on all inputs."""
    names = {}
    exec(problem["prompt"] + problem["canonical_solution"], names)
    function, inputs = names[problem["entry_point"]], problem["base_input"] + problem["plus_input"]
    begin = time.process_time()
    for arguments in inputs:
        function(*arguments)
    return time.process_time() - begin


# ---- the two sides -------------------------------------------------------------------------------------------------------


def cpu():
    below = resource.getrusage(resource.RUSAGE_CHILDREN)
    return below.ru_utime + below.ru_stime


class EvalPlus:
    """EvalPlus, with a cache of its own, on the file of problems."""

    def __init__(self, folder, problems):
        # The library `datasets` is asked for and used for another benchmark only; a stub spares EvalPlus the import.
        with open(folder + "/datasets.py", "w") as out:
            out.write("load_dataset = None\n")
        self.environment = dict(os.environ, PYTHONPATH=folder, XDG_CACHE_HOME=folder, HUMANEVAL_OVERRIDE_PATH=problems)

    def judge(self, samples):
        """Seconds, CPU seconds, and by task the list of (base passed, base and plus passed)."""
        results = samples.replace(".jsonl", "_eval_results.json")
        if os.path.exists(results):
            os.remove(results)
        command = [sys.executable, "-m", "evalplus.evaluate", "--dataset", "humaneval", "--samples", samples, "--parallel", str(WORKERS)]
        begin, used = time.time(), cpu()
        subprocess.run(command, env=self.environment, check=True, capture_output=True)
        used = cpu() - used
        found = json.load(open(results))["eval"]
        passed = {task: [(row["base_status"] == "pass", row["base_status"] == row["plus_status"] == "pass") for row in rows] for task, rows in found.items()}
        return os.stat(results).st_mtime - begin, used, passed


class Ablate:
    """The pipeline, with a new cache each time."""

    def __init__(self, binary, folder, problems):
        self.binary, self.folder, self.problems = binary, folder, problems
        self.pipeline = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../pipelines/judge-plus.yaml")

    def run(self, command, samples, *more):
        sets = [f"problems={self.problems}", f"samples={samples}", *SETTINGS]
        arguments = [self.binary, command, self.pipeline, *more]
        for setting in sets:
            arguments += ["--set", setting]
        environment = dict(os.environ, ABLATE_CACHE=self.cache)
        return subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True)

    def rows(self, samples, stage):
        path = f"{self.cache}/{stage}.jsonl"
        self.run("export", samples, stage, path)
        return [json.loads(line) for line in open(path)]

    def judge(self, samples):
        """As EvalPlus, with what failed beside."""
        self.cache = tempfile.mkdtemp(dir=self.folder)
        jobs = ["--jobs", str(WORKERS)]
        self.run("run", samples, "base-tests", "plus-tests", "samples", *jobs)
        begin, used = time.time(), cpu()
        self.run("run", samples, *jobs)
        wall, used = time.time() - begin, cpu() - used
        judged = {stage: {row["sample_id"]: row for row in self.rows(samples, stage)} for stage in ("base-verdicts", "plus-verdicts")}
        passed, failures = {}, {}
        for row in sorted(self.rows(samples, "samples"), key=lambda row: row["sample_index"]):
            base, plus = judged["base-verdicts"][row["sample_id"]], judged["plus-verdicts"][row["sample_id"]]
            passed.setdefault(row["problem_id"], []).append((base["verdict"] == "passed", plus["verdict"] == "passed"))
            failures.setdefault(row["problem_id"], []).append(plus["first_failure"])
        return wall, used, passed, failures


def compared(theirs, ours, failures, programs):
    """How many verdicts there are, how many agree, and each that does not."""
    differences, count = [], 0
    for task, rows in theirs.items():
        of_task = [program for program in programs if program["task_id"] == task]
        for index, (their, our) in enumerate(zip(rows, ours[task], strict=True)):
            for name, a, b in zip(("base", "plus"), their, our):
                count += 1
                if a != b:
                    program = of_task[index]
                    differences.append({
                        "task": task, "program": program["kind"], "tests": name, "evalplus": "passed" if a else "failed", "ablate": "passed" if b else "failed",
                        "first_failure": failures[task][index], "why": EXPLANATIONS.get(task), "source": program["solution"] if program["kind"] == "mutant" else None,
                    })
    return {"verdicts": count, "equal": count - len(differences), "differences": differences}


def main():
    binary, path, result = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3]
    folder = tempfile.mkdtemp()
    opened = gzip.open(path, "rt") if path.endswith(".gz") else open(path)
    problems = [json.loads(line) for line in opened]
    sys.set_int_max_str_digits(0)
    work = {problem["task_id"]: own_work(copy.deepcopy(problem)) for problem in problems}
    light = [problem for problem in problems if work[problem["task_id"]] < LIGHT]
    canonical = lambda problems: [{"task_id": p["task_id"], "solution": p["prompt"] + p["canonical_solution"], "kind": "canonical"} for p in problems]
    changed = mutants(problems)
    # EvalPlus wants a program of every task.
    others = [problem for problem in problems if all(program["task_id"] != problem["task_id"] for program in changed)]
    sets = {"canonical": (problems, canonical(problems)), "canonical_light": (light, canonical(light)), "mutants": (problems, changed + canonical(others))}
    report = {}
    for name, (judged, programs) in sets.items():
        tests, samples = f"{folder}/{name}-tests.jsonl", f"{folder}/{name}.jsonl"
        for file, rows in ((tests, judged), (samples, programs)):
            with open(file, "w") as out:
                out.writelines(json.dumps(row) + "\n" for row in rows)
        evalplus, ablate = EvalPlus(folder, tests), Ablate(binary, folder, tests)
        evalplus.judge(samples)  # computes what is expected, once
        passes = {"evalplus": [], "ablate": []}
        for _ in range(ROUNDS):
            wall, used, theirs = evalplus.judge(samples)
            passes["evalplus"].append((wall, used))
            wall, used, ours, failures = ablate.judge(samples)
            passes["ablate"].append((wall, used))
            print(name, {side: [tuple(round(x, 1) for x in one) for one in all] for side, all in passes.items()}, file=sys.stderr)
        report[name] = {
            side: {"tasks_per_s": round(len(programs) / min(wall for wall, _ in all), 2), "cpu_ms_per_task": round(min(used for _, used in all) / len(programs) * 1e3, 1)}
            for side, all in passes.items()
        }
        report[name]["tasks"] = len(programs)
        if name != "mutants":
            report[name]["own_work_ms_per_task"] = round(sum(work[problem["task_id"]] for problem in judged) / len(judged) * 1e3, 1)
        report[name]["times_faster"] = round(report[name]["ablate"]["tasks_per_s"] / report[name]["evalplus"]["tasks_per_s"], 2)
        scores = lambda passed: [sum(one[which] for rows in passed.values() for one in rows) for which in (0, 1)]
        report[name]["passed_base_and_plus"] = {"evalplus": scores(theirs), "ablate": scores(ours)}
        report[name].update(compared(theirs, ours, failures, programs))
    report["workers"], report["python"], report["machine"] = WORKERS, platform.python_version(), platform.processor() or platform.machine()
    report["evalplus"], report["numpy"] = importlib.metadata.version("evalplus"), importlib.metadata.version("numpy")
    report["load_average"], report["beside"] = os.getloadavg()[0], sys.argv[4] if len(sys.argv) > 4 else None
    with open(result, "w") as out:
        json.dump(report, out, indent=1)
        out.write("\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
