"""One query answered: decision, crop and ranking, against free text of 256 tokens and a ranking."""

import argparse

import torch

from regionr1.algorithm.boxes import CropPrior
from regionr1.evaluation.views import Evaluator
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.prompt import process
from regionr1.scorers.reranker import RewardReranker
from regionr1.speed.measure import seconds_of
from regionr1.speed.work import make_work

PLAIN_TOKENS = 256


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
