"""The stages of `regionr1 data`: a stage is its dataclass.

The fields are its options, on the command line and here, and each is described once, in the class
that brings it. `run` does the work. Nothing heavy is imported before that, so `--help` is quick.
Every stage leaves its result in a work folder, refuses what another scorer or split left there, and
does nothing twice.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from regionr1.data.readers.base import SPLITS
from regionr1.data.readers.registry import SourceName, open_source
from regionr1.errors import UserError
from regionr1.files import alone

if TYPE_CHECKING:
    import torch

    from regionr1.data.readers.base import Source
    from regionr1.data.shards.index import ShardIndex
    from regionr1.scorers.base import Scorer

StoreDtype = Literal["float32", "float16"]
EMBED_MEND = "embed with `regionr1 data embed`"


@dataclass(kw_only=True)
class SplitOptions:
    """Which part of a data set.

    Attributes:
        splits: Which splits, as in ``[train,val]``.
    """

    splits: tuple[str, ...] = SPLITS


@dataclass(kw_only=True)
class ScorerOptions:
    """How a scorer is run; none of it changes what an embedding is.

    Attributes:
        batch_size: Images per scorer call.
        part_size: Images of a part; a killed run loses at most one part per process.
        devices: Processes, one per GPU or several on the CPU.
        accelerator: Where the scorer runs; ``auto`` takes GPUs if there are any.
    """

    batch_size: int = 64
    part_size: int = 4096
    devices: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"


@dataclass(kw_only=True)
class EmbedOptions(ScorerOptions, SplitOptions):
    """What is embedded.

    Attributes:
        root: Folder of the published files.
        source: Layout of the files, by the name of its reader.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        scorer: The frozen dual encoder: ``builtin``, or a YAML file as in ``conf/scorer/``.
        include_two_hop: Keep two-hop questions, with both pages as gold.
        skip_missing: Leave out and count queries whose image is missing or unreadable.
        dtype: Of the embeddings on disk; float16 halves them.
    """

    root: Path
    source: SourceName = "evqa"
    kb: str | None = None
    scorer: str = "builtin"
    include_two_hop: bool = False
    skip_missing: bool = False
    dtype: StoreDtype = "float32"

    def open_source(self) -> "Source":
        """Open the reader of the published files; every process opens its own."""
        return open_source(self.source, self.root, self.kb, self.include_two_hop)

    def open_scorer(self, device: "torch.device | str" = "cpu") -> "Scorer":
        """Load the scorer; every process loads its own."""
        from regionr1.scorers.load import load_scorer

        return load_scorer(self.scorer).to(device).eval()


@dataclass(kw_only=True)
class PoolOptions(SplitOptions):
    """Where candidates come from.

    Attributes:
        k: Candidates per query: images when searched, pages when imported.
        results: Result file of EchoSight or OMGM, for one split.
        faiss: EchoSight's index folder (kb_index.faiss, kb_index_ids.pkl) or OMGM's index file.
    """

    k: int = 20
    results: Path | None = None
    faiss: Path | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UserError(f"k={self.k}: a pool needs at least one candidate.")
        if self.results is not None and self.faiss is not None:
            raise UserError("results and faiss are two sources of pools: give one of them.")
        for path in (self.results, self.faiss):
            if path is not None and not path.exists():
                raise UserError(f"{path}: no such file or folder.")
        if self.results is not None and len(self.splits) > 1:
            raise UserError(
                f"{self.results}: holds the results of one split; name it with --splits."
            )


@dataclass(kw_only=True)
class ShardOptions(SplitOptions):
    """How shards are written.

    Attributes:
        out: Folder of the shards.
        overwrite: Replace shards that were built from something else.
        samples_per_shard: Most questions of a tar; those about one image stay together.
        shard_dtype: Of the embeddings in the shards; float16 halves them, scores are float32.
    """

    out: Path
    overwrite: bool = False
    samples_per_shard: int = 256
    shard_dtype: StoreDtype = "float32"


@dataclass(kw_only=True)
class Embed(EmbedOptions):
    """Embed the knowledge base and the queries; run again after a kill, it goes on.

    Attributes:
        splits: Whose queries to embed; none embeds the knowledge base only.
        work: Folder for the embeddings, which later stages read.
    """

    work: Path

    def run(self) -> None:
        """Embed, and say what was left out."""
        from regionr1.data.build.embed import kb_folder, query_folder
        from regionr1.data.build.embed_run import run_embedding
        from regionr1.data.build.query_store import QueryStore
        from regionr1.data.build.store import EmbeddingStore

        with alone(self.work, "embeds into it"):
            run_embedding(self, self.work)
        stores = [QueryStore(query_folder(self.work, s), EMBED_MEND) for s in self.splits]
        for store in (*stores, EmbeddingStore(kb_folder(self.work), EMBED_MEND)):
            print("\n".join(store.summary()))
        print(f"embedded into {self.work}; next: regionr1 data index --work {self.work}")


@dataclass(kw_only=True)
class Index:
    """Build the FAISS index over the embedded knowledge base.

    Attributes:
        work: The work folder that ``embed`` filled.
        kind: ``Flat`` (exact), any FAISS factory string, or ``auto``: exact up to half a million
            images, beyond that an inverted file of 8-bit vectors, trained on a sample.
    """

    work: Path
    kind: str = "auto"

    def run(self) -> None:
        """Build it, and name the next stage."""
        from regionr1.data.build.embed import kb_folder
        from regionr1.data.build.pools import build_index
        from regionr1.data.build.store import EmbeddingStore

        store = EmbeddingStore(kb_folder(self.work), EMBED_MEND)
        kind = build_index(store, self.work, self.kind)
        print(
            f"index {kind} over {len(store):,} images; next: regionr1 data pool --work {self.work}"
        )


@dataclass(kw_only=True)
class Pool(PoolOptions):
    """Retrieve the candidates of every query, or import those of another system.

    Attributes:
        work: The work folder that ``embed`` and ``index`` filled.
    """

    work: Path

    def run(self) -> None:
        """Make the pools, and say what they lack."""
        from regionr1.data.build.pipeline import make_pools
        from regionr1.data.build.pools import open_index_kind, open_pools

        make_pools(self.work, self.splits, self, open_index_kind(self.work))
        for split in self.splits:
            pools = open_pools(self.work, split)
            print(f"{split}: {len(pools.rows):,} pools of up to {pools.k}")
            for line in pools.skipped.lines():
                print(f"{split}: {line}")


@dataclass(kw_only=True)
class Prepare(EmbedOptions, PoolOptions, ShardOptions):
    """Embed, index, pool, write shards and verify them; run again after a kill, it goes on.

    Attributes:
        work: Folder for embeddings, index and pools; only needed again to change what follows. Left
            out, they lie in a hidden folder beside ``out`` until all is done.
        index_kind: Kind of our own index; see ``regionr1 data index --help``.
    """

    work: Path | None = None
    index_kind: str = "auto"

    def run(self) -> None:
        """Build the shards and check them byte by byte."""
        from regionr1.data.shards.describe import describe, verify

        self.build()
        print(describe(verify(self.out, content=False)))

    def build(self) -> "list[ShardIndex]":
        """Build the shards of every split; those built from the same before are kept.

        Returns:
            The index of every split, in their order.

        Raises:
            UserError: Bad input, or ``out`` holds other shards and ``overwrite`` is off.
        """
        from regionr1.data.build.pipeline import build_shards

        return build_shards(self)


@dataclass(kw_only=True)
class Shards(Prepare):
    """Build WebDataset shards from published files, with all that comes before them.

    With ``work``, only the shards are written, from what ``embed``, ``index`` and ``pool`` left.

    Attributes:
        work: Work folder of the earlier stages; what they decided is not asked again.
    """

    def run(self) -> None:
        """Build the shards and describe them."""
        from regionr1.data.build.write import shards_from_work
        from regionr1.data.shards.describe import describe

        made = self.build() if self.work is None else shards_from_work(self, self.root, self.work)
        print(describe(made))


@dataclass(kw_only=True)
class AddScorer(ScorerOptions):
    """Add another scorer's embeddings to shards; run again after a kill, it goes on.

    Queries, candidates, their order and their labels stay as the shards' own scorer found them:
    only scores change. ``fit``, ``test`` and ``premise`` with that scorer then read these.

    Attributes:
        shards: The shard folder.
        root: Folder of the published files that the shards were built from.
        scorer: The scorer to add: a YAML file as in ``conf/scorer/``, weights, or its name.
        kb: Name of the knowledge-base file in ``root``; by default the layout's usual one.
        splits: To which splits; by default those in the folder.
    """

    shards: str | Path
    root: Path
    scorer: str
    kb: str | None = None
    splits: tuple[str, ...] | None = None

    def run(self) -> None:
        """Add the embeddings and describe the shards."""
        from regionr1.data.build.add_scorer import add_scorer
        from regionr1.data.shards.describe import describe

        print(describe(add_scorer(self)))
