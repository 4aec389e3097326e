"""What must hold of shards wherever they lie: checked over http, pipes and S3."""

from collections import Counter

from regionr1.cli import data as commands
from regionr1.data.shards.index import load_index
from regionr1.data.shards.location import as_location
from regionr1.data.shards.stream import ShardStream, read_batches, read_samples


def keys(location) -> list[str]:
    """Keys of the test split in the order of the shards."""
    return [sample.key for sample in read_samples(location, load_index(location, "test"))]


def check_the_same_samples(remote: str, shards, capsys) -> None:
    """The same samples and the same description as in the folder."""
    assert keys(as_location(remote)) == keys(shards)
    commands.verify(remote)
    there = capsys.readouterr().out
    commands.verify(shards, splits=("train", "val", "test"))
    assert there == capsys.readouterr().out


def check_two_ranks_of_two_workers(remote: str, start_method: str) -> None:
    """Two ranks of two workers read every sample once."""
    location = as_location(remote)
    index = load_index(location, "test")
    seen: Counter = Counter()
    for rank in range(2):
        stream = ShardStream(location, index, 3, rank=rank, world_size=2)
        seen.update(key for batch in read_batches(stream, 2, start_method) for key in batch.keys)
    assert len(seen) == index.n_samples and set(seen.values()) == {1}
