"""Vision features computed once per image: a frozen tower is a function of its pixels.

The last batch's features are always at hand, for the several passes of an evaluation. With a folder
they also stay on disk, from epoch to epoch and from run to run. A file's name is a digest of the
pixels, the image's size, the tower's weights, its dtype and that of autocast, so nothing can be
taken for another.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.errors import UserError
from regionr1.files import whole_file

NAME = "features"


def image_features(
    model: Qwen2_5_VLForConditionalGeneration, pixel_values: Tensor, image_grid_thw: Tensor
) -> Sequence[Tensor]:
    """(image tokens, hidden) of each image: one pass of the tower over all of them."""
    output = model.get_image_features(pixel_values, image_grid_thw)
    return getattr(output, "pooler_output", output)  # transformers < 5 returned it bare


class VisionCache:
    """Features by what the tower is shown.

    Args:
        model: The policy; its tower must be frozen.
        folder: Where to keep them; None keeps the last batch's only.

    Attributes:
        computed: Images that went through the tower.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, folder: str | None) -> None:
        self.model = model
        self.root = None if folder is None else Path(folder)
        self.computed = 0
        self._forget()

    def _forget(self) -> None:
        self.version = self._weights_version()
        self.last: dict[str, Tensor] = {}
        self.folder = None
        if self.root is not None:
            self.folder = self.root / _fingerprint(self.model)
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"vision_cache: cannot make {self.folder} ({error})") from error

    def _weights_version(self) -> int:
        """Grows whenever a weight of the tower is written to."""
        return sum(parameter._version for parameter in self.model.model.visual.parameters())

    @torch.no_grad()
    def features(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        """(image tokens, hidden) of all images in order, on the model's device.

        Args:
            pixel_values: (patches, values) of all images, or (tiles, 3, height, width).
            image_grid_thw: (B, 3) patches or tiles of each image.
        """
        if self._weights_version() != self.version:  # somebody trains the tower after all
            self._forget()
        device = self.model.get_input_embeddings().weight.device
        images = pixel_values.split(image_grid_thw.prod(-1).tolist())
        keys = [_key(*pair, device) for pair in zip(images, image_grid_thw, strict=True)]
        known = {key: self.last[key].to(device) for key in keys if key in self.last}
        for key in dict.fromkeys(keys):
            if key not in known and (stored := self._read(key)) is not None:
                known[key] = stored.to(device)
        missing = [i for i, key in enumerate(keys) if key not in known and key not in keys[:i]]
        if missing:
            shown = torch.cat([images[i] for i in missing]).to(device)
            rows = image_features(self.model, shown, image_grid_thw[missing].to(device))
            for i, row in zip(missing, rows, strict=True):
                known[keys[i]] = row
                self._write(keys[i], row)
            self.computed += len(missing)
        self.last = {key: known[key] for key in keys}
        return torch.cat([known[key] for key in keys])

    def _read(self, key: str) -> Tensor | None:
        path = None if self.folder is None else self.folder / f"{key}.safetensors"
        if path is None or not path.is_file():
            return None
        try:
            return load_file(path)[NAME]
        except (SafetensorError, KeyError) as error:
            raise UserError(f"vision_cache: {path} is broken ({error}): delete it") from error

    def _write(self, key: str, features: Tensor) -> None:
        if self.folder is None:
            return
        # several workers may write the same image
        with whole_file(self.folder / f"{key}.safetensors", SafetensorError) as partial:
            save_file({NAME: features.cpu().contiguous()}, partial)


def _key(pixels: Tensor, grid: Tensor, device: torch.device) -> str:
    autocast = (
        torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
    )
    digest = hashlib.sha256(repr((grid.tolist(), str(pixels.dtype), str(autocast))).encode())
    digest.update(pixels.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fingerprint(model: Qwen2_5_VLForConditionalGeneration) -> str:
    tower = model.model.visual
    digest = hashlib.sha256(repr((tower.config.to_json_string(), str(tower.dtype))).encode())
    for name, value in sorted(tower.state_dict().items()):
        flat = value.detach().cpu().contiguous().view(-1)
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
