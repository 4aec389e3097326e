"""Adapters from elsewhere: loaded under the right names, or refused; never half."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy

State = dict[str, Tensor]


@pytest.fixture
def trained(tiny_policy: Path, tmp_path: Path) -> Path:
    """An adapter whose every weight differs from an untrained one's."""
    policy = CropPolicy(model=str(tiny_policy), max_new_tokens=12)
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    policy.save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


def rewrite(folder: Path, change: Callable[[State], State], **settings: object) -> State:
    path, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    state = load_file(path)
    changed = change(state)
    save_file(changed, path, metadata={"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return state


def loaded(tiny_policy: Path, folder: Path) -> State:
    return CropPolicy(
        model=str(tiny_policy), max_new_tokens=12, adapter=str(folder)
    ).adapter_state()


def test_names_of_before_transformers_4_52_are_mapped(tiny_policy, trained) -> None:
    """As PEFT, ms-swift and LLaMA-Factory wrote them, with targets named by their suffix."""
    suffixes = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    before = rewrite(
        trained,
        lambda state: {
            name.replace("model.language_model.layers", "model.layers"): value
            for name, value in state.items()
        },
        target_modules=suffixes,
    )
    found = loaded(tiny_policy, trained)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)


def test_an_adapter_is_saved_with_the_targets_it_was_made_with(tiny_policy, trained) -> None:
    targets = json.loads((trained / "adapter_config.json").read_text())["target_modules"]
    policy = CropPolicy(model=str(tiny_policy), max_new_tokens=12, adapter=str(trained))
    policy.save_adapter(trained.with_name("again"))
    again = json.loads((trained.with_name("again") / "adapter_config.json").read_text())
    assert again["target_modules"] == targets


def first(state: State) -> str:
    return next(iter(state))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if k != first(s)}, "is missing or of another shape"),
        (
            lambda s: {name: value for name, value in s.items() if "layers.0." not in name},
            "nothing for model.language_model.layers.0.",
        ),
        (lambda s: s | {first(s): s[first(s)][:, :1].contiguous()}, "missing or of another shape"),
        (lambda s: s | {first(s): torch.full_like(s[first(s)], torch.nan)}, "are no numbers"),
        (
            lambda s: {name.replace("layers.0.", "layers.77."): value for name, value in s.items()},
            "there is no model.language_model.layers.77",
        ),
        (lambda s: {f"other.{name}": value for name, value in s.items()}, "there is no other."),
    ],
    ids=[
        "a weight missing",
        "a layer missing",
        "another shape",
        "not a number",
        "a bigger model",
        "other names",
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tiny_policy, trained, change, words) -> None:
    rewrite(trained, change)
    with pytest.raises(UserError, match=words):
        loaded(tiny_policy, trained)
