"""`regionr1 completion bash`: commands, options and recipes after the Tab key."""

import contextlib
import io
from typing import Literal

from regionr1.cli.call import options_of
from regionr1.cli.commands import COMMANDS, GROUPS, VERBS, names
from regionr1.recipes import recipes

SCRIPT = """\
# bash completion of regionr1; it is as new as the regionr1 that printed it:
#   eval "$(regionr1 completion bash)"
_regionr1() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" key words
    key="${{COMP_WORDS[1]}}"
    case "$before" in
        -c|--config) words="{recipes}" ;;
        *)
            if [[ $COMP_CWORD -eq 1 ]]; then words="{commands}"; else
            case "$key ${{COMP_WORDS[2]}}" in
{two}
                *) case "$key" in
{one}
                esac ;;
            esac
            fi ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _regionr1 regionr1
"""


def completion(shell: Literal["bash"]) -> None:
    """Print a script that completes commands, options and recipes.

    Args:
        shell: For which shell, as in `eval "$(regionr1 completion bash)"`.
    """
    options = {name: " ".join(options_of(name)) for name in COMMANDS}
    options |= {verb: " ".join(_options_of_verb(verb)) for verb in VERBS}
    for group in GROUPS:
        options[group] = " ".join(names(group))
    options["sweep"] += " best report " + " ".join(recipes("sweeps"))
    print(
        SCRIPT.format(
            recipes=" ".join(recipes()),
            commands=" ".join(names()),
            two=_cases({k: v for k, v in options.items() if " " in k}, 16),
            one=_cases({k: v for k, v in options.items() if " " not in k}, 20),
        ),
        end="",
    )


def _cases(options: dict[str, str], indent: int) -> str:
    return "\n".join(f'{" " * indent}"{k}") words="{v}" ;;' for k, v in options.items())


def _options_of_verb(verb: str) -> list[str]:
    from regionr1.cli import fit

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        fit.run([verb, "--help"])
    words = shown.getvalue().replace(",", " ").split()
    return sorted({word.split("=")[0] for word in words if word.startswith("--") and len(word) > 3})
