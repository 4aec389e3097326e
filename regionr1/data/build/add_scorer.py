"""Another scorer's embeddings beside the shards: the same samples, candidates, order and labels.

They are tars like the shards, in a folder of their own, and are recorded in the index of a split
when all of that split's are whole. What is not finished lies in a hidden folder, from which a
killed run goes on: candidates are embedded part by part, and tars are written one by one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from filelock import FileLock, Timeout

from regionr1.data.build.candidate_set import CandidateSet
from regionr1.data.build.embed import DECODE_THREADS, as_finite_array, kb_folder, kb_identity
from regionr1.data.build.embed_run import device_of, run_embedding
from regionr1.data.build.stages import AddScorer, EmbedOptions, ScorerOptions
from regionr1.data.build.store import EmbeddingStore
from regionr1.data.chunks import chunks
from regionr1.data.npy import unit
from regionr1.data.readers.registry import SourceName
from regionr1.data.shards.index import (
    AddedScorer,
    ShardIndex,
    check_shards,
    indexed_splits,
    verify_index,
)
from regionr1.data.shards.location import Remote, as_location
from regionr1.data.shards.samples import ShardImage, pack_embeddings, read_embeddings
from regionr1.data.shards.stream import read_images
from regionr1.data.shards.writer import write_tar
from regionr1.errors import MachineError, UserError
from regionr1.files import file_sha256, read_json, refused, remove_half_written, write_json
from regionr1.progress import progress
from regionr1.scorers.base import Scorer
from regionr1.scorers.load import load_scorer

MEND = "add the scorer again"


def add_scorer(options: AddScorer) -> list[ShardIndex]:
    """Add a scorer's embeddings to shards; what is there already and whole is kept.

    Returns:
        The index of every split, as this scorer sees it.

    Raises:
        UserError: Damaged shards, their own scorer, other published files, or a full disk.
    """
    shards = as_location(options.shards)
    if isinstance(shards, Remote):
        raise UserError(f"{shards}: embeddings are added to shards in a folder; copy them first.")
    splits = options.splits or indexed_splits(shards)
    indices = [verify_index(shards, split, checksums=True) for split in splits]
    try:
        with FileLock(shards / ".add-scorer.lock", timeout=0):
            remove_half_written(shards)
            fingerprint = _add(shards, indices, options)
    except Timeout:
        raise UserError(
            f"{shards}: another process is adding a scorer to these shards; wait for it."
        ) from None
    except OSError as error:
        raise refused(shards, error, "cannot be written") from error
    return [verify_index(shards, split, fingerprint) for split in splits]


def _add(shards: Path, indices: Sequence[ShardIndex], options: AddScorer) -> str:
    """Add what is missing; returns the scorer's fingerprint."""
    model = load_scorer(options.scorer)
    fingerprint = model.fingerprint()
    for index in indices:
        if index.scorer_fingerprint == fingerprint:
            raise UserError(
                f"{shards}: its {index.split} shards were made with this scorer, {fingerprint}; "
                "name another one to add."
            )
    # A fingerprint may hold any character of a model's name.
    name = f"scorer-{hashlib.sha256(fingerprint.encode()).hexdigest()[:12]}"
    staging = shards / f".{name}.partial"
    missing = [index for index in indices if not _is_whole(shards, index, fingerprint)]
    if not missing:
        shutil.rmtree(staging, ignore_errors=True)  # of a run killed when all was there
        return fingerprint
    # What embedding needs to know, all of which adding knows too.
    embedding = EmbedOptions(
        root=options.root,
        source=cast(SourceName, missing[0].source),
        kb=options.kb,
        scorer=options.scorer,
        splits=(),
        **{f.name: getattr(options, f.name) for f in fields(ScorerOptions)},
    )
    # Of all splits that were asked for: a killed run has perhaps done some of them.
    identity = {
        "shards": [[shard.sha256 for shard in index.shards] for index in indices],
        "kb": kb_identity(embedding.open_source(), model, options.part_size),
    }
    del model  # every process loads its own, and it may fill half of the memory
    _open_staging(staging, identity)
    candidates = staging / "candidates.npy"
    if not candidates.is_file():
        CandidateSet.of(shards, indices).save(candidates)
    run_embedding(embedding, staging, candidates)
    model = embedding.open_scorer(device_of(options.accelerator))
    store = EmbeddingStore(kb_folder(staging), MEND)
    writer = _Writer(shards, options.root, name, staging, model, store, options.batch_size)
    for index in missing:
        others = [other for other in index.scorers if other.fingerprint != fingerprint]
        index.scorers = [*others, writer.write(index)]
        index.save(shards)
    shutil.rmtree(staging)
    return fingerprint


def _is_whole(shards: Path, index: ShardIndex, fingerprint: str) -> bool:
    seen = index.seen_by(fingerprint)
    if seen is None:
        return False
    try:
        check_shards(shards, seen.embeddings, checksums=True)
    except MachineError:
        raise
    except UserError:
        return False  # writing them again loses nothing
    return True


def _open_staging(staging: Path, identity: dict[str, Any]) -> None:
    """Go on with what a killed run left, if it was made from the same; otherwise begin afresh."""
    path = staging / "identity.json"
    try:
        if read_json(path, MEND) == json.loads(json.dumps(identity)):  # where tuples are lists
            return
    except MachineError:  # what lies there may be whole
        raise
    except UserError:
        pass
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    write_json(path, identity)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes a scorer's tars.

    Attributes:
        shards: The shard folder.
        root: Folder of the published files, for error messages.
        name: Of the scorer's folder in it.
        staging: Where tars lie until all of a split are whole.
        scorer: Embeds the query images, which the shards hold.
        store: Embeddings of the candidates.
        batch_size: Images per scorer call.
    """

    shards: Path
    root: Path
    name: str
    staging: Path
    scorer: Scorer
    store: EmbeddingStore
    batch_size: int

    def write(self, index: ShardIndex) -> AddedScorer:
        """Write those of a split that are not there yet, then move all into place."""
        files, total = [], 0
        bar = progress(index.shards, desc=f"add to {index.split}", unit="shard")
        for number, shard in enumerate(bar):
            tar, about = self.staging / shard.name, self.staging / f"{shard.name}.json"
            if not about.is_file():
                full_first = self._write_tar(index, number, tar)
                write_json(about, {"full_first": full_first})  # last: the tar is whole
            total += read_json(about, MEND)["full_first"]
            name, size = f"{self.name}/{shard.name}", tar.stat().st_size
            files.append(replace(shard, name=name, sha256=file_sha256(tar), bytes=size))
        (self.shards / self.name).mkdir(exist_ok=True)
        for shard in index.shards:
            (self.staging / f"{shard.name}.json").unlink()  # first: then the tar counts no more
            (self.staging / shard.name).replace(self.shards / self.name / shard.name)
        return AddedScorer(self.scorer.fingerprint(), self.store.dim, total, files)

    def _write_tar(self, index: ShardIndex, number: int, path: Path) -> int:
        """Write one tar; returns how many questions have a positive first by the full image."""
        full_first = 0

        def encoded() -> Iterator[dict[str, Any]]:
            nonlocal full_first
            for image, files in self._embedded(index, number):
                candidates, full = read_embeddings(files)  # as they will be read
                for question in image.record["questions"]:
                    scores = candidates[question["candidates"]] @ full
                    full_first += question["labels"][int(np.argmax(scores))]
                yield {"__key__": image.key, **files}

        write_tar(path, encoded())
        return full_first

    def _embedded(
        self, index: ShardIndex, number: int
    ) -> Iterator[tuple[ShardImage, dict[str, bytes]]]:
        """The images of a shard with the files of their embeddings."""
        images = read_images(self.shards, index, number)
        with ThreadPoolExecutor(DECODE_THREADS) as threads:
            for chunk in chunks(images, self.batch_size):
                samples = list(threads.map(ShardImage.samples, chunk))
                vectors = self.scorer.embed_images([of_image[0].image for of_image in samples])
                full = unit(as_finite_array(vectors, [image.where for image in chunk]))
                for image, view in zip(chunk, full, strict=True):
                    yield image, pack_embeddings(self._candidates(image), view, index.dtype)

    def _candidates(self, image: ShardImage) -> np.ndarray:
        pages, names = (image.record[f"candidate_{what}"] for what in ("ids", "images"))
        rows = []
        for page, name in zip(pages, names, strict=True):
            row = self.store.find(page, name)
            if row is None:
                raise UserError(
                    f"{self.root}: candidate {name} of page {page!r} is not in its knowledge base "
                    "or cannot be read; name the folder, and with --kb the file, that the shards "
                    "were built from."
                )
            rows.append(row)
        return self.store.vectors(rows)
