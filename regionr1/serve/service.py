"""Answers rows of requests, those of several requests together: what both servers stand on.

One thread decodes, decides and ranks, so that memory is that of one batch whoever asks at the same
time; requests wait in a bounded queue.
"""

import base64
import binascii
import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor, cat

from regionr1.data.images import open_image
from regionr1.errors import UserError, sentence
from regionr1.serve.limits import Busy, Limits
from regionr1.serve.ranking import Crop, Ranking
from regionr1.serve.region_reranker import RegionReranker

log = logging.getLogger(__name__)

Answer = dict[str, Any]
FIELDS = ("decision", "p_full", "p_region", "box", "ranking", "scores", "error")


class Service:
    """Answers rows: image and question, and candidates if a ranking is wanted.

    A row is answered by `decision` ("FULL", "REGION" or "INVALID"), `p_full` and `p_region` (exact
    probabilities of keeping the whole image and of a crop), `box` (xyxy in pixels of the upright
    image, null unless REGION), `ranking` (places in the list of candidates, best first) and
    `scores`. One that cannot be answered has a sentence as `error` and nothing else; the others
    are answered all the same.

    Args:
        reranker: Answers; nobody else may use it meanwhile.
        limits: What requests may ask for.
        wait_s: How long the first row of a batch waits for others.
    """

    def __init__(self, reranker: RegionReranker, limits: Limits, wait_s: float = 0.005) -> None:
        self.reranker = reranker
        self.limits = limits
        self.wait_s = wait_s
        self.batches: list[int] = []  # sizes of the last ones
        self._queue: queue.Queue[_Row] = queue.Queue(limits.waiting)
        threading.Thread(target=self._work, daemon=True, name="regionr1-service").start()

    def submit(self, rows: Sequence[Mapping[str, Any]]) -> list["Future[Answer]"]:
        """Asks for the answers of a request's rows.

        Raises:
            UserError: There are more rows than allowed.
            Busy: Too many rows wait already.
        """
        self.limits.check("rows", "rows of the request", len(rows))
        images, asked = Images(self.limits), list[Future[Answer]]()
        for index, row in enumerate(rows):
            answer: Future[Answer] = Future()
            try:
                self._queue.put_nowait(_checked(row, index, images, answer))
            except queue.Full:
                for earlier in asked:
                    earlier.cancel()
                raise Busy(
                    f"{self.limits.waiting} rows wait for an answer already; try again"
                ) from None
            except UserError as error:
                answer.set_result(failed(error))
            asked.append(answer)
        return asked

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            end = time.monotonic() + self.wait_s
            while len(batch) < self.reranker.batch_size:
                try:
                    batch.append(self._queue.get(timeout=max(0.0, end - time.monotonic())))
                except queue.Empty:
                    break
            for part in self._decoded(batch):
                self.batches = [*self.batches[-99:], len(part)]
                self._answer(part)

    def _decoded(self, batch: list["_Row"]) -> Iterator[list["_Row"]]:
        """The rows whose image can be read, in parts of bounded pixels."""
        part: list[_Row] = []
        pixels = 0
        for row in batch:
            if not row.answer.set_running_or_notify_cancel():
                continue
            try:
                image = row.images.decode(row.image, f"row {row.index}, image")
            except Exception as error:
                row.answer.set_result(failed(error))
                continue
            area = image.width * image.height
            if part and pixels + area > self.limits.batch_pixels:
                yield part
                part, pixels = [], 0
            row.decoded, pixels = image, pixels + area
            part.append(row)
        if part:
            yield part

    def _answer(self, part: list["_Row"]) -> None:
        """Answers rows together, or each alone where together they cannot be."""
        try:
            crops = self.reranker.crop(
                [row.decoded for row in part if row.decoded], [row.question for row in part]
            )
        except Exception as error:
            if len(part) == 1:
                part[0].answer.set_result(failed(error))
            else:
                for row in part:
                    self._answer([row])
            return
        for row, crop in zip(part, crops, strict=True):
            row.decoded = None
            try:
                row.answer.set_result(_as_answer(self._ranking(row, crop)))
            except Exception as error:
                row.answer.set_result(failed(error))

    def _ranking(self, row: "_Row", crop: Crop) -> Ranking:
        if row.candidates is None or crop.view is None:
            return Ranking(crop, None, None)
        return self.reranker.rank([crop], iter([self._pool(row)]))[0]

    def _pool(self, row: "_Row") -> Tensor:
        """Candidates (K, D), decoded and embedded one at a time: no pool is held in memory."""
        where = f"row {row.index}, candidate"
        decoded = (row.images.decode(text, f"{where} {k}") for k, text in enumerate(row.candidates))
        return cat([self.reranker.embed([image]) for image in decoded])


@dataclass
class _Row:
    """A row that waits for its answer; its image is decoded when its turn comes."""

    index: int
    image: str
    question: str
    candidates: Any
    images: "Images"
    answer: "Future[Answer]"
    decoded: Image.Image | None = field(default=None)


def _checked(row: object, index: int, images: "Images", answer: "Future[Answer]") -> _Row:
    """A row without what needs no pixels to be seen as wrong."""
    limits = images.limits
    if not isinstance(row, Mapping):
        raise UserError(f"row {index} is no object; send image, question and perhaps candidates")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"row {index}: question is missing; send a text")
    limits.check("question", f"row {index}, characters of the question", len(question))
    candidates = row.get("candidates")
    if isinstance(candidates, float):  # pandas' own way to say none
        candidates = None
    if candidates is not None:
        if isinstance(candidates, str) or not hasattr(candidates, "__len__"):
            raise UserError(f"row {index}: candidates is no list; send images as base64 in one")
        limits.check("candidates", f"row {index}, candidates", len(candidates))
        if len(candidates) == 0:
            raise UserError(f"row {index}: candidates is empty; send at least one, or none")
    return _Row(index, row.get("image", ""), question, candidates, images, answer)


def _as_answer(found: Ranking) -> Answer:
    box = found.crop.box_px
    return {
        "decision": found.crop.decision,
        "p_full": found.crop.p_full,
        "p_region": found.crop.p_region,
        "box": None if box is None else list(box),
        "ranking": found.order,
        "scores": found.scores,
        "error": None,
    }


def failed(error: Exception) -> Answer:
    """The answer to a row that has none: our own sentences are told, others' stay in the log."""
    if isinstance(error, UserError):
        told = sentence(error)
    elif isinstance(error, MemoryError) or "out of memory" in str(error):
        told = "the server has too little memory for this row; send a smaller image"
    else:
        log.error("a row could not be answered", exc_info=error)
        told = "this row could not be answered; the server's log says why"
    return {**dict.fromkeys(FIELDS), "error": told}


class Images:
    """Decodes the images of one request, and counts their pixels together.

    Args:
        limits: What the request may hold.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.pixels

    def decode(self, text: object, where: str) -> Image.Image:
        """An upright image from base64.

        Raises:
            UserError: If it is missing, above a limit, no base64 or no image.
        """
        if not isinstance(text, str) or not text:
            raise UserError(f"{where} is missing; send a file as base64")
        self.limits.check("image_characters", f"{where}, characters", len(text))
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:  # not ASCII: ValueError
            raise UserError(f"{where} is not base64; encode the file's bytes") from error
        image = open_image(data, where, min(self.limits.image_pixels, self.left))
        self.left -= image.width * image.height
        return image
