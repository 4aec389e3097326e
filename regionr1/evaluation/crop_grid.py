"""What there is to win by cropping where nobody drew a reference box.

Every query is ranked by each crop of a fixed grid. The best of them by the query's own labels is an
upper mark that no policy is promised: whoever draws often enough is lucky. How much of it is luck
the same crops of *another* query's image tell, which show nothing that was asked for. What a policy
can hope for lies between the two, and well above the best single crop for all queries, which needs
no policy at all.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from regionr1.algorithm.boxes import crop_px
from regionr1.algorithm.ranking import first_positive_rank
from regionr1.data.npy import from_npy, to_npy
from regionr1.data.shards.samples import ShardSample
from regionr1.evaluation.headroom import chunks, outcome_of
from regionr1.evaluation.table import Outcome
from regionr1.files import write_whole
from regionr1.scorers.base import Scorer

UnitBox = tuple[float, float, float, float]
SIDES = {0.35: 4, 0.5: 4, 0.7: 3}
"""Side of a crop as a share of the image's: places along each side, evenly from edge to edge."""
CENTRE: UnitBox = (0.25, 0.25, 0.75, 0.75)
BATCH = 64  # crops per scorer call
FOLDS = 2


def grid() -> list[UnitBox]:
    """The 42 crops: 16, 16 and 9 windows of the three SIDES, and the centre crop."""
    boxes = [
        (x, y, x + side, y + side)
        for side, places in SIDES.items()
        for y in np.linspace(0, 1 - side, places).tolist()
        for x in np.linspace(0, 1 - side, places).tolist()
    ]
    return [*boxes, CENTRE]


def evenly(samples: Iterable[ShardSample], n: int, limit: int | None) -> Iterator[ShardSample]:
    """Yields at most `limit` of n samples, spread evenly over them; all without a limit."""
    wanted = n if limit is None else min(limit, n)
    for i, sample in enumerate(samples):
        if (i + 1) * wanted // n > i * wanted // n:
            yield sample


def crop_grid_outcomes(
    samples: Iterable[ShardSample], scorer: Scorer, kept: Path | None = None
) -> Iterator[list[Outcome]]:
    """Yields, query by query, its outcomes by the crops of `grid()`, then the one of luck.

    The last outcome is the best, by the query's labels, of the same crops of the nearest other
    query's image; it is left out where no query of another entity and another image stands near.
    The crops of an image are embedded once for all questions about it that stand near each other.

    Args:
        samples: Queries with their pools.
        scorer: The scorer of the samples' embeddings, which embeds the crops.
        kept: Folder of these shards and this scorer alone, in which each image's crops are kept, so
            that what was embedded once is read the next time.
    """
    boxes = grid()
    known: dict[str, np.ndarray] = {}
    for chunk in chunks(samples):
        names = [_name(sample.image) for sample in chunk]
        crops = [[crop_px(torch.tensor(b), *s.image.size) for b in boxes] for s in chunk]
        known = {name: known[name] for name in names if name in known}
        for name, sample, cut in zip(names, chunk, crops, strict=True):
            if name not in known:
                path = None if kept is None else kept / f"{name}.npy"
                known[name] = _kept(sample, cut, scorer, path)
        views = [known[name] for name in names]
        for i, (sample, cut) in enumerate(zip(chunk, crops, strict=True)):
            own = [
                outcome_of(sample, "best_of_grid", view, crop)
                for view, crop in zip(views[i], cut, strict=True)
            ]
            others = [
                j
                for j, other in enumerate(chunk)
                if other.cluster != sample.cluster and names[j] != names[i]
            ]
            if others:
                other = others[int(np.argmin(np.abs(np.array(others) - i)))]
                best = int(np.argmin(_ranks(sample, views[other])))
                lucky = outcome_of(sample, "luck_of_grid", views[other][best], None)
                own.append(replace(lucky, decision="REGION"))
            yield own


def crop_grid_headroom(by_query: Iterable[list[Outcome]]) -> list[Outcome]:
    """The rows centre, fixed_crop, best_of_grid and luck_of_grid of the premise.

    `fixed_crop` is the single crop with the best CondR@1, chosen on the entities of one half of the
    queries and measured on the other, so that it is not flattered by its choice.

    Args:
        by_query: What `crop_grid_outcomes` yields.
    """
    n_boxes = len(grid())
    own, luck = [], []
    for outcomes in by_query:
        own.append(outcomes[:n_boxes])
        luck += outcomes[n_boxes:]
    clusters = sorted({row[0].cluster for row in own})
    fold = {cluster: i % FOLDS for i, cluster in enumerate(clusters)}
    fixed = {f: _best_box([r for r in own if fold[r[0].cluster] != f]) for f in range(FOLDS)}
    return [
        *(replace(row[-1], method="centre") for row in own),
        *(replace(row[fixed[fold[row[0].cluster]]], method="fixed_crop") for row in own),
        *(min(row, key=lambda outcome: outcome.rank) for row in own),
        *luck,
    ]


def _best_box(rows: list[list[Outcome]]) -> int:
    """Place in the grid of the crop that ranks a positive first most often, by MRR where equal.

    It is the centre crop's where there is nothing to choose by.
    """
    ranks = np.array([[o.rank for o in row] for row in rows if row[0].pool_has_positive])
    if not len(ranks):
        return len(grid()) - 1
    keys = zip((ranks == 1).mean(0).tolist(), (1 / ranks).mean(0).tolist(), strict=True)
    return max(enumerate(keys), key=lambda pair: pair[1])[0]


def _name(image: Image.Image) -> str:
    """A name of an image by its pixels, the same for every question about it."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def _kept(
    sample: ShardSample, crops: list[tuple[int, int, int, int]], scorer: Scorer, path: Path | None
) -> np.ndarray:
    """(42, D) embeddings of an image's crops, read where they were kept."""
    if path is None:
        return _embed(sample, crops, scorer)
    if path.is_file():
        found = from_npy(path.read_bytes())
        if found.shape == (len(crops), len(sample.full)):
            return found
    views = _embed(sample, crops, scorer)
    write_whole(path, lambda file: file.write(to_npy(views)))
    return views


def _embed(
    sample: ShardSample, crops: list[tuple[int, int, int, int]], scorer: Scorer
) -> np.ndarray:
    """(42, D) embeddings of an image's crops."""
    images = [sample.image.crop(crop) for crop in crops]
    parts = [scorer.embed_images(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return torch.cat(parts).cpu().numpy()


def _ranks(sample: ShardSample, views: np.ndarray) -> np.ndarray:
    """(42,) rank of the first positive by each view."""
    scores = torch.from_numpy(views @ sample.candidates.T)
    labels = torch.tensor(sample.labels).expand_as(scores)
    return first_positive_rank(scores, labels, torch.ones_like(labels)).numpy()
