"""Reading a pickle that should hold a list of integers, without ever running what it names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from regionr1.errors import UserError
from regionr1.files import refused


class _NothingNamed(pickle.Unpickler):
    """An unpickler that knows no class and no function: plain data only."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside")


def load_int_list(path: Path) -> list[int]:
    """Read a pickled list of integers, such as EchoSight's ``kb_index_ids.pkl``.

    Raises:
        UserError: Missing, damaged, or anything but a list of integers.
    """
    try:
        with path.open("rb") as file:
            value = _NothingNamed(file).load()
    except FileNotFoundError:
        raise UserError(f"{path}: the list of index ids is missing; put it there.") from None
    except OSError as error:
        raise refused(path, error) from error
    except Exception as error:  # a pickle can raise whatever its opcodes provoke
        raise UserError(
            f"{path}: refused, because it is no plain pickled list of integers ({error}); "
            "write it as pickle.dump([int(i) for i in ids], file)."
        ) from error
    if not isinstance(value, list):
        raise UserError(f"{path}: holds a {type(value).__name__}, not a list of integers.")
    for position, item in enumerate(value):
        if type(item) is not int or item < 0:
            raise UserError(
                f"{path}: item {position} is {item!r}; every one must be an integer from 0 up."
            )
    return value
