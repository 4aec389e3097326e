"""One training step two ways: ours, and the dense way that trainers for any task take.

The dense way repeats prompt and image G times: in generation, in the reference pass and in the loss
pass, with the vision tower in each; it samples scaffolding token by token; and for every completion
it encodes the query, its crop and twice the K candidates, as the paper's release does. It shares
all code that is not about repetition, so what is compared is the repetition.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from regionr1.algorithm.answers import Decision
from regionr1.algorithm.objective import Group, Objective, Scored, step_advantages, step_loss
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.decode import decode, evaluating
from regionr1.policy.logprobs import policy_pass
from regionr1.policy.prefix import prefill
from regionr1.policy.prompt import Prompt
from regionr1.policy.rollout import Rollouts
from regionr1.policy.vision_cache import VisionCache
from regionr1.scorers.reranker import RewardReranker
from regionr1.speed.work import Work
from regionr1.training.reward import as_group, earn

Stage = Callable[[str], AbstractContextManager[object]]


@dataclass
class Stepper:
    """Takes steps of r-GRPO over a piece of work.

    Attributes:
        policy: Its `stage` times the stages inside it.
        reranker: Rewards crops; None gives a reward that costs nothing.
        work: Queries and candidates.
        group_size: G.
        objective: Which loss.
    """

    policy: CropPolicy
    reranker: RewardReranker | None
    work: Work
    group_size: int
    objective: Objective

    @property
    def stage(self) -> Stage:
        """The context in which the policy times its stages."""
        return self.policy.stage

    def ours(self) -> None:
        """Takes a step in which every query is decoded, seen, prefilled and scored once."""
        batch = self.work.batch
        assert self.policy.vision is not None  # the tower is frozen
        self.policy.vision.last = {}  # a new batch of images every step
        forced = torch.full((len(batch), self.group_size), int(Decision.REGION))
        if self.objective.decision != "exact":
            forced = torch.full_like(forced, -1)
        rollouts = self.policy.sample(batch.images, batch.questions, self.group_size, forced)
        rewards, known = self._rewards(rollouts)
        now = self.policy.score(rollouts)
        reference = None
        if self.objective.kl_weight > 0:
            with torch.no_grad():
                reference = self.policy.score(rollouts, use_adapter=False).scored
        group = as_group(rollouts, self.policy.tokens, rewards, *known)
        loss = _loss(self.objective, group, now.scored, reference)
        with self.stage("backward"):
            loss.backward()
        self.policy.zero_grad()

    def dense(self) -> None:
        """Takes the same step with everything repeated G times, as trainers for any task do."""
        policy, batch, size = self.policy, self.work.batch, self.group_size
        plain = replace(policy.tokens, grammar=None)
        images = [image for image in batch.images for _ in range(size)]
        questions = [question for question in batch.questions for _ in range(size)]
        free = torch.full((len(images), self.work.completion), -1, device=policy.device)
        with torch.no_grad(), evaluating(policy):
            prompt = self._repeated(images, questions)
            with self.stage("prefill"):
                prefix = prefill(policy.base, prompt)
            with self.stage("decode"):
                done = decode(policy.base, prefix, plain, free, policy.temperature)
        ids, mask = done.ids[:, None], done.mask[:, None]
        with self.stage("crop + encode"):
            self._encode_all()

        def score(adapter: bool) -> Scored:
            # rows are queries of their own, in groups of one; the tower runs in every pass
            again = self._repeated(images, questions)
            with policy.adapter(adapter), self.stage("logprobs" if adapter else "reference"):
                return policy_pass(
                    policy.base, again, plain, ids, mask, policy.temperature, "dense"
                ).scored

        now, reference = score(True), None
        if self.objective.kl_weight > 0:
            with torch.no_grad():
                reference = score(False)
        rewards = trivial_reward(ids[:, 0].unflatten(0, (-1, size)))
        shape = (len(batch), size)
        group = Group(
            mask.view(*shape, -1),
            torch.zeros_like(mask).view(*shape, -1),
            torch.zeros_like(mask).view(*shape, -1),
            torch.zeros(shape).bool(),
            torch.zeros(shape),
            rewards,
        )
        loss = _loss(
            replace(self.objective, decision="on_policy"),
            group,
            _grouped(now, shape),
            None if reference is None else _grouped(reference, shape),
        )
        with self.stage("backward"):
            loss.backward()
        policy.zero_grad()

    def gap(self) -> tuple[float, float]:
        """Relative difference of loss and gradients, our path against `dense`, same rollouts."""
        batch = self.work.batch
        forced = torch.full((len(batch), self.group_size), int(Decision.REGION))
        with torch.no_grad():
            rollouts = self.policy.sample(batch.images, batch.questions, self.group_size, forced)
        rewards, known = self._rewards(rollouts)
        group = as_group(rollouts, self.policy.tokens, rewards, *known)
        path, found = self.policy.logprob_path, []
        for name in (path, "dense"):
            self.policy.logprob_path = name
            reference = None
            with torch.no_grad():
                reference = self.policy.score(rollouts, use_adapter=False).scored
            loss = _loss(self.objective, group, self.policy.score(rollouts).scored, reference)
            loss.backward()
            trained = [p.grad for p in self.policy.parameters() if p.grad is not None]
            found.append((loss.detach(), torch.cat([grad.flatten() for grad in trained])))
            self.policy.zero_grad()
        self.policy.logprob_path = path
        (loss, grad), (plain_loss, plain_grad) = found
        return (
            float((loss - plain_loss).abs() / plain_loss.abs()),
            float((grad - plain_grad).norm() / plain_grad.norm()),
        )

    def _rewards(self, rollouts: Rollouts) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if self.reranker is None:
            rewards = trivial_reward(rollouts.completion_ids)
            return rewards, (rewards.new_zeros(len(rewards)), -rewards.new_ones(len(rewards)))
        work = self.work
        earned = earn(work.batch, rollouts, self.reranker, work.prior, work.weights, 0, self.stage)
        return earned.rewards, (earned.full, earned.invalid)

    def _repeated(self, images: list[Image.Image], questions: list[str]) -> Prompt:
        """The prompt of repeated queries, each through the tower."""
        vision = self.policy.vision
        self.policy.vision = _EveryTime(self.policy.base, None)
        try:
            return self.policy.encode(images, questions)
        finally:
            self.policy.vision = vision

    def _encode_all(self) -> None:
        """Query, crop and twice the candidates of every completion.

        Random weights seldom write a box, and a centre crop costs what a chosen one does.
        """
        if self.reranker is None:
            return
        for image, pictures in zip(self.work.batch.images, self.work.candidate_images, strict=True):
            w, h = image.size
            crop = image.crop((w // 4, h // 4, 3 * w // 4, 3 * h // 4))
            for _ in range(self.group_size):
                for view in (image, crop):
                    self.reranker.scorer.embed_images([view])
                    self.reranker.scorer.embed_candidates(pictures, [""] * len(pictures))


class _EveryTime(VisionCache):
    """Forgets at once, and knows no two images for the same."""

    @torch.no_grad()
    def features(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        device = self.model.get_input_embeddings().weight.device
        output = self.model.get_image_features(pixel_values.to(device), image_grid_thw.to(device))
        return torch.cat(tuple(getattr(output, "pooler_output", output)))


def trivial_reward(ids: Tensor) -> Tensor:
    """(B, G) from token ids (B, G, T): differs from rollout to rollout and costs nothing."""
    return (ids.sum(-1) % 17).float() / 17


def _loss(objective: Objective, group: Group, now: Scored, reference: Scored | None) -> Tensor:
    """The loss of the first gradient step on these rollouts."""
    old = now.detach()
    advantages = step_advantages(objective, group, now, old)
    return step_loss(objective, group, advantages, now, old, reference)[0]


def _grouped(scored: Scored, shape: tuple[int, int]) -> Scored:
    first = shape[1]
    return Scored(
        scored.logp.view(*shape, -1), scored.log_p_full[::first], scored.log_p_region[::first]
    )
