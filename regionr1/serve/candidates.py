"""What is ranked: candidates of every kind as embeddings, remembered by the keys of their owner."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from regionr1.data.images import upright_rgb
from regionr1.errors import UserError
from regionr1.scorers.base import Scorer

Candidate = Image.Image | tuple[Image.Image, str] | None
Candidates = Sequence[Candidate] | Tensor | np.ndarray
"""Images, images with a text each, or embeddings (K, D) that the scorer made before. None stands
for a candidate whose embedding is remembered by its key."""


class CandidateMemory:
    """Embeds candidates, each only once while its key is remembered.

    Args:
        remember: Embeddings that are kept, the longest unused forgotten first.
    """

    def __init__(self, remember: int) -> None:
        self.remember = remember
        self.rows: OrderedDict[str, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, key: object) -> bool:
        return key in self.rows

    def embedded(
        self,
        scorer: Scorer,
        candidates: Candidates,
        keys: Sequence[str] | None,
        device: torch.device,
    ) -> Tensor:
        """Candidates as unit vectors (K, D).

        Args:
            scorer: Makes those that are not remembered; the same one in every call.
            candidates: K of them.
            keys: Their names.
            device: Where the vectors are wanted; they are remembered on the CPU.

        Raises:
            UserError: Something is no candidate, or there are not as many keys.
        """
        if isinstance(candidates, np.ndarray):
            candidates = torch.from_numpy(candidates)
        if isinstance(candidates, Tensor):
            if candidates.ndim != 2 or candidates.shape[1] != scorer.dim:
                raise UserError(
                    f"candidate embeddings are {tuple(candidates.shape)}, expected (K, "
                    f"{scorer.dim})"
                )
            return torch.nn.functional.normalize(candidates.float(), dim=-1).to(device)
        names: Sequence[Any] = [None] * len(candidates) if keys is None else keys
        if len(names) != len(candidates):
            raise UserError(f"{len(candidates)} candidates but {len(names)} keys")
        rows: dict[int, Tensor] = {
            k: self.rows[name] for k, name in enumerate(names) if name in self.rows
        }
        missing = [k for k in range(len(candidates)) if k not in rows]
        if missing:
            split = [_image_and_text(candidates[k], k, names[k]) for k in missing]
            made = scorer.embed_candidates([image for image, _ in split], [t for _, t in split])
            rows |= dict(zip(missing, made, strict=True))
        for k, name in enumerate(names):
            if name is not None:  # clones: a row would keep all of its batch alive
                row = self.rows.pop(name, None)
                self.rows[name] = rows[k].cpu().clone() if row is None else row
        while len(self.rows) > self.remember:
            self.rows.popitem(last=False)
        return torch.stack([rows[k].to(device) for k in range(len(candidates))])


def _image_and_text(candidate: object, place: int, key: object) -> tuple[Image.Image, str]:
    if candidate is None:
        raise UserError(
            f"candidate {place} is None and its key {key!r} is not remembered: give its image"
        )
    image, text = candidate if isinstance(candidate, tuple) else (candidate, "")
    return upright(image), text


def upright(image: object) -> Image.Image:
    """An image the right way up and in RGB, as training saw it.

    Raises:
        UserError: It is no image.
    """
    if not isinstance(image, Image.Image):
        raise UserError(f"an image must be a PIL image, not a {type(image).__name__}: open it")
    return upright_rgb(image)
