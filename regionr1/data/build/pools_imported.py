"""Pools from other systems: result files of EchoSight and OMGM, and their FAISS indices.

They name pages, not pictures. Which picture of a page their score came from cannot be told (rows
without features were skipped when their index was built), so it is never guessed: a page stands
with the one of its images that our scorer finds nearest to the full query image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from regionr1.data.build.pools import NO_ROW, Pools, read_faiss, refuse_other_scorer, write_pools
from regionr1.data.build.query_store import QueryStore
from regionr1.data.build.safe_pickle import load_int_list
from regionr1.data.build.stages import PoolOptions
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.readers.json_object import scan_object
from regionr1.data.readers.key_index import IN_MEMORY_BELOW, KeyIndex
from regionr1.data.records import SkipReport
from regionr1.errors import UserError
from regionr1.files import file_identity

NO_RESULT = "no retrieval result for the query"
NOT_IN_KB = "retrieved page is not in the knowledge base"
NO_PICTURE = "retrieved page without a usable image"
_MAPPED = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
SEARCHED_ROWS = 20
"""EchoSight searches this many images and then counts their pages."""


def pools_from_results(
    kb: EmbeddingStore,
    queries: QueryStore,
    work: Path,
    split: str,
    k: int,
    results: Path,
) -> Pools:
    """Import the pools of a result file: ``{data_id: {"retrieved_entries": [page, ...]}}``.

    EchoSight and WikiSeeker write ``retrieved_entries``, OMGM ``retrieved_entities``; a page is
    its URL, or an object with ``url``. Repeated pages count once.

    Args:
        kb: The knowledge base.
        queries: The queries of a split.
        work: The work folder.
        split: Which split.
        k: Most pages of a pool.
        results: The file.

    Raises:
        UserError: The file is malformed, or knows none of the queries.
    """
    refuse_other_scorer(kb, queries, split)

    table = retrieved_pages(results)
    skipped = SkipReport()
    header = _header(kb, queries, k, import_request("results", k, results))

    def found() -> Iterator[np.ndarray]:
        for row in range(len(queries)):
            full = queries.vectors([row])[0]
            for data_id in (query.data_id for query in queries.questions(row)):
                stored = table.get(data_id) if data_id else None
                if stored is None:
                    skipped.add(NO_RESULT, data_id)
                    yield np.full((1, k), NO_ROW)
                    continue
                pages = pages_of(json.loads(stored), f"{results}: {data_id!r}")[:k]
                yield _nearest_images(kb, full, pages, k, skipped)
        if skipped.counts[NO_RESULT] == queries.n_questions:
            first = queries.questions(0)[0].data_id
            raise UserError(
                f"{results}: holds no result for any of the {queries.n_questions} {split} queries "
                f"(the first would be {first!r}); name the file of this split."
            )
        header.update(skipped=skipped.as_dict(), examples=skipped.first)

    return write_pools(work, split, found(), queries.n_questions, k, header)


def pools_from_faiss(
    kb: EmbeddingStore, queries: QueryStore, work: Path, split: str, k: int, source: Path
) -> Pools:
    """Search an index that EchoSight or OMGM built, and keep the pages it finds.

    Args:
        kb: The knowledge base; its file must be the one that the index was built over, because
            the index counts pages in the order of that file.
        queries: The queries of a split, embedded by the scorer of the index.
        work: The work folder.
        split: Which split.
        k: Most pages of a pool.
        source: EchoSight's folder of ``kb_index.faiss`` and ``kb_index_ids.pkl``, or OMGM's one
            index file with a row per page.

    Raises:
        UserError: The index does not fit the knowledge base or the scorer, or the ids are no
            plain list of integers.
    """
    refuse_other_scorer(kb, queries, split)
    path = index_file(source)
    index = read_faiss(path, "name the right one", _MAPPED)
    if index.d != kb.dim:
        raise UserError(
            f"{path}: holds vectors of {index.d} numbers where the scorer gives {kb.dim}; embed "
            "with the scorer that this index was built with."
        )
    n_entities = kb.counts["entities"]
    ids = np.asarray(_index_ids(source, index.ntotal, n_entities, path), dtype=np.int64)
    searched = min(index.ntotal, max(SEARCHED_ROWS, k))
    skipped = SkipReport()
    header = _header(kb, queries, k, import_request("faiss", k, path))

    def found() -> Iterator[np.ndarray]:
        for row in range(len(queries)):
            full = queries.vectors([row])
            rows = index.search(full, searched)[1][0]
            pages = list(dict.fromkeys(kb.entity_at(int(ids[r])) for r in rows if r >= 0))
            asked = int(queries.starts[row + 1] - queries.starts[row])
            nearest = _nearest_images(kb, full[0], pages[:k], k, skipped, asked)
            yield np.repeat(nearest, asked, axis=0)
        header.update(skipped=skipped.as_dict(), examples=skipped.first)

    return write_pools(work, split, found(), queries.n_questions, k, header)


def check_import(options: PoolOptions) -> None:
    """Refuse what cannot be imported before anything is embedded for it.

    Raises:
        UserError: A malformed result file, or ids that are no plain list of integers.
    """
    if options.results is not None:
        table = retrieved_pages(options.results)
        for data_id in table.keys():
            pages_of(json.loads(table.get(data_id) or "null"), f"{options.results}: {data_id!r}")
    elif options.faiss is not None:
        path = index_file(options.faiss)
        index = read_faiss(path, "name the right one", _MAPPED)
        if options.faiss.is_dir():
            _index_ids(options.faiss, index.ntotal, index.ntotal, path)


def import_request(kind: str, k: int, path: Path) -> dict[str, Any]:
    """What was asked for, which decides the pools of given stores."""
    return {"from": kind, "k": k, "file": file_identity(path)}


def _header(
    kb: EmbeddingStore, queries: QueryStore, k: int, request: dict[str, Any]
) -> dict[str, Any]:
    return {"request": request, "k": k, "kb": kb.digest, "queries": queries.digest}


def retrieved_pages(results: Path, in_memory_below: int = IN_MEMORY_BELOW) -> KeyIndex:
    """What `pages_of` reads, as JSON, by ``data_id``; a large file gets an index beside it."""
    what = "the retrieval results"

    def read() -> Iterator[tuple[str, str]]:
        for data_id, record in scan_object(results, what):
            found = None
            if isinstance(record, dict):
                found = record.get("retrieved_entries", record.get("retrieved_entities"))
            if isinstance(found, list):  # without the texts that some systems write beside the URL
                found = [entry.get("url") if isinstance(entry, dict) else entry for entry in found]
            yield data_id, json.dumps(found)

    return KeyIndex(results, what, read, in_memory_below)


def pages_of(found: object, where: str) -> list[str]:
    """The distinct pages of one query's result, best first.

    Args:
        found: The list of one query, as `retrieved_pages` stores it.
        where: File and query, for the error message.

    Raises:
        UserError: It is no list, or has something else than pages in it.
    """
    if not isinstance(found, list):
        raise UserError(f"{where}: has no list 'retrieved_entries' or 'retrieved_entities'.")
    pages: dict[str, None] = {}
    for page in found:
        if not isinstance(page, str) or not page:
            raise UserError(f"{where}: a retrieved page is neither a URL nor an object with 'url'.")
        pages[page] = None
    return list(pages)


def index_file(source: Path) -> Path:
    """The index in EchoSight's folder, or OMGM's file itself."""
    return source / "kb_index.faiss" if source.is_dir() else source


def _index_ids(source: Path, ntotal: int, n_entities: int, path: Path) -> list[int] | range:
    if not source.is_dir():
        if ntotal != n_entities:
            raise UserError(
                f"{path}: holds {ntotal:,} rows where the knowledge base has {n_entities:,} pages; "
                "an index of one row per page must have as many."
            )
        return range(ntotal)
    ids_path = source / "kb_index_ids.pkl"
    ids = load_int_list(ids_path)
    if len(ids) != ntotal:
        raise UserError(f"{ids_path}: holds {len(ids):,} ids for {ntotal:,} rows of {path.name}.")
    if ids and max(ids) >= n_entities:
        raise UserError(
            f"{ids_path}: names page {max(ids):,} but the knowledge base has {n_entities:,}; this "
            "index was built over another knowledge base."
        )
    return ids


def _nearest_images(
    kb: EmbeddingStore,
    full: np.ndarray,
    pages: list[str],
    k: int,
    skipped: SkipReport,
    asked: int = 1,
) -> np.ndarray:
    """(1, K) the image of each page that is nearest to the full query image, pages in order.

    A page that has none is counted for each of the questions that the pool is of.
    """
    rows = []
    for page in pages:
        own = kb.rows_of(page)
        if own:
            rows.append(own[int(np.argmax(kb.vectors(own) @ full))])
        else:
            skipped.add(NO_PICTURE if kb.knows(page) else NOT_IN_KB, page, asked)
    return np.asarray([rows + [NO_ROW] * (k - len(rows))], dtype=np.int64)
