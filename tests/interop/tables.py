"""Reads the tables of a run with pyarrow and DuckDB, as they lie under `runs/latest/`, and holds them against `ablate show`.

    tables.py ABLATE

Runs a small pipeline of nested columns in a temporary folder: problems with their tests, blocks, programs, verdicts.
"""

import json
import math
import os
import subprocess
import sys
import tempfile

import duckdb
import pyarrow.parquet

EXAMPLES = os.path.abspath("examples/problems/align.jsonl")
PIPELINE = """
stages:
  problems: { use: load, with: { path: %s } }
  some: { use: take, from: problems, with: { count: 40 } }
  blocks: { use: segment, from: some }
  programs: { use: references, from: some }
  verdicts: { use: execute, from: { programs: programs, problems: problems } }
""" % EXAMPLES


def canonical(rows):
    """Rows in any order, with what has no one spelling in JSON spelt in one way."""
    def plain(value):
        if isinstance(value, float):
            return None if math.isnan(value) else repr(value)
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in sorted(value.items())}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return value

    return sorted(json.dumps(plain(row)) for row in rows)


def main():
    ablate = os.path.abspath(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/p.yaml", "w") as file:
            file.write(PIPELINE)
        run = lambda *words: subprocess.run(
            [ablate, *words], cwd=folder, env={**os.environ, "ABLATE_CACHE": folder + "/cache"}, check=True, capture_output=True, text=True).stdout
        run("run", "p.yaml")
        for stage in ("problems", "some", "blocks", "programs", "verdicts", "verdicts.dropped"):
            shown = [json.loads(line) for line in run("show", "p.yaml", stage, "--rows", "1000000", "--format", "json").splitlines()]
            view = "%s/cache/runs/latest/%s" % (folder, stage)
            arrow = pyarrow.parquet.read_table(view)
            duck = duckdb.sql("SELECT * FROM read_parquet('%s/*.parquet')" % view)
            columns = duck.columns
            assert columns == arrow.column_names, (stage, columns, arrow.column_names)
            ours = canonical({name: row.get(name) for name in columns} for row in shown)
            assert ours == canonical(arrow.to_pylist()), "%s: pyarrow reads other rows" % stage
            assert ours == canonical(dict(zip(columns, row)) for row in duck.fetchall()), "%s: DuckDB reads other rows" % stage
            print("%-16s %5d rows, %2d columns: the same in pyarrow and DuckDB" % (stage, len(shown), len(columns)))


main()
