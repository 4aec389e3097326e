"""Queries answered, against free text and a ranking, and by how many are answered together.

Every way is asked the same queries on the same weights, in turns. Free text is written by
transformers' `generate`, up to 256 tokens and up to its end token; an untrained policy does not end
by itself, so its end is forced after as many tokens as our answer has, which is what a policy that
answers in our form would write.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from regionr1.algorithm.boxes import CropPrior
from regionr1.data.shards.batch import QueryBatch
from regionr1.evaluation.markdown import markdown_table
from regionr1.evaluation.views import Evaluator
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.prompt import process
from regionr1.policy.rollout import Rollouts
from regionr1.scorers.reranker import RewardReranker
from regionr1.serve.region_reranker import RegionReranker
from regionr1.speed.measure import Cost, measure
from regionr1.speed.work import make_work

PLAIN_TOKENS = 256
BATCHES = (1, 2, 4, 8)  # the paper's, in its table 9


class _EndAfter(LogitsProcessor):
    """Lets a text end after so many tokens and not before.

    Args:
        prompt: Tokens of the prompt.
        tokens: Tokens of the answer, its end among them.
        end: Id of the end token.
    """

    def __init__(self, prompt: int, tokens: int, end: int) -> None:
        self.length, self.end = prompt + tokens - 1, end

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores (N, V) of the next token."""
        if input_ids.shape[1] < self.length:
            return scores.index_fill(1, torch.tensor([self.end], device=scores.device), -torch.inf)
        ended = torch.full_like(scores, -torch.inf)
        ended[:, self.end] = 0.0
        return ended


@torch.no_grad()
def inference(
    args: argparse.Namespace, policy: CropPolicy, device: torch.device
) -> dict[str, float]:
    """Times the ways in turns, and prints the means of a query.

    Args:
        args: Of `scripts/benchmark`.
        policy: The policy.
        device: Where it runs.

    Returns:
        Seconds of processor time of a query, by way.
    """
    reranker = RewardReranker("builtin").to(device)
    reranker.remember = 0
    work = make_work(
        args.queries, args.image, args.text, args.candidates, reranker.scorer.dim, args.completion
    )
    batch = work.batch.to(device)
    evaluator = Evaluator(policy, reranker, CropPrior())
    library = RegionReranker(policy, reranker, batch_size=args.queries)
    pools = list(batch.candidates)
    policy.eval()
    plain = policy.greedy

    def boxes(images: Sequence[Image.Image], questions: Sequence[str], *_: bool) -> Rollouts:
        """A box for every query, the longer answer, whatever an untrained policy would say."""
        return plain(images, questions, force_region=True)

    vars(policy)["greedy"] = boxes
    known = policy.greedy(batch.images, batch.questions)
    answer, prompt = int(known.mask.sum(-1).max()), known.prompt.mask.shape[1]

    def rollout() -> None:
        _forget_images(policy)
        evaluator.policy(batch)

    def lists() -> None:
        _forget_images(policy)
        library.rerank(batch.images, batch.questions, pools)

    def singly() -> None:
        for query in zip(batch.images, batch.questions, pools, strict=True):
            _forget_images(policy)
            library.rerank(*query)

    def generate(images: Sequence[Image.Image], questions: Sequence[str], tokens: int) -> None:
        inputs = process(policy.processor, images, questions, policy.prompt, policy.system)
        length = inputs["input_ids"].shape[1]
        policy.base.generate(
            **{name: value.to(device) for name, value in inputs.items()},
            do_sample=False,
            max_new_tokens=PLAIN_TOKENS,
            logits_processor=LogitsProcessorList(
                [_EndAfter(length, tokens, policy.tokenizer.eos_token_id)]
            ),
        )
        for image, pool in zip(images, batch.candidates, strict=False):
            crop = image.crop((0, 0, image.width // 2, image.height // 2))
            (reranker.scorer.embed_images([crop]) @ pool.T).argsort(descending=True)

    def to_end() -> None:
        generate(batch.images, batch.questions, answer)

    def to_limit() -> None:
        generate(batch.images, batch.questions, PLAIN_TOKENS)

    ways: dict[str, Callable[[], None]] = {
        "the rollout's greedy path": rollout,
        "RegionReranker, lists": lists,
        "RegionReranker, one by one": singly,
        f"generate to its end ({answer} tokens)": to_end,
        f"generate, {PLAIN_TOKENS} tokens": to_limit,
    }
    costs = {name: Cost() for name in ways}
    for turn in range(args.rounds + 1):
        for name, way in ways.items():
            measure(way, policy, reranker, costs[name] if turn else Cost(), memory=False)
    print(
        f"{args.queries} queries at once, prompt {prompt} tokens, K={args.candidates} embedded; "
        f"{args.rounds} rounds in turns; a query:"
    )
    processor = {name: cost.processor_s / args.queries for name, cost in costs.items()}
    ours = processor["RegionReranker, lists"]
    for name, cost in costs.items():
        wall = cost.step_s / args.queries
        print(
            f"  {name:<36}{processor[name]:8.3f} s of processor time, {wall:8.3f} s wall, "
            f"{processor[name] / ours:6.2f} x lists"
        )
    print(f"\n{_by_batch(args, policy, reranker, device)}")
    return processor


def _forget_images(policy: CropPolicy) -> None:
    """Has the tower see the same images again."""
    assert policy.vision is not None  # the tower is frozen
    policy.vision.last = {}


def _by_batch(
    args: argparse.Namespace, policy: CropPolicy, reranker: RewardReranker, device: torch.device
) -> str:
    """Latency, throughput and memory by queries answered together (paper, table 9)."""
    evaluator, rows = Evaluator(policy, reranker, CropPrior()), []
    for queries in BATCHES:
        work = make_work(
            queries, args.image, args.text, args.candidates, reranker.scorer.dim, args.completion
        )
        batch, cost = work.batch.to(device), Cost()

        def answer(batch: QueryBatch = batch) -> None:
            _forget_images(policy)
            evaluator.policy(batch, force_region=True)

        first = Cost()  # warms up, and tells the memory
        measure(answer, policy, reranker, first, memory=True)
        for _ in range(args.rounds):
            measure(answer, policy, reranker, cost)
        memory = f"{first.peak_bytes / 1e6:,.0f}"
        rows.append(
            [
                str(queries),
                f"{cost.step_s:.3f}",
                f"{cost.step_s / queries:.3f}",
                f"{queries / cost.step_s:.2f}",
                memory,
            ]
        )
    heads = ["queries together", "s", "s a query", "queries a second", "MB above rest"]
    return markdown_table(heads, rows)
