"""The trained policy as an MLflow model: what `mlflow models serve` answers with.

MLflow copies this file into the model and runs it when the model is loaded.
"""

import base64
import binascii
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from regionr1.data.images import open_image
from regionr1.errors import UserError
from regionr1.serve.region_reranker import Ranking, RegionReranker

MAX_BASE64 = 28_000_000  # characters of an image: 21 MB
SIGNATURE = ModelSignature(
    inputs=Schema([
        ColSpec(DataType.string, "image"),
        ColSpec(DataType.string, "question"),
        ColSpec(Array(DataType.string), "candidates", required=False),
    ]),
    outputs=Schema([
        ColSpec(DataType.string, "decision"),
        ColSpec(Array(DataType.long), "box", required=False),
        ColSpec(Array(DataType.long), "ranking", required=False),
        ColSpec(Array(DataType.double), "scores", required=False),
    ]),
)  # fmt: skip


class ServedModel(mlflow.pyfunc.PythonModel):
    """Answers rows of image, question and, if a ranking is wanted, candidates.

    Images are base64 of a file. A row is answered by decision ("FULL", "REGION" or "INVALID"), box
    (xyxy in pixels of the upright image, null unless REGION), ranking (places in the list of
    candidates, best first) and scores.
    """

    def load_context(self, context: Any) -> None:
        """Loads policy and scorer once."""
        self.reranker = RegionReranker.from_pretrained(context.artifacts["adapter"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> list[dict]:
        """One answer per row."""
        try:
            return [self._answer(i, row) for i, row in enumerate(model_input.to_dict("records"))]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _answer(self, index: int, row: dict[str, Any]) -> dict[str, Any]:
        image = decode(row.get("image"), f"row {index}, image")
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"row {index}: question is missing; send a text")
        candidates = row.get("candidates")
        if candidates is None or isinstance(candidates, float):  # pandas' own way to say none
            found = Ranking(self.reranker.crop(image, question), None, None)
        else:
            pool = [
                decode(text, f"row {index}, candidate {k}") for k, text in enumerate(candidates)
            ]
            if not pool:
                raise UserError(f"row {index}: candidates is empty; send at least one, or none")
            found = self.reranker.rerank(image, question, pool)
        box = found.crop.box_px
        return {
            "decision": found.crop.decision,
            "box": None if box is None else list(box),
            "ranking": found.order,
            "scores": found.scores,
        }


def decode(text: Any, where: str) -> Any:
    """An upright image from base64.

    Raises:
        UserError: If it is missing, too long, no base64 or no image.
    """
    if not isinstance(text, str) or not text:
        raise UserError(f"{where} is missing; send a file as base64")
    if len(text) > MAX_BASE64:
        raise UserError(
            f"{where} is {len(text):,} characters long, above {MAX_BASE64:,}; shrink it"
        )
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise UserError(f"{where} is not base64 ({error}); encode the file's bytes") from error
    return open_image(data, where)


set_model(ServedModel())
