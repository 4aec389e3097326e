"""Embedding the knowledge base and the query images of a source into stores."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from regionr1.data.build.query_store import QUERY_FORMAT, UNREADABLE, question_line
from regionr1.data.build.stages import ScorerOptions, StoreDtype
from regionr1.data.build.store import FORMAT
from regionr1.data.build.store_writer import (
    ALONE,
    Item,
    Part,
    Share,
    finish,
    join_digests,
    open_for_writing,
    planned_items,
    write_parts,
)
from regionr1.data.chunks import chunks
from regionr1.data.images import open_image
from regionr1.data.readers.base import Source
from regionr1.data.records import Entity, SkipReport
from regionr1.data.seen import Seen
from regionr1.errors import MachineError, UserError
from regionr1.files import file_identity, refused
from regionr1.progress import progress

if TYPE_CHECKING:
    from tqdm import tqdm

    from regionr1.scorers.base import Scorer

DECODE_THREADS = 4
NO_FILE = "KB image without a file"
NO_IMAGE = "KB entity without a usable image"


def kb_folder(work: Path) -> Path:
    """The store of the knowledge base."""
    return work / "kb"


def query_folder(work: Path, split: str) -> Path:
    """The store of a split's query images."""
    return work / f"queries-{split}"


def kb_identity(
    source: Source, scorer: Scorer, part_size: int, dtype: StoreDtype = "float32"
) -> dict[str, Any]:
    """What the store of the knowledge base is made from."""
    files = [file_identity(path) for path in source.kb_files()]
    return _identity(source, scorer, part_size, dtype) | {"files": files}


def kb_items(
    source: Source,
    seen: Callable[[Entity], object] = lambda entity: None,
    wanted: Callable[[str, str], bool] = lambda entity, image: True,
    left_out: SkipReport | None = None,
) -> Iterator[Item]:
    """Every wanted image of the knowledge base that has a file; ``seen`` is told every entity."""
    for entity in source.entities(SkipReport() if left_out is None else left_out):
        seen(entity)
        for path in entity.image_paths:
            name = path.relative_to(source.root).as_posix()
            if wanted(entity.id, name):
                yield Item(entity.id, name, path, entity.text, f"KB entry {entity.id!r}")


def embed_kb(
    source: Source,
    scorer: Scorer,
    work: Path,
    options: ScorerOptions,
    dtype: StoreDtype = "float32",
    share: Share = ALONE,
    wanted: Callable[[str, str], bool] = lambda entity, image: True,
) -> Callable[[], None]:
    """Embed every usable image of the knowledge base with its entity's text.

    Images without file, undecodable images and entities left without any are counted: a large part
    of the real knowledge base has no or broken pixels.

    Args:
        source: Reader of the published files.
        scorer: The frozen dual encoder.
        work: The work folder.
        options: How.
        dtype: Of the vectors on disk.
        share: What this process does of it.
        wanted: Told an entity and one of its images, says whether to embed it.

    Returns:
        What the first process must call once every process is here.

    Raises:
        UserError: Bad input, another scorer's store, or a non-finite embedding.
    """
    folder = kb_folder(work)
    identity = kb_identity(source, scorer, options.part_size, dtype)
    open_for_writing(folder, identity, kb_items(source, wanted=wanted))
    (folder / "complete.json").unlink(missing_ok=True)
    names = folder / f"entities-{share.rank}.jsonl"
    left_out = SkipReport()

    def embed(chunk: list[Item]) -> Part:
        return _embed_part(
            chunk,
            lambda images, kept: scorer.embed_candidates(images, [item.text for item in kept]),
            options.batch_size,
            "unreadable KB image",
        )

    count = kb_items(source, wanted=wanted)
    with _progress("embed knowledge base", lambda: _count(count)) as bar, _listed(names) as listed:

        def seen(entity: Entity) -> None:
            listed(json.dumps(entity.id) + "\n")
            if entity.n_unresolved:
                left_out.add(NO_FILE, entity.id, entity.n_unresolved)

        items = kb_items(source, seen, wanted, left_out)
        n_parts = write_parts(folder, items, embed, options.part_size, dtype, share, bar.update)

    def complete() -> None:
        def entities() -> Iterator[str]:
            with names.open(encoding="utf-8") as file:
                yield from map(json.loads, file)

        finish(folder, n_parts, entities(), left_out)
        for path in folder.glob("entities-*.jsonl"):
            path.unlink()

    return complete


def query_identity(
    source: Source,
    scorer: Scorer,
    split: str,
    skip_missing: bool,
    part_size: int,
    dtype: StoreDtype = "float32",
) -> dict[str, Any]:
    """What the store of a split's query images is made from."""
    return _identity(source, scorer, part_size, dtype) | {
        "format": QUERY_FORMAT,
        "files": [file_identity(path) for path in source.files(split)],
        "split": split,
        "skip_missing": skip_missing,
        "two-hop choice": source.include_two_hop,
    }


def query_items(
    source: Source,
    split: str,
    left_out: SkipReport,
    skip_missing: bool,
    asked: Callable[[str], object] = lambda line: None,
) -> Iterator[Item]:
    """Every image file of a split once, as first named; ``asked`` is told every question's line."""
    images = Seen()
    for query in source.present(split, left_out, skip_missing):
        image = query.image_path.relative_to(source.root).as_posix()
        asked(question_line(query, image))
        if not images.add(image):
            yield Item(image, "", query.image_path, where=query.key)


def planned_queries(source: Source, split: str, skip_missing: bool, part_size: int) -> str:
    """Digest of the images and questions that a split's store would have."""
    asked = hashlib.sha256()
    items = query_items(
        source, split, SkipReport(), skip_missing, lambda line: asked.update(line.encode())
    )
    return join_digests([planned_items(items, part_size), asked.hexdigest()])


def embed_queries(
    source: Source,
    scorer: Scorer,
    work: Path,
    split: str,
    skip_missing: bool,
    options: ScorerOptions,
    dtype: StoreDtype = "float32",
    share: Share = ALONE,
) -> Callable[[], None]:
    """Embed every query image of a split once, however many questions there are about it.

    Args:
        source: Reader of the published files.
        scorer: The frozen dual encoder.
        work: The work folder.
        split: ``train``, ``val`` or ``test``.
        skip_missing: Count questions whose image is missing or unreadable instead of raising.
        options: How.
        dtype: Of the vectors on disk.
        share: What this process does of it.

    Returns:
        What the first process must call once every process is here.

    Raises:
        UserError: Bad input, another scorer's store, or a non-finite embedding.
    """
    folder = query_folder(work, split)
    identity = query_identity(source, scorer, split, skip_missing, options.part_size, dtype)
    open_for_writing(folder, identity, query_items(source, split, SkipReport(), skip_missing))
    (folder / "complete.json").unlink(missing_ok=True)
    questions = folder / f"questions-{share.rank}.jsonl"
    left_out = SkipReport()

    def embed(chunk: list[Item]) -> Part:
        return _embed_part(
            chunk,
            lambda images, kept: scorer.embed_images(images),
            options.batch_size,
            UNREADABLE if skip_missing else None,
        )

    count = query_items(source, split, SkipReport(), skip_missing)
    with (
        _progress(f"embed {split} queries", lambda: _count(count)) as bar,
        _listed(questions) as asked,
    ):
        items = query_items(source, split, left_out, skip_missing, asked)
        n_parts = write_parts(folder, items, embed, options.part_size, dtype, share, bar.update)
    if n_parts == 0:
        raise UserError(f"{source.root}: split {split!r} has no usable question.")

    def complete() -> None:
        finish(folder, n_parts, left_out=left_out, questions=questions)
        for path in folder.glob("questions-*.jsonl"):
            path.unlink()

    return complete


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


def _identity(source: Source, scorer: Scorer, part_size: int, dtype: StoreDtype) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "source": source.name,
        "scorer": scorer.fingerprint(),
        "dtype": dtype,
        "part size": part_size,
    }


def _embed_part(
    items: list[Item],
    embed: Callable[[list[Image.Image], list[Item]], torch.Tensor],
    batch_size: int,
    tolerated: str | None,
) -> Part:
    """Decode and embed the items of a part; unreadable ones count as ``tolerated`` or raise."""
    kept: list[Item] = []
    rows: list[np.ndarray] = []
    skipped = SkipReport()

    def decode(item: Item) -> Image.Image | UserError:
        try:
            return open_image(item.path, item.where)
        except MachineError:  # says nothing about the image
            raise
        except UserError as error:
            return error

    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        for batch in chunks(items, batch_size):
            good: list[tuple[Item, Image.Image]] = []
            for item, result in zip(batch, threads.map(decode, batch), strict=True):
                if not isinstance(result, UserError):
                    good.append((item, result))
                elif tolerated is None:
                    raise result
                else:
                    skipped.add(tolerated, str(result))
            if good:
                done = [item for item, _ in good]
                vectors = embed([image for _, image in good], done)
                rows.append(as_finite_array(vectors, [f"{i.where} ({i.path})" for i in done]))
                kept += done
    joined = np.concatenate(rows) if rows else np.empty((0, 0), dtype=np.float32)
    return Part(kept, joined, skipped)


@contextmanager
def _listed(path: Path) -> Iterator[Callable[[str], object]]:
    """A file of what is read beside the items, which the block is given to write to."""
    try:
        with path.open("w", encoding="utf-8") as file:
            yield file.write
    except OSError as error:
        raise refused(path, error, "cannot be written") from error


def _count(items: Iterator[Item]) -> int:
    return sum(1 for _ in items)


def _progress(label: str, count: Callable[[], int]) -> tqdm[Any]:
    """A bar with the time that is left; it costs a count, which only a watcher pays for."""
    total = count() if sys.stderr.isatty() else None
    return progress(total=total, desc=label, unit="img", smoothing=0.05)
