"""Methods beside each other: pipelines/quickstart.yaml over learning rates and seeds.

    cargo build --release -p ablate -p lm
    python3 bench/methods/run.py target/release/ablate validation bench/methods/validation.json --rates 2e-5 5e-5 1e-4 --seeds 17
    python3 bench/methods/run.py target/release/ablate heldout bench/methods/heldout.json --seeds 17 18 19

Learning rates are chosen on the validation split; held-out problems are opened once, with what was chosen. A seed is that of the
sampled middles and answers, of the pairs and of the order of training; base model and problems are the same for all. Whatever two
runs have in common comes from the cache.
"""

import argparse
import json
import statistics
import subprocess
import sys


def compare(binary, sets):
    command = [binary, "run", "pipelines/quickstart.yaml", "--format", "json"]
    for name, value in sets.items():
        command += ["--set", f"{name}={value}"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    # Events are a line each; the table is what stands behind the last of them.
    last = output.rindex('"event":"run_finished"')
    return json.loads(output[output.index("\n", last) :])["rows"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("split", choices=["validation", "heldout"])
    parser.add_argument("result")
    parser.add_argument("--rates", nargs="+")
    parser.add_argument("--seeds", nargs="+", default=["17"])
    args = parser.parse_args()
    runs = []
    for rate in args.rates or [None]:
        for seed in args.seeds:
            sets = {"heldout.split": args.split, "seed": seed}
            if rate is not None:
                sets["rate"] = rate
            for row in compare(args.binary, sets):
                against = row["against"] or {}
                test = against.get("test")
                run = {"stage": row["stage"], "rate": rate, "seed": int(seed), "pass@1": row["value"], "interval": row["interval"], "problems": row["n"]}
                if against:
                    run |= {"difference": against["difference"], "won_lost": against["won_lost"], "p": test and test[0]}
                runs.append(run)
                print(json.dumps(run), file=sys.stderr)
    means = {}
    for run in runs:
        key = run["stage"] if run["rate"] is None else f"{run['stage']} at {run['rate']}"
        means.setdefault(key, []).append(run["pass@1"])
    summary = {
        key: {"runs": len(values), "mean": round(statistics.mean(values), 4), "std": round(statistics.stdev(values), 4) if len(values) > 1 else None}
        for key, values in means.items()
    }
    with open(args.result, "w") as out:
        json.dump({"split": args.split, "means": summary, "runs": runs}, out, indent=1)
        out.write("\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
