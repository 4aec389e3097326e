"""The one writer of tables for people: Markdown whose columns line up in a terminal too."""

from collections.abc import Sequence
from statistics import mean, stdev

from regionr1.evaluation.bootstrap import Interval


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right.

    Args:
        heads: Headings of the columns.
        rows: Cells, as many in each row as headings; a bar in one gets a backslash before it.
    """
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(heads))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [
            line[0].ljust(widths[0]),
            *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True)),
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], rule, *aligned[1:]])


def spread_cell(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation of the values that are known as text, `-` where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


def interval_cell(interval: Interval, form: str = ".3f") -> str:
    """A value with its interval as text, `-` where it is undefined.

    Args:
        interval: The value; without ends it is shown alone.
        form: How a number is written; `+.3f` suits a difference.
    """
    if interval.value is None:
        return "-"
    if interval.low is None or interval.high is None:
        return format(interval.value, form)
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
