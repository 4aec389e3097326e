"""Samples of shards, read in threads."""

import gc
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from regionr1.data.shards.samples import ShardImage, ShardSample, pack_image


@pytest.fixture
def slow_collections() -> Iterator[None]:
    """Garbage is collected all the time, and meanwhile other threads go on."""

    def pause(*_: object) -> None:
        time.sleep(2e-5)

    thresholds = gc.get_threshold()
    gc.callbacks.append(pause)
    gc.set_threshold(5)
    yield
    gc.set_threshold(*thresholds)
    gc.callbacks.remove(pause)


def test_threads_may_read_samples(slow_collections) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    sample = ShardSample(
        key="q", image=Image.new("RGB", (2, 2)), question="?", gold_ids=["a"], cluster="a",
        question_type="", source="", candidate_ids=["a"], candidate_images=["a.png"],
        labels=[True], candidates=np.eye(3, dtype=np.float32)[:1],
        full=np.eye(3, dtype=np.float32)[0],
        reference_box_px=None, subset="", data_id="café #7", image_name="pictures/1.png",
    )  # fmt: skip
    image = ShardImage.of(pack_image([sample], "query.png", picture.getvalue()), "here")
    (back,) = image.samples()
    assert (back.data_id, back.image_name) == ("café #7", "pictures/1.png")

    def read(depth: int) -> int:
        """The samples read; threads at several depths, which one count of depth mixes up."""
        return read(depth - 1) if depth else len([image.samples() for _ in range(150)])

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read, range(0, 24, 3))) == [150] * 8
