"""What the policy decided for each query, as JSON Lines that are written as they come.

Lines go to `PATH.partial`, which becomes `PATH` when all are there: memory stays small, a run that
ends early leaves what it had, and a file from before is not lost to it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from regionr1.errors import UserError

_MEND = "choose another path for the predictions"


@dataclass
class Prediction:
    """What the policy decided for one query and what the ranking became.

    Attributes:
        key: Key of the query, unique in the shards.
        data_id: What result files of others, or your own file, call the query; None where they do
            not know it.
        image: The query image, relative to the folder of the published files.
        question: Its question.
        gold_ids: Entity ids that count as a hit.
        size: Width and height of the original image in pixels.
        decision: "FULL", "REGION" or "INVALID".
        box_px: The crop in pixels of the original image, xyxy; None unless the decision is REGION.
        p_full: Exact probability of FULL at temperature 1.
        p_full_warm_start: The same before training, that is with the adapter off.
        ranking_full: Candidate ids ranked by the full image, best first.
        scores_full: Score of each entry of `ranking_full`.
        ranking: Candidate ids ranked by the chosen view, best first; None when the answer was
            INVALID.
        scores: Score of each entry of `ranking`; None when the answer was INVALID.
    """

    key: str
    data_id: str | None
    image: str
    question: str
    gold_ids: Sequence[str]
    size: Sequence[int]
    decision: str
    box_px: Sequence[int] | None
    p_full: float
    p_full_warm_start: float
    ranking_full: Sequence[str]
    scores_full: Sequence[float]
    ranking: Sequence[str] | None
    scores: Sequence[float] | None


def prediction_line(prediction: Prediction) -> str:
    """One line of JSON without the line end.

    Raises:
        ValueError: If a score is nan or infinite, or the scores do not fit the ranking.
    """
    if (prediction.ranking is None) != (prediction.scores is None):
        raise ValueError(f"prediction {prediction.key}: ranking and scores must be given together")
    for ranking, scores in (
        (prediction.ranking or (), prediction.scores or ()),
        (prediction.ranking_full, prediction.scores_full),
    ):
        if len(ranking) != len(scores):
            raise ValueError(
                f"prediction {prediction.key}: one score is needed for each entry of a ranking"
            )
    return json.dumps(asdict(prediction), ensure_ascii=False, allow_nan=False)


class PredictionWriter:
    """Writes lines to `PATH.partial`, and renames it when the block has ended without an error.

    Args:
        path: The file.

    Attributes:
        partial: Where the lines are until then.
        count: Lines written.

    Raises:
        UserError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.count = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.partial.open("w", encoding="utf-8")
        except OSError as error:
            raise UserError(_unwritable(path, error)) from error

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Writes lines and hands them to the system, so that a reader sees them.

        Raises:
            UserError: The disk is full.
            ValueError: A prediction is malformed.
        """
        lines = [prediction_line(prediction) for prediction in predictions]
        try:
            self._file.writelines(f"{line}\n" for line in lines)
            self._file.flush()
        except OSError as error:
            raise UserError(_unwritable(self.path, error)) from error
        self.count += len(lines)

    def finish(self) -> None:
        """Gives the file its name.

        Raises:
            UserError: The disk is full.
        """
        try:
            os.fsync(self._file.fileno())
            self.close()
            self.partial.replace(self.path)
        except OSError as error:
            raise UserError(_unwritable(self.path, error)) from error

    def close(self) -> None:
        """Leaves what was written where it is."""
        self._file.close()

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.finish() if error is None else self.close()


def read_predictions(path: Path) -> Iterator[Prediction]:
    """The predictions of a file, one at a time."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield Prediction(**json.loads(line))


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be written ({error.strerror}); {_MEND}"
