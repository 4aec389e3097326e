"""The built-in scorers: MobileNetV2 with two linear heads, and raw pixels as its plainest rival."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.fusion import fuse_conv_bn_eval

from regionr1.errors import UserError
from regionr1.memory import freed_memory_is_kept
from regionr1.scorers.base import Scorer


def letterbox(image: Image.Image, side: int) -> Tensor:
    """An RGB image fitted into a grey square without changing its aspect: (3, side, side) uint8."""
    factor = side / max(image.size)
    w, h = (max(1, round(length * factor)) for length in image.size)
    square = Image.new("RGB", (side, side), (128, 128, 128))
    # reducing_gap lets Pillow shrink large photos in two steps: several times faster, same look.
    resized = image.convert("RGB").resize((w, h), Image.Resampling.BICUBIC, reducing_gap=3.0)
    square.paste(resized, ((side - w) // 2, (side - h) // 2))
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8)
    return pixels.view(side, side, 3).permute(2, 0, 1)


class _InvertedResidual(nn.Module):
    """A block of MobileNetV2 (Sandler et al. 2018): widen, filter by channel, narrow."""

    def __init__(self, width_in: int, width: int, stride: int, widen: int):
        super().__init__()
        inner = width_in * widen
        layers = [] if widen == 1 else [*_conv(width_in, inner, 1)]
        layers += [*_conv(inner, inner, 3, stride, groups=inner)]
        layers += [nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def _conv(
    width_in: int, width: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    padding = kernel // 2
    return [
        nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(inplace=True),
    ]


class DualEncoder(nn.Module):
    """The built-in network: ImageNet's MobileNetV2, frozen, and a learned linear head per side.

    A head reads the trunk at four depths, from parts to whole things, each averaged over the image.
    """

    SIDE = 224
    DIM = 128
    BLOCKS = (  # widen, width, repeats, first stride: table 2 of the MobileNetV2 paper
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    )  # fmt: skip
    TAPS = (13, 18, 19, 22)  # layers of the trunk, 96, 160, 320 and 1280 wide
    FEATURES = 96 + 160 + 320 + 1280
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers = [*_conv(3, 32, 3, 2)]
        width_in = 32
        for widen, width, repeats, stride in self.BLOCKS:
            for i in range(repeats):
                layers.append(_InvertedResidual(width_in, width, stride if i == 0 else 1, widen))
                width_in = width
        self.trunk = nn.Sequential(*layers, *_conv(width_in, 1280, 1))
        self.view_head = nn.Linear(self.FEATURES, self.DIM)
        self.candidate_head = nn.Linear(self.FEATURES, self.DIM)
        # ImageNet's means and deviations, which the trunk's first weights expect.
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1))

    def features(self, pixels: Tensor) -> Tensor:
        """(N, 3, SIDE, SIDE) uint8 pixels -> (N, FEATURES), the trunk at its four depths."""
        x = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found = []
        for index, layer in enumerate(self.trunk):
            x = layer(x)
            if index in self.TAPS:
                found.append(x.float().mean((2, 3)))
        return torch.cat(found, 1)

    def forward(self, pixels: Tensor, head: nn.Linear) -> Tensor:
        """Embeds (N, 3, SIDE, SIDE) uint8 pixels as (N, DIM) unit vectors."""
        return normalize(head(self.features(pixels)), dim=-1)


def fold_normalisation(module: nn.Module) -> None:
    """Folds every BatchNorm into the convolution before it: the same numbers, in half the time.

    What it held becomes an identity, so that layers keep their places.
    """
    for parent in list(module.modules()):
        if isinstance(parent, nn.Sequential):
            for i, (before, layer) in enumerate(pairwise(parent)):
                if isinstance(before, nn.Conv2d) and isinstance(layer, nn.BatchNorm2d):
                    parent[i] = fuse_conv_bn_eval(before, layer)
                    parent[i + 1] = nn.Identity()


class BuiltinScorer(Scorer):
    """The built-in scorer, trained contrastively on drawings by `scripts/train_scorer`.

    Args:
        network: The network; frozen here, and its normalisation folded, so it serves one scorer.
            `load_scorer("builtin")` gives the shipped one.
    """

    BATCH = 64  # images per pass on a GPU
    CPU_BATCH = 16  # on a CPU that keeps freed memory; larger ones are no faster
    SMALL_BATCH = 4  # on any other: activations that small are reused, larger ones are mapped anew
    PREPROCESSING = "letterbox-224-grey128-bicubic-gap3"

    def __init__(self, network: DualEncoder):
        super().__init__()
        self.network = network
        self.dim = network.DIM
        self.eval().requires_grad_(False)
        digest = hashlib.sha256(f"regionr1-dual-encoder {self.PREPROCESSING} float32".encode())
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        self._fingerprint = digest.hexdigest()[:16]
        fold_normalisation(network)

    @classmethod
    def from_file(cls, path: Path) -> "BuiltinScorer":
        """Loads weights that `scripts/train_scorer` wrote.

        Raises:
            UserError: The file is missing, is no safetensors file or holds another network.
        """
        network = DualEncoder()
        try:
            network.load_state_dict(load_file(path))  # stored in half precision, used in float32
        except (OSError, SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} holds no weights of the built-in scorer ({reason}): "
                "write them with scripts/train_scorer or use scorer 'builtin'"
            ) from error
        return cls(network)

    def fingerprint(self) -> str:
        """A digest of the weights and of the preprocessing."""
        return self._fingerprint

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """f: unit vectors (N, D) float32 of the views, by the head for views."""
        return self._embed(images, self.network.view_head)

    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """g: images only; the texts name unseen entities and did not help this small network."""
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} candidate images but {len(texts)} texts")
        return self._embed(images, self.network.candidate_head)

    @torch.no_grad()
    def _embed(self, images: Sequence[Image.Image], head: nn.Linear) -> Tensor:
        self.network.eval()
        device = head.weight.device
        size = self.BATCH
        if device.type == "cpu":
            size = self.CPU_BATCH if freed_memory_is_kept() else self.SMALL_BATCH
        parts = [torch.empty(0, self.dim, device=device)]
        for start in range(0, len(images), size):
            chunk = images[start : start + size]
            pixels = torch.stack([letterbox(image, self.network.SIDE) for image in chunk])
            parts.append(self.network(pixels.to(device), head))
        return torch.cat(parts)


class PixelScorer(Scorer):
    """The pixels of a thumbnail, as they are: what a scorer that learned nothing finds.

    A baseline only. Where it does well, the task is matching copies, not recognising things.
    """

    SIDE = 16
    dim = 3 * SIDE * SIDE

    def fingerprint(self) -> str:
        """The preprocessing by name, for there are no weights."""
        return f"pixels-letterbox-{self.SIDE}"

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """f: unit vectors (N, D) float32 of the pixels, without their mean brightness."""
        rows = [letterbox(image, self.SIDE).flatten().float() for image in images]
        vectors = torch.stack(rows) if rows else torch.empty(0, self.dim)
        # Without its mean brightness every image would look like every other.
        return normalize(vectors - vectors.mean(-1, keepdim=True), dim=-1)

    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """g: candidates as views are embedded; their texts are not read."""
        return self.embed_images(images)
