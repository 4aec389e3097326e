"""Samples of shards whose entities are colours: red and blue squares on green."""

from evqa_files import ColourScorer
from PIL import Image

from regionr1.data.shards.samples import ShardSample

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (30, 40, 210)
COLOURS = {"red": RED, "blue": BLUE}


def sample(key: str, gold: str, at: int, size: int = 8) -> ShardSample:
    """A green image of 64 x 64 with a square of the gold colour; the pool is green, red, blue."""
    image = Image.new("RGB", (64, 64), GREEN)
    image.paste(COLOURS[gold], (at, at, at + size, at + size))
    names = ["green", "red", "blue"]
    pool = [Image.new("RGB", (8, 8), c) for c in (GREEN, RED, BLUE)]
    scorer = ColourScorer()
    return ShardSample(
        key=key,
        image=image,
        question="Which?",
        gold_ids=[gold],
        cluster=gold,
        question_type="templated",
        source="web",
        candidate_ids=names,
        candidate_images=[f"{name}.png" for name in names],
        labels=[name == gold for name in names],
        candidates=scorer.embed_images(pool).numpy(),
        full=scorer.embed_images([image])[0].numpy(),
        reference_box_px=None,
    )
