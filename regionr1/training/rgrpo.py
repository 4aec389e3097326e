"""r-GRPO: learn where to look from how much the ranking improved (arXiv 2604.05268).

For each query, a group of G answers is sampled; each crop is scored by the frozen re-ranker; an
answer's advantage is its reward minus its group's mean; and the policy moves towards what was
better, held near the policy without its adapter by a KL term. Decision-balanced sampling forces
the first word of every answer, so that each group holds both FULL and REGION; the exact decision
samples boxes only and computes the rest (`regionr1/algorithm/decision.py`).

With one gradient step per rollout the ratio of new to old probabilities is 1 and clipping never
acts; the loss is about 0 by construction on balanced advantages. Watch `reward`, not `loss`.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from regionr1.algorithm.advantages import AdvantageOptions
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.decision import EstimatorOptions
from regionr1.algorithm.losses import LossOptions
from regionr1.algorithm.objective import (
    Decider,
    Group,
    Kl,
    Objective,
    Scored,
    TokenCounts,
    step_advantages,
    step_loss,
)
from regionr1.algorithm.rewards import RewardWeights
from regionr1.data.shards.batch import QueryBatch
from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.errors import UserError
from regionr1.evaluation.pictures import Case
from regionr1.evaluation.predictions import Prediction
from regionr1.evaluation.table import Outcome
from regionr1.evaluation.views import Evaluator
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.logprobs import PolicyPass
from regionr1.policy.rollout import Rollouts
from regionr1.scorers.reranker import RewardReranker
from regionr1.training import metrics, noise
from regionr1.training.checkpoint import refuse_other_architecture
from regionr1.training.reward import Earnings, as_group, earn


class Step(NamedTuple):
    """What the gradient steps on one batch of rollouts have in common.

    Attributes:
        rollouts: G answers to each of B queries.
        earned: Their rewards.
        group: What the loss needs of both.
        old: The rollouts under the policy that sampled them.
        reference: The rollouts under the policy without its adapter; None without a KL term.
    """

    rollouts: Rollouts
    earned: Earnings
    group: Group
    old: Scored
    reference: Scored | None


class RGRPO(LightningModule):
    """Trains a crop policy with r-GRPO.

    Args:
        policy: The vision-language policy that is trained.
        reranker: The frozen re-ranker that rewards it.
        group_size: Answers per query, G.
        kl_weight: Weight of the KL term to the policy with its adapter off; 0 leaves it out.
        kl: How it is estimated: `k3`; `k3_ratio`, times the ratio, as TRL since 1.1; or
            `exact_decision`, exactly over the decision and k3_ratio over the rest. decision=exact
            always takes the decision's exactly.
        decision: Who decides between FULL and REGION in a group. `exact` forces REGION on all,
            looks FULL's reward up and differentiates the decision itself; `balanced` forces it on
            crop_prior.region_share of them (the paper's decision-balanced group sampling);
            `on_policy` lets the policy sample.
        estimator: What changes the estimate of the decision's gradient.
        crop_prior: What is known about crops before learning: the share of REGION, limits of
            shape, padding, and an encouragement that decays.
        reward: Weights of the reward's parts.
        advantage: How rewards become advantages.
        loss: The loss of sampled tokens.
        num_iterations: Gradient steps per rollout. The exact decision has no ratio: its later steps
            use the new pi(FULL) with the rewards of the first.
        seed: Of the sampling noise, which also depends on the step and the rank.
        soft_fusion: Tests have the row `policy_soft` too: full image and crop scored together, each
            by how probable the policy finds it.
        optimizer: Makes the optimizer of the adapter's parameters.
        scheduler: Makes the learning-rate schedule, stepped every optimizer step.
    """

    def __init__(
        self,
        policy: CropPolicy,
        reranker: RewardReranker,
        group_size: int = 8,
        kl_weight: float = 0.0,
        kl: Kl = "k3",
        decision: Decider = "balanced",
        estimator: EstimatorOptions = EstimatorOptions(),
        crop_prior: CropPrior = CropPrior(),
        reward: RewardWeights = RewardWeights(),
        advantage: AdvantageOptions = AdvantageOptions(),
        loss: LossOptions = LossOptions(),
        num_iterations: int = 1,
        seed: int = 42,
        soft_fusion: bool = False,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if group_size < 2:
            raise UserError(
                f"model.group_size is {group_size}, but a group needs 2 answers to compare: "
                "set it to 2 or more"
            )
        if num_iterations < 1:
            raise UserError(f"model.num_iterations is {num_iterations}: set it to 1 or more")
        self.objective = Objective(
            decision=decision,
            kl_weight=kl_weight,
            kl=kl,
            estimator=estimator,
            advantage=advantage,
            loss=loss,
            max_completion_length=policy.max_new_tokens,
        )
        self.save_hyperparameters(ignore=["policy", "reranker"], logger=False)
        self.strict_loading = False  # checkpoints hold the adapter only
        self.policy = policy
        self.reranker = reranker
        self.group_size = group_size
        self.crop_prior = crop_prior
        self.reward = reward
        self.num_iterations = num_iterations
        self.step: Step | None = None
        self.seed = seed
        self.soft_fusion = soft_fusion
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.validation = metrics.ViewMetrics()
        self.last_validation_examples: list[Case] = []
        self.test_outcomes: list[Outcome] = []

    def setup(self, stage: str) -> None:
        """Refuses data, precisions and repeated steps that would change what is measured.

        `check_data` says which data.
        """
        if self.trainer.precision not in ("32-true", "bf16-mixed", "16-mixed"):
            raise UserError(
                f"trainer.precision={self.trainer.precision} would cast boxes, candidates and the "
                "scorer too: use 32-true or bf16-mixed, and set the policy's own dtype with "
                "model.policy.init_args.dtype"
            )
        if self.num_iterations > 1 and self.trainer.accumulate_grad_batches > 1:
            raise UserError(
                "model.num_iterations above 1 repeats a whole step, so it goes with "
                "trainer.accumulate_grad_batches=1 only: set one of them to 1"
            )
        self.check_data(self.trainer.datamodule, stage)  # type: ignore[attr-defined]

    def check_data(self, datamodule: RerankDataModule, stage: str) -> None:
        """Has the re-ranker's embeddings read, and refuses shards that do not hold them."""
        made_with, wanted = datamodule.fingerprint(stage), self.reranker.fingerprint()
        if made_with != wanted and not datamodule.use_scorer(stage, wanted):
            raise UserError(
                f"the shards were made by scorer {made_with}, but model.reranker is scorer "
                f"{wanted}: add its embeddings with `regionr1 data add-scorer --shards "
                f"{datamodule.folder} --root ROOT --scorer {self.reranker.name}`, make shards with "
                "this scorer, or set the other one"
            )

    # ---- training -------------------------------------------------------------------------------

    def training_step(self, batch: QueryBatch, batch_idx: int) -> Tensor:
        """One gradient step of r-GRPO on B queries; several share their rollouts if asked for."""
        if self.step is None:
            rollouts = self._roll_out(batch, batch_idx)
            earned = self._earn(batch, rollouts)
            group = self._group(rollouts, earned)
            now = self.policy.score(rollouts)
            step = Step(rollouts, earned, group, now.scored.detach(), self._reference(rollouts))
        else:
            step = self.step
            now = self.policy.score(step.rollouts)
        advantages = step_advantages(self.objective, step.group, now.scored, step.old)
        loss, of_loss = step_loss(
            self.objective,
            step.group,
            advantages,
            now.scored,
            step.old,
            step.reference,
            self._tokens(step.group),
        )
        self._log_step(step, now, of_loss | {"loss": loss})
        self.step = step if self.num_iterations > 1 else None  # accumulated batches each roll out
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the optimizer's step as often as `num_iterations` says, on the same rollouts."""
        for _ in range(self.num_iterations):
            super().optimizer_step(*args, **kwargs)
        self.step = None

    def _roll_out(self, batch: QueryBatch, batch_idx: int) -> Rollouts:
        """G answers to each of B queries, their decisions forced where the objective wants it."""
        part = batch_idx % self.trainer.accumulate_grad_batches  # of the step
        generator = noise.step_noise(
            self.device, self.seed, self.global_step, part, self.global_rank
        )
        forced = noise.forced_decisions(
            self.objective.decision, self.crop_prior, len(batch), self.group_size
        )
        return self.policy.sample(batch.images, batch.questions, self.group_size, forced, generator)

    def _earn(self, batch: QueryBatch, rollouts: Rollouts) -> Earnings:
        """The rewards of rollouts, at this optimizer step."""
        return earn(
            batch,
            rollouts,
            self.reranker,
            self.crop_prior,
            self.reward,
            self.global_step,
            self._profile,
        )

    def _group(self, rollouts: Rollouts, earned: Earnings) -> Group:
        """What the loss needs of rollouts and rewards."""
        group = as_group(rollouts, self.policy.tokens, earned.rewards, earned.full, earned.invalid)
        if self.objective.advantage.scale_rewards == "batch":
            group = group._replace(batch_std=self._gather(earned.rewards).std())
        return group

    @torch.no_grad()
    def _reference(self, rollouts: Rollouts) -> Scored | None:
        """The policy without its adapter, where the loss has a KL term."""
        if self.objective.kl_weight == 0:
            return None
        return self.policy.score(rollouts, use_adapter=False).scored

    def _log_step(self, step: Step, now: PolicyPass, of_loss: dict[str, Tensor]) -> None:
        """Logs means over ranks of what the step did."""
        earned = step.earned
        logged = metrics.training_metrics(
            step.rollouts, earned.parts, earned.rewards, now.entropy, self.policy.tokens.eos
        )
        logged |= metrics.scorer_metrics(earned.views)
        if earned.confidence is not None:
            logged |= metrics.vote_metrics(earned.confidence, self.reward.vote_share)
        if self.objective.decision == "exact":  # rollouts of boxes alone do not tell these
            logged["decision/region_rate"] = step.rollouts.p_region.mean()
            logged["reward/full"] = earned.full.mean()
            logged["decision/gain"] = (earned.rewards.mean(1) - earned.full).mean()
        logged |= of_loss  # with the expected reward, if the decision is exact
        for name in self._constant:
            logged.pop(name, None)
        means = metrics.mean_over_ranks(logged, self._gather)
        shown = {name: means.pop(name) for name in ("loss", "reward")}
        self.log_dict(shown, prog_bar=True, batch_size=len(earned.rewards))
        self.log_dict(means, batch_size=len(earned.rewards))

    @property
    def _constant(self) -> set[str]:
        """Metrics that never change under these settings."""
        names: set[str] = set()
        if self.num_iterations == 1:  # new and old policy are one
            names |= {f"clip_ratio/{part}_mean" for part in ("low", "high", "region")}
        parts = [
            part for part in ("mrr", "ndcg", "rank", "margin") if not getattr(self.reward, part)
        ]
        if not self.crop_prior.encouragement:
            parts.append("encouragement")
        if self.objective.decision == "exact":  # all answers are boxes
            parts.append("full")
        return names | {f"rewards/{part}/{kind}" for part in parts for kind in ("mean", "std")}

    def _gather(self, values: Tensor) -> Tensor:
        """Stacks the values of all ranks; those of a single rank stay as they are."""
        return cast(Tensor, self.all_gather(values))

    def _tokens(self, group: Group) -> TokenCounts | None:
        """Tokens of a rank's batch, averaged over ranks, where the loss is divided by them."""
        if not self.objective.counts_tokens or self.trainer.world_size == 1:
            return None
        masks = (self.objective.loss_mask(group), self.objective.kl_mask(group))
        counted = self._gather(torch.stack([mask.sum() for mask in masks]).float())
        return TokenCounts(*counted.mean(0))

    def _profile(self, stage: str) -> AbstractContextManager[object]:
        """Times a stage with the trainer's profiler."""
        return self.trainer.profiler.profile(stage)  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Forgets an interrupted step, and lets the profiler time the stages inside the policy."""
        self.step = None
        self.policy.stage = self._profile

    def on_fit_end(self) -> None:
        """Lets go of the profiler, which must not travel with the policy."""
        self.policy.stage = nullcontext

    def configure_optimizers(self) -> Any:
        """The optimizer of what is trained: the adapter.

        Raises:
            UserError: If optimizer or scheduler refuse their arguments.
        """
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        try:
            optimizer = self.optimizer(trained)
            if self.scheduler is None:
                return optimizer
            scheduler = self.scheduler(optimizer)
        except (TypeError, ValueError) as error:
            raise UserError(f"model.optimizer or model.scheduler: {error}") from error
        ends = getattr(scheduler, "total_steps", self.trainer.max_steps)
        if self.trainer.max_steps > ends:
            raise UserError(
                f"model.scheduler has come down to 0 at step {ends}, and trainer.max_steps is "
                f"{self.trainer.max_steps}: set model.scheduler.init_args.total_steps to it too"
            )
        schedule = {"scheduler": scheduler, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    # ---- evaluation -----------------------------------------------------------------------------

    @property
    def evaluator(self) -> Evaluator:
        """Ranks candidates by the views that the policy and the baselines choose."""
        return Evaluator(self.policy, self.reranker, self.crop_prior, self.soft_fusion)

    def on_validation_epoch_start(self) -> None:
        """Forgets the last validation's examples."""
        self.last_validation_examples = []

    def validation_step(self, batch: QueryBatch, batch_idx: int) -> None:
        """Measures the policy's greedy decisions on B queries."""
        full, (chosen, forced) = self.evaluator.full(batch), self.evaluator.policy_both(batch)
        self.validation.update(batch, full, chosen, forced)
        self.log_dict(self.validation.as_dict(), batch_size=len(batch))
        if batch_idx == 0:
            self.last_validation_examples = self.evaluator.examples(batch, full, chosen)

    def on_test_start(self) -> None:
        """Starts the test table afresh."""
        self.test_outcomes = []

    def test_step(self, batch: QueryBatch, batch_idx: int) -> None:
        """Collects what every method of the test table does with B queries."""
        self.test_outcomes += self.evaluator.outcomes(batch)

    def predict_step(self, batch: QueryBatch, batch_idx: int) -> list[Prediction]:
        """Returns the policy's decisions and new rankings of B queries."""
        return self.evaluator.predictions(batch)

    # ---- checkpoints ----------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what is trained: the adapter."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses an adapter of another model."""
        refuse_other_architecture(self, checkpoint)

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter as a folder that plain PEFT loads."""
        self.policy.save_adapter(folder)
