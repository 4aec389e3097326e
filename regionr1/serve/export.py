"""`regionr1 export RUN`: a run's policy as a folder for anywhere, and as an MLflow model."""

import base64
import io
import json
import logging
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from regionr1.errors import UserError, redacted
from regionr1.policy.adapter_folder import SETTINGS, write_settings
from regionr1.serve.checkpoint_weights import put_weights
from regionr1.serve.limits import Limits
from regionr1.serve.model_card import model_card
from regionr1.tracking.resume import CONFIG_ARTIFACT
from regionr1.tracking.run_folder import folder_of
from regionr1.tracking.store import default_tracking_uri, prepare_store
from regionr1.tracking.tested_runs import find_by_name

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient
    from pandas import DataFrame

CARD = "README.md"


def export(
    run: str,
    out: Path | None = None,
    register: str | None = None,
    tracking_uri: str | None = None,
    limits: Limits = Limits(),
    checkpoint: Literal["best", "last"] = "best",
) -> None:
    """Make a run's policy usable outside the platform.

    Logs an MLflow model to the run: image and question in, decision, box and, with candidates, a
    ranking out.

    Args:
        run: Id or name of a trained run.
        out: Folder for the adapter, its settings and a model card: all but the base weights. What
            `regionr1 serve`, RegionReranker.from_pretrained and plain PEFT load.
        register: Name in MLflow's model registry.
        tracking_uri: Store; left out, MLFLOW_TRACKING_URI or sqlite:///mlruns/mlflow.db.
        limits: What one request to the MLflow model may ask for.
        checkpoint: The best by `best.monitor`, or the last.
    """
    print(f"export: looks up run {run}", flush=True)
    uri = prepare_store(tracking_uri or default_tracking_uri())
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder; choose another --out")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    found = find_by_name(client, run, uri)
    with tempfile.TemporaryDirectory() as folder:
        policy = Path(folder) / "policy"
        print("export: fetches adapter, settings and test table", flush=True)
        collected = _collected(client, found, Path(folder) / "downloaded")
        home = folder_of(client, found, uri)
        print(f"weights: {put_weights(collected, home, found.info.run_id, checkpoint)}")
        _copy(collected, policy)
        if out is not None:
            try:
                _copy(policy, out)
            except OSError as error:
                raise UserError(f"{out}: cannot be written ({error.strerror})") from error
            print(f"policy: {out}")
        print("export: opens the policy once, to try an example, and logs the model", flush=True)
        model = _log_model(uri, found.info.run_id, policy, register, limits)
    name = (
        "" if register is None else f", registered as {register} {model.registered_model_version}"
    )
    print(f"model: {model.model_uri}{name}")
    print("serve it on this machine:")
    if out is not None:
        print(f"  regionr1 serve {out}")
    print(f"  export MLFLOW_TRACKING_URI={redacted(uri)}")
    print(f"  mlflow models serve -m {model.model_uri} --env-manager local --port 5001")


def _collected(client: "MlflowClient", run: "Run", folder: Path) -> Path:
    """The adapter of a run with its settings and a card, downloaded."""
    from mlflow.exceptions import MlflowException

    folder.mkdir()
    run_id = run.info.run_id

    def download(name: str) -> Path:
        return Path(client.download_artifacts(run_id, name, str(folder)))

    try:
        adapter = download("adapter")
        config = yaml.safe_load(download(CONFIG_ARTIFACT).read_text("utf-8"))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"run {run_id} has no adapter; `regionr1 fit --resume {run_id}` trains it to its end"
        ) from error
    try:
        test = json.loads(download("test_table.json").read_text("utf-8"))
    except (MlflowException, OSError):
        test = None
    if not (adapter / SETTINGS).is_file():
        write_settings(adapter, config)
    settings = json.loads((adapter / SETTINGS).read_text("utf-8"))
    (adapter / CARD).write_text(model_card(run, settings, config, test), encoding="utf-8")
    return adapter


def _copy(source: Path, target: Path) -> None:
    """Copies files with the rights that the umask gives; a downloaded file may be its owner's."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            _copy(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)


def _log_model(uri: str, run_id: str, policy: Path, register: str | None, limits: Limits) -> Any:
    import mlflow
    from mlflow.models import Model

    from regionr1 import __version__
    from regionr1.serve.served_model import SIGNATURE

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # pages about types and requirements
    mlflow.set_tracking_uri(uri)
    bounds = policy.with_name("limits.json")
    bounds.write_text(json.dumps(asdict(limits)), encoding="utf-8")
    # Not through `pyfunc.log_model`, which has to open the run again and so lengthens it.
    return Model.log(
        artifact_path=None,
        name="model",
        flavor=mlflow.pyfunc,
        run_id=run_id,
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={"policy": str(policy), "limits": str(bounds)},
        signature=SIGNATURE,
        input_example=_example(),
        pip_requirements=[f"regionr1=={__version__}"],
        registered_model_name=register,
    )


def _example() -> "DataFrame":
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
    return pd.DataFrame(
        {
            "image": [encoded(scene)],
            "question": ["What is this?"],
            "candidates": [[encoded(red), encoded(green)]],
        }
    )
