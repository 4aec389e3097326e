"""A run and what its test found, as comparisons and reports take them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regionr1.evaluation.table import Outcome


@dataclass
class TestedRun:
    """A run and its test.

    Attributes:
        name: Shown name, unique among those compared.
        config: Resolved configuration.
        outcomes: Test outcomes of all methods.
    """

    name: str
    config: Mapping[str, Any]
    outcomes: Sequence[Outcome]
