"""The trained policy as an MLflow model: what `mlflow models serve` answers with.

MLflow copies this file into the model and runs it when the model is loaded.
"""

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature, set_model
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from regionr1.errors import UserError
from regionr1.serve.limits import Limits
from regionr1.serve.region_reranker import RegionReranker
from regionr1.serve.service import Answer, Service, failed


def _columns(**kinds: DataType | Array) -> Schema:
    """Columns by their names, each of which a row may lack."""
    return Schema([ColSpec(kind, name, required=False) for name, kind in kinds.items()])


SIGNATURE = ModelSignature(
    inputs=_columns(
        image=DataType.string, question=DataType.string, candidates=Array(DataType.string)
    ),
    outputs=_columns(
        decision=DataType.string,
        p_full=DataType.double,
        p_region=DataType.double,
        box=Array(DataType.long),
        ranking=Array(DataType.long),
        scores=Array(DataType.double),
        error=DataType.string,
    ),
)


class ServedModel(mlflow.pyfunc.PythonModel):
    """Answers rows of image, question and, if a ranking is wanted, candidates: see `Service`.

    Nothing is raised for bad input, because MLflow's server would send the request back with the
    error; what cannot be answered has a sentence in `error`.
    """

    def load_context(self, context: Any) -> None:
        """Loads policy and scorer once, and the limits that the model was exported with."""
        limits = Limits(**json.loads(Path(context.artifacts["limits"]).read_text("utf-8")))
        reranker = RegionReranker.from_pretrained(context.artifacts["policy"])
        self.service = Service(reranker, limits)

    def predict(
        self, context: object, model_input: pd.DataFrame, params: object = None
    ) -> list[Answer]:
        """One answer per row."""
        try:
            asked = self.service.submit(model_input.to_dict("records"))
        except UserError as error:
            return [failed(error)] * len(model_input)
        return [answer.result() for answer in asked]


set_model(ServedModel())
