"""An image of a shard with its questions: its files in the tar, written and read in one place.

A sample of the tar is an image and all questions about it, in four files:
``<key>.query.jpg`` (or ``.query.png``); ``<key>.full.npy`` (D,), the embedding of the image;
``<key>.candidates.npy`` (M, D), the embeddings of all candidates of its questions, each once; and
``<key>.json`` with the image's name and size, the M candidates by entity and image, and the
questions, each with its pool as rows of that table, best first. Where all questions have one pool,
as when it was searched for by the image, M is K. ``<key>`` is that of the first question.

Another scorer's tars hold the two arrays only. They are float32 or float16, of length 1, and are
read as float32. There is no bfloat16: NumPy has none, and float16 is finer by three bits for the
numbers of a unit vector.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from regionr1.data.images import extreme, open_image
from regionr1.data.npy import from_npy, to_npy, unit
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
"""The files of an image, with the most bytes that one may have."""

PART_OF = {
    "query.jpg": "images",
    "query.png": "images",
    "candidates.npy": "candidates",
    "full.npy": "full",
    "json": "questions",
}
"""By which part of the shards the bytes of a file are counted."""

_DTYPES = (np.dtype(np.float32), np.dtype(np.float16))
_UNIT_WITHIN = 1e-3
_TEXTS = ("key", "question", "cluster", "question_type", "source", "data_id", "subset")


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


@dataclass(frozen=True, slots=True)
class ShardImage:
    """An image with its questions whose files are bytes still, which all its questions share.

    Attributes:
        key: Its key in the tar.
        where: Shard and key, for error messages.
        files: Bytes by extension, and ``__key__``.
        record: The content of its JSON file.
    """

    key: str
    where: str
    files: dict[str, Any]
    record: dict[str, Any]

    @classmethod
    def of(cls, raw: dict[str, Any], where: str) -> ShardImage:
        """Open the bytes of a tar's sample, by extension and with ``__key__``.

        Raises:
            UserError: Its record is missing, damaged, or names no question.
        """
        where = f"{where}, sample {raw['__key__']}"
        with _usable(where):
            record = parse_json(raw["json"])
            if not isinstance(record["questions"], list) or not record["questions"]:
                raise ValueError("it has no list of questions")
        return cls(raw["__key__"], where, raw, record)

    def __len__(self) -> int:
        return len(self.record["questions"])

    def samples(self, numbers: Sequence[int] | None = None) -> list[ShardSample]:
        """Decode questions, all or some, and check all that they say of themselves.

        Raises:
            UserError: A file is missing, does not decode, or contradicts another.
        """
        with _usable(self.where):
            name = "query.jpg" if "query.jpg" in self.files else "query.png"
            image = open_image(self.files[name], self.where)
            table = read_embeddings(self.files)
            if fault := _image_fault(self.key, self.record, table[0], image.size):
                raise ValueError(fault)
            questions = self.record["questions"]
            wanted = range(len(self)) if numbers is None else numbers
            return [self._sample(questions[n], image, *table) for n in wanted]

    def _sample(
        self, question: dict[str, Any], image: Image.Image, candidates: np.ndarray, full: np.ndarray
    ) -> ShardSample:
        ids, names = self.record["candidate_ids"], self.record["candidate_images"]
        if fault := _question_fault(question, ids, image.size):
            raise ValueError(fault)
        rows, box = question["candidates"], question["reference_box_px"]
        return ShardSample(
            image=image,
            candidate_ids=[ids[row] for row in rows],
            candidate_images=[names[row] for row in rows],
            labels=[bool(label) for label in question["labels"]],
            candidates=candidates[rows],
            full=full,
            reference_box_px=None if box is None else (box[0], box[1], box[2], box[3]),
            image_name=self.record["image"],
            gold_ids=question["gold_ids"],
            **{name: question[name] for name in _TEXTS},
        )


def pack_image(
    samples: Sequence[ShardSample],
    image_extension: str,
    image_bytes: bytes,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Turn the questions about an image into the files of one sample of the tar.

    Args:
        samples: At least one question about the same image, by the same scorer.
        image_extension: ``query.jpg`` or ``query.png``.
        image_bytes: The image's file.
        dtype: Of the embeddings on disk, ``float32`` or ``float16``.
    """
    first = samples[0]
    table: dict[tuple[str, str], np.ndarray] = {}
    pools = [list(zip(s.candidate_ids, s.candidate_images, strict=True)) for s in samples]
    for sample, pool in zip(samples, pools, strict=True):
        for pair, vector in zip(pool, sample.candidates, strict=True):
            table.setdefault(pair, vector)
    row_of = {pair: row for row, pair in enumerate(table)}
    width, height = first.image.size
    record = {
        "image": first.image_name,
        "width": width,
        "height": height,
        "candidate_ids": [entity for entity, _ in table],
        "candidate_images": [name for _, name in table],
        "questions": [
            {
                **{name: getattr(sample, name) for name in _TEXTS},
                "gold_ids": sample.gold_ids,
                "candidates": [row_of[pair] for pair in pool],
                "labels": [int(label) for label in sample.labels],
                "reference_box_px": sample.reference_box_px,
            }
            for sample, pool in zip(samples, pools, strict=True)
        ],
    }
    return {
        "__key__": first.key,
        image_extension: image_bytes,
        "json": json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(),
        **pack_embeddings(np.stack([*table.values()]), first.full, dtype),
    }


def bytes_by_part(files: dict[str, Any]) -> Counter[str]:
    """The bytes of an encoded image's files, by the part of the shards that they belong to."""
    counted: Counter[str] = Counter()
    for name, part in PART_OF.items():
        counted[part] += len(files.get(name, b""))
    return counted


def pack_embeddings(
    candidates: np.ndarray, full: np.ndarray, dtype: str = "float32"
) -> dict[str, bytes]:
    """The two files of an image that depend on the scorer: (M, D) and (D,)."""
    arrays = (to_npy(np.asarray(array, dtype)) for array in (candidates, full))
    return dict(zip(EMBEDDINGS, arrays, strict=True))


def read_embeddings(files: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The candidates (M, D) and the full image (D,) of an image, float32 of length 1.

    Raises:
        KeyError: One is missing.
        ValueError: They are damaged, of other shapes, or not of length 1.
    """
    candidates, full = (from_npy(files[name]) for name in EMBEDDINGS)
    fits = candidates.shape[1:] == full.shape == (full.size,) and candidates.ndim == 2
    if not fits or candidates.dtype != full.dtype or full.dtype not in _DTYPES:
        raise ValueError(
            f"its embeddings are {candidates.shape} of {candidates.dtype} and {full.shape} of "
            f"{full.dtype}"
        )
    halves = full.dtype == np.float16
    candidates, full = (array.astype(np.float32, copy=False) for array in (candidates, full))
    lengths = np.linalg.norm(np.vstack([candidates, full]), axis=1)
    if not (np.abs(lengths - 1) < _UNIT_WITHIN).all():  # false for NaN too
        raise ValueError("an embedding is not of length 1")
    return (unit(candidates), unit(full)) if halves else (candidates, full)


def with_embeddings(raw: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """An undecoded image with the embeddings of another tar's sample instead of its own."""
    kept = {name: value for name, value in raw.items() if name not in EMBEDDINGS}
    return kept | {name: other[name] for name in EMBEDDINGS if name in other}


@contextmanager
def _usable(where: str) -> Iterator[None]:
    """Turn whatever a damaged file raises into one sentence."""
    try:
        yield
    except KeyError as error:
        raise UserError(
            f"{where}: part {error.args[0]!r} is missing; rebuild the shards."
        ) from None
    except (ValueError, TypeError, EOFError, IndexError, AttributeError) as error:
        raise UserError(f"{where}: cannot be used ({error}); rebuild the shards.") from error


def _image_fault(
    key: str, record: dict[str, Any], candidates: np.ndarray, size: tuple[int, int]
) -> str | None:
    """What contradicts itself in what the questions share; None where nothing does."""
    if not isinstance(record["image"], str):
        return "image is no text"
    for name in ("candidate_ids", "candidate_images"):
        if not _are_texts(record[name]):
            return f"{name} is no list of texts"
        if len(record[name]) != len(candidates):
            return f"{len(record[name])} {name} have embeddings {candidates.shape}"
    if record["questions"][0]["key"] != key:
        return "its key is not that of its first question"
    if size != (record["width"], record["height"]):
        return "its image is of another size than its record says"
    if extreme(*size):
        return f"its image is of {size[0]}x{size[1]}, a ratio that policies refuse"
    return None


def _question_fault(
    question: dict[str, Any], candidate_ids: list[str], size: tuple[int, int]
) -> str | None:
    """What contradicts itself in a question; None where nothing does."""
    for name in _TEXTS:
        if not isinstance(question[name], str):
            return f"{name} is no text"
    if not question["key"] or set(question["key"]) & {".", "/"}:  # files are named after it
        return "its key is empty, or has a dot or a slash"
    if not _are_texts(question["gold_ids"]):
        return "gold_ids is no list of texts"
    rows = question["candidates"]
    if not all(type(row) is int and 0 <= row < len(candidate_ids) for row in rows):
        return "a candidate is no row of its table"
    if not rows or not question["gold_ids"]:
        return "there is no candidate, or no gold entity"
    if question["labels"] != [candidate_ids[row] in question["gold_ids"] for row in rows]:
        return "its labels contradict its gold entities"
    if (box := question["reference_box_px"]) is not None:
        return box_fault(box, *size)
    return None


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
