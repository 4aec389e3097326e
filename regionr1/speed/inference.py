"""Queries answered, against free text of 256 tokens and by how many are answered together."""

import argparse

import torch

from regionr1.algorithm.boxes import CropPrior
from regionr1.data.shards.batch import QueryBatch
from regionr1.evaluation.markdown import markdown_table
from regionr1.evaluation.views import Evaluator
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.prompt import process
from regionr1.scorers.reranker import RewardReranker
from regionr1.speed.measure import Cost, measure, seconds_of
from regionr1.speed.work import make_work

PLAIN_TOKENS = 256
BATCHES = (1, 2, 4, 8)  # the paper's, in its table 9


@torch.no_grad()
def inference(args: argparse.Namespace, policy: CropPolicy, device: torch.device) -> None:
    """Times both, in turns, one query at a time, and prints the means.

    Args:
        args: Of `scripts/benchmark`.
        policy: The policy.
        device: Where it runs.
    """
    reranker = RewardReranker("builtin").to(device)
    reranker.remember = 0
    work = make_work(
        1, args.image, args.text, args.candidates, reranker.scorer.dim, args.completion
    )
    batch = work.batch.to(device)
    evaluator = Evaluator(policy, reranker, CropPrior())
    policy.eval()

    def ours() -> None:
        assert policy.vision is not None  # the tower is frozen
        policy.vision.last = {}
        evaluator.policy(batch, force_region=True)  # with a crop: the longer of the two answers

    def plain() -> None:
        inputs = process(
            policy.processor, batch.images, batch.questions, policy.prompt, policy.system
        )
        policy.base.generate(
            **{name: value.to(device) for name, value in inputs.items()},
            do_sample=False,
            min_new_tokens=PLAIN_TOKENS,
            max_new_tokens=PLAIN_TOKENS,
        )
        image = batch.images[0]
        crop = image.crop((0, 0, image.width // 2, image.height // 2))
        scores = reranker.scorer.embed_images([crop]) @ batch.candidates[0].T
        scores.argsort(descending=True)

    seconds = {"ours": 0.0, "plain": 0.0}
    for turn in range(args.rounds + 1):
        for name, call in (("ours", ours), ("plain", plain)):
            spent = seconds_of(call)
            seconds[name] += spent if turn else 0.0  # the first warms up
    for name, total in seconds.items():
        print(f"{name}: {total / args.rounds:.3f} s a query")
    print(f"ours is {seconds['plain'] / seconds['ours']:.1f} times faster than generate with "
          f"{PLAIN_TOKENS} tokens")  # fmt: skip
    print(f"\n{_by_batch(args, policy, reranker, device)}")


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
            if policy.vision is not None:
                policy.vision.last = {}
            evaluator.policy(batch, force_region=True)

        answer()  # warms up
        for _ in range(args.rounds):
            measure(answer, policy, reranker, cost)
        memory = f"{cost.peak_bytes / 1e6:,.0f}"
        rows.append([
            str(queries), f"{cost.step_s:.3f}", f"{cost.step_s / queries:.3f}",
            f"{queries / cost.step_s:.2f}", memory,
        ])  # fmt: skip
    heads = ["queries together", "s", "s a query", "queries a second", "MB above rest"]
    return markdown_table(heads, rows)
