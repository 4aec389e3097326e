"""r-GRPO: learn where to look from how much the ranking improved (arXiv 2604.05268).

For each query, a group of G answers is sampled; each crop is scored by the frozen re-ranker; an
answer's advantage is its reward minus its group's mean; and the policy moves towards what was
better, held near the policy it started from by a KL term. Decision-balanced sampling dictates the
first word of every answer, so that each group holds both FULL and REGION.

One gradient step is made per rollout, so the ratio of new to old probabilities is 1 and clipping
never acts; the loss is about 0 by construction on balanced advantages. Watch `reward`, not `loss`.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from regionr1.algorithm.advantages import group_advantages
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.losses import LossType, aggregate, kl_k3, policy_loss
from regionr1.algorithm.rewards import RewardWeights, reward_parts, total
from regionr1.data.batch import QueryBatch
from regionr1.data.datamodule import RerankDataModule
from regionr1.errors import UserError
from regionr1.modules import measures
from regionr1.modules.crops import crop_rectangles
from regionr1.modules.evaluation import Evaluator
from regionr1.modules.policy import CropPolicy
from regionr1.modules.reranker import RewardReranker
from regionr1.modules.rollout import Rollouts
from regionr1.modules.sampling import balanced_decisions, step_noise
from regionr1.report.predictions import Prediction
from regionr1.report.table import Outcome
from regionr1.tracking.checkpoint import refuse_other_architecture


class RGRPO(LightningModule):
    """Trains a crop policy with r-GRPO.

    Args:
        policy: The vision-language policy that is trained.
        reranker: The frozen re-ranker that rewards it.
        group_size: Answers per query, G.
        kl_weight: Weight of the KL term to the policy with its adapter off; 0 leaves it out.
        decision: Who decides between FULL and REGION in a group. `balanced` dictates
            crop_prior.region_share of them (the paper); `on_policy` lets the policy sample.
        crop_prior: What is known about crops before learning: the share of REGION, limits of
            shape, padding, and an encouragement that decays.
        reward: Weights of the reward's parts.
        scale_rewards: Divide advantages by the standard deviation of the `group`, of the `batch`,
            or by nothing (`none`, as the paper's release).
        baseline: What a reward is compared with: the group's `mean`, or `leave_one_out`.
        loss_type: How token losses are averaged, by TRL's names.
        epsilon_low: Lower clipping distance of the ratio.
        epsilon_high: Upper clipping distance of the ratio.
        seed: Of the sampling noise, which also depends on the step and the rank.
        optimizer: Makes the optimizer of the adapter's parameters.
        scheduler: Makes the learning-rate schedule, stepped every optimizer step.
    """

    def __init__(
        self,
        policy: CropPolicy,
        reranker: RewardReranker,
        group_size: int = 8,
        kl_weight: float = 0.0,
        decision: Literal["balanced", "on_policy"] = "balanced",
        crop_prior: CropPrior = CropPrior(),
        reward: RewardWeights = RewardWeights(),
        scale_rewards: Literal["none", "group", "batch"] = "none",
        baseline: Literal["mean", "leave_one_out"] = "mean",
        loss_type: LossType = "grpo",
        epsilon_low: float = 0.2,
        epsilon_high: float = 0.2,
        seed: int = 42,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if group_size < 2:
            raise UserError(
                f"model.group_size is {group_size}, but a group needs 2 answers to compare: "
                "set it to 2 or more"
            )
        if kl_weight < 0:
            raise UserError(f"model.kl_weight is {kl_weight}: set it to 0 or more")
        self.save_hyperparameters(ignore=["policy", "reranker"])
        self.strict_loading = False  # checkpoints hold the adapter only
        self.policy = policy
        self.reranker = reranker
        self.group_size = group_size
        self.kl_weight = kl_weight
        self.decision = decision
        self.crop_prior = crop_prior
        self.reward = reward
        self.scale_rewards: Literal["none", "group", "batch"] = scale_rewards
        self.baseline: Literal["mean", "leave_one_out"] = baseline
        self.loss_type = loss_type
        self.epsilon = (epsilon_low, epsilon_high)
        self.seed = seed
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.validation = measures.ViewMetrics()
        self.last_validation_examples: list[dict[str, Any]] = []
        self.test_outcomes: list[Outcome] = []

    def setup(self, stage: str) -> None:
        """Refuses data that `check_data` refuses."""
        self.check_data(self.trainer.datamodule, stage)  # type: ignore[attr-defined]

    def check_data(self, datamodule: RerankDataModule, stage: str) -> None:
        """Refuses shards whose embeddings another scorer made."""
        made_with = datamodule.fingerprint(stage)
        if made_with != self.reranker.fingerprint():
            raise UserError(
                f"the shards were made by scorer {made_with}, but model.reranker is scorer "
                f"{self.reranker.fingerprint()}: make shards with this scorer or set the other one"
            )

    # ---- training -------------------------------------------------------------------------------

    def training_step(self, batch: QueryBatch, batch_idx: int) -> Tensor:
        """One step of r-GRPO on B queries."""
        forced = None
        if self.decision == "balanced":
            forced = balanced_decisions(self.crop_prior, len(batch), self.group_size)
        part = batch_idx % self.trainer.accumulate_grad_batches  # of the step
        noise = step_noise(self.device, self.seed, self.global_step, part, self.global_rank)
        rollouts = self.policy.sample(batch.images, batch.questions, self.group_size, forced, noise)
        parts, encoding = self._rewards(batch, rollouts)
        rewards = total(parts)
        advantages = group_advantages(rewards, self.scale_rewards, self.baseline)

        now = self.policy.score(rollouts)
        length = self.policy.max_new_tokens
        # Dictated tokens count like sampled ones: from them balanced sampling learns the decision.
        stats = policy_loss(
            now.logp, None, advantages, rollouts.mask, self.loss_type, *self.epsilon, length
        )
        loss, kl = stats.loss, None
        if self.kl_weight > 0:
            with torch.no_grad():
                reference = self.policy.logprobs(rollouts, use_adapter=False)
            kl = aggregate(kl_k3(now.logp, reference), rollouts.mask, self.loss_type, length)
            loss = loss + self.kl_weight * kl

        logged = measures.training_metrics(rollouts, parts, rewards, now.entropy, length)
        if kl is not None:
            logged["kl"] = kl.detach()
        self.log_dict(encoding, batch_size=len(batch))
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        self.log("reward", logged.pop("reward"), prog_bar=True, batch_size=len(batch))
        self.log_dict(logged, batch_size=len(batch))
        return loss

    def _rewards(
        self, batch: QueryBatch, rollouts: Rollouts
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Named reward parts (B, G) each, and what the scorer had to encode for them."""
        with self._profile("crop + encode"):
            views = self.reranker.views(
                batch.images, crop_rectangles(batch, rollouts, self.crop_prior)
            )
        sizes = torch.tensor([batch.heights, batch.widths], device=self.device).T
        boxes = rollouts.boxes_unit.to(self.device)
        with self._profile("reward"):
            full = self.reranker.scores(batch.full_embedding[:, None], batch.candidates)[:, 0]
            parts = reward_parts(
                rollouts.decision.to(self.device),
                self.reranker.scores(views.embeddings, batch.candidates),
                full,
                batch.labels,
                batch.valid,
                self.crop_prior.penalty(boxes, sizes),
                self.crop_prior.bonus(self.global_step),
                self.reward,
            )
        hits = 1 - views.n_encoded / views.n_crops if views.n_crops else 0.0
        return parts, {
            "scorer/images_encoded": float(views.n_encoded),
            "scorer/cache_hit_rate": hits,
        }

    def _profile(self, stage: str) -> AbstractContextManager:
        """Times a stage with the trainer's profiler."""
        return self.trainer.profiler.profile(stage)  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Lets the profiler time the stages inside the policy."""
        self.policy.stage = self._profile

    def on_fit_end(self) -> None:
        """Lets go of the profiler, which must not travel with the policy."""
        self.policy.stage = nullcontext

    def configure_optimizers(self) -> Any:
        """The optimizer of what is trained: the adapter."""
        optimizer = self.optimizer([p for p in self.policy.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        schedule = {"scheduler": self.scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    # ---- evaluation -----------------------------------------------------------------------------

    @property
    def evaluator(self) -> Evaluator:
        """Ranks candidates by the views that the policy and the baselines choose."""
        return Evaluator(self.policy, self.reranker, self.crop_prior)

    def on_validation_epoch_start(self) -> None:
        """Forgets the last validation's examples."""
        self.last_validation_examples = []

    def validation_step(self, batch: QueryBatch, batch_idx: int) -> None:
        """Greedy decisions on B queries."""
        full, chosen = self.evaluator.full(batch), self.evaluator.policy(batch)
        self.validation.update(batch, full, chosen)
        self.log_dict(self.validation.as_dict(), batch_size=len(batch))
        if batch_idx == 0:
            self.last_validation_examples = self.evaluator.examples(batch, full, chosen)

    def on_test_start(self) -> None:
        """Starts the table afresh."""
        self.test_outcomes = []

    def test_step(self, batch: QueryBatch, batch_idx: int) -> None:
        """Every method of the table on B queries."""
        self.test_outcomes += self.evaluator.outcomes(batch)

    def predict_step(self, batch: QueryBatch, batch_idx: int) -> list[Prediction]:
        """The policy's decisions and new rankings."""
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
