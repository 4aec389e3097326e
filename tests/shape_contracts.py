"""The shapes that docstrings of `regionr1.algorithm` state, checked whenever a test calls.

Every public function there says the shape of each tensor it takes, such as `(B, G, T)`. A letter is
one size throughout a call, a number is itself, and `...` is any number of sizes that broadcast
against each other. Several shapes in one description are alternatives; `scalar` is `()`.
"""

import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from docstring_parser import parse
from torch import Tensor

import regionr1.algorithm

Shape = tuple[str, ...]
_SHAPE = re.compile(r"\(((?:\.\.\.|[A-Z]|\d)(?:, ?(?:\.\.\.|[A-Z]|\d))*),?\)")


def shapes_in(text: str | None) -> list[Shape]:
    """The shapes that a description states; none when it states none."""
    named = _SHAPE.findall(text or "")
    found = [tuple(part.strip() for part in match.split(",")) for match in named]
    return found + [()] * bool(re.search(r"\bscalar\b", text or ""))


def fits(tensor: Tensor, shape: Shape, sizes: dict[str, Any]) -> dict[str, Any] | None:
    """The sizes of the letters with this tensor's, or None where it does not fit."""
    sizes, actual = dict(sizes), list(tensor.shape)
    named = list(shape)
    if named and named[0] == "...":
        named = named[1:]
        lead = actual[: len(actual) - len(named)] if len(actual) >= len(named) else None
        if lead is None:
            return None
        try:
            sizes["..."] = torch.broadcast_shapes(sizes.get("...", ()), tuple(lead))
        except RuntimeError:
            return None
        actual = actual[len(lead) :]
    if len(named) != len(actual):
        return None
    for name, size in zip(named, actual, strict=True):
        if (int(name) if name.isdigit() else sizes.setdefault(name, size)) != size:
            return None
    return sizes


def tensors(value: Any, described: str | None) -> Iterator[tuple[Tensor, list[Shape]]]:
    """Every tensor in a value with the shapes that are stated for it."""
    if isinstance(value, Tensor):
        yield value, shapes_in(described)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item, described)
    elif hasattr(value, "_fields") and type(value).__module__.startswith("regionr1.algorithm"):
        fields = {p.arg_name: p.description for p in parse(type(value).__doc__ or "").params}
        for name in value._fields:
            yield from tensors(getattr(value, name), fields.get(name))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which refuses tensors of other shapes than its docstring states."""
    doc, signature = parse(function.__doc__ or ""), inspect.signature(function)
    described = {param.arg_name: param.description for param in doc.params}
    returned = doc.returns.description if doc.returns else doc.short_description

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        sizes: dict[str, Any] = {}

        def check(name: str, value: Any, text: str | None) -> None:
            nonlocal sizes
            for tensor, shapes in tensors(value, text):
                options = [fit for s in shapes if (fit := fits(tensor, s, sizes)) is not None]
                if shapes and not options:
                    raise TypeError(
                        f"{function.__qualname__}: {name} is {tuple(tensor.shape)}, but its "
                        f"docstring says {' or '.join(map(str, shapes))} with {sizes}"
                    )
                sizes = options[0] if options else sizes

        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check(name, value, described.get(name))
        result = function(*args, **kwargs)
        check("the result", result, returned)
        return result

    return call


def functions() -> dict[str, Callable[..., Any]]:
    """The public functions of the algorithm that take or return tensors, by dotted name."""
    found = {}
    for info in pkgutil.iter_modules(regionr1.algorithm.__path__):
        module = importlib.import_module(f"regionr1.algorithm.{info.name}")
        for name, value in vars(module).items():
            function = inspect.unwrap(value) if inspect.isfunction(value) else None
            if function and not name.startswith("_") and function.__module__ == module.__name__:
                if any("Tensor" in str(hint) for hint in function.__annotations__.values()):
                    found[f"{module.__name__}.{name}"] = function
    return found


def install() -> None:
    """Puts the checked functions in the place of the plain ones, wherever the algorithm has them.

    To be called before anything else of the package is imported, which then finds these.
    """
    plain = {function: checked(function) for function in functions().values()}
    for info in pkgutil.iter_modules(regionr1.algorithm.__path__):
        module = importlib.import_module(f"regionr1.algorithm.{info.name}")
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value in plain:
                setattr(module, name, plain[value])
