"""The recipes that travel with the package: configs in conf/ and sweeps in sweeps/, by name.

They have one source, the two folders at the top of the repository; a wheel carries a copy. A name
stands for its file and brings along those that the line `# Stack on: ...` in it names.
"""

import re
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).parent


def home(kind: str) -> Path:
    """The folder `conf` or `sweeps`: in the package where it is installed, else the clone's."""
    packed = _PACKAGE / kind
    return packed if packed.is_dir() else _PACKAGE.parent / kind


@dataclass(frozen=True)
class Recipe:
    """A file that is known by name.

    Attributes:
        name: Its path below the folder, without `.yaml`.
        path: The file.
        about: What it says of itself.
        stack: Names of the files that come before it.
    """

    name: str
    path: Path
    about: str
    stack: tuple[str, ...]


def recipes(kind: str = "conf") -> dict[str, Recipe]:
    """The recipes by name."""
    folder = home(kind)
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        text = path.read_text(encoding="utf-8")
        first = text.partition("\n")[0].removeprefix("# ")
        first = first.split(": regionr1")[0].split(". ")[0].split("; ")[0]
        stack = re.search(r"^# Stack on: (.*)$", text, re.MULTILINE)
        before = tuple(stack[1].split(", ")) if stack else ()
        found[name] = Recipe(name, path, first.removesuffix(", after").rstrip(":."), before)
    return found


def find(text: str, kind: str = "conf") -> Path:
    """The file that is meant: one that is there, else a recipe's, by name or by `conf/NAME.yaml`.

    Where there is neither, the path as it is, for whoever reads it to refuse.
    """
    path = Path(text)
    if path.is_file():
        return path
    known = recipes(kind)
    name = text.removeprefix(f"{kind}/").removesuffix(".yaml")
    return known[name].path if name in known else path


def expand(args: list[str]) -> list[str]:
    """Replaces `-c NAME` by the recipe's file, and puts what it is stacked on before all of them.

    So `-c own -c quickstart` is base, builtin, own, quickstart: what is named wins over what a name
    brings along.
    """
    given: list[str] = []
    first = None
    out: list[str] = []
    remaining = iter(args)
    for arg in remaining:
        name, equals, value = arg.partition("=")
        if name not in ("-c", "--config"):
            out.append(arg)
            continue
        value = value if equals else next(remaining, "")
        first = len(out) if first is None else first
        given.append(value)
        out += ["-c", str(find(value))]
    known = recipes()
    stacks = [known[n].stack for n in given if n in known and not Path(n).is_file()]
    before = [str(known[name].path) for stack in stacks for name in stack if name not in given]
    implied = [part for path in dict.fromkeys(before) for part in ("-c", path)]
    return [*out[:first], *implied, *out[first:]] if implied else out
