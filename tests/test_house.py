"""The rooms of the package, each importing only from those that stand above it."""

import ast
from pathlib import Path

import pytest
from checkout import ROOT

PACKAGE = ROOT / "regionr1"
ROOMS = (
    *("errors", "files", "memory", "progress", "suggest", "recipes", "config_errors", "hub"),
    *("algorithm", "scorers", "data.records"),
    *("data.chunks", "data.npy", "data.images", "data.readers", "data.shards", "data.build"),
    *("policy", "evaluation", "training", "tracking", "tracking.callbacks", "serve", "builtin"),
    *("speed", "sweep", "cli"),
)


def room_of(module: str) -> int | None:
    """The place of a module's room in ROOMS; None for the package itself and its entry points."""
    name = module.removeprefix("regionr1").removeprefix(".")
    fits = [room for room in ROOMS if name == room or name.startswith(room + ".")]
    return ROOMS.index(max(fits, key=len)) if fits else None


def imports(path: Path) -> list[tuple[int, str]]:
    """Line and module of every import of the package in a file, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("regionr1"):
            found += [(node.lineno, f"{node.module}.{name.name}") for name in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names if a.name.startswith("regionr1")]
    return found


def upward(path: Path, module: str) -> list[str]:
    """The imports of a file that reach into a room below its own."""
    own = room_of(module)
    if own is None:
        return []
    return [
        f"{path.name}:{line}: {module} imports {name}"
        for line, name in imports(path)
        if (other := room_of(name)) is not None and other > own
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=str)
def test_no_file_imports_from_a_room_below_its_own(path: Path) -> None:
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    assert not upward(path, module.removesuffix(".__init__"))


def test_every_folder_is_a_room() -> None:
    folders = {path.parent for path in PACKAGE.rglob("__init__.py")} - {PACKAGE, PACKAGE / "data"}
    assert folders == {
        path for room in ROOMS if (path := PACKAGE / room.replace(".", "/")).is_dir()
    }


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    file = tmp_path / "losses.py"
    file.write_text("def late():\n    from regionr1.training.rgrpo import RGRPO\n")
    assert upward(file, "regionr1.algorithm.losses") == [
        "losses.py:2: regionr1.algorithm.losses imports regionr1.training.rgrpo.RGRPO"
    ]


def test_no_test_imports_another() -> None:
    """What several share stands in a module of its own: a test file can be moved and deleted."""
    found = [
        f"{path.name}: {name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if name and name.split(".")[-1].startswith("test_")
    ]
    assert not found
