"""What a policy's gain over the full image is made of.

A policy can win in three ways, which ask different things of training. It can crop always, with the
boxes it came with: then training flipped a switch. Its boxes can become better. Or it can tell the
queries that want a crop from those that want the whole image. The three parts add up to the gain,
because each begins where the one before it ends.
"""

from collections.abc import Iterable, Sequence

from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.markdown import interval_cell, markdown_table
from regionr1.evaluation.table import METRICS, Outcome, by_method, paired_difference

PARTS = {
    "switch": ("warm_start_region", "full"),
    "boxes": ("policy_region", "warm_start_region"),
    "decision": ("policy", "policy_region"),
    "gain": ("policy", "full"),
}
"""Each part as the method that has it and the one that has it not yet; the last is their sum."""
WORDS = {
    "switch": "switch: always crop, untrained boxes - full image",
    "boxes": "boxes: always crop, trained boxes - untrained boxes",
    "decision": "decision: policy - always crop, trained boxes",
    "gain": "gain: policy - full image",
}
SHOWN = ("cond_recall_at_1", "recall_at_1", "mrr")


def gain_parts(
    outcomes: Iterable[Outcome], resamples: int = 1000
) -> dict[str, dict[str, Interval]] | None:
    """The parts of the gain, on the same queries, with paired intervals clustered by entity.

    Args:
        outcomes: Test outcomes of all methods.
        resamples: Bootstrap draws.

    Returns:
        Interval by part and by key of METRICS; None where a method that a part needs was not
        tested.
    """
    found = list(outcomes)
    if not {method for pair in PARTS.values() for method in pair} <= by_method(found).keys():
        return None
    return {part: paired_difference(found, *pair, resamples) for part, pair in PARTS.items()}


def gain_table(parts: dict[str, dict[str, Interval]], shown: Sequence[str] = SHOWN) -> str:
    """The parts as a Markdown table with a column for each measure that is shown."""
    heads = ["what the gain is made of", *(METRICS[name] for name in shown)]
    rows = [
        [WORDS[part], *(interval_cell(values[name], "+.3f") for name in shown)]
        for part, values in parts.items()
    ]
    return markdown_table(heads, rows)
