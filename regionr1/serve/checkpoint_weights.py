"""The weights of a run's best checkpoint in an adapter's folder, which has its last step's."""

from pathlib import Path
from typing import Literal

from safetensors.torch import load_file, save_file

from regionr1.errors import UserError
from regionr1.tracking.run_folder import choose_checkpoint
from regionr1.training.checkpoint import read_checkpoint

WEIGHTS = "adapter_model.safetensors"
ADAPTER, IN_MODULE = "default", "policy.vlm."
"""The name that PEFT gives an adapter, and where a trained module keeps the model that it is on."""


def put_weights(
    adapter: Path, run: Path, run_id: str, which: Literal["best", "last"] = "best"
) -> str:
    """Gives an adapter's folder the weights of a checkpoint.

    Args:
        adapter: Folder of the adapter that the run logged at its end.
        run: The run's own folder; where it has no checkpoints, the adapter stays as it is.
        run_id: The run's id.
        which: The checkpoint.

    Returns:
        What the weights are, in words.

    Raises:
        UserError: The checkpoint is not of this adapter.
    """
    if not (run / "checkpoints").is_dir():
        return f"the adapter of the last step of run {run_id}, whose checkpoints are not here"
    path, told = choose_checkpoint(run, run_id, which)
    state = {
        name.removeprefix(IN_MODULE).replace(f".{ADAPTER}.", "."): value.contiguous()
        for name, value in read_checkpoint(path)["state_dict"].items()
    }
    before = load_file(adapter / WEIGHTS)
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in before.items()}:
        raise UserError(f"{path}: not a checkpoint of the adapter that run {run_id} logged")
    save_file(state, adapter / WEIGHTS, {"format": "pt"})
    return told
