"""Hand-made queries over colours, a policy that answers what the test wrote, and one batch of data.

The image is 128 x 128 pixels, seen at 64 x 64: green, with a red square in its first 48 pixels.
By hand, with `ColourScorer`'s cosines to solid colours: the full image ranks green, red, blue; the
red square ranks red, green, blue; a corner of the green ranks green, blue, red.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from evqa_files import COLOURS, ColourScorer
from lightning.pytorch import LightningDataModule, Trainer
from peft import set_peft_model_state_dict
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

from regionr1.algorithm.answers import FULL_ANSWER
from regionr1.data.shards.batch import QueryBatch
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.prefix import decision_logprobs, prefill
from regionr1.policy.prompt import Prompt
from regionr1.policy.rollout import Rollouts, read_rollouts
from regionr1.scorers.reranker import RewardReranker
from regionr1.training.rgrpo import RGRPO

FULL = FULL_ANSWER
RED = '{"bbox_2d": [0, 0, 24, 24]}'  # seen pixels; 0..48 of the original
GREEN = '{"bbox_2d": [32, 32, 64, 64]}'
NONSENSE = '{"bbox_2d": [9, 9, 1, 1]}'
SQUARE_PX = (0, 0, 48, 48)
ANSWERS = {"red?": RED, "green?": GREEN, "all?": FULL, "what?": NONSENSE}
SOLID = [Image.new("RGB", (8, 8), colour) for colour in COLOURS[:3]]  # red, green, blue


class WrittenPolicy(CropPolicy):
    """A real tiny policy with its own log-probabilities; only what it answers is written.

    Attributes:
        groups: Question to the G answers of `sample`.
        greedily: Question to the answers of `greedy`: free, forced to REGION; with the adapter off
            free, forced to REGION.
    """

    groups: dict[str, list[str]]
    greedily: dict[str, tuple[str, str, str, str]]
    sampled: Rollouts

    def sample(self, images, questions, group_size, forced=None, generator=None) -> Rollouts:
        self.sampled = self.read(images, questions, [self.groups[q] for q in questions])
        return self.sampled

    def greedy(self, images, questions, force_region=False, use_adapter=True) -> Rollouts:
        which = int(force_region) + (0 if use_adapter else 2)
        with self.adapter(use_adapter):
            return self.read(images, questions, [[self.greedily[q][which]] for q in questions])

    def greedy_both(self, prompt, use_adapter=True) -> Rollouts:
        first = 0 if use_adapter else 2
        asked = self.tokenizer.batch_decode(prompt.input_ids)
        questions = [next(q for q in self.greedily if q in text) for text in asked]
        with self.adapter(use_adapter):
            return self.read_of(prompt, [self.greedily[q][first : first + 2] for q in questions])

    def read(self, images, questions, texts: Sequence[Sequence[str]]) -> Rollouts:
        """Rollouts that hold these B lists of G answers."""
        return self.read_of(self.encode(images, questions), texts)

    @torch.no_grad()
    def read_of(self, prompt: Prompt, texts: Sequence[Sequence[str]]) -> Rollouts:
        """As `read`, of encoded queries."""
        eos, pad = self.tokenizer.eos_token_id, self.tokens.pad
        rows = [[self.tokenizer(text)["input_ids"] + [eos] for text in row] for row in texts]
        length = max(len(ids) for row in rows for ids in row)
        ids = torch.tensor([[ids + [pad] * (length - len(ids)) for ids in row] for row in rows])
        mask = torch.tensor([[[t < len(i) for t in range(length)] for i in row] for row in rows])
        logs = decision_logprobs(self.base, prefill(self.base, prompt), self.tokens)
        probabilities = (logs[0].exp(), logs[1].exp())
        forced = torch.zeros_like(mask)
        return read_rollouts(self.tokenizer, self.frame, prompt, ids, mask, forced, probabilities)


class OneBatch(LightningDataModule):
    """The same batch for ever, made with a scorer of this fingerprint."""

    def __init__(self, batch: QueryBatch, fingerprint: str = "colour") -> None:
        super().__init__()
        self.batch, self.made_with = batch, fingerprint
        self.folder = "shards"

    def fingerprint(self, stage: str) -> str:
        return self.made_with

    def use_scorer(self, stage: str, fingerprint: str) -> bool:
        return False

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Endless(self.batch), batch_size=None)


class _Endless(IterableDataset):
    def __init__(self, batch: QueryBatch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[QueryBatch]:
        while True:
            yield self.batch


def scene() -> Image.Image:
    """The image of every query."""
    image = Image.new("RGB", (128, 128), COLOURS[1])
    image.paste(COLOURS[0], SQUARE_PX)
    return image


def encoded(image: Image.Image) -> str:
    """A PNG file as base64, as requests hold images."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


ROW = {"image": encoded(scene()), "question": "red?", "candidates": [encoded(i) for i in SOLID]}


def colour_batch(golds: Sequence[str] = ("red", "green", "purple")) -> QueryBatch:
    """Queries after red (2nd by the full image), green (1st) and purple, whose pool has none.

    Pools have K = 4: red, green, blue and one of padding. Only the query after green has no
    reference box.
    """
    n, scorer = len(golds), ColourScorer()
    solid = [Image.new("RGB", (8, 8), COLOURS[i]) for i in range(3)]
    candidates = torch.cat([scorer.embed_images(solid), torch.zeros(1, 12)])
    names = ["red", "green", "blue"]
    boxes = {"green": [float("nan")] * 4, "purple": [0.5, 0.5, 1.0, 1.0]}
    return QueryBatch(
        keys=[f"test-{i}" for i in range(n)],
        images=[scene()] * n,
        questions=[f"where is {gold}?" for gold in golds],
        candidate_ids=[names] * n,
        gold_ids=[[gold] for gold in golds],
        clusters=list(golds),
        groups=[{"type": "primary" if gold in names else "mixed"} for gold in golds],
        candidates=candidates.expand(n, 4, 12).clone(),
        full_embedding=scorer.embed_images([scene()]).expand(n, 12).clone(),
        labels=torch.tensor([[name == gold for name in (*names, "")] for gold in golds]),
        valid=torch.tensor([[True, True, True, False]] * n),
        reference_box_unit=torch.tensor(
            [boxes.get(gold, [0.0, 0.0, 0.375, 0.375]) for gold in golds]
        ),
        widths=[128] * n,
        heights=[128] * n,
        data_ids=[f"E-VQA_{i}" for i in range(n)],
        image_names=[f"images/{i}.png" for i in range(n)],
    )


def colour_reranker() -> RewardReranker:
    """A re-ranker whose scorer reads colours."""
    reranker = RewardReranker("pixels")
    reranker.scorer = ColourScorer()
    return reranker


def written(folder: Path, **options: Any) -> WrittenPolicy:
    """A written policy over a tiny model; its adapter, the same every time, is not idle."""
    torch.manual_seed(0)
    policy = WrittenPolicy(str(folder), lora_rank=4, max_new_tokens=40, **options)
    policy.groups, policy.greedily = {}, {}
    move_adapter(policy)
    return policy


def answering(folder: Path, answers: Mapping[str, str]) -> WrittenPolicy:
    """A written policy that answers each question alike, however it is asked."""
    policy = written(folder)
    policy.greedily = {question: (answer,) * 4 for question, answer in answers.items()}
    return policy


def move_adapter(policy: CropPolicy, seed: int = 1) -> None:
    """Moves an adapter off its initial state, which changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1, generator=generator)


def load_adapter(policy: CropPolicy, state: dict[str, torch.Tensor]) -> None:
    """Gives a policy another one's adapter weights."""
    set_peft_model_state_dict(policy.vlm, dict(state))


def gradients(policy: CropPolicy, rollouts: Rollouts) -> dict[str, torch.Tensor]:
    """Of a goal in which every log-probability and the decision count, by parameter that trains."""
    policy.zero_grad()
    result = policy.score(rollouts)
    (result.logp.square().sum() + result.log_p_full.sum()).backward()
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.requires_grad}


def trainer(max_steps: int, **options: Any) -> Trainer:
    """A trainer that writes nothing."""
    settings = {
        "accelerator": "cpu",
        "max_epochs": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(max_steps=max_steps, **(settings | options))


def module(policy: CropPolicy, **options: Any) -> RGRPO:
    """r-GRPO with plain gradient descent and groups of 2; options by RGRPO's names."""
    settings = {
        "group_size": 2,
        "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    }
    return RGRPO(policy, colour_reranker(), **(settings | options))
