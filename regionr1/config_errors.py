"""Parsing errors as one sentence that names the key and the place in the config file."""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from regionr1.errors import UserError
from regionr1.recipes import recipes
from regionr1.suggest import nearest


def config_files(args: list[str]) -> Iterator[Path]:
    """The files given by -c, --config or their = forms, in order."""
    for before, arg in zip(["", *args], args, strict=False):
        if before in ("-c", "--config"):
            yield Path(arg)
        elif arg.startswith("--config="):
            yield Path(arg.split("=", 1)[1])


def check_config_files(args: list[str]) -> None:
    """Refuses a config file that is missing or is no YAML, before anything is built from it.

    Raises:
        UserError: Naming file and line.
    """
    for path in config_files(args):
        try:
            text = path.read_text(encoding="utf-8")
            node = yaml.compose(text)
            refuse_bomb(path, node)
            refuse_twice(path, node)
            content = yaml.safe_load(text)
        except UserError:
            raise
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            near = nearest(path.name.removesuffix(".yaml"), (*recipes("conf"), *recipes("sweeps")))
            raise UserError(f"cannot read config file {path}: {reason}{near}") from error
        except Exception as error:  # besides its own errors, YAML raises those of Python's types
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
            where = str(path) if mark is None else f"{path}:{mark.line + 1}"
            reason = " ".join((problem or str(error) or type(error).__name__).split())
            raise UserError(f"{where} is not valid YAML: {reason}; correct the file") from error
        if not isinstance(content, dict):
            raise UserError(
                f"config file {path} holds no settings; "
                "it must be YAML with keys such as model: and trainer:"
            )


def refuse_bomb(path: Path, node: yaml.Node | None) -> None:
    """Refuses a config that is endless, or far more than any, once its aliases are written out.

    Raises:
        UserError: Naming the file.
    """
    sizes: dict[int, float] = {}

    def size(node: yaml.Node | None) -> float:
        if node is None:
            return 0
        if isinstance(node, yaml.ScalarNode):
            node.value.encode()  # half of a character alone can be written nowhere
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # for an alias that stands within what it names
            inner = node.value
            if isinstance(node, yaml.MappingNode):
                inner = [part for pair in node.value for part in pair]
            sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    if size(node) > MOST_SETTINGS:
        raise UserError(
            f"config file {path} has more than {MOST_SETTINGS:,} settings once its aliases are "
            "written out; correct the file"
        )


def refuse_endless(settings: Iterable[tuple[str, Any]]) -> None:
    """Refuses infinite numbers and those that are none, which no setting means.

    Args:
        settings: Names and values.

    Raises:
        UserError: Naming the first.
    """
    for name, value in settings:
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{name}={value}: must be a finite number.")
        if isinstance(value, dict):
            refuse_endless((f"{name}.{key}", inner) for key, inner in value.items())
        elif isinstance(value, list | tuple):
            refuse_endless((f"{name}.{n}", inner) for n, inner in enumerate(value))


def refuse_twice(path: Path, node: yaml.Node | None) -> None:
    """Refuses a key that stands twice in one mapping: YAML would drop the first without a word.

    Raises:
        UserError: Naming file, line and key.
    """
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                raise UserError(
                    f"{path}:{line}: {name} is set in line {seen[name]} already; put both together"
                )
            seen[name] = line
            refuse_twice(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            refuse_twice(path, value)


MOST_SETTINGS = 20_000
KINDS = {
    "tuple": "a list such as [train,val]",
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
}


def explain(message: str, args: list[str], known: Sequence[str] = ()) -> str:
    """Makes one sentence of a message of jsonargparse.

    It names file and line of the key where the key comes from a file.

    Args:
        message: What the parser said.
        args: The command line, for its config files.
        known: Options that there are, for what was mistyped.
    """
    key = ".".join(
        re.findall(r"Parser key \"([^\"]+)\"", message)
    )  # outer key first, then those of nested classes
    whole = message
    message = re.sub(
        r"Parser key \"[^\"]+\":?\s*|Problem with given class_path '[^']+':\s*", "", message
    )
    if found := re.search(
        r"[Oo]ption '([^']+)' is not accepted|does not accept (?:nested |option )*'([^']+)'",
        message,
    ):
        inner = found.group(1) or found.group(2)
        key = f"{key}.{inner}" if key else inner
        keys = [option.removeprefix("--") for option in known]
        if cls := re.search(r"class_path '([\w.]+)'", whole):
            keys += _arguments_of(cls[1], key.rpartition(".")[0])
        sentence = f"unknown config key {key}{nearest(key, keys)}"
    elif found := re.search(r"unrecognized arguments: (.*)", message, re.DOTALL):
        options = " ".join(found.group(1).split())
        near = nearest(options.split()[0].partition("=")[0], known)
        sentence = f"unknown option {options}{near or '; `--help` after the command lists them'}"
    elif found := re.search(r"arguments are required: (.*)", message, re.DOTALL):
        names = ", ".join(
            re.sub(r"^\w+\.(?=(model|data|trainer)\b)", "", name)
            for name in found.group(1).split(", ")
        )
        sentence = f"missing {names}; set it in a config file (-c) or as an option"
    else:
        sentence = re.sub(
            r"Expected a <class '(\w+)'>\. Got value: ",
            lambda kind: f"expected {KINDS.get(kind[1], kind[1])}, got ",
            " ".join(message.split()),
        )
        sentence = re.sub(
            r"Expected a typing\.Literal\[([^]]*)\]\. Got value: (.*)$", _one_of, sentence
        )
        sentence = f"{key}: {sentence}" if key else sentence
    flags = [arg.split("=")[0].replace(".init_args", "") for arg in args]
    if not key or f"--{key}" in flags:  # a flag wins over every file
        return sentence
    places = [locate(path, key) for path in config_files(args)]
    where = next((place for place in reversed(places) if place), None)  # the last file wins
    return f"{where}: {sentence}" if where else sentence


def _one_of(found: re.Match[str]) -> str:
    choices = [choice.strip().strip("'") for choice in found[1].split(",")]
    return f"expected one of {', '.join(choices)}, got {found[2]}{nearest(found[2], choices)}"


def _arguments_of(class_path: str, key: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return [] if found is None else [f"{key}.{each}" for each in signature(found).parameters]


def locate(path: Path, key: str) -> str | None:
    """Place, as file:line, of a dotted key in a YAML file, or None when the file does not set it.

    Class arguments may be written with or without `init_args`, so that level is skipped on both
    sides.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    line = None
    for part in (
        part
        for part in key.split(".")
        if part not in ("init_args", "fit", "validate", "test", "predict")
    ):
        entries = mapping_entries(node)
        if part not in entries and "init_args" in entries:
            entries = mapping_entries(entries["init_args"][1])
        if part not in entries:
            return None
        line, node = entries[part]
    return None if line is None else f"{path}:{line}"


def mapping_entries(node: yaml.Node | None) -> dict[str, tuple[int, yaml.Node]]:
    """{key: (line, value)} of a YAML mapping, nothing for any other node."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {name.value: (name.start_mark.line + 1, value) for name, value in node.value}
