"""Damaged adapters: each is refused in one sentence, or what the file holds is what is loaded."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy

CASES = 60  # of each kind
ODD = (None, -1, 0, 2.5, float("inf"), "", "[", "all", [], ["x"], {}, True, "é" * 50, 10**30)


def damaged_bytes(data: bytes, chance: random.Random) -> bytes:
    """A file cut short, or with a few bytes changed, half of them in its header."""
    if chance.random() < 0.3:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8))):
        end = chance.choice((400, len(data)))
        changed[chance.randrange(end)] = chance.randrange(256)
    return bytes(changed)


def damaged_config(text: str, chance: random.Random) -> str:
    """Settings with a key gone, of another type, or of text that is no JSON."""
    settings = json.loads(text)
    key = chance.choice(sorted(settings))
    if chance.random() < 0.2:
        return text[: chance.randrange(len(text))]
    if chance.random() < 0.3:
        del settings[key]
    else:
        settings[key] = chance.choice(ODD)
    return json.dumps(settings)


@pytest.mark.slow
def test_no_damage_is_a_traceback_or_half_an_adapter(tiny_policy: Path, tmp_path, capsys) -> None:
    policy = CropPolicy(model=str(tiny_policy), max_new_tokens=12)
    torch.manual_seed(0)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    policy.save_adapter(tmp_path)
    weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole, settings = weights.read_bytes(), config.read_text()
    chance, count = random.Random(20261125), Counter[str]()
    for case in range(2 * CASES):
        kind = "weights" if case % 2 else "settings"
        weights.write_bytes(damaged_bytes(whole, chance) if case % 2 else whole)
        config.write_text(settings if case % 2 else damaged_config(settings, chance))
        try:
            found = CropPolicy(model=str(tiny_policy), max_new_tokens=12, adapter=str(tmp_path))
        except UserError as error:
            assert "\n" not in str(error) and str(tmp_path) in str(error), error
            count[f"{kind}: one sentence"] += 1
        else:
            held = load_file(weights)
            loaded = found.adapter_state()
            assert loaded.keys() == held.keys()
            assert all(torch.equal(loaded[name], held[name]) for name in held)
            count[f"{kind}: used as they are"] += 1
    with capsys.disabled():
        print("\n" + ", ".join(f"{name}: {n}" for name, n in sorted(count.items())))
    assert sum(count.values()) == 2 * CASES
