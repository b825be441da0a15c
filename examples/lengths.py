"""A stage in Python: counts the words of every question.

`ablate` starts it in a folder that holds `inputs/rows.parquet`; it writes `outputs/lengths.parquet`. Needs pyarrow.
"""

import pyarrow
import pyarrow.parquet

rows = pyarrow.parquet.read_table("inputs/rows.parquet", columns=["problem_id", "question"])
num_words = [len(question.split()) for question in rows["question"].to_pylist()]
lengths = pyarrow.table({"problem_id": rows["problem_id"], "num_words": pyarrow.array(num_words, pyarrow.int64())})
pyarrow.parquet.write_table(lengths, "outputs/lengths.parquet")
