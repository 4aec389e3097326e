"""Who reads what: exact coverage for any number of shards, ranks and workers."""

from collections import Counter

import pytest
from evqa_files import make_shards
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from regionr1.data.shards.index import load_index
from regionr1.data.shards.stream import ShardStream, plan_slices, read_batches
from regionr1.errors import UserError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("evqa"), {"train": 22, "val": 10, "test": 12})


@pytest.fixture(scope="module")
def few_shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("few"), samples_per_shard=3)


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    ranks=st.integers(1, 3),
    workers=st.integers(1, 3),
    order=st.randoms(),
)
def test_slices_cover_every_sample_once(counts, ranks, workers, order) -> None:
    shards = list(range(len(counts)))
    order.shuffle(shards)
    consumers = ranks * workers
    seen: Counter = Counter()
    sizes = []
    for consumer in range(consumers):
        slices = plan_slices(counts, shards, consumer, consumers)
        sizes.append(sum(part.stop - part.start for part in slices))
        seen.update((p.shard, n) for p in slices for n in range(p.start, p.stop))
    assert seen == {(shard, n): 1 for shard, count in enumerate(counts) for n in range(count)}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_covers_exactly(shards, ranks, workers) -> None:
    index = load_index(shards, "test")
    seen: Counter = Counter()
    for rank in range(ranks):
        stream = ShardStream(shards, index, 3, rank=rank, world_size=ranks)
        batches = list(DataLoader(stream, batch_size=None, num_workers=workers, collate_fn=as_list))
        assert len(batches) == stream.n_batches(workers)
        seen.update(key for (batch,) in batches for key in batch.keys)
    assert len(seen) == index.n_samples == 13 and set(seen.values()) == {1}


def as_list(batch):
    return [batch]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_passes_cover_all_ranks(shards, workers) -> None:
    index = load_index(shards, "train")
    seen: Counter = Counter()
    for rank in range(2):
        stream = ShardStream(shards, index, 1, rank=rank, world_size=2, endless=True, seed=3)
        consumers = 2 * max(workers, 1)
        for worker in range(max(workers, 1)):
            consumer = rank * max(workers, 1) + worker
            seen.update(image.key for image, _ in stream._undecoded(0, consumer, consumers))
    assert len(seen) == 23 and set(seen.values()) == {1}


def test_more_workers_than_samples(few_shards) -> None:
    index = load_index(few_shards, "train")
    stream = ShardStream(few_shards, index, 1, rank=0, world_size=9, endless=True)
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"^\S+: 8 train samples cannot feed .* use fewer\.$"):
            list(read_batches(stream, workers, "fork"))
    evaluation = [ShardStream(few_shards, index, 1, rank=r, world_size=9) for r in range(9)]
    assert sum(len(list(stream)) for stream in evaluation) == 8


def test_pools_of_different_length_are_padded(few_shards) -> None:
    index = load_index(few_shards, "test")
    index.k = 6
    batch = next(iter(ShardStream(few_shards, index, 2)))
    assert batch.candidates.shape == (2, 6, 12)
    assert batch.valid.tolist() == [[True] * 4 + [False] * 2] * 2
    assert not batch.labels[:, 4:].any()
