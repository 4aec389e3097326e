"""Embedding in one process or several, through Lightning Fabric."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.multiprocessing import ProcessRaisedException

from regionr1.data.build.candidate_set import CandidateSet
from regionr1.data.build.check import check_source
from regionr1.data.build.embed import embed_kb, embed_queries
from regionr1.data.build.stages import EmbedOptions
from regionr1.data.build.store_writer import Share
from regionr1.errors import UserError, at_least_one, crossed
from regionr1.memory import keep_freed_memory

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def run_embedding(options: EmbedOptions, work: Path, candidates: Path | None = None) -> None:
    """Embed the knowledge base and the queries of every split.

    Args:
        options: What and how.
        work: The work folder.
        candidates: File of the candidates to embed; None embeds the whole knowledge base.

    Raises:
        UserError: Bad input, met in any of the processes.
    """
    at_least_one(
        devices=options.devices, batch_size=options.batch_size, part_size=options.part_size
    )
    device = device_of(options.accelerator)
    check_source(options.open_source(), options.splits, options.skip_missing)
    if options.devices == 1:
        _embed(options, work, candidates, Share(), device, None)
        return
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator=options.accelerator, devices=options.devices, strategy="ddp_spawn")
    try:
        fabric.launch(_embed_rank, options, work, candidates)  # type: ignore[arg-type]
    except ProcessRaisedException as error:
        raise crossed(error) or error from error


def _embed_rank(fabric: Fabric, options: EmbedOptions, work: Path, candidates: Path | None) -> None:
    keep_freed_memory()  # a process of its own, which was not started as a command
    share = Share(fabric.global_rank, fabric.world_size)
    _embed(options, work, candidates, share, fabric.device, fabric)


def _embed(
    options: EmbedOptions,
    work: Path,
    candidates: Path | None,
    share: Share,
    device: torch.device,
    fabric: Fabric | None,
) -> None:
    source, scorer = options.open_source(), options.open_scorer(device)
    # Queries first: images that cannot be read show before days went into the knowledge base.
    completes = [
        embed_queries(
            source, scorer, work, split, options.skip_missing, options, options.dtype, share
        )
        for split in options.splits
    ]
    if candidates is None:
        completes.append(embed_kb(source, scorer, work, options, options.dtype, share))
    else:
        wanted = CandidateSet.load(candidates)
        completes.append(
            embed_kb(
                source, scorer, work, options, options.dtype, share, lambda *pair: pair in wanted
            )
        )
    if fabric is not None:
        fabric.barrier()
    if share.rank == 0:
        for complete in completes:
            complete()


def device_of(accelerator: str) -> torch.device:
    """The device that ``auto``, ``cpu`` or ``gpu`` means here."""
    gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not gpu:
        raise UserError("accelerator=gpu: torch finds no GPU here; use cpu or auto.")
    return torch.device("cuda" if gpu and accelerator != "cpu" else "cpu")
