"""The built-in scorer embeds the same, whatever it puts into one pass."""

import numpy as np
import pytest
import torch
from PIL import Image

from regionr1.scorers import builtin
from regionr1.scorers.load import load_scorer


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(40, 200, (19, 2))
    return [
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes.tolist()
    ]


@pytest.mark.parametrize("kept", [True, False])
def test_chunks_embed_as_single_images_do(images, kept, monkeypatch) -> None:
    scorer = load_scorer("builtin")
    monkeypatch.setattr(builtin, "freed_memory_is_kept", lambda: kept)
    passes: list[int] = []
    scorer.network.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    views = scorer.embed_images(images)
    assert passes == ([16, 3] if kept else [4, 4, 4, 4, 3])
    single = torch.cat([scorer.embed_images([image]) for image in images])
    torch.testing.assert_close(views, single, atol=1e-5, rtol=0)
    candidates = scorer.embed_candidates(images, [""] * len(images))
    ranks = [(v @ candidates.T).argsort(descending=True) for v in (views, single)]
    assert torch.equal(*ranks)
