"""`regionr1 export RUN`: a run's policy as an MLflow model, and as a folder for the library."""

import base64
import io
import logging
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from regionr1.errors import UserError
from regionr1.policy.adapter_folder import SETTINGS, write_settings
from regionr1.serve.limits import Limits
from regionr1.tracking.logger import default_tracking_uri, prepare_store
from regionr1.tracking.resume import CONFIG_ARTIFACT
from regionr1.tracking.tested_runs import find_by_name


def export(
    run: str,
    out: Path | None = None,
    register: str | None = None,
    tracking_uri: str | None = None,
    limits: Limits = Limits(),
) -> None:
    """Make a run's policy usable outside the platform.

    Logs an MLflow model to the run: image and question in, decision, box and, with candidates, a
    ranking out.

    Args:
        run: Id or name of a trained run.
        out: Folder for a copy of the adapter that RegionReranker.from_pretrained and plain PEFT
            load.
        register: Name in MLflow's model registry.
        tracking_uri: Store; left out, MLFLOW_TRACKING_URI or sqlite:///mlruns/mlflow.db.
        limits: What one request to the served model may ask for.
    """
    uri = prepare_store(tracking_uri or default_tracking_uri())
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; choose another --out")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = find_by_name(client, run, uri)
    with tempfile.TemporaryDirectory() as folder:
        adapter = _download(client, found, Path(folder))
        model = _log_model(uri, found.info.run_id, adapter, register, limits)
        if out is not None:
            shutil.copytree(adapter, out, dirs_exist_ok=True)
            print(f"adapter: {out}")
    name = (
        "" if register is None else f", registered as {register} {model.registered_model_version}"
    )
    print(f"model: {model.model_uri}{name}")
    print("serve it on this machine:")
    print(f"  export MLFLOW_TRACKING_URI={uri}")
    print(f"  mlflow models serve -m {model.model_uri} --env-manager local --port 5001")


def _download(client: Any, run: Any, folder: Path) -> Path:
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    run_id = run.info.run_id
    try:
        adapter = Path(client.download_artifacts(run_id, "adapter", str(folder)))
        if not (adapter / SETTINGS).is_file():
            config = client.download_artifacts(run_id, CONFIG_ARTIFACT, str(folder))
            write_settings(adapter, yaml.safe_load(Path(config).read_text("utf-8")))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"run {run_id} has no adapter; `regionr1 fit --resume {run_id}` trains it to its end"
        ) from error
    return adapter


def _log_model(uri: str, run_id: str, adapter: Path, register: str | None, limits: Limits) -> Any:
    import mlflow

    from regionr1 import __version__
    from regionr1.serve.served_model import SIGNATURE

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # pages about types and requirements
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id):
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"adapter": str(adapter)},
            model_config=asdict(limits),
            signature=SIGNATURE,
            input_example=_example(),
            pip_requirements=[f"regionr1=={__version__}"],
            registered_model_name=register,
        )


def _example() -> Any:
    """A request: a red square on green, and both colours to rank."""
    import pandas as pd
    from PIL import Image

    def encoded(image: Image.Image) -> str:
        out = io.BytesIO()
        image.save(out, "PNG")
        return base64.b64encode(out.getvalue()).decode()

    red, green = (Image.new("RGB", (32, 32), colour) for colour in ("red", "green"))
    scene = Image.new("RGB", (128, 96), "green")
    scene.paste(red, (10, 10))
    return pd.DataFrame({
        "image": [encoded(scene)],
        "question": ["What is this?"],
        "candidates": [[encoded(red), encoded(green)]],
    })  # fmt: skip
