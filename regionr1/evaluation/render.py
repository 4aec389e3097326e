"""The test table as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Collection, Sequence

from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.table import METRICS, MethodRow

HEADLINE = (
    *("recall_at_1", "recall_at_5", "recall_at_10", "recall_at_20", "cond_recall_at_1"),
    *("mrr", "ndcg", "region_rate", "invalid_rate", "iou"),
)


def cell(interval: Interval, with_interval: bool) -> str:
    """One number as text, "-" where it is undefined."""
    if interval.value is None:
        return "-"
    if not with_interval:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


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
    lines = [["method", *(METRICS[name] for name in metrics), "N", "skipped"]]
    for row in rows:
        cells = [cell(row.metrics[name], name in with_intervals) for name in metrics]
        lines.append([row.method, *cells, str(row.n), str(row.n_skipped)])
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [
            line[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], rule, *aligned[1:]])


def table_csv(rows: Sequence[MethodRow]) -> str:
    """CSV with a column for each metric and for both ends of its interval; undefined cells are
    empty.
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
