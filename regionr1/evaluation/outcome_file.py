"""The outcome of every test query, kept with its run so that runs can be compared by query."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from regionr1.errors import UserError
from regionr1.evaluation.table import Outcome
from regionr1.files import whole_file

OUTCOMES = "test_outcomes.jsonl.gz"


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes one JSON line per query and method, the whole file or nothing.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    with whole_file(path) as partial, gzip.open(partial, "wt", encoding="utf-8") as file:
        for outcome in outcomes:
            file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")


def read_outcomes(path: Path) -> list[Outcome]:
    """Reads what `write_outcomes` wrote.

    Raises:
        UserError: If the file is damaged.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            return [Outcome(**json.loads(line)) for line in file]
    except (OSError, EOFError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); test the run again") from error
