"""Embedding in one process or several, through Lightning Fabric."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.multiprocessing import ProcessRaisedException

from regionr1.data.build.candidate_set import Pooled
from regionr1.data.build.embed import EmbedOptions, embed_kb, embed_queries
from regionr1.data.build.store_writer import StoreDtype
from regionr1.data.readers.registry import SourceName, open_source
from regionr1.errors import UserError, at_least_one, crossed
from regionr1.scorers.load import load_scorer

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(slots=True)
class EmbedJob:
    """What to embed; plain data, because every process opens its own source and scorer.

    Not frozen: Fabric writes the fields when it hands them to a process.

    Attributes:
        root: Folder of the published files.
        work: The work folder.
        source: Layout of the files.
        kb: Name of the knowledge-base file.
        scorer: The frozen dual encoder.
        splits: Whose queries.
        include_two_hop: Keep two-hop questions.
        skip_missing: Count queries without a readable image instead of raising.
        batch_size: Images per scorer call.
        part_size: Images of a part.
        dtype: Of the embeddings on disk.
        pooled: File of the candidates to embed; None embeds the whole knowledge base.
    """

    root: Path
    work: Path
    source: SourceName
    kb: str | None
    scorer: str
    splits: tuple[str, ...]
    include_two_hop: bool
    skip_missing: bool
    batch_size: int
    part_size: int
    dtype: StoreDtype = "float32"
    pooled: Path | None = None


def run_embedding(job: EmbedJob, devices: int = 1, accelerator: str = "auto") -> None:
    """Embed the knowledge base and the queries of every split.

    Args:
        job: What.
        devices: Processes; part n of a store belongs to process n modulo their number.
        accelerator: ``auto``, ``cpu`` or ``gpu``.

    Raises:
        UserError: Bad input, met in any of the processes.
    """
    at_least_one(devices=devices, batch_size=job.batch_size, part_size=job.part_size)
    device = device_of(accelerator)
    if devices == 1:
        _embed(job, 0, 1, device, None)
        return
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator=accelerator, devices=devices, strategy="ddp_spawn")
    try:
        fabric.launch(_embed_rank, job)  # type: ignore[arg-type]
    except ProcessRaisedException as error:
        raise crossed(error) or error from error


def _embed_rank(fabric: Fabric, job: EmbedJob) -> None:
    _embed(job, fabric.global_rank, fabric.world_size, fabric.device, fabric)


def _embed(
    job: EmbedJob, rank: int, world_size: int, device: torch.device, fabric: Fabric | None
) -> None:
    source = open_source(job.source, job.root, job.kb, job.include_two_hop)
    scorer = load_scorer(job.scorer).to(device).eval()
    options = EmbedOptions(job.batch_size, job.part_size, job.dtype, rank, world_size)
    # Queries first: what is wrong with them shows before days went into the knowledge base.
    completes = [
        embed_queries(source, scorer, job.work, split, job.skip_missing, options)
        for split in job.splits
    ]
    if job.pooled is None:
        completes.append(embed_kb(source, scorer, job.work, options))
    else:
        pooled = Pooled.load(job.pooled)
        completes.append(embed_kb(source, scorer, job.work, options, lambda *pair: pair in pooled))
    if fabric is not None:
        fabric.barrier()
    if rank == 0:
        for complete in completes:
            complete()


def device_of(accelerator: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``gpu`` means here."""
    gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not gpu:
        raise UserError("accelerator=gpu: torch finds no GPU here; use cpu or auto.")
    return torch.device("cuda" if gpu and accelerator != "cpu" else "cpu")
