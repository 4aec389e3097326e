"""RGRPO: whole training steps, on real but tiny models."""

import copy
import math

import pytest
import torch
from evqa_files import ColourScorer
from peft import PeftModel
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration
from written_policy import (
    FULL,
    GREEN,
    NONSENSE,
    RED,
    OneBatch,
    colour_batch,
    module,
    move_adapter,
    trainer,
    written,
)

from regionr1.algorithm.advantages import AdvantageOptions
from regionr1.algorithm.answers import Decision
from regionr1.algorithm.boxes import CropPrior
from regionr1.algorithm.decision import EstimatorOptions
from regionr1.algorithm.losses import LossOptions
from regionr1.algorithm.rewards import RewardWeights
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.training.schedule import WarmupCosine


class SamplingPolicy(CropPolicy):
    """Samples as always, and remembers what."""

    def sample(self, images, questions, group_size, forced=None, generator=None):
        rollouts = super().sample(images, questions, group_size, forced, generator)
        self.history = [*getattr(self, "history", []), rollouts]
        self.forced = forced
        return rollouts


@pytest.fixture
def policy(tiny_policy) -> SamplingPolicy:
    policy = SamplingPolicy(str(tiny_policy), lora_rank=4, max_new_tokens=20)
    move_adapter(policy)
    return policy


@pytest.mark.parametrize(
    ("group_size", "share", "regions"), [(2, 0.5, 1), (5, 0.5, 3), (8, 0.75, 6), (4, 0.01, 1)]
)
def test_balanced_groups_hold_both_decisions(policy, group_size, share, regions) -> None:
    rgrpo = module(policy, group_size=group_size, crop_prior=CropPrior(region_share=share))
    trainer(1).fit(rgrpo, datamodule=OneBatch(colour_batch()))
    (rollouts,) = policy.history
    for texts in rollouts.texts:
        assert len(texts) == group_size
        assert all(text.startswith('{"bbox_2d": [') for text in texts[:regions])
        assert texts[regions:] == [FULL] * (group_size - regions)
    assert rollouts.decision[:, regions:].eq(Decision.FULL).all()


def test_on_policy_sampling_forces_nothing(policy) -> None:
    run = trainer(1)
    run.fit(module(policy, decision="on_policy"), datamodule=OneBatch(colour_batch()))
    assert policy.forced is None and not policy.history[0].forced.any()
    assert run.callback_metrics["reward"].isfinite()


def test_a_resumed_run_draws_and_learns_what_it_would_have(policy, tmp_path) -> None:
    data = OneBatch(colour_batch())
    fresh = copy.deepcopy(policy)
    straight = trainer(4)
    straight.fit(module(policy, optimizer=torch.optim.AdamW), datamodule=data)
    drawn = [rollouts.texts for rollouts in policy.history]
    assert drawn[0] != drawn[1]

    first = copy.deepcopy(fresh)
    run = trainer(2)
    run.fit(module(first, optimizer=torch.optim.AdamW), datamodule=data)
    run.save_checkpoint(tmp_path / "half.ckpt")
    trainer(4).fit(
        module(fresh, optimizer=torch.optim.AdamW),
        datamodule=data,
        ckpt_path=tmp_path / "half.ckpt",
        weights_only=False,
    )
    assert [r.texts for r in first.history] + [r.texts for r in fresh.history] == drawn
    for name, value in policy.adapter_state().items():
        assert torch.equal(fresh.adapter_state()[name], value), name


def test_parts_of_an_accumulated_step_draw_differently(policy) -> None:
    rgrpo = module(policy, decision="on_policy")
    trainer(1, accumulate_grad_batches=2).fit(rgrpo, datamodule=OneBatch(colour_batch()))
    first, second = policy.history
    assert first.texts != second.texts


def test_another_seed_draws_differently_and_large_ones_work(policy) -> None:
    for seed in (1, 2**63):
        trainer(1).fit(module(policy, seed=seed), datamodule=OneBatch(colour_batch()))
    assert policy.history[0].texts != policy.history[1].texts


def test_kl_is_to_the_policy_without_its_adapter(tiny_policy) -> None:
    batch = colour_batch(["red"])
    losses, kls = {}, {}
    for weight in (0.0, 0.5):
        policy = written(tiny_policy)
        policy.groups = {batch.questions[0]: [RED, FULL]}
        run = trainer(1)
        run.fit(module(policy, kl_weight=weight), datamodule=OneBatch(batch))
        losses[weight] = float(run.callback_metrics["loss"])
        kls[weight] = run.callback_metrics.get("kl")
    assert kls[0.0] is None

    untrained = written(tiny_policy)
    untrained.groups = {batch.questions[0]: [RED, FULL]}
    rollouts = untrained.sample(batch.images, batch.questions, 2)
    with torch.no_grad():
        now = untrained.score(rollouts).logp
        gap = untrained.score(rollouts, use_adapter=False).logp - now
    per_token = torch.where(rollouts.mask, gap.exp() - gap - 1, 0.0)
    expected = float((per_token.sum(-1) / rollouts.mask.sum(-1)).mean())
    assert expected > 1e-3
    over_tokens = float(per_token.sum() / rollouts.mask.sum())  # the metric, as TRL averages it
    assert over_tokens != pytest.approx(expected, rel=0.01)
    assert float(kls[0.5]) == pytest.approx(over_tokens, rel=1e-4)
    assert losses[0.5] - losses[0.0] == pytest.approx(0.5 * expected, rel=1e-3)


def test_kl_of_an_untrained_adapter_is_zero(policy) -> None:
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    run = trainer(1)
    run.fit(module(policy, kl_weight=1.0), datamodule=OneBatch(colour_batch()))
    assert float(run.callback_metrics["kl"]) == 0.0


def test_a_step_changes_the_adapter_and_nothing_else(tiny_policy) -> None:
    batch = colour_batch(["red", "green"])
    policy = written(tiny_policy)
    policy.groups = {question: [RED, FULL] for question in batch.questions}
    seen = {}

    class Watched(type(module(policy))):
        def on_before_optimizer_step(self, optimizer) -> None:
            seen["with_gradient"] = {n for n, p in self.named_parameters() if p.grad is not None}
            seen["optimised"] = [p for g in optimizer.param_groups for p in g["params"]]

    rgrpo = module(policy)
    rgrpo.__class__ = Watched
    before = {name: value.clone() for name, value in rgrpo.state_dict().items()}
    trainer(1).fit(rgrpo, datamodule=OneBatch(batch))
    adapter = {name for name, p in rgrpo.named_parameters() if "lora_" in name}
    assert seen["with_gradient"] == adapter
    assert {id(p) for p in seen["optimised"]} == {
        id(p) for n, p in rgrpo.named_parameters() if n in adapter
    }
    changed = {n for n, value in rgrpo.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == adapter


def test_a_step_makes_the_better_action_more_probable(tiny_policy) -> None:
    batch = colour_batch(["red", "green"])
    policy = written(tiny_policy)
    # After red, the red square is the better view; after green, the full image.
    policy.groups = {batch.questions[0]: [RED, GREEN, FULL], batch.questions[1]: [RED, RED, FULL]}
    rollouts = policy.sample(batch.images, batch.questions, 3)
    with torch.no_grad():
        before = policy.score(rollouts).logp.sum(-1)
    run = trainer(1)
    run.fit(module(policy, group_size=3), datamodule=OneBatch(batch))
    with torch.no_grad():
        gained = policy.score(rollouts).logp.sum(-1) - before
    assert gained[0, 0] > gained[0, 2] > gained[0, 1]
    assert gained[0, 0] > 0 > gained[0, 1]
    assert gained[1, 2] > 0 > gained[1, 0]
    assert run.callback_metrics["reward/region"] < run.callback_metrics["reward/full"]


def test_the_reward_of_a_step_by_hand(tiny_policy) -> None:
    """After red: the full image ranks it 2nd, the red square 1st, the green corner 3rd."""
    batch = colour_batch(["red"])
    policy = written(tiny_policy)
    policy.groups = {batch.questions[0]: [RED, GREEN, FULL, NONSENSE]}
    run = trainer(1)
    run.fit(module(policy, group_size=4), datamodule=OneBatch(batch))
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged["rewards/mrr/mean"] == pytest.approx(0.2 * ((1 - 1 / 2) + (1 / 3 - 1 / 2)) / 4)
    climb = math.log(3) - math.log(2) + math.log(3) - math.log(4)
    assert logged["rewards/rank/mean"] == pytest.approx(0.2 * climb / 4, rel=1e-5)
    gain = (1 - 1 / math.log2(3)) + (1 / 2 - 1 / math.log2(3))
    assert logged["rewards/ndcg/mean"] == pytest.approx(0.2 * gain / 4, rel=1e-4)
    scorer = ColourScorer()
    views = [batch.images[0].crop(box) for box in ((0, 0, 48, 48), (64, 64, 128, 128))]
    cosines = torch.cat([scorer.embed_images(views), batch.full_embedding]) @ batch.candidates[0].T
    margins = cosines[:, 0] - cosines[:, 1:3].amax(-1)
    wider = float(margins[0] + margins[1] - 2 * margins[2])
    assert logged["rewards/margin/mean"] == pytest.approx(0.4 * wider / 4, rel=1e-4)
    assert logged["rewards/penalty/mean"] == pytest.approx(-1 / 4)  # one INVALID, no bad box
    assert logged["rewards/full/mean"] == 0.0  # the full image does not rank red first
    assert logged["decision/region_rate"] == 0.5 and logged["box/invalid_rate"] == 0.25
    assert logged["box/area"] == pytest.approx((0.375**2 + 0.5**2) / 2)


def test_exact_groups_hold_regions_only_and_the_decision_is_learned(policy) -> None:
    """No rollout is FULL, yet a step moves pi(FULL) to where the better reward is."""
    batch = colour_batch(["red", "green"])  # FULL earns 0 after red, 0.2 after green
    before = policy.p_full(batch.images, batch.questions)
    run = trainer(1)
    run.fit(module(policy, decision="exact", group_size=4), datamodule=OneBatch(batch))
    (rollouts,) = policy.history
    assert all(text.startswith('{"bbox_2d": [') for row in rollouts.texts for text in row)
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    assert logged["reward/full"] == pytest.approx(0.1)
    assert logged["decision/gain"] == pytest.approx(-1 - 0.1)
    p_other = 1 - rollouts.p_full - rollouts.p_region
    assert p_other.min() > 0
    # Random weights never close the bracket, so every rollout is INVALID and earns -1.
    assert logged["box/invalid_rate"] == 1
    expected = rollouts.p_full * torch.tensor([0.0, 0.2]) - rollouts.p_region - p_other
    assert logged["reward"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert logged["decision/region_rate"] == pytest.approx(float(rollouts.p_region.mean()))
    assert (policy.p_full(batch.images, batch.questions) > before).all()


def test_the_exact_reward_is_what_sampling_earns_on_average(tiny_policy) -> None:
    """On-policy groups with the policy's own shares of FULL, REGION and nonsense."""
    batch = colour_batch(["red"])
    policy = written(tiny_policy)
    policy.groups = {batch.questions[0]: [RED, GREEN]}
    run = trainer(1)
    run.fit(module(policy, decision="exact"), datamodule=OneBatch(batch))
    regions = float(run.callback_metrics["rewards/mrr/mean"]) + sum(
        float(run.callback_metrics[f"rewards/{part}/mean"])
        for part in ("ndcg", "rank", "margin", "penalty")
    )
    p_region = float(policy.sampled.p_region[0])
    neither = 1 - p_region - float(policy.sampled.p_full[0])
    assert float(run.callback_metrics["reward"]) == pytest.approx(
        p_region * regions - neither, rel=1e-4
    )


def test_several_gradient_steps_share_their_rollouts(policy) -> None:
    seen = []

    class Watched(type(module(policy))):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            seen.append((len(policy.history), loss.item()))
            return loss

    gently = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=1e-3)}
    for repeats in (1, 3):
        rgrpo = module(policy, num_iterations=repeats, **gently)
        rgrpo.__class__ = Watched
        run = trainer(2)
        run.fit(rgrpo, datamodule=OneBatch(colour_batch()))
        assert run.global_step == 2
    assert [draws for draws, _ in seen] == [1, 2, 3, 3, 3, 4, 4, 4], "one draw per step"
    losses = [loss for _, loss in seen[2:5]]
    assert losses[0] > losses[1] > losses[2], "the same rollouts, fitted better each time"


def test_later_gradient_steps_are_clipped(tiny_policy) -> None:
    batch = colour_batch(["red"])
    policy = written(tiny_policy)
    policy.groups = {batch.questions[0]: [RED, GREEN]}
    run = trainer(1)
    options = {"num_iterations": 6, "optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
    run.fit(module(policy, **options), datamodule=OneBatch(batch))
    assert run.callback_metrics["clip_ratio/region_mean"] > 0
    with pytest.raises(UserError, match="accumulate_grad_batches"):
        trainer(1, accumulate_grad_batches=2).fit(
            module(policy, num_iterations=2), datamodule=OneBatch(batch)
        )


def test_reference_boxes_do_not_reach_training(tiny_policy) -> None:
    rewards, states = [], []
    for boxes in (None, [0.5, 0.5, 0.6, 0.6], [float("nan")] * 4):
        batch = colour_batch(["red", "green"])
        if boxes is not None:
            batch.reference_box_unit = torch.tensor([boxes, boxes])
        policy = written(tiny_policy)
        policy.groups = {question: [RED, FULL] for question in batch.questions}
        run = trainer(1)
        run.fit(module(policy), datamodule=OneBatch(batch))
        rewards.append({k: v for k, v in run.callback_metrics.items() if k.startswith("reward")})
        states.append(policy.adapter_state())
    for other in (1, 2):
        assert rewards[0] == rewards[other]
        assert all(torch.equal(states[0][name], states[other][name]) for name in states[0])


@pytest.mark.parametrize(
    "options",
    [
        {"reward": RewardWeights(variant="release")},
        {
            "advantage": AdvantageOptions("group", "leave_one_out"),
            "loss": LossOptions("dr_grpo"),
        },
        {
            "advantage": AdvantageOptions("batch"),
            "loss": LossOptions("dapo"),
            "kl_weight": 0.1,
        },
        {
            "advantage": AdvantageOptions(stratified=0.5),
            "loss": LossOptions("bnpo"),
            "kl_weight": 0.1,
            "kl": "k3_ratio",
        },
        {
            "loss": LossOptions("cispo", epsilon_high=5.0),
            "kl_weight": 0.1,
            "kl": "exact_decision",
        },
        {
            "loss": LossOptions(importance_sampling_level="sequence", delta=2.0),
            "num_iterations": 2,
        },
        {"crop_prior": CropPrior(padding=0.1, encouragement=0.3, encouragement_steps=2)},
    ],
)
def test_variants_train(tiny_policy, options) -> None:
    batch = colour_batch(["red", "green"])
    policy = written(tiny_policy)
    policy.groups = {question: [RED, GREEN, FULL, NONSENSE] for question in batch.questions}
    before = policy.adapter_state()
    before = {name: value.clone() for name, value in before.items()}
    run = trainer(2)
    run.fit(module(policy, group_size=4, **options), datamodule=OneBatch(batch))
    assert run.callback_metrics["loss"].isfinite()
    assert any(not torch.equal(before[n], v) for n, v in policy.adapter_state().items())


def test_the_encouragement_decays_with_the_step(tiny_policy) -> None:
    batch = colour_batch(["red"])
    policy = written(tiny_policy)
    policy.groups = {batch.questions[0]: [RED, FULL]}
    seen = []
    for steps in (1, 2, 3):
        run = trainer(steps)
        prior = CropPrior(encouragement=0.3, encouragement_steps=2)
        run.fit(module(policy, crop_prior=prior), datamodule=OneBatch(batch))
        seen.append(float(run.callback_metrics["rewards/encouragement/mean"]))
    assert seen == pytest.approx([0.15, 0.075, 0.0])  # half of the group is REGION


def test_a_group_of_equal_rewards_teaches_nothing(tiny_policy) -> None:
    batch = colour_batch(["green"])
    policy = written(tiny_policy)
    policy.groups = {batch.questions[0]: [FULL, FULL]}
    before = {name: value.clone() for name, value in policy.adapter_state().items()}
    run = trainer(1)
    run.fit(module(policy), datamodule=OneBatch(batch))
    assert run.callback_metrics["frac_reward_zero_std"] == 1.0
    assert all(torch.equal(before[n], v) for n, v in policy.adapter_state().items())


def test_a_precision_that_would_cast_boxes_and_candidates_is_refused(policy) -> None:
    with pytest.raises(UserError, match="trainer.precision=bf16-true would cast boxes"):
        trainer(1, precision="bf16-true").fit(module(policy), datamodule=OneBatch(colour_batch()))
    assert not hasattr(policy, "history")


def test_what_an_optimizer_refuses_is_one_sentence(policy) -> None:
    rgrpo = module(policy, optimizer=lambda p: torch.optim.AdamW(p, lr=-1.0))
    with pytest.raises(UserError, match="^model.optimizer .*Invalid learning rate: -1.0"):
        trainer(1).fit(rgrpo, datamodule=OneBatch(colour_batch()))


def test_training_beyond_the_end_of_the_schedule_is_refused(policy) -> None:
    def schedule(optimizer):
        return WarmupCosine(optimizer, warmup_steps=1, total_steps=3)

    trainer(3).fit(module(policy, scheduler=schedule), datamodule=OneBatch(colour_batch()))
    with pytest.raises(UserError, match="0 at step 3, and trainer.max_steps is 4"):
        trainer(4).fit(module(policy, scheduler=schedule), datamodule=OneBatch(colour_batch()))


@pytest.mark.parametrize("path", ["two_pass", "packed", "dense"])
def test_mixed_precision_keeps_every_gradient(tiny_policy, path) -> None:
    """What sampling casts without gradient must not be used again by the loss."""
    policy = CropPolicy(str(tiny_policy), lora_rank=4, max_new_tokens=20, logprob_path=path)
    move_adapter(policy)
    before = copy.deepcopy(policy.adapter_state())
    options = {"decision": "exact", "optimizer": lambda p: torch.optim.SGD(p, lr=1.0)}
    run = trainer(1, precision="bf16-mixed")
    run.fit(module(policy, **options), datamodule=OneBatch(colour_batch()))
    assert all(not torch.equal(before[n], v) for n, v in policy.adapter_state().items())


def test_shards_of_another_scorer_are_refused(policy) -> None:
    with pytest.raises(
        UserError, match="made by scorer other, but model.reranker is scorer colour"
    ):
        trainer(1).fit(module(policy), datamodule=OneBatch(colour_batch(), "other"))
    assert not hasattr(policy, "history")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"group_size": 1}, "group_size is 1"),
        ({"group_size": 0}, "group_size is 0"),
        ({"kl_weight": -0.1}, "kl_weight is -0.1"),
        ({"num_iterations": 0}, "num_iterations is 0"),
        (
            {"decision": "exact", "estimator": EstimatorOptions(balanced_correction=True)},
            "decision=balanced",
        ),
        (
            {"decision": "exact", "advantage": AdvantageOptions(stratified=0.5)},
            "needs groups of both decisions",
        ),
    ],
)
def test_bad_settings_are_refused(policy, options, words) -> None:
    with pytest.raises(UserError, match=words):
        module(policy, **options)


def test_a_checkpoint_holds_the_adapter_only_and_plain_peft_loads_it(
    policy, tiny_policy, tmp_path
) -> None:
    rgrpo = module(policy)
    run = trainer(1)
    run.fit(rgrpo, datamodule=OneBatch(colour_batch()))
    run.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert state and all("lora_" in name for name in state)
    assert len(state) == len(policy.adapter_state())

    rgrpo.save_adapter(tmp_path / "adapter")
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_policy)
    plain = PeftModel.from_pretrained(base, tmp_path / "adapter")
    theirs = {n: p for n, p in plain.named_parameters() if "lora_" in n}
    ours = {n: p for n, p in policy.vlm.named_parameters() if "lora_" in n}
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys() == (
        policy.adapter_state().keys()
    )


def test_a_checkpoint_loads_into_the_same_architecture_only(policy, tiny_policy, tmp_path) -> None:
    run = trainer(1)
    run.fit(module(policy), datamodule=OneBatch(colour_batch()))
    run.save_checkpoint(tmp_path / "last.ckpt")
    data = OneBatch(colour_batch())

    same = SamplingPolicy(str(tiny_policy), lora_rank=4, max_new_tokens=20)
    resumed = trainer(1)  # its one step is done already: only loads
    resumed.fit(module(same), datamodule=data, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert all(torch.equal(same.adapter_state()[n], v) for n, v in policy.adapter_state().items())

    narrow = SamplingPolicy(str(tiny_policy), lora_rank=2, max_new_tokens=20)
    fewer = SamplingPolicy(str(tiny_policy), lora_rank=4, lora_targets=r".*language_model.*q_proj")
    for other in (narrow, fewer):
        with pytest.raises(UserError, match="another architecture"):
            trainer(2).fit(
                module(other),
                datamodule=data,
                ckpt_path=tmp_path / "last.ckpt",
                weights_only=False,
            )
