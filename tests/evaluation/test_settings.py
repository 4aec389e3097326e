"""Which settings of a config can change a result."""

import inspect
from dataclasses import fields, replace
from typing import get_args

import pytest
import torch
from lightning.pytorch import Trainer

from regionr1.algorithm.losses import LossOptions, LossShape, LossType
from regionr1.algorithm.objective import Group, Objective, Scored, step_advantages, step_loss
from regionr1.evaluation.settings import LIGHTNINGS, flat, settings

B, G, T = 2, 4, 12
OTHER = {
    "importance_sampling_level": "sequence",
    "epsilon_low": 1.0,
    "epsilon_high": 6.0,
    "delta": 4.0,
}


def test_a_nested_config_is_flat_without_the_levels_of_classes() -> None:
    config = {"model": {"policy": {"class_path": "a.Policy", "init_args": {"rank": 8}}, "kl": {}}}
    assert flat(config) == {"model.policy": "a.Policy", "model.policy.rank": 8, "model.kl": {}}


def test_what_lightning_does_by_itself_is_lightnings() -> None:
    given = inspect.signature(Trainer.__init__).parameters
    defaults = {name: given[name].default for name in LIGHTNINGS}
    assert {k: v for k, v in defaults.items() if v is not None} == {
        k: v for k, v in LIGHTNINGS.items() if defaults[k] is not None
    }


def test_names_files_and_what_is_unset_are_no_settings() -> None:
    config = {
        "seed_everything": 3,
        "trainer": {"max_steps": 5, "precision": None, "devices": 2, "num_nodes": 1}
        | {"logger": {"class_path": "x.Y", "init_args": {"run_name": "a"}}, "max_epochs": -1},
        "gallery": {"examples": 8},
        "model": {"mine": 0, "num_iterations": 1, "kl_weight": 0.0, "kl": "k3"},
        "data": {"seed": 0},
    }
    assert settings(config) == {
        "seed_everything": 3,
        "trainer.max_steps": 5,
        "trainer.devices": 2,
        "model.mine": 0,
        "data.seed": 0,
    }


def gradient(options: LossOptions, repeated: bool) -> torch.Tensor:
    """The gradient of one step on rollouts of this policy, or of one a step before."""
    torch.manual_seed(0)
    logp = (torch.randn(B, G, T) - 2).requires_grad_()
    old = logp.detach() + repeated * 2 * torch.randn(B, G, T)
    mask = torch.ones(B, G, T, dtype=torch.bool)
    nothing = torch.zeros_like(mask)
    group = Group(
        *(mask, nothing, nothing, nothing[..., 0]),
        decision=torch.zeros(B, G, dtype=torch.long),
        rewards=torch.randn(B, G),
    )
    objective = Objective(decision="on_policy", loss=options, max_completion_length=T)
    half = torch.full((B,), 0.5).log()
    now, before = Scored(logp, half, half), Scored(old, half, half)
    advantages = step_advantages(objective, group, now, before)
    step_loss(objective, group, advantages, now, before)[0].backward()
    return logp.grad


@pytest.mark.parametrize("loss_type", get_args(LossType))
@pytest.mark.parametrize("num_iterations", [1, 2])
def test_a_constant_of_a_loss_is_a_setting_where_it_changes_the_gradient(
    loss_type: str, num_iterations: int
) -> None:
    start = LossOptions(loss_type, epsilon_high=2.0 if loss_type == "cispo" else 0.05)
    config = {"decision": "on_policy", "num_iterations": num_iterations}
    shape = {f.name: f.default for f in fields(LossShape)}
    loss = {"loss_type": loss_type, **OTHER, "shape": shape}
    logged = settings({"model": {**config, "loss": loss}})
    before = gradient(start, num_iterations > 1)
    for name, value in [*OTHER.items(), *((n, v + 1) for n, v in shape.items())]:
        changed = (
            replace(start, shape=replace(start.shape, **{name: value}))
            if name in shape
            else replace(start, **{name: value})
        )
        key = f"model.loss.{'shape.' if name in shape else ''}{name}"
        acts = not torch.allclose(before, gradient(changed, num_iterations > 1), rtol=1e-5)
        assert acts <= (key in logged), f"{key} acts and is not logged"
        if key in logged and name != "importance_sampling_level":
            assert acts, f"{key} is logged and does nothing"
