"""The README.md of an exported policy: what it learned from, what it reached, how to use it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regionr1.evaluation.bootstrap import Interval
from regionr1.evaluation.markdown import interval_cell, markdown_table
from regionr1.evaluation.table import METRICS

if TYPE_CHECKING:
    from mlflow.entities import Run

ROWS = {
    "full": "always the full image",
    "policy_region": "always its own crop",
    "policy": "**this policy**",
    "warm_start": "the policy before training",
    "better_of": "the better of the first two, per query",
}
COLUMNS = ("cond_recall_at_1", "recall_at_1", "mrr", "region_rate", "invalid_rate")


def model_card(
    run: "Run", settings: Mapping[str, Any], config: Mapping[str, Any], test: Sequence[Any] | None
) -> str:
    """The card as Markdown.

    Args:
        run: MLflow's run.
        settings: What is in regionr1.json.
        config: The run's resolved configuration.
        test: The rows of its test table as JSON; None if it was not tested.
    """
    policy, tags = settings["policy"], run.data.tags
    return f"""---
library_name: peft
tags: [regionr1, visual-question-answering, reranking, grpo]
{_base_of(policy)}---
# {run.info.run_name}

A LoRA adapter for a vision-language model that looks at an image and a question, and decides
whether to keep the whole image or to crop one region, so that a retrieval re-ranker sees what is
asked about. Trained by regionr1 with r-GRPO (Region-R1, arXiv 2604.05268): the reward is what the
crop does to the ranking.

## Trained on

{_facts(run, settings, config, tags)}

## Reached

{_reached(run, test)}

## Use

```python
from regionr1 import RegionReranker

reranker = RegionReranker.from_pretrained("this folder")  # on a GPU if there is one
crop = reranker.crop(image, "Where does this bird live?")  # decision, box_px, view, p_full
ranking = reranker.rerank(image, "Where does this bird live?", candidates)
```

`policy_only=True` loads no scorer, for a re-ranker of yours; `regionr1 serve FOLDER` answers over
HTTP. Plain PEFT loads the folder too. It holds the adapter, the settings (`regionr1.json`) and this
card, but not the base weights ({policy["model"]}).

An answer that cannot be read is INVALID: keep the order you had. Probabilities are those of the
policy as it was trained; they are not calibrated for other data.
"""


def _base_of(policy: Mapping[str, Any]) -> str:
    revision = policy.get("revision")
    return "" if revision is None else f"base_model: {policy['model']}\n"


def _facts(
    run: "Run", settings: Mapping[str, Any], config: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    policy, model = settings["policy"], config["model"]
    scorer = settings["reranker"]["scorer"]
    if isinstance(scorer, Mapping):
        scorer = f"{scorer['class_path']} {scorer.get('init_args') or {}}"
    data = Path(tags.get("data.folder", str(config.get("data", {}).get("shards", "?")))).name
    facts = {
        "shards": f"`{data}`, train {tags.get('data.train', '?')} (digest of their checksums)",
        "base weights": policy["model"] + (f" @ {policy['revision']}" * bool(policy["revision"])),
        "scorer that earned the reward": f"{scorer} ({tags.get('scorer.fingerprint', '?')})",
        "optimizer steps": f"{config['trainer'].get('max_steps')}, in groups of "
        f"{model.get('group_size')}, decision `{model.get('decision')}`",
        "seed": str(config.get("seed_everything")),
        "run": f"{run.info.run_id}",
        "source": tags.get("mlflow.source.git.commit", "?"),
    }
    return markdown_table(["what", "which"], [[name, value] for name, value in facts.items()])


def _reached(run: "Run", test: Sequence[Any] | None) -> str:
    if not test:
        return (
            f"It was not tested: `regionr1 test --resume {run.info.run_id}`, then export it again."
        )
    found = {row["method"]: row for row in test}
    cells = []
    for method, name in ROWS.items():
        if method in found:
            values = found[method]["metrics"]
            cells.append([name, *(_cell(values[m]) for m in COLUMNS), str(found[method]["n"])])
    table = markdown_table(["view", *(METRICS[m] for m in COLUMNS), "N"], cells)
    return (
        f"On the test split ({run.data.tags.get('data.test', '?')}), with 95% bootstrap intervals "
        f"over entities:\n\n{table}\n\nCondR@1 is Recall@1 over the queries whose pool holds a "
        "positive; an INVALID answer is a miss."
    )


def _cell(value: Mapping[str, Any]) -> str:
    return interval_cell(Interval(**value))
