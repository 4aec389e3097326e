"""Scorers: frozen dual encoders that turn views and candidates into unit vectors.

A candidate's score is the cosine of its embedding with the embedding of the view. Everything
downstream needs only `Scorer`: two embeddings and a fingerprint.
"""

from abc import abstractmethod
from collections.abc import Sequence

from PIL import Image
from torch import Tensor, nn


class Scorer(nn.Module):
    """A frozen dual encoder: f for query views, g for candidates.

    Attributes:
        dim: Embedding dimension D.
    """

    dim: int

    @abstractmethod
    def fingerprint(self) -> str:
        """A short digest of all that decides an embedding: weights, preprocessing and dtype."""

    @abstractmethod
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """f: embeds N query views as unit vectors, (N, D) float32, without gradient."""

    @abstractmethod
    def embed_candidates(self, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
        """g: embeds N candidates as unit vectors, (N, D) float32, without gradient."""
