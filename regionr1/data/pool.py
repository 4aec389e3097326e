"""Candidate pools: the images of the knowledge base nearest to the full query image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import faiss
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from regionr1.data.images import open_image
from regionr1.data.records import Entity, SkipReport
from regionr1.errors import UserError

if TYPE_CHECKING:
    from regionr1.modules.scorer import Scorer

DECODE_THREADS = 4
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class KnowledgeIndex:
    """Embeddings of every usable KB image, M of them.

    Attributes:
        embeddings: (M, D) float32, unit norm: what the scorer compares views with.
        entity_ids: Entity of each image.
        image_names: File of each image.
        known_ids: Every entity of the KB, also those without a usable image.
    """

    embeddings: np.ndarray
    entity_ids: list[str]
    image_names: list[str]
    known_ids: frozenset[str]

    def __post_init__(self) -> None:
        if not self.entity_ids:
            raise UserError(
                "The knowledge base has no usable image; check url_to_path_mapping.json."
            )


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates of B queries, best first.

    Attributes:
        indices: (B, K) rows of the index.
        embeddings: (B, K, D) float32.
    """

    indices: np.ndarray
    embeddings: np.ndarray


class PoolBuilder:
    """Exact inner-product search over a `KnowledgeIndex`.

    The index holds the vectors the scorer ranks with, so a pool's order is the full image's own
    ranking. Positives are kept only as retrieved: none is ever added to a pool.

    Args:
        index: The knowledge base.
        k: Candidates per query; a smaller knowledge base gives all of its images.
    """

    def __init__(self, index: KnowledgeIndex, k: int) -> None:
        if k < 1:
            raise UserError(f"k={k}: a pool needs at least one candidate.")
        self.index = index
        self.k = min(k, len(index.entity_ids))
        self._faiss = faiss.IndexFlatIP(index.embeddings.shape[1])
        self._faiss.add(np.ascontiguousarray(index.embeddings, dtype=np.float32))

    def build(self, full: np.ndarray) -> Pool:
        """Retrieve the pools of full-image embeddings (B, D) float32."""
        _, indices = self._faiss.search(np.ascontiguousarray(full, dtype=np.float32), self.k)
        return Pool(indices=indices, embeddings=self.index.embeddings[indices])


def embed_knowledge_base(
    entities: Iterable[Entity],
    scorer: Scorer,
    report: SkipReport,
    root: Path,
    batch_size: int = 64,
) -> KnowledgeIndex:
    """Embed every usable image of the knowledge base with its entity's text.

    Args:
        entities: The knowledge base.
        scorer: The frozen dual encoder.
        report: Receives images without file, undecodable images and entities left without any.
        root: Image names are kept relative to this folder, so that shards can move.
        batch_size: Images per scorer call.

    Raises:
        UserError: No image at all is usable, or the scorer returned a non-finite embedding.
    """
    pages = list(entities)
    texts = {page.id: page.text for page in pages}
    work = [(page.id, path) for page in pages for path in page.image_paths]
    for page in pages:
        if page.n_unresolved:
            report.add("KB image without a file", page.id, n=page.n_unresolved)
    ids: list[str] = []
    names: list[str] = []
    rows: list[np.ndarray] = []
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for chunk in progress_batches(work, batch_size, "embed knowledge base"):
            opened = list(zip(chunk, pool.map(_decode_kb_image, chunk), strict=True))
            for _, result in opened:
                if isinstance(result, UserError):
                    # Tolerated: a large part of the real knowledge base has no or broken pixels.
                    report.add("unreadable KB image", str(result))
            usable = [(item, image) for item, image in opened if not isinstance(image, UserError)]
            if not usable:
                continue
            images = [image for _, image in usable]
            vectors = scorer.embed_candidates(images, [texts[item[0]] for item, _ in usable])
            rows.append(as_finite_array(vectors, [str(item[1]) for item, _ in usable]))
            ids += [item[0] for item, _ in usable]
            names += [item[1].relative_to(root).as_posix() for item, _ in usable]
    with_image = set(ids)
    for page in pages:
        if page.id not in with_image:
            report.add("KB entity without a usable image", page.id)
    embeddings = np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)
    return KnowledgeIndex(embeddings, ids, names, frozenset(texts))


def as_finite_array(vectors: torch.Tensor, names: Sequence[str]) -> np.ndarray:
    """Move embeddings (N, D) to numpy float32; a non-finite one raises and names its image."""
    array = vectors.detach().to("cpu", torch.float32).numpy()
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise UserError(
            f"{names[int(bad.argmax())]}: the scorer gave a non-finite embedding; "
            "check its weights and precision."
        )
    return array


def progress_batches(items: Sequence[Item], size: int, label: str) -> Iterator[Sequence[Item]]:
    """Yield batches of ``items`` under a progress bar (silent when stderr is no terminal)."""
    with tqdm(total=len(items), desc=label, unit="img", disable=None) as bar:
        for start in range(0, len(items), size):
            chunk = items[start : start + size]
            yield chunk
            bar.update(len(chunk))


def _decode_kb_image(item: tuple[str, Path]) -> Image.Image | UserError:
    entity_id, path = item
    try:
        return open_image(path, f"KB entry {entity_id!r}")
    except UserError as error:
        return error
