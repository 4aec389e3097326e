"""The FAISS index over the knowledge base, and the pools that a search of it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import faiss
import numpy as np

from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.chunks import chunks
from regionr1.data.npy import map_npy
from regionr1.data.records import SkipReport
from regionr1.errors import UserError
from regionr1.files import read_json, refused, whole_file, write_json, write_whole
from regionr1.progress import progress

INDEX_MEND = "build it with `regionr1 data index`"
POOL_MEND = "make it with `regionr1 data pool`"
EXACT_BELOW = 500_000
"""Rows up to which `auto` searches exactly."""

TRAIN_PER_LIST = 64
NPROBE = 64
BATCH = 1024
NO_ROW = -1


def build_index(kb: EmbeddingStore, work: Path, kind: str = "auto") -> str:
    """Index the knowledge base, or keep an index of the same.

    Args:
        kb: Its store.
        work: The work folder, which gets ``index.faiss`` and ``index.json``.
        kind: ``auto`` (exact up to half a million images), ``Flat`` (exact), or any FAISS factory
            string, such as ``IVF8192,SQ8``.

    Returns:
        The factory string in use.

    Raises:
        UserError: No image at all, no such kind, or the index cannot be written.
    """
    if len(kb) == 0:
        raise UserError("The knowledge base has no usable image; check url_to_path_mapping.json.")
    asked = kind
    if kind == "auto":
        lists = 1 << max(4, int(np.log2(4 * len(kb) ** 0.5)))
        kind = "Flat" if len(kb) <= EXACT_BELOW else f"IVF{lists},SQ8"
    header = {"kind": kind, "asked": asked, "rows": len(kb), "store": kb.digest}
    path, about = work / "index.faiss", work / "index.json"
    if path.is_file() and about.is_file() and read_json(about, INDEX_MEND) == header:
        return kind
    about.unlink(missing_ok=True)
    try:
        index = faiss.index_factory(kb.dim, kind, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UserError(f"index kind {kind!r}: FAISS knows no such index.") from error
    if not index.is_trained:
        try:
            index.train(_training_rows(kb, index))
        except RuntimeError as error:
            raise UserError(
                f"index kind {kind!r} cannot be trained on {len(kb)} images: use one with fewer "
                "cells, or Flat."
            ) from error
    with progress(total=len(kb), desc="index", unit="img") as bar:
        for block in kb.blocks():
            index.add(np.ascontiguousarray(block))
            bar.update(len(block))
    with whole_file(path, RuntimeError) as partial:
        faiss.write_index(index, str(partial))
    write_json(about, header)
    return kind


def open_index(kb: EmbeddingStore, work: Path) -> Any:
    """The index of this knowledge base.

    Raises:
        UserError: Missing, damaged, or of another knowledge base or scorer.
    """
    header = read_json(work / "index.json", INDEX_MEND)
    if header.get("store") != kb.digest:
        raise UserError(f"{work / 'index.json'}: is the index of other embeddings; {INDEX_MEND}.")
    index = read_faiss(work / "index.faiss", INDEX_MEND)
    if (index.ntotal, index.d) != (len(kb), kb.dim):
        raise UserError(
            f"{work / 'index.faiss'}: holds {index.ntotal} vectors of {index.d} numbers where the "
            f"knowledge base has {len(kb)} of {kb.dim}; {INDEX_MEND}."
        )
    if isinstance(index, faiss.IndexIVF):
        index.nprobe = min(NPROBE, index.nlist)
    return index


def read_faiss(path: Path, mend: str, flags: int = 0) -> Any:
    """Read a FAISS index.

    Raises:
        UserError: Missing or damaged; a MachineError where it cannot be read at all.
    """
    try:
        path.open("rb").close()  # FAISS tells what the machine says as it tells of damage
        return faiss.read_index(str(path), flags)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {mend}.") from None
    except OSError as error:
        raise refused(path, error) from error
    except (RuntimeError, MemoryError) as error:  # lengths in a damaged file may be anything
        raise UserError(f"{path}: damaged, or no FAISS index; {mend}.") from error


def open_index_kind(work: Path) -> str:
    """The kind of index that was asked for, ``auto`` where there is none yet."""
    path = work / "index.json"
    return read_json(path, INDEX_MEND).get("asked", "auto") if path.is_file() else "auto"


@dataclass(frozen=True, slots=True)
class Pools:
    """Candidate rows of every query of a split, by its number in the query store.

    Attributes:
        rows: (N, K) int64 rows of the knowledge base, best first; -1 where a pool is shorter.
        k: Most candidates of a query.
        about: How they were made.
    """

    rows: np.ndarray
    k: int
    about: dict[str, Any]

    @property
    def skipped(self) -> SkipReport:
        """What another system's pools lacked, with the first case of each reason."""
        return SkipReport.of(self.about["skipped"], self.about.get("examples", {}))


def pool_paths(work: Path, split: str) -> tuple[Path, Path]:
    """Rows and header of a split's pools."""
    return work / f"pool-{split}.npy", work / f"pool-{split}.json"


def search_pools(kb: EmbeddingStore, queries: QueryStore, work: Path, split: str, k: int) -> Pools:
    """Retrieve the K images nearest to every full query image, or keep pools of the same.

    An image is searched for once, and its pool is that of all questions about it.

    Args:
        kb: The knowledge base.
        queries: The queries of a split, embedded by the same scorer.
        work: The work folder with the index.
        split: Which split.
        k: Candidates per query; a smaller knowledge base gives all of its images.

    Raises:
        UserError: No index, or one of other embeddings; two scorers.
    """
    if k < 1:
        raise UserError(f"k={k}: a pool needs at least one candidate.")
    refuse_other_scorer(kb, queries, split)
    index_header = read_json(work / "index.json", INDEX_MEND)
    header = {
        "request": search_request(k, index_header.get("asked", "")),
        "index": index_header.get("kind"),
        "k": min(k, len(kb)),
        "kb": kb.digest,
        "queries": queries.digest,
        "skipped": {},
    }
    k = min(k, len(kb))
    if (kept := _kept(work, split, header)) is not None:
        return kept
    index = open_index(kb, work)

    def found() -> Iterator[np.ndarray]:
        for rows in chunks(range(len(queries)), BATCH):
            full = queries.vectors(rows)
            nearest = index.search(np.ascontiguousarray(full), k)[1]
            yield np.repeat(nearest, np.diff(queries.starts)[rows], axis=0)

    return write_pools(work, split, found(), queries.n_questions, k, header)


def search_request(k: int, index_kind: str) -> dict[str, Any]:
    """What was asked for, which decides the pools of given stores."""
    return {"from": "search", "k": k, "index": index_kind}


def refuse_other_scorer(kb: EmbeddingStore, queries: QueryStore, split: str) -> None:
    """Refuse queries and knowledge base of two scorers or sources."""
    for name in ("scorer", "source"):
        ours, theirs = queries.identity[name], kb.identity[name]
        if ours != theirs:
            raise UserError(
                f"{queries.folder}: the {split} queries are of {name} {ours} but the knowledge "
                f"base is of {theirs}; embed both with the same."
            )


def write_pools(
    work: Path,
    split: str,
    found: Iterator[np.ndarray],
    n_queries: int,
    k: int,
    header: dict[str, Any],
) -> Pools:
    """Write the pools of a split whole, from blocks of rows (B, K) in the order of the queries.

    ``header`` is written when the blocks are exhausted, so they may still count into it.
    """
    path, about = pool_paths(work, split)
    about.unlink(missing_ok=True)

    def write(file: BinaryIO) -> None:
        # Not through a memory map, where a full disk ends the process instead of raising.
        shape = {"descr": "<i8", "fortran_order": False, "shape": (n_queries, k)}
        np.lib.format.write_array_header_1_0(file, shape)
        for block in found:
            file.write(np.ascontiguousarray(block, dtype="<i8").tobytes())
            bar.update(len(block))

    with progress(total=n_queries, desc=f"pool {split}", unit="query") as bar:
        write_whole(path, write)
    write_json(about, header)
    return open_pools(work, split)


def open_pools(work: Path, split: str) -> Pools:
    """The pools of a split.

    Raises:
        UserError: Missing or damaged.
    """
    path, about = pool_paths(work, split)
    header = read_json(about, POOL_MEND)
    return Pools(map_npy(path, POOL_MEND), header["k"], header)


def _kept(work: Path, split: str, header: dict[str, Any]) -> Pools | None:
    path, about = pool_paths(work, split)
    if not path.is_file() or not about.is_file() or read_json(about, POOL_MEND) != header:
        return None
    return open_pools(work, split)


def _training_rows(kb: EmbeddingStore, index: Any) -> np.ndarray:
    """A sample of the rows, enough for every list of an inverted file."""
    wanted = TRAIN_PER_LIST * max(getattr(index, "nlist", 0), 1024)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(kb), min(wanted, len(kb)), replace=False))
    return kb.vectors(rows)
