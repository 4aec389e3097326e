"""How options may be spelled: with - or _, in full, and booleans as flags."""

from collections.abc import Iterator, Sequence

BARE = ("-h", "--help", "--version", "--print_config", "--print_shtab", "--resume")
"""Options that may stand without a value and are no booleans."""


def with_values(args: Sequence[str]) -> list[str]:
    """`--flag` as `--flag=true` and `--no-flag` as `--flag=false`, where no value follows."""
    out = []
    for arg, after in zip(args, [*args, None][1:], strict=True):
        alone = after is None or after.startswith("--")
        bare = arg.startswith(BARE) or arg.endswith(".help") or arg == "--"
        if not arg.startswith("--") or "=" in arg or not alone or bare:
            out.append(arg)
        elif arg.startswith("--no-") or arg.startswith("--no_"):
            out.append(f"--{arg[5:]}=false")
        else:
            out.append(f"{arg}=true")
    return out


def with_underscores(args: Sequence[str]) -> Iterator[str]:
    """Names of options as signatures have them; values stay as they are."""
    for arg in args:
        name, equals, value = arg.partition("=")
        dashed = name.startswith("--") and len(name) > 2
        yield f"--{name[2:].replace('-', '_')}{equals}{value}" if dashed else arg
