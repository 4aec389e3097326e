"""RewardReranker: only distinct crops are encoded, and as if each were alone."""

import pytest
import torch
from evqa_files import ColourScorer
from PIL import Image
from written_policy import FULL, GREEN, RED, OneBatch, colour_batch, module, trainer, written

from regionr1.errors import UserError
from regionr1.scorers.builtin import BuiltinScorer, DualEncoder, fold_normalisation
from regionr1.scorers.reranker import RewardReranker


class CountingScorer(ColourScorer):
    """Remembers the size of every image it encodes, and never sees a candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[list[tuple[int, int]]] = []

    def embed_images(self, images):
        self.sizes.append([image.size for image in images])
        return super().embed_images(images)

    def embed_candidates(self, images, texts):
        raise AssertionError("candidates are never encoded here")


def counting() -> tuple[RewardReranker, CountingScorer]:
    reranker, scorer = RewardReranker("pixels"), CountingScorer()
    reranker.scorer = scorer
    return reranker, scorer


def noise(width: int, height: int, seed: int) -> Image.Image:
    torch.manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


A, B = (0, 0, 20, 10), (3, 4, 40, 30)


def test_equal_crops_of_one_image_are_encoded_once_in_one_batch() -> None:
    reranker, scorer = counting()
    views = reranker.views([noise(50, 40, 0), noise(50, 40, 1)], [[A, A, None, B], [A, None, A, A]])
    assert scorer.sizes == [[(20, 10), (37, 26), (20, 10)]]  # A and B of the first, A of the second
    assert (views.n_crops, views.n_encoded) == (6, 3)
    assert views.embeddings.shape == (2, 4, 12)
    assert torch.equal(views.embeddings[0, 0], views.embeddings[0, 1])
    assert not torch.equal(views.embeddings[0, 0], views.embeddings[1, 0])
    assert not views.embeddings[0, 2].any() and not views.embeddings[1, 1].any()


def test_without_crops_nothing_is_encoded() -> None:
    reranker, scorer = counting()
    views = reranker.views([noise(50, 40, 0)], [[None, None]])
    assert scorer.sizes == [] and (views.n_crops, views.n_encoded) == (0, 0)
    assert views.embeddings.shape == (1, 2, 12) and not views.embeddings.any()


def test_each_crop_is_encoded_as_if_it_were_alone() -> None:
    torch.manual_seed(0)
    reranker = RewardReranker("pixels")
    reranker.scorer = BuiltinScorer(DualEncoder())
    images = [noise(64, 50, 0), noise(40, 70, 1)]
    reranker.train()  # batch statistics would mix the crops
    together = reranker.views(images, [[A, B], [B, A]]).embeddings
    for b, g, box in ((0, 0, A), (0, 1, B), (1, 0, B), (1, 1, A)):
        alone = reranker.scorer.embed_images([images[b].crop(box)])[0]
        assert torch.allclose(together[b, g], alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=-1), torch.ones(2, 2))
    assert not together.requires_grad


def test_mixed_precision_does_not_reach_the_scorer() -> None:
    torch.manual_seed(0)
    reranker = RewardReranker("pixels")
    reranker.scorer = BuiltinScorer(DualEncoder())
    image, candidates = noise(64, 50, 0), torch.randn(1, 5, DualEncoder.DIM)
    plain = reranker.views([image], [[A, B]]).embeddings
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = reranker.views([image], [[A, B]]).embeddings
        scores = reranker.scores(mixed, candidates)
    assert torch.equal(mixed, plain) and scores.dtype == torch.float32
    assert torch.equal(scores, reranker.scores(plain, candidates))


class LearnedScorer(ColourScorer):
    """Left as torch makes it: in train mode, with gradients and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.Dropout(0.5))

    def embed_images(self, images):
        return torch.nn.functional.normalize(self.head(super().embed_images(images)), dim=1)


def test_a_scorer_of_ones_own_is_frozen_in_training_too(tiny_policy, tmp_path) -> None:
    path = tmp_path / "learned.yaml"
    path.write_text("class_path: test_reranker.LearnedScorer\n")
    reranker = RewardReranker(str(path))
    image = noise(40, 30, 0)
    stored = reranker.scorer.embed_candidates([image], [""])
    rgrpo = module(written(tiny_policy))
    rgrpo.reranker = reranker
    rgrpo.train()
    views = reranker.views([image], [[(0, 0, 40, 30)]])
    assert torch.equal(views.embeddings[0], stored) and not views.embeddings.requires_grad
    checkpoint = {"state_dict": rgrpo.state_dict()}
    rgrpo.on_save_checkpoint(checkpoint)
    assert not any("reranker" in name for name in checkpoint["state_dict"])


def test_scores_are_cosines_of_views_and_candidates() -> None:
    views = torch.nn.functional.normalize(torch.randn(2, 3, 12), dim=-1)
    candidates = torch.nn.functional.normalize(torch.randn(2, 5, 12), dim=-1)
    scores = RewardReranker.scores(views, candidates)
    expected = torch.cosine_similarity(views[:, :, None], candidates[:, None], dim=-1)
    assert scores.shape == (2, 3, 5) and torch.allclose(scores, expected, atol=1e-6)


def test_training_encodes_crops_only(tiny_policy) -> None:
    policy = written(tiny_policy)
    batch = colour_batch(["red", "green"])
    policy.groups = dict(
        zip(batch.questions, ([RED, RED, GREEN, FULL], [RED, FULL, RED, FULL]), strict=True)
    )
    rgrpo = module(policy, group_size=4)
    scorer = CountingScorer()
    rgrpo.reranker.scorer, rgrpo.reranker.remember = scorer, 0
    run = trainer(2)
    run.fit(rgrpo, datamodule=OneBatch(batch))
    assert scorer.sizes == [[(48, 48), (64, 64), (48, 48)]] * 2
    assert run.callback_metrics["scorer/images_encoded"] == 3
    assert run.callback_metrics["scorer/cache_hit_rate"] == 1 - 3 / 5


def test_crops_seen_before_are_not_encoded_again() -> None:
    reranker, scorer = counting()
    images, keys = [noise(50, 40, 0), noise(50, 40, 1)], ["train-0", "train-1"]
    first = reranker.views(images, [[A, B], [A, A]], keys)
    again = reranker.views(images[::-1], [[None, A], [A, B]], keys[::-1])
    assert scorer.sizes == [[(20, 10), (37, 26), (20, 10)]] and again.n_encoded == 0
    assert torch.equal(again.embeddings[0, 1], first.embeddings[1, 0])
    assert torch.equal(again.embeddings[1], first.embeddings[0])
    other = reranker.views(images, [[A], [B]], ["train-2", "train-1"])
    assert other.n_encoded == 2, "another query, another crop"


def test_memory_is_bounded_and_forgets_the_longest_unused() -> None:
    reranker, scorer = counting()
    reranker.remember = 2
    image, third = noise(50, 40, 0), (1, 1, 9, 9)
    reranker.views([image], [[A, B]], ["q"])
    reranker.views([image], [[A, third]], ["q"])  # A was used, so B goes
    assert len(reranker.memory) == 2
    assert reranker.views([image], [[A, third]], ["q"]).n_encoded == 0
    assert reranker.views([image], [[B]], ["q"]).n_encoded == 1
    with pytest.raises(UserError, match="remember"):
        RewardReranker("pixels", remember=-1)


def test_training_remembers_crops_from_step_to_step(tiny_policy) -> None:
    policy = written(tiny_policy)
    batch = colour_batch(["red"])
    policy.groups = {batch.questions[0]: [RED, GREEN]}
    seen = []
    for remember in (0, 10):
        rgrpo = module(policy)
        rgrpo.reranker.remember = remember
        run = trainer(2)
        run.fit(rgrpo, datamodule=OneBatch(batch))
        seen.append({k: float(v) for k, v in run.callback_metrics.items() if "/" in k})
        policy = written(tiny_policy)
        policy.groups = {batch.questions[0]: [RED, GREEN]}
    counters = ("scorer/images_encoded", "scorer/cache_hit_rate")
    assert [[run.pop(name) for name in counters] for run in seen] == [[2, 0], [0, 1]]
    assert seen[0] == seen[1]


def test_folding_normalisation_changes_no_embedding() -> None:
    pixels = torch.randint(0, 256, (3, 3, 224, 224), dtype=torch.uint8)
    plain = DualEncoder()
    with torch.no_grad():
        for layer in plain.modules():  # as if trained
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 1.5)
        plain.eval()
        expected = plain(pixels, plain.view_head)
        fold_normalisation(plain)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
        torch.testing.assert_close(plain(pixels, plain.view_head), expected)
