"""NumPy's file format: arrays to bytes and back, never through pickle."""

import gc
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from regionr1.errors import UserError
from regionr1.files import refused

_PARSING = Lock()


@contextmanager
def _one_parse() -> Iterator[None]:
    """Let nothing else parse meanwhile, no other thread and no finalizer.

    NumPy reads headers by ast.literal_eval, which on Python 3.11 fails now and then: a garbage
    collection inside one parse lets another begin, and they share one count of depth.
    """
    with _PARSING:
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()


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
    file = io.BytesIO(data)
    with _one_parse():
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not of version 1.0 of NumPy's format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    # Compared before anything is reserved: a header may claim any size.
    if fortran or dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {shape} {dtype} in {len(data):,} bytes")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape).copy()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., D) of length 1: halves on disk are unit vectors only nearly."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True).clip(min=1e-12)


def map_npy(path: Path, mend: str) -> np.ndarray:
    """Open a .npy file without reading it into memory.

    Args:
        path: The file.
        mend: What to do when it cannot be opened.

    Raises:
        UserError: The file is missing or damaged; a MachineError where it cannot be read.
    """
    try:
        with _one_parse():
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {mend}.") from None
    except OSError as error:
        raise refused(path, error) from error
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it and {mend}.") from error
