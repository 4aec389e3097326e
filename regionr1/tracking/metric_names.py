"""The names that metrics have in MLflow, whose charts and columns stand in alphabetical order.

What tells whether a run learns stands under `train/`, `val/` and `test/`; all else under one
prefix that comes after them.
"""

HEADLINES = {
    "reward": "train/reward",
    "decision/region_rate": "train/region_rate",
    "kl": "train/kl",
    "entropy": "train/entropy",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
}
TESTED = tuple(
    f"test/{method}/{name}"
    for method in ("policy", "full")
    for name in ("cond_recall_at_1", "recall_at_1", "mrr", "region_rate")
)
KEPT = ("train/", "val/", "system/")
REST = "workings/"


def shown_name(name: str) -> str:
    """The name in MLflow of a metric as it is logged."""
    if name in HEADLINES:
        return HEADLINES[name]
    if name in TESTED or name.startswith((*KEPT, REST)):
        return name
    return REST + name.replace("/", ".")  # each further / would be a section of its own
