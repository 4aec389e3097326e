"""What `model` may name: the shipped policy, a folder, or a hub repository at a pinned commit."""

import re
from importlib.resources import files
from pathlib import Path

from regionr1.errors import UserError


def resolve_source(model: str, revision: str | None) -> str:
    """The folder or hub id that `model` names.

    Raises:
        UserError: No such folder, a hub id without a pinned revision, or a folder with one.
    """
    if model == "builtin":
        model = str(files("regionr1").joinpath("builtin", "policy"))
    if Path(model).is_dir():
        if revision is not None:
            raise UserError(f"{model}: a local folder has no revision; drop revision={revision}")
        return model
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise UserError(f"{model}: no such model folder; check the path")
    if revision is None:
        raise UserError(f"{model}: a hub model needs a pinned revision; set revision=<commit>")
    return model
