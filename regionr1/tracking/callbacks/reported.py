"""What the callbacks here expect of the module that is trained; RGRPO has it."""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from regionr1.evaluation.pictures import Case
from regionr1.evaluation.table import Outcome
from regionr1.evaluation.views import Evaluator


@runtime_checkable
class ReportedModule(Protocol):
    """A module whose validation, test and adapter can be shown.

    Attributes:
        last_validation_examples: Examples of the last validation, without candidates.
        test_outcomes: Outcomes of this rank's test queries, all methods.
        evaluator: Ranks candidates by views of the queries.
    """

    last_validation_examples: list[Case]
    test_outcomes: list[Outcome]

    @property
    def evaluator(self) -> Evaluator:
        """Ranks candidates by the views that the policy and the baselines choose."""

    def check_data(self, datamodule: Any, stage: str) -> None:
        """Raises a UserError where this module cannot use the data of a stage."""

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter into an existing folder, as plain PEFT reads it."""
