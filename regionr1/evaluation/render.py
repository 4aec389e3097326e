"""The test table as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from regionr1.errors import UserError
from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.markdown import interval_cell, markdown_table
from regionr1.evaluation.table import METRICS, MethodRow

HEADLINE = (
    *("recall_at_1", "recall_at_5", "recall_at_10", "recall_at_20", "cond_recall_at_1"),
    *("mrr", "ndcg", "region_rate", "invalid_rate", "p_full", "iou"),
)


def cell(interval: Interval, with_interval: bool) -> str:
    """One number as text, "-" where it is undefined."""
    return interval_cell(interval if with_interval else Interval(interval.value, None, None))


def format_table(
    rows: Sequence[MethodRow],
    metrics: Sequence[str] = HEADLINE,
    with_intervals: Collection[str] = ("cond_recall_at_1",),
) -> str:
    """A Markdown table with aligned columns, which reads well in a terminal too.

    Args:
        rows: Rows from metrics_table.
        metrics: Keys of the columns to show.
        with_intervals: Keys of the columns shown with their 95% interval.
    """
    heads = ["method", *(METRICS[name] for name in metrics), "N", "skipped"]
    cells = [
        [
            row.method,
            *(cell(row.metrics[name], name in with_intervals) for name in metrics),
            *(str(row.n), str(row.n_skipped)),
        ]
        for row in rows
    ]
    return markdown_table(heads, cells)


def table_csv(rows: Sequence[MethodRow]) -> str:
    """Writes CSV with a column for each metric and for both ends of its interval.

    Undefined cells are empty.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")]
    writer.writerow(["method", "n", "n_skipped", "n_pool_positive", *heads])
    for row in rows:
        numbers = ["" if x is None else f"{x:.6f}" for name in METRICS for x in row.metrics[name]]
        writer.writerow([row.method, row.n, row.n_skipped, row.n_pool_positive, *numbers])
    return out.getvalue()


def table_json(rows: Sequence[MethodRow]) -> str:
    """JSON list of rows; undefined numbers are null."""
    records = [
        {
            "method": row.method,
            "n": row.n,
            "n_skipped": row.n_skipped,
            "n_pool_positive": row.n_pool_positive,
            "metrics": {name: interval._asdict() for name, interval in row.metrics.items()},
        }
        for row in rows
    ]
    return json.dumps(records, indent=2) + "\n"


def read_table(path: Path) -> list[MethodRow]:
    """Rows that `table_json` wrote.

    Raises:
        UserError: The file is missing, or no such table.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        return [
            MethodRow(
                method=record["method"],
                n=record["n"],
                n_skipped=record["n_skipped"],
                n_pool_positive=record["n_pool_positive"],
                metrics={
                    name: Interval(**record["metrics"].get(name) or dict.fromkeys(Interval._fields))
                    for name in METRICS
                },
            )
            for record in records
        ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: is no table of results; write it with `regionr1 data premise --out`"
        ) from error
