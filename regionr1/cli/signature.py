"""A command's signature and docstring, read from its source: importing it may take seconds.

Help and wrong options then cost what parsing costs. The module is imported when the command runs.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from inspect import getdoc
from pathlib import Path
from typing import Any


def described(module: str, name: str) -> Callable[..., Any]:
    """A function with the signature and docstring of another, which it imports when it is called.

    Args:
        module: The other's module.
        name: Its name; that of a class is imported at once.
    """
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    if not found:
        return getattr(import_module(module), name)

    def run(**arguments: object) -> Any:
        return getattr(import_module(module), name)(**arguments)

    function = found[0]
    used = {n.id for n in ast.walk(function.args) if isinstance(n, ast.Name)}
    needed = [node for node in tree.body if used & _bound(node)]
    call = ast.parse("return _run(**locals())").body
    function.body = [*function.body[:1], *call]
    # Of this module for those who would import it, as jsonargparse does.
    names: dict[str, Any] = {"__name__": __name__, "_run": run}
    body: list[ast.stmt] = [*needed, function]
    exec(compile(ast.Module(body, []), spec.origin, "exec"), names)
    made: Callable[..., Any] = names[name]
    assert getdoc(made), f"{module}:{name} has no docstring, which is its help"
    return made


def _bound(node: ast.stmt) -> set[str]:
    """Names that an import or a plain assignment of a module binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()
