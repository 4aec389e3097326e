"""The premise of the built-in benchmark, in numbers: is there a decision to learn, and can it be?

    regionr1 data builtin-premise --shards .data/builtin-shards --root .data/builtin

ranks every pool by the full image, by the view that tells, by what stands out, and by the box of
the policy before training, and holds what follows against the targets the benchmark was made for.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from regionr1.algorithm.boxes import crop_px
from regionr1.algorithm.ranking import first_positive_rank
from regionr1.builtin.kinds import WANTS_CROP
from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.records import Query, SkipReport
from regionr1.data.shards.batch import QueryBatch, collate
from regionr1.data.shards.index import verify_index
from regionr1.data.shards.stream import read_samples
from regionr1.errors import UserError
from regionr1.evaluation.decision_quality import auroc
from regionr1.files import write_json
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.prefix import prefill
from regionr1.progress import progress
from regionr1.scorers.base import Scorer
from regionr1.scorers.load import load_scorer

BATCH = 32
PENALTY = 0.01  # on a probe's squared weights
VIEWS = ("full", "reference", "salient", "untrained")


@dataclass
class Measured:
    """N queries of one split, those without a positive in the pool among them.

    Attributes:
        kinds: N kinds of query.
        questions: N questions.
        answerable: (N,) whether the pool holds a positive.
        ranks: (N,) rank of the first positive by each of VIEWS.
        p_region: (N,) of the untrained policy.
        hidden: (N, width) its hidden state where it decides.
    """

    kinds: list[str]
    questions: list[str]
    answerable: np.ndarray
    ranks: dict[str, np.ndarray]
    p_region: np.ndarray
    hidden: Tensor

    def right(self, view: str, crops_only: bool = False) -> float:
        """CondR@1 of a view; of queries that want a crop only, if asked for."""
        counted = self.answerable & (self.wants_crop | (not crops_only))
        return float((self.ranks[view][counted] == 1).mean())

    @property
    def wants_crop(self) -> np.ndarray:
        """(N,) whether the kind of query wants a crop."""
        return np.array([kind.split(",")[0] in WANTS_CROP for kind in self.kinds])

    @property
    def told(self) -> tuple[np.ndarray, np.ndarray]:
        """Answerable queries that full image and crop rank differently, and the crop better.

        Indices of the former, and a bool for each.
        """
        full, crop = self.ranks["full"], self.ranks["untrained"]
        index = np.nonzero(self.answerable & (full != crop))[0]
        return index, (crop < full)[index]


@dataclass(frozen=True)
class Check:
    """A number and the range it was made for."""

    name: str
    value: float
    low: float = -np.inf
    high: float = np.inf

    @property
    def met(self) -> bool:
        """Whether the value lies in its range."""
        return bool(self.low <= self.value <= self.high)

    def __str__(self) -> str:
        bounds = [f">= {self.low:g}"] * int(np.isfinite(self.low))
        bounds += [f"<= {self.high:g}"] * int(np.isfinite(self.high))
        mark = "" if self.met else "  MISSED"
        return f"{self.name:<66}{self.value:7.3f}   {', '.join(bounds)}{mark}"


def builtin_premise(
    shards: Path,
    root: Path,
    policy: str = "builtin",
    scorer: str = "builtin",
    queries: int = 720,
    out: Path | None = None,
    strict: bool = False,
) -> None:
    """Check that the built-in benchmark has a decision and boxes to learn.

    Args:
        shards: Folder that ``regionr1 data shards`` wrote.
        root: Folder that ``regionr1 data builtin`` wrote.
        policy: The policy before training.
        scorer: The scorer that the shards were made with.
        queries: At most so many of each split.
        out: JSON file for the numbers, beside printing them.
        strict: Fail where a number is outside its range.
    """
    model, judge = CropPolicy(policy, max_new_tokens=40, grammar=True), load_scorer(scorer)
    measured = {
        split: measure(shards, root, split, model, judge, queries)
        for split in ("train", "val", "test")
    }
    for split, found in measured.items():
        for kind in sorted(set(found.kinds)):
            own = found.answerable & np.array([k == kind for k in found.kinds])
            shares = ", ".join(
                f"{view} {(found.ranks[view][own] == 1).mean():.3f}" for view in VIEWS
            )
            print(f"{split:5s} {kind:26s} CondR@1 by {shares} (N={own.sum()})")
    checks = list(check(measured))
    print("\n".join(map(str, checks)))
    if out is not None:
        write_json(out, {check.name: check.value for check in checks})
    missed = [c.name for c in checks if not c.met]
    if missed and strict:
        raise UserError(f"the premise does not hold: {'; '.join(missed)}")


def salient_boxes(root: Path, split: str) -> dict[str, list[float]]:
    """Boxes of what stands out by key of the query, where anything does; xyxy, scene pixels."""
    path = root / "reference_boxes.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing: write it with `regionr1 data builtin`")
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    by_image = {line["image_id"]: line.get("salient_px") for line in lines}
    found = EvqaSource(root).read(split, SkipReport())
    return {
        query.key: box
        for query in found
        if isinstance(query, Query) and (box := by_image[query.image_path.stem])
    }


@torch.no_grad()
def measure(
    shards: Path, root: Path, split: str, policy: CropPolicy, scorer: Scorer, queries: int
) -> Measured:
    """Ranks the first `queries` pools of a split by every view."""
    index = verify_index(shards, split, scorer.fingerprint())
    salient = salient_boxes(root, split)
    samples = islice(read_samples(shards, index), queries)
    kinds, questions, answerable, p_region, hidden = [], [], [], [], []
    ranks: dict[str, list[float]] = {view: [] for view in VIEWS}
    bar = progress(total=min(queries, index.n_samples), desc=f"premise {split}", unit="query")
    while chunk := list(islice(samples, BATCH)):
        batch = collate(chunk, index.k)
        sides = torch.tensor([batch.widths, batch.heights] * 2, dtype=torch.float32).T
        prominent = torch.tensor([salient.get(key, [torch.nan] * 4) for key in batch.keys]) / sides
        greedy = policy.greedy(batch.images, batch.questions, force_region=True)
        ranks["full"] += _ranks(batch, batch.full_embedding)
        for view, boxes in (
            ("reference", batch.reference_box_unit),
            ("salient", prominent),
            ("untrained", greedy.boxes_unit[:, 0]),
        ):
            ranks[view] += _ranks(batch, _crops(batch, boxes, scorer))
        p_region += greedy.p_region.tolist()
        hidden.append(prefill(policy.base, policy.encode(batch.images, batch.questions)).hidden)
        kinds += [group["subset"] for group in batch.groups]
        questions += batch.questions
        bar.update(len(chunk))
        answerable += (batch.labels & batch.valid).any(-1).tolist()
    bar.close()
    arrays = {view: np.array(found) for view, found in ranks.items()}
    return Measured(
        kinds, questions, np.array(answerable), arrays, np.array(p_region), torch.cat(hidden)
    )


def _crops(batch: QueryBatch, boxes_unit: Tensor, scorer: Scorer) -> Tensor:
    """(B, D): what each (4,) box cuts out, embedded; the full image where it is NaN or all."""
    views = batch.full_embedding.clone()
    cut, rows = [], []
    for row, box in enumerate(boxes_unit):
        if box.isfinite().all() and (box != box.new_tensor([0, 0, 1, 1])).any():
            cut.append(batch.images[row].crop(crop_px(box, *batch.images[row].size)))
            rows.append(row)
    if rows:
        views[rows] = scorer.embed_images(cut)
    return views


def _ranks(batch: QueryBatch, views: Tensor) -> list[float]:
    scores = torch.einsum("bd,bkd->bk", views, batch.candidates)
    return first_positive_rank(scores, batch.labels, batch.valid).tolist()


# ---- what must hold -------------------------------------------------------------------------


def check(measured: dict[str, Measured]) -> Iterator[Check]:
    """The numbers of the three splits, and the ranges that they should lie in."""
    train, val, test = (measured[split] for split in ("train", "val", "test"))
    full, crop = test.right("full"), test.right("untrained")
    first = {view: ranks == 1 for view, ranks in test.ranks.items()}
    either = float((first["full"] | first["untrained"])[test.answerable].mean())
    yield Check("test: pool recall", float(test.answerable.mean()), 0.7, 0.97)
    yield Check("test: CondR@1, always the full image", full, high=0.55)
    yield Check("test: CondR@1, always the untrained crop", crop, high=0.55)
    yield Check("test: better of the two, above both", either - max(full, crop), low=0.15)
    yield Check("test: CondR@1, the view that tells", test.right("reference"), low=0.8)
    mislead = (first["full"] & ~first["salient"])[test.answerable].mean()
    yield Check("test: full image right, what stands out wrong", float(mislead), low=1 / 3)
    gaps = {}
    for name, split in (("train", train), ("test", test)):
        gaps[name] = split.right("untrained", crops_only=True)
        room = split.right("reference", crops_only=True) - gaps[name]
        yield Check(f"{name}: room for boxes where a crop is wanted", room, low=0.12)
    apart = abs(gaps["train"] - gaps["test"])
    yield Check("untrained crop where one is wanted, train against test", apart, high=0.07)
    words = [_words(split.questions, train.questions) for split in (train, val)]
    yield Check(
        "val: AUROC of a probe on the question's words", probe(words, train, val), high=0.75
    )
    states = [train.hidden, val.hidden]
    yield Check("val: AUROC of a probe on the deciding state", probe(states, train, val), low=0.8)
    yield Check("test: untrained policy crops", float((test.p_region > 0.5).mean()), 0.15, 0.3)
    index, better = test.told
    poor = auroc(better, test.p_region[index])
    yield Check("test: AUROC of the untrained P(REGION)", poor, high=0.6)


def probe(features: Sequence[Tensor], train: Measured, val: Measured) -> float:
    """AUROC on validation of a linear probe, fitted on training queries, of "the crop is better".

    Args:
        features: (N, F) of the training and of the validation queries.
        train: What is fitted.
        val: What is measured.
    """
    (fit, better), (measure_on, truth) = train.told, val.told
    x = features[0][fit]
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    x, label = (x - mean) / deviation, torch.from_numpy(better).float()
    weight = torch.zeros(x.shape[1] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=100)

    def loss() -> Tensor:
        optimizer.zero_grad()
        error = binary_cross_entropy_with_logits(x @ weight[1:] + weight[0], label)
        total = error + PENALTY * weight[1:].square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    scores = ((features[1][measure_on] - mean) / deviation) @ weight.detach()[1:]
    return auroc(truth, scores.numpy())


def _words(questions: Sequence[str], known: Sequence[str]) -> Tensor:
    """(N, V) which of the known words each question holds."""
    vocabulary = sorted({word for question in known for word in question.lower().split()})
    held = [set(question.lower().split()) for question in questions]
    return torch.tensor([[float(word in words) for word in vocabulary] for words in held])
