"""What several tests start from, made once for all processes of a test run."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


class Made:
    """A folder of things that are made when the first test asks for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """The path of that name; the process that asks first makes it, the others wait."""
        path, done = self.folder / name, self.folder / f"{name}.made"
        with FileLock(self.folder / f"{name}.lock"):
            if not done.exists():
                make(path)
                done.touch()
        return path
