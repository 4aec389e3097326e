"""Streaming: exact coverage, fresh orders, honest resume, clear errors."""

from collections import Counter
from itertools import islice

import lightning as L
import pytest
import torch
from evqa_files import ColourScorer, make_shards, prepare_shards

from regionr1.data.readers.evqa import EvqaSource
from regionr1.data.shards.datamodule import RerankDataModule
from regionr1.errors import UserError


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("evqa"), {"train": 22, "val": 10, "test": 12})


@pytest.fixture
def own_shards(tmp_path):
    """Shards a test may damage."""
    return make_shards(tmp_path, samples_per_shard=3)


def module(folder, stage: str | None = None, **options) -> RerankDataModule:
    data = RerankDataModule(str(folder), **{"batch_size": 4, "eval_batch_size": 3, **options})
    if stage is not None:
        data.setup(stage)
    return data


@pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])
def test_ranks_never_overlap_under_any_start_method(shards, start_method) -> None:
    seen: Counter = Counter()
    for rank in range(2):
        data = module(shards, num_workers=2, start_method=start_method)
        data.trainer = FixedRank(rank, 2)
        data.setup("test")
        seen.update(key for batch in data.test_dataloader() for key in batch.keys)
    assert len(seen) == 13 and set(seen.values()) == {1}


class FixedRank:
    """What the data module reads of a trainer that runs on several ranks."""

    def __init__(self, global_rank: int, world_size: int) -> None:
        self.global_rank, self.world_size = global_rank, world_size
        self.is_global_zero = global_rank == 0


def keys_of_passes(data: RerankDataModule, n: int) -> list[list[str]]:
    """Keys of the first ``n`` passes of one rank (23 samples each, batch size 1)."""
    keys = [batch.keys[0] for batch in islice(data.train_dataloader(), 23 * n)]
    return [keys[start : start + 23] for start in range(0, 23 * n, 23)]


def test_training_reshuffles_every_pass_and_by_seed(shards) -> None:
    first, second = keys_of_passes(module(shards, batch_size=1), 2)
    assert sorted(first) == sorted(second) and len(set(first)) == 23
    assert first != second
    assert keys_of_passes(module(shards, batch_size=1), 1) == [first]
    assert keys_of_passes(module(shards, batch_size=1, seed=1), 1) != [first]


def test_training_batches_are_always_full(shards) -> None:
    loader = module(shards, batch_size=5, num_workers=2).train_dataloader()
    assert [len(batch) for batch in islice(loader, 12)] == [5] * 12


def test_iterating_again_takes_the_next_pass(shards) -> None:
    data = module(shards, batch_size=1)
    passes = keys_of_passes(data, 3)
    loader = module(shards, batch_size=1).train_dataloader()
    assert [b.keys[0] for b in islice(loader, 4)] == passes[0][:4]
    assert [b.keys[0] for b in islice(loader, 23)] == passes[1]
    assert [b.keys[0] for b in islice(loader, 4)] == passes[2][:4]


def test_state_dict_round_trip(shards) -> None:
    data = module(shards, batch_size=1)
    assert data.state_dict() == {}
    expected = keys_of_passes(data, 3)
    list(islice(data.train_dataloader(), 30))  # into the second pass
    state = data.state_dict()
    assert state == {"next_pass": 2}
    resumed = module(shards, batch_size=1)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == {}
    assert keys_of_passes(resumed, 1) == [expected[2]]
    assert resumed.state_dict() == {"next_pass": 3}


def test_batch_contents(shards) -> None:
    data = module(shards, "test")
    batch = next(iter(data.test_dataloader()))
    assert len(batch) == 3 and batch.keys[2] == "test-0000001-0"
    assert batch.candidates.shape == (3, 4, 12) and batch.full_embedding.shape == (3, 12)
    assert batch.labels.dtype == torch.bool and batch.valid.all()
    assert batch.labels.any(dim=1).all()
    for row in range(3):
        expected = [i in batch.gold_ids[row] for i in batch.candidate_ids[row]]
        assert batch.labels[row].tolist() == expected
    assert batch.reference_box_unit[:2].isnan().all()
    torch.testing.assert_close(batch.reference_box_unit[2], torch.tensor([0.25, 0.2, 0.75, 0.8]))
    assert batch.images[0].size == (48, 40) == (batch.widths[0], batch.heights[0])
    assert batch.images[0].mode == "RGB"
    assert batch.to("cpu").candidates.equal(batch.candidates)


def test_loader_leaves_the_global_random_state_alone(shards) -> None:
    before = torch.get_rng_state()
    list(module(shards, "test").test_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(L.LightningModule):
    """A real module that notes which queries it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(12))
        self.seen: list[str] = []

    def training_step(self, batch, _):
        self.seen += batch.keys
        return (batch.full_embedding @ self.weight).mean()

    def validation_step(self, batch, _):
        self.log("recall", batch.labels.any(1).float().mean(), batch_size=len(batch))

    def test_step(self, batch, _):
        self.seen += batch.keys

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_with_lightning_trainer_and_resume(shards, tmp_path) -> None:
    options = dict(accelerator="cpu", logger=False, enable_progress_bar=False)
    options |= dict(enable_model_summary=False, default_root_dir=tmp_path)
    recorder = Recorder()
    trainer = L.Trainer(max_steps=4, val_check_interval=2, check_val_every_n_epoch=None, **options)
    trainer.fit(recorder, datamodule=module(shards))
    assert len(recorder.seen) == 16
    assert trainer.callback_metrics["recall"] == 1.0
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    more = Recorder()
    data = module(shards)
    resumed = L.Trainer(max_steps=7, val_check_interval=2, check_val_every_n_epoch=None, **options)
    resumed.fit(more, datamodule=data, ckpt_path=path)
    assert len(more.seen) == 12
    assert data.state_dict() == {"next_pass": 2}
    tested = Recorder()
    L.Trainer(**options).test(tested, datamodule=module(shards))
    assert len(tested.seen) == len(set(tested.seen)) == 13


def test_fingerprints(own_shards) -> None:
    assert module(own_shards, "fit").fingerprint("fit") == "colour"
    assert not module(own_shards, "test").use_scorer("test", "other")
    root = own_shards.parent
    prepare_shards(
        EvqaSource(root), ColourScorer("b"), own_shards, splits=["val"], k=4, overwrite=True
    )
    with pytest.raises(UserError, match=r"train, val were made with different scorers \(b, colour"):
        module(own_shards, "fit")


def test_missing_folder_and_bad_arguments(tmp_path) -> None:
    with pytest.raises(UserError, match="no complete test shards"):
        module(tmp_path / "nowhere", "test")
    with pytest.raises(UserError, match="data.batch_size=0: must be at least 1"):
        module(tmp_path, batch_size=0)


def test_damage_is_caught_up_front(own_shards) -> None:
    tar = own_shards / "train-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:2000])
    with pytest.raises(UserError, match=r"train-000001\.tar: shard has 2,000 bytes"):
        module(own_shards, "fit")
    tar.write_bytes(whole[:3000] + b"\x07" + whole[3001:])
    with pytest.raises(UserError, match=r"train-000001\.tar: shard content was altered"):
        module(own_shards, "fit")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cut", [2000, 10240, 0])
def test_corrupt_tar_names_the_shard_in_one_sentence(own_shards, cut, workers) -> None:
    """A tar that goes bad after it was checked, read in the main process or in a worker."""
    data = module(own_shards, "test", num_workers=workers)
    tar = own_shards / "test-000001.tar"
    tar.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"test-000001\.tar: shard (is corrupt|ends) after") as info:
        list(data.test_dataloader())
    assert "\n" not in str(info.value)


def test_garbage_instead_of_a_tar(own_shards) -> None:
    data = module(own_shards, "test")
    (own_shards / "test-000000.tar").write_bytes(b"\x07" * 5000)
    with pytest.raises(UserError, match=r"test-000000\.tar: shard is corrupt after 0 samples"):
        list(data.test_dataloader())
