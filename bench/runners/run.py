"""The runner itself beside DVC and Snakemake: knowing that nothing is to be done, doing trivial stages, keeping a large table.

    cargo build --release -p ablate --bins --examples
    python3 bench/runners/run.py target/release/ablate bench/runners/result.json [--quick]

Installs DVC and Snakemake from PyPI into virtual environments in a temporary folder (or takes those in BENCH_VENVS, folders `dvc` and
`snakemake`). Every pipeline is a load of one row (one small file) and trivial stages, each with a parameter of its own, in a chain or as a
fan. CPU time is user and system time of all processes, as rusage has it; it is steadier than the clock on a shared machine. What is
measured several times counts with its best pass, the peers' too, and all in one run. Snakemake's chain ends at 400 rules: it recurses.
What takes longer than its time limit is stopped, and what it had used by then is a lower bound. `--quick` is for trying the script.
"""

import base64
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time

QUICK = "--quick" in sys.argv
PEER_LIMIT_S = 60 if QUICK else 300
SIZES = {"ablate": [100] if QUICK else [100, 1000, 10000], "peers": [20, 50] if QUICK else [100, 1000]}
SNAKEMAKE_CHAIN = 40 if QUICK else 400
COLD_PEERS = 10 if QUICK else 100
COLD = 100 if QUICK else 1000
TABLE_MIB = 16 if QUICK else 1024
ROW_BYTES = 2048
ROUNDS = 2 if QUICK else 3


def children_cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed(command, cwd, env=None, limit=None):
    """CPU and wall seconds of a command and all that it starts, and the bytes that it read itself; what takes too long is stopped."""
    before, begin = children_cpu(), time.perf_counter()
    with open(os.path.join(cwd, "bench.log"), "w") as log:
        process = subprocess.Popen(command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=log, stderr=log, start_new_session=True)
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if limit and time.perf_counter() - begin > limit:
                os.killpg(process.pid, 9)
                process.wait()
                return {"cpu_s": round(children_cpu() - before, 4), "stopped_after_s": limit}
            time.sleep(0.002)
        wall = time.perf_counter() - begin
        read = int(open("/proc/%d/io" % process.pid).readline().split()[1])
        process.wait()
    if process.returncode != 0:
        sys.exit("%s\n%s" % (" ".join(command), open(os.path.join(cwd, "bench.log")).read()[-3000:]))
    return {"cpu_s": round(children_cpu() - before, 4), "wall_s": round(wall, 4), "read_bytes": read}


def best(command, cwd, env=None, limit=None, rounds=ROUNDS):
    found = []
    for _ in range(rounds):
        found.append(timed(command, cwd, env, limit))
        if "stopped_after_s" in found[-1]:
            return found[-1]
    return min(found, key=lambda one: one["cpu_s"])


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


PROBLEM = {"problem_id": "a", "question": "Double it.", "solutions": [], "entry_point": "solve", "source": "bench",
           "tests": {"style": "call", "cases": [{"input": "(1,)", "output": "2", "check": "equal"}]}}


class Ablate:
    def __init__(self, binary):
        self.binary = binary

    def make(self, folder, shape, count):
        write(folder + "/problems.jsonl", json.dumps(PROBLEM) + "\n")
        lines = ["name: bench", "stages:", "  s0: { use: load, with: { path: problems.jsonl } }"]
        for at in range(1, count):
            source = "s%d" % (at - 1) if shape == "chain" else "s0"
            lines.append("  s%d: { use: take, from: %s, with: { count: %d } }" % (at, source, at + 10))
        write(folder + "/p.yaml", "\n".join(lines) + "\n")

    def command(self, *words):
        return [self.binary, words[0], "p.yaml", *words[1:]]

    def env(self, folder):
        return {"ABLATE_CACHE": folder + "/cache"}


class Snakemake:
    def __init__(self, binary):
        self.binary = binary

    def make(self, folder, shape, count):
        write(folder + "/d/f0.txt", "hello\n")
        write(folder + "/config.yaml", "".join("p%d: 1\n" % at for at in range(count)))
        text = ["configfile: 'config.yaml'"]
        if shape == "chain":
            text.append("rule all:\n  input: 'd/f%d.txt'" % count)
            for at in range(count):
                text.append("rule s%d:\n  input: 'd/f%d.txt'\n  output: 'd/f%d.txt'\n  params: p=config['p%d']\n  shell: 'cat {input} > {output}'" % (at, at, at + 1, at))
        else:
            # As its users write it: one rule with a wildcard.
            text.append("rule all:\n  input: expand('d/f{i}.txt', i=range(1,%d))" % (count + 1))
            text.append("rule leaf:\n  input: 'd/f0.txt'\n  output: 'd/f{i}.txt'\n  wildcard_constraints: i=r'[1-9][0-9]*'\n"
                        "  params: p=lambda wc: config['p%d' % (int(wc.i)-1)]\n  shell: 'cat {input} > {output}'")
        write(folder + "/Snakefile", "\n\n".join(text) + "\n")

    def run(self):
        return [self.binary, "--cores", "2"]


class Dvc:
    ENV = {"DVC_NO_ANALYTICS": "1"}

    def __init__(self, binary):
        self.binary = binary

    def init(self, folder):
        os.makedirs(folder, exist_ok=True)
        for command in (["git", "init", "-q", "."], ["git", "config", "user.email", "a@b"], ["git", "config", "user.name", "x"],
                        [self.binary, "init", "-q"], [self.binary, "config", "core.check_update", "false"]):
            subprocess.run(command, cwd=folder, check=True, env={**os.environ, **self.ENV})

    def make(self, folder, shape, count, finished):
        """`finished` also writes what a run would leave, since running a thousand stages takes it most of an hour."""
        import hashlib

        self.init(folder)
        digest = hashlib.md5(b"hello\n").hexdigest()
        write(folder + "/d/f0.txt", "hello\n")
        write(folder + "/params.yaml", "".join("p%d: 1\n" % at for at in range(count)))
        stages, lock = ["stages:"], ["schema: '2.0'", "stages:"]
        for at in range(count):
            source, target = "d/f%d.txt" % (at if shape == "chain" else 0), "d/f%d.txt" % (at + 1)
            command = "cat %s > %s" % (source, target)
            stages.append("  s%d:\n    cmd: %s\n    deps: [%s]\n    params: [p%d]\n    outs: [%s]" % (at, command, source, at, target))
            entry = "    - path: %s\n      hash: md5\n      md5: " + digest + "\n      size: 6"
            lock.append("  s%d:\n    cmd: %s\n    deps:\n%s\n    params:\n      params.yaml:\n        p%d: 1\n    outs:\n%s"
                        % (at, command, entry % source, at, entry % target))
            if finished:
                write(folder + "/" + target, "hello\n")
        write(folder + "/dvc.yaml", "\n".join(stages) + "\n")
        if finished:
            write(folder + "/dvc.lock", "\n".join(lock) + "\n")
            write(folder + "/.dvc/cache/files/md5/%s/%s" % (digest[:2], digest[2:]), "hello\n")


def nothing_to_do(work, ablate, snakemake, dvc):
    """Seconds to find that nothing is to be done, and to say so."""
    found = {}

    def note(name, figure):
        found[name] = figure
        print(name, figure, flush=True)

    for shape in ("chain", "fan"):
        for count in SIZES["ablate"]:
            folder = "%s/ablate-%s-%d" % (work, shape, count)
            ablate.make(folder, shape, count)
            timed(ablate.command("run"), folder, ablate.env(folder))
            # The second run finds `runs/` as it will be from then on.
            for word in ("run", "plan"):
                note("ablate %s %s %d" % (word, shape, count), best(ablate.command(word), folder, ablate.env(folder)))
        for count in SIZES["peers"] if shape == "fan" else [SNAKEMAKE_CHAIN]:
            folder = "%s/snakemake-%s-%d" % (work, shape, count)
            snakemake.make(folder, shape, count)
            timed(snakemake.run(), folder)
            note("snakemake %s %d" % (shape, count), best(snakemake.run(), folder, limit=PEER_LIMIT_S))
        for count in SIZES["peers"]:
            folder = "%s/dvc-%s-%d" % (work, shape, count)
            dvc.make(folder, shape, count, finished=True)
            rounds = 1 if count >= 1000 else ROUNDS
            note("dvc repro %s %d" % (shape, count), best([dvc.binary, "repro"], folder, dvc.ENV, PEER_LIMIT_S, rounds))
    return found


def cold(work, ablate, snakemake, dvc):
    """CPU milliseconds a trivial stage, from nothing."""
    found = {}

    def note(name, count, figure):
        found[name] = round(1000 * figure["cpu_s"] / count, 2)
        print(name, found[name], flush=True)

    for shape in ("chain", "fan"):
        for count in (COLD_PEERS, COLD):
            runs = []
            for turn in range(ROUNDS):
                folder = "%s/ablate-cold-%s-%d-%d" % (work, shape, count, turn)
                ablate.make(folder, shape, count)
                runs.append(timed(ablate.command("run"), folder, ablate.env(folder)))
            note("ablate %s %d" % (shape, count), count, min(runs, key=lambda run: run["cpu_s"]))
        folder = "%s/snakemake-cold-%s" % (work, shape)
        snakemake.make(folder, shape, COLD_PEERS)
        note("snakemake %s %d" % (shape, COLD_PEERS), COLD_PEERS, timed(snakemake.run(), folder))
        folder = "%s/dvc-cold-%s" % (work, shape)
        dvc.make(folder, shape, COLD_PEERS, finished=False)
        note("dvc %s %d" % (shape, COLD_PEERS), COLD_PEERS, timed([dvc.binary, "repro"], folder, dvc.ENV))
    return found


def large(work, ablate, dvc):
    """Wall seconds to keep a large table, and what it takes to find it kept.

    `ablate commit` begins with rows in memory, as a stage gives them, and ends with a synced Parquet file under its hash and the digest of
    what the rows mean (`commit.rs`). `dvc add` begins with a file of as many bytes. Each has just been made, so neither waits for a disk.
    """
    folder = work + "/large"
    os.makedirs(folder)
    rows = TABLE_MIB * 2**20 // ROW_BYTES
    with open(folder + "/problems.jsonl", "w") as file:
        for row in range(rows):
            # Base64 of noise: as hard to compress as text gets.
            question = base64.b64encode(os.urandom(ROW_BYTES * 3 // 4)).decode()
            file.write(json.dumps({**PROBLEM, "problem_id": "p%07d" % row, "question": question}) + "\n")
    write(folder + "/p.yaml", "name: large\nstages:\n  rows: { use: load, with: { path: problems.jsonl } }\n"
          "  kept: { use: take, from: rows, with: { count: %d } }\n" % rows)
    env = ablate.env(folder)
    # A file that has just been written is read again and again: only what has settled is known by its times.
    time.sleep(3)
    loaded = timed(ablate.command("run", "rows"), folder, env)
    # What is asked of `ablate` here is more than of its peer: it reads the table, hashes what every row means, compresses, writes, syncs.
    kept = timed(ablate.command("run"), folder, env)
    noop = best(ablate.command("run"), folder, env)
    dvc.init(work + "/dvc-large")
    shutil.copy(folder + "/problems.jsonl", work + "/dvc-large/problems.jsonl")
    size = os.path.getsize(folder + "/problems.jsonl")
    added = timed([dvc.binary, "add", "-q", "problems.jsonl"], work + "/dvc-large", dvc.ENV)
    status = best([dvc.binary, "status", "-q"], work + "/dvc-large", dvc.ENV)
    commits, adds = [], []
    for turn in range(ROUNDS):
        store, repo = "%s/commit-%d" % (work, turn), "%s/dvc-commit-%d" % (work, turn)
        os.makedirs(store)
        made = subprocess.run([os.path.dirname(ablate.binary) + "/examples/commit", store, str(rows)], check=True, capture_output=True)
        commits.append(json.loads(made.stdout))
        shutil.rmtree(store)
        dvc.init(repo)
        with open(repo + "/table.bin", "wb") as file:
            for _ in range(TABLE_MIB):
                file.write(os.urandom(2**20))
        adds.append(timed([dvc.binary, "add", "-q", "table.bin"], repo, dvc.ENV))
        shutil.rmtree(repo)
    commit, add = min(commits, key=lambda one: one["wall_s"]), min(adds, key=lambda one: one["wall_s"])
    found = {"ablate commit": {**commit, "memory_bytes": TABLE_MIB * 2**20}, "dvc add of as many bytes": add, "bytes": size, "ablate load": loaded, "ablate table to table": kept, "ablate nothing to do": noop, "dvc add": added,
             "dvc nothing to do": status}
    print(json.dumps(found), flush=True)
    return found


def environments(work):
    """Where DVC and Snakemake are, installed if need be."""
    base = os.environ.get("BENCH_VENVS", work + "/venvs")
    for package in ("dvc", "snakemake"):
        if not os.path.exists("%s/%s/bin/%s" % (base, package, package)):
            subprocess.run([sys.executable, "-m", "venv", "%s/%s" % (base, package)], check=True)
            subprocess.run(["%s/%s/bin/pip" % (base, package), "install", "-q", package], check=True)
    return ["%s/%s/bin/%s" % (base, package, package) for package in ("dvc", "snakemake")]


def ratios(noop, cold, large):
    """How many times less `ablate` takes; a peer that was stopped counts with what it had used by then."""
    def times(name, figure, peer):
        return name, round(peer["cpu_s"] / figure["cpu_s"], 1)

    count = SIZES["ablate"][-2] if len(SIZES["ablate"]) > 1 else SIZES["ablate"][0]
    found = dict([
        times("nothing to do, fan, snakemake", noop["ablate run fan %d" % count], noop["snakemake fan %d" % SIZES["peers"][-1]]),
        times("nothing to do, fan, dvc", noop["ablate run fan %d" % count], noop["dvc repro fan %d" % SIZES["peers"][-1]]),
        times("nothing to do, chain, dvc", noop["ablate run chain %d" % count], noop["dvc repro chain %d" % SIZES["peers"][-1]]),
    ])
    for peer in ("snakemake", "dvc"):
        found["a trivial stage, " + peer] = round(cold["%s chain %d" % (peer, COLD_PEERS)] / cold["ablate chain %d" % COLD], 1)
    found["keeping a large table, dvc"] = round(large["dvc add of as many bytes"]["wall_s"] / large["ablate commit"]["wall_s"], 2)
    found["from table to table, dvc"] = round(large["dvc add"]["wall_s"] / large["ablate table to table"]["wall_s"], 2)
    return found


def main():
    binary, result = os.path.abspath(sys.argv[1]), sys.argv[2]
    work = tempfile.mkdtemp(prefix="bench-runners-")
    try:
        dvc, snakemake = environments(work)
        versions = {name: subprocess.run([path, "--version"], capture_output=True, text=True).stdout.strip() for name, path in
                    (("dvc", dvc), ("snakemake", snakemake), ("ablate", binary))}
        ablate, snakemake, dvc = Ablate(binary), Snakemake(snakemake), Dvc(dvc)
        found = {"nothing to do": nothing_to_do(work, ablate, snakemake, dvc), "cold, CPU ms a stage": cold(work, ablate, snakemake, dvc),
                 "a large table": large(work, ablate, dvc)}
        found["times less"] = ratios(*found.values())
        found.update(versions=versions, machine=platform.machine(), cores=os.cpu_count(), python=platform.python_version(),
                     load_average=os.getloadavg()[0], quick=QUICK)
        with open(result, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
        print(json.dumps(found["times less"], indent=1))
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
