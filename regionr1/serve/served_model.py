"""The trained policy as an MLflow model: what `mlflow models serve` answers with.

MLflow copies this file into the model and runs it when the model is loaded.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature, set_model
from mlflow.types.schema import Array, ColSpec, DataType, Schema
from PIL import Image
from torch import Tensor

from regionr1.data.images import open_image
from regionr1.errors import UserError
from regionr1.serve.limits import Limits
from regionr1.serve.region_reranker import Ranking, RegionReranker

SIGNATURE = ModelSignature(
    inputs=Schema([
        ColSpec(DataType.string, "image"),
        ColSpec(DataType.string, "question"),
        ColSpec(Array(DataType.string), "candidates", required=False),
    ]),
    outputs=Schema([
        ColSpec(DataType.string, "decision"),
        ColSpec(DataType.double, "p_full"),
        ColSpec(Array(DataType.long), "box", required=False),
        ColSpec(Array(DataType.long), "ranking", required=False),
        ColSpec(Array(DataType.double), "scores", required=False),
    ]),
)  # fmt: skip


class ServedModel(mlflow.pyfunc.PythonModel):
    """Answers rows of image, question and, if a ranking is wanted, candidates.

    Images are base64 of a file. A row is answered by decision ("FULL", "REGION" or "INVALID"),
    p_full (exact probability of keeping the whole image), box (xyxy in pixels of the upright image,
    null unless REGION), ranking (places in the list of candidates, best first) and scores.
    """

    def load_context(self, context: Any) -> None:
        """Loads policy and scorer once, and the limits that the model was exported with."""
        self.reranker = RegionReranker.from_pretrained(context.artifacts["adapter"])
        self.limits = Limits(**(context.model_config or {}))

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Any = None
    ) -> list[dict[str, Any]]:
        """One answer per row.

        Raises:
            MlflowException: A row is malformed, or the request is above a limit: status 400.
        """
        try:
            self.limits.check("rows", "rows of the request", len(model_input))
            images = Images(self.limits)
            return [
                self._answer(images, i, row) for i, row in enumerate(model_input.to_dict("records"))
            ]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _answer(self, images: "Images", index: int, row: dict[str, Any]) -> dict[str, Any]:
        question = row.get("question")
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"row {index}: question is missing; send a text")
        self.limits.check("question", f"row {index}, characters of the question", len(question))
        candidates = row.get("candidates")
        if isinstance(candidates, float):  # pandas' own way to say none
            candidates = None
        if candidates is not None:
            self.limits.check("candidates", f"row {index}, candidates", len(candidates))
            if len(candidates) == 0:
                raise UserError(f"row {index}: candidates is empty; send at least one, or none")
        image = images.decode(row.get("image"), f"row {index}, image")
        if candidates is None:
            found = Ranking(self.reranker.crop(image, question), None, None)
        else:
            pool = self._embedded(images, candidates, f"row {index}, candidate")
            found = self.reranker.rerank(image, question, pool)
        box = found.crop.box_px
        return {
            "decision": found.crop.decision,
            "p_full": found.crop.p_full,
            "box": None if box is None else list(box),
            "ranking": found.order,
            "scores": found.scores,
        }

    def _embedded(self, images: "Images", candidates: Sequence[Any], where: str) -> Tensor:
        """Candidates (K, D), decoded and embedded one at a time: no pool is held in memory."""
        decoded = (images.decode(text, f"{where} {k}") for k, text in enumerate(candidates))
        return torch.cat([self.reranker.embed([image]) for image in decoded])


class Images:
    """Decodes the images of one request, and counts their pixels together.

    Args:
        limits: What the request may hold.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.left = limits.pixels

    def decode(self, text: Any, where: str) -> Image.Image:
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
            raise UserError(f"{where} is not base64 ({error}); encode the file's bytes") from error
        image = open_image(data, where, min(self.limits.image_pixels, self.left))
        self.left -= image.width * image.height
        return image


set_model(ServedModel())
