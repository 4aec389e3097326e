"""NumPy's file format: arrays to bytes and back, never through pickle."""

import io
from pathlib import Path
from threading import Lock

import numpy as np

from regionr1.errors import UserError

# NumPy reads headers by ast.literal_eval, which on Python 3.11 fails now and then in threads:
# a garbage collection inside one parse lets another begin, and they share one count of depth.
_PARSING = Lock()


def to_npy(array: np.ndarray) -> bytes:
    """Return the content of the .npy file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> np.ndarray:
    """Return the array of a .npy file's content.

    Raises:
        ValueError: The content is damaged, or holds Python objects.
    """
    with _PARSING:
        return np.load(io.BytesIO(data), allow_pickle=False)


def map_npy(path: Path, mend: str) -> np.ndarray:
    """Open a .npy file without reading it into memory.

    Args:
        path: The file.
        mend: What to do when it cannot be opened.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); {mend}.") from error
