"""Which queries a report shows: where the policy won most, where it lost most, and by chance."""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from regionr1.algorithm.boxes import crop_px
from regionr1.data.images import open_image
from regionr1.data.shards.samples import ShardSample
from regionr1.evaluation.pictures import Candidate, Case
from regionr1.evaluation.table import Outcome, by_method

TOP = 4  # candidates shown of each ranking


def chosen_cases(outcomes: Iterable[Outcome], n: int, seed: int = 0) -> dict[str, list[str]]:
    """Keys of the best gains, the worst losses and random queries; a title without any is left out.

    Gains and losses are in 1 / rank of the first positive, against the full image. Equal ones come
    in the order of their keys, so that a report is the same every time.

    Args:
        outcomes: Outcomes of all methods, `full` and `policy` among them.
        n: Queries under each title at most.
        seed: Seed of the random ones.
    """
    methods = by_method(outcomes)
    full, policy = methods.get("full", {}), methods.get("policy", {})
    gains = {
        key: chosen.reciprocal_rank - full[key].reciprocal_rank
        for key, chosen in sorted(policy.items())
        if chosen.pool_has_positive and key in full
    }
    best = sorted(gains, key=lambda key: -gains[key])
    worst = best[::-1]
    drawn = random.Random(seed).sample(sorted(gains), min(n, len(gains)))
    found = {
        "Best gains": [key for key in best[:n] if gains[key] > 0],
        "Worst losses": [key for key in worst[:n] if gains[key] < 0],
        "Random queries": drawn,
    }
    return {title: keys for title, keys in found.items() if keys}


def cases_of(
    outcomes: Iterable[Outcome], samples: Iterable[ShardSample], root: Path | None = None
) -> dict[str, Case]:
    """The cases of samples by key.

    Args:
        outcomes: Outcomes of all methods, `full` and `policy` among them.
        samples: The queries to show, with their pools.
        root: Folder that the names of candidate images are relative to; without it candidates are
            shown by their names alone.

    Raises:
        UserError: A candidate's image is missing or unreadable.
    """
    methods = by_method(outcomes)
    return {
        sample.key: _case(sample, methods["full"][sample.key], methods["policy"][sample.key], root)
        for sample in samples
    }


def _case(sample: ShardSample, full: Outcome, chosen: Outcome, root: Path | None) -> Case:
    pictures: dict[str, str] = {}  # an entity by the first of its pictures in the pool
    for entity, name in zip(sample.candidate_ids, sample.candidate_images, strict=True):
        pictures.setdefault(entity, name)
    size = sample.image.size
    return Case(
        image=sample.image,
        question=sample.question,
        decision=chosen.decision,
        box_px=None if chosen.box_unit is None else crop_px(chosen.box_unit, *size),
        reference_box_px=sample.reference_box_px,
        rank_full=full.rank,
        rank_view=chosen.rank,
        top_full=_top(full.ranking or [], sample.gold_ids, pictures, root),
        top_view=_top(chosen.ranking or [], sample.gold_ids, pictures, root),
    )


def _top(
    ranking: Sequence[str], gold: Sequence[str], pictures: Mapping[str, str], root: Path | None
) -> list[Candidate]:
    return [
        Candidate(
            name=entity.rsplit("/", 1)[-1].replace("_", " "),
            positive=entity in gold,
            image=None
            if root is None
            else open_image(root / pictures[entity], f"candidate {pictures[entity]} of {root}"),
        )
        for entity in list(dict.fromkeys(ranking))[:TOP]
    ]
