"""One query of a shard: its file layout inside the tar, written and read in one place.

A sample is four files: ``<key>.query.jpg`` (or ``.query.png``), ``<key>.json``,
``<key>.candidates.npy`` (K, D) float32 and ``<key>.full.npy`` (D,) float32. Another scorer's tars
hold the last two only. Embeddings are of length 1; nothing else ends up in a score.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from regionr1.data.images import extreme, open_image
from regionr1.data.npy import from_npy, to_npy
from regionr1.data.records import Box, box_fault
from regionr1.errors import UserError
from regionr1.files import parse_json

EMBEDDINGS = ("candidates.npy", "full.npy")
MEMBERS = {
    "query.jpg": 256 << 20,
    "query.png": 256 << 20,
    "json": 16 << 20,
    "candidates.npy": 256 << 20,
    "full.npy": 1 << 20,
}
"""The files of a sample, with the most bytes that one may have."""

_FLOAT = np.dtype(np.float32)
_UNIT_WITHIN = 1e-3
_TEXTS = ("question", "cluster", "question_type", "source", "data_id", "image")
_LISTS = ("gold_ids", "candidate_ids", "candidate_images")


@dataclass(slots=True)
class ShardSample:
    """A query with its candidate pool.

    Attributes:
        key: Unique in the split.
        image: Upright RGB query image, in original pixels.
        question: The question.
        gold_ids: Correct entity ids.
        cluster: Entity cluster for bootstrap intervals.
        question_type: As published.
        source: Image collection.
        candidate_ids: Entity of each of the K candidates, best first by the full image as the
            scorer saw it that the shards were made with.
        candidate_images: KB image of each candidate, relative to the data folder.
        labels: (K,) bool: candidate belongs to a gold entity.
        candidates: (K, D) float32, unit norm.
        full: (D,) float32, unit norm, the embedding of the full query image.
        reference_box_px: xyxy in pixels of ``image``, or None.
        subset: Part of the split that is reported apart; empty where there are no parts.
        data_id: What result files of others, or your own file, call the query; empty where they do
            not know it.
        image_name: Where the query image lies, relative to the data folder.
    """

    key: str
    image: Image.Image
    question: str
    gold_ids: list[str]
    cluster: str
    question_type: str
    source: str
    candidate_ids: list[str]
    candidate_images: list[str]
    labels: list[bool]
    candidates: np.ndarray
    full: np.ndarray
    reference_box_px: Box | None
    subset: str = ""
    data_id: str = ""
    image_name: str = ""

    @property
    def groups(self) -> dict[str, str]:
        """The parts of the split that the query belongs to, by what they are parts by."""
        parts = {"type": self.question_type, "source": self.source, "subset": self.subset}
        return {name: value for name, value in parts.items() if value}


def pack_sample(sample: ShardSample, image_extension: str, image_bytes: bytes) -> dict[str, Any]:
    """Turn a sample into the files of one tar member group (bytes by extension)."""
    width, height = sample.image.size
    record = {
        "question": sample.question,
        "gold_ids": sample.gold_ids,
        "cluster": sample.cluster,
        "candidate_ids": sample.candidate_ids,
        "candidate_images": sample.candidate_images,
        "labels": [int(label) for label in sample.labels],
        "question_type": sample.question_type,
        "source": sample.source,
        "subset": sample.subset,
        "data_id": sample.data_id,
        "image": sample.image_name,
        "reference_box_px": sample.reference_box_px,
        "width": width,
        "height": height,
    }
    return {
        "__key__": sample.key,
        image_extension: image_bytes,
        "json": json.dumps(record, ensure_ascii=False).encode(),
        **pack_embeddings(sample.candidates, sample.full),
    }


def pack_embeddings(candidates: np.ndarray, full: np.ndarray) -> dict[str, bytes]:
    """The two files of a sample that depend on the scorer: (K, D) and (D,)."""
    arrays = (to_npy(np.asarray(array, np.float32)) for array in (candidates, full))
    return dict(zip(EMBEDDINGS, arrays, strict=True))


def with_embeddings(raw: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """An undecoded sample with the embeddings of another tar's sample instead of its own."""
    kept = {name: value for name, value in raw.items() if name not in EMBEDDINGS}
    return kept | {name: other[name] for name in EMBEDDINGS if name in other}


def unpack_sample(raw: dict[str, Any], where: str) -> ShardSample:
    """Rebuild a sample from the bytes of its files, and check all that it says of itself.

    Args:
        raw: Bytes by extension and ``__key__``, as the shard groups them.
        where: The shard, for the error message.

    Raises:
        UserError: A file of the sample is missing, does not decode, or contradicts another.
    """
    where = f"{where}, sample {raw['__key__']}"
    try:
        image_bytes = raw["query.jpg"] if "query.jpg" in raw else raw["query.png"]
        record = parse_json(raw["json"])
        candidates, full = (from_npy(raw[name]) for name in EMBEDDINGS)
        image = open_image(image_bytes, where)
        box = record["reference_box_px"]
        if fault := _fault(record, candidates, full, image.size):
            raise ValueError(fault)
        return ShardSample(
            key=raw["__key__"],
            image=image,
            question=record["question"],
            gold_ids=record["gold_ids"],
            cluster=record["cluster"],
            question_type=record["question_type"],
            source=record["source"],
            candidate_ids=record["candidate_ids"],
            candidate_images=record["candidate_images"],
            labels=[bool(label) for label in record["labels"]],
            candidates=candidates,
            full=full,
            reference_box_px=None if box is None else (box[0], box[1], box[2], box[3]),
            subset=record.get("subset", ""),
            data_id=record["data_id"],
            image_name=record["image"],
        )
    except KeyError as error:
        raise UserError(
            f"{where}: part {error.args[0]!r} is missing; rebuild the shards."
        ) from None
    except (ValueError, TypeError, EOFError, IndexError, AttributeError) as error:
        raise UserError(f"{where}: cannot be used ({error}); rebuild the shards.") from error


def _fault(
    record: dict[str, Any], candidates: np.ndarray, full: np.ndarray, size: tuple[int, int]
) -> str | None:
    """What contradicts itself in a sample; None where nothing does."""
    for name in _TEXTS:
        if not isinstance(record[name], str):
            return f"{name} is no text"
    for name in _LISTS:
        if not isinstance(record[name], list) or not all(isinstance(v, str) for v in record[name]):
            return f"{name} is no list of texts"
    if not isinstance(record.get("subset", ""), str):
        return "subset is no text"
    n = len(record["candidate_ids"])
    if n == 0 or not record["gold_ids"]:
        return "there is no candidate, or no gold entity"
    if record["labels"] != [id in record["gold_ids"] for id in record["candidate_ids"]]:
        return "its labels contradict its gold entities"
    if len(record["candidate_images"]) != n or full.ndim != 1:
        return "its candidate lists differ in length"
    if candidates.shape != (n, len(full)) or {candidates.dtype, full.dtype} != {_FLOAT}:
        return f"{n} candidates have embeddings {candidates.shape} of {candidates.dtype}"
    lengths = np.linalg.norm(np.vstack([candidates, full]), axis=1)
    if not (np.abs(lengths - 1) < _UNIT_WITHIN).all():  # false for NaN too
        return "an embedding is not of length 1"
    if size != (record["width"], record["height"]):
        return "its image is of another size than its record says"
    if extreme(*size):
        return f"its image is of {size[0]}x{size[1]}, a ratio that policies refuse"
    if (box := record["reference_box_px"]) is not None:
        return box_fault(box, *size)
    return None
