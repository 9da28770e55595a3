"""Reads the tables of a study folder as a user does, with DuckDB, polars and pyarrow, and prints what each of them sees as JSON.

    read_results.py STUDY

One object by table, then by reader: rows, the names of the columns in order, and for each column the number of NULLs and, of numbers,
the sum. readers_test.go compares the readers with each other and with what was written.
"""

import datetime
import json
import pathlib
import sys

import duckdb
import polars
import pyarrow
import pyarrow.compute
import pyarrow.parquet

TABLES = {
    "architectures": "architectures.parquet",
    "tasks": "tasks.parquet",
    "runs": "runs/**/*.parquet",
    "epochs": "epochs/**/*.parquet",
    "attempts": "attempts/*.parquet",
    "telemetry": "telemetry/*.parquet",
    "events": "events/*.parquet",
}


def with_duckdb(study, pattern):
    source = f"read_parquet('{study}/{pattern}')"
    described = duckdb.sql(f"DESCRIBE SELECT * FROM {source}").fetchall()
    numbers = {"BIGINT", "INTEGER", "DOUBLE"}
    parts = ["count(*)"]
    for name, kind, *_ in described:
        parts.append(f'count(*) - count("{name}")')
        parts.append(f'sum("{name}")::DOUBLE' if kind in numbers else "NULL")
    rows, *values = duckdb.sql(f"SELECT {', '.join(parts)} FROM {source}").fetchone()
    names = [d[0] for d in described]
    return rows, names, dict(zip(names, values[0::2])), dict(zip(names, values[1::2]))


def with_polars(study, pattern):
    frame = polars.scan_parquet(f"{study}/{pattern}").collect()
    nulls = {c: frame[c].null_count() for c in frame.columns}
    sums = {c: float(frame[c].sum()) if frame[c].dtype.is_numeric() else None for c in frame.columns}
    return frame.height, frame.columns, nulls, sums


def with_pyarrow(study, pattern):
    # What pandas.read_parquet(..., partitioning=None) calls. Without that word pyarrow takes `dataset` from the folders' names a second
    # time, as another type than the column in the files, and refuses.
    table = pyarrow.parquet.read_table(pathlib.Path(study) / pattern.split("/")[0], partitioning=None)
    nulls = {c: table[c].null_count for c in table.column_names}
    sums = {}
    for c in table.column_names:
        kind = table[c].type
        number = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)
        sums[c] = float(pyarrow.compute.sum(table[c]).as_py() or 0) if number else None
        if pyarrow.types.is_timestamp(kind):
            for value in table[c].drop_null().to_pylist():
                assert isinstance(value, datetime.datetime) and value.tzinfo is not None, f"{c} is {value!r}, not a time with a zone"
    return table.num_rows, table.column_names, nulls, sums


def main():
    study = sys.argv[1]
    seen = {}
    for table, pattern in TABLES.items():
        if not list(pathlib.Path(study).glob(pattern)):
            continue
        seen[table] = {}
        for reader, read in (("duckdb", with_duckdb), ("polars", with_polars), ("pyarrow", with_pyarrow)):
            rows, columns, nulls, sums = read(study, pattern)
            seen[table][reader] = {"rows": rows, "columns": columns, "nulls": nulls, "sums": {c: s or 0 for c, s in sums.items() if s is not None or nulls[c] == rows}}
    json.dump(seen, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
