"""`regionr1 recipes`: what can be named after -c and after `sweep`, and copies to change."""

import shutil
from pathlib import Path

from regionr1.errors import UserError
from regionr1.recipes import Recipe
from regionr1.recipes import recipes as known
from regionr1.suggest import nearest


def recipes() -> None:
    """List the recipes that can be named after -c, and the sweeps."""
    for kind, usage in (("conf", "regionr1 fit -c NAME"), ("sweeps", "regionr1 sweep NAME")):
        found = known(kind)
        width = max(map(len, found))
        print(f"{usage}\n")
        for name, recipe in found.items():
            print(f"  {name:<{width}}  {recipe.about}")
            if recipe.stack:
                print(f"  {'':<{width}}  comes after {', '.join(recipe.stack)}, by itself")
        print()
    print("`regionr1 recipes copy NAME` writes one here, to change. See what they come to:")
    print("  regionr1 fit -c NAME --print_config")


def copy(name: str, out: Path = Path()) -> None:
    """Copy a recipe or a sweep, to change it.

    Args:
        name: Its name, as `regionr1 recipes` lists it.
        out: Folder for the copy.
    """
    conf, sweeps = known("conf"), known("sweeps")
    recipe: Recipe | None = conf.get(name) or sweeps.get(name)
    if recipe is None:
        raise UserError(f"there is no recipe {name!r}{nearest(name, [*conf, *sweeps])}")
    target = out / recipe.path.name
    if target.exists():
        raise UserError(f"{target} is there already; name another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(recipe.path, target)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror}); name another --out"
        ) from error
    stack = " ".join(f"-c {each}" for each in recipe.stack)
    use = f"sweep {target}" if name in sweeps else " ".join(f"fit {stack} -c {target}".split())
    print(f"wrote {target}; use it: regionr1 {use}")
