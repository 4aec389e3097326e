"""The answer grammar over one tokenizer's ids: where there is a choice, and what follows by itself.

An answer is FULL or REGION in the policy's `AnswerForm`, such as `NO_CROP_NEEDED` or
`{"bbox_2d": [x1, y1, x2, y2]}`, and the end token. Of the some 30 tokens of such a box, those of
the numbers are chosen; the rest is scaffolding that the grammar forces. Decoding therefore samples
at choices only and feeds a choice and all that it forces as one block (jump-ahead decoding). A
choice is made among the allowed tokens alone, and its probability is taken over these alone, in
sampling and in the loss.

A number is one token where the tokenizer has every number from 0 to 999 as a token; elsewhere it is
spelled by digits, without leading zeros, and ends where the next separator is chosen or at as many
digits as the largest coordinate of the image has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from regionr1.algorithm.answers import SHORT, AnswerForm
from regionr1.errors import UserError

END = -1
NOTHING = -1
MAX_DIGITS = 4
SEPARATOR = ", "
_PROBE = (7, 40, 678, 905)  # one to three digits


@dataclass(frozen=True)
class AnswerGrammar:
    """S states, at each of which one of some U tokens is chosen.

    Attributes:
        ids: (U,) every token that is ever a choice.
        allowed: (S, U) bool.
        following: (S, U) the next state after a choice, -1 at the end.
        run: (S, U) which row of `runs` a choice forces.
        runs: (R, L) forced token ids, -1 after the last.
        starts: (MAX_DIGITS + 1,) the state that decides, by the most digits of a number.
        longest: Most tokens of an answer.
    """

    ids: Tensor
    allowed: Tensor
    following: Tensor
    run: Tensor
    runs: Tensor
    starts: Tensor
    longest: int

    def to(self, device: torch.device) -> AnswerGrammar:
        """Returns the same grammar on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "longest"}
        return replace(self, **{name: value.to(device) for name, value in tensors.items()})

    def start(self, sides: Tensor) -> Tensor:
        """(B,) the state of the decision, by the largest coordinates (B, 2) of each image's boxes.

        Raises:
            UserError: an image whose coordinates have too many digits.
        """
        digits = [len(str(side)) for side in sides.amax(-1).tolist()]
        if max(digits) > MAX_DIGITS:
            raise UserError(
                f"an image has coordinates up to {sides.amax().item()}, beyond the grammar's "
                f"{MAX_DIGITS} digits: set grammar=false"
            )
        return self.starts[torch.tensor(digits, device=self.starts.device)]

    def column(self, ids: Tensor) -> Tensor:
        """Where each of these token ids (...,) stands in `ids`; it must be a choice."""
        return (ids[..., None] == self.ids).long().argmax(-1)

    def logits(
        self, model: Qwen2_5_VLForConditionalGeneration, hidden: Tensor, states: Tensor
    ) -> Tensor:
        """(..., U) float32 logits of the tokens in `ids`, -inf where the state forbids one.

        Args:
            model: The policy; only the output rows of the choices are computed.
            hidden: (..., hidden)
            states: (...,)
        """
        head = model.lm_head
        if type(head) is nn.Linear:
            bias = None if head.bias is None else head.bias[self.ids]
            scores = nn.functional.linear(hidden, head.weight[self.ids], bias)
        else:  # an adapted head has no plain rows
            scores = head(hidden)[..., self.ids]
        return scores.float().masked_fill(~self.allowed[states], -torch.inf)


def answer_grammar(
    tokenizer: PreTrainedTokenizerBase,
    full: Sequence[int],
    region: Sequence[int],
    shared: int,
    form: AnswerForm = SHORT,
) -> AnswerGrammar:
    """Compile the grammar.

    Args:
        tokenizer: The policy's tokenizer.
        full: Tokens of the FULL answer with the end token.
        region: Tokens of the REGION answer up to its first number.
        shared: How many tokens both begin with.
        form: How the answers are written.

    Raises:
        UserError: The tokenizer spells numbers in another way, or joins them with what is around.
    """

    def spell(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    separator, suffix = spell(SEPARATOR), [*spell(form.region_suffix), full[-1]]
    numbers = [spell(str(n)) for n in range(1000)]
    single = all(len(ids) == 1 for ids in numbers)
    parts = [spell(str(n)) for n in _PROBE]
    joined = [token for part in parts for token in (*separator, *part)][len(separator) :]
    by_digits = all(
        ids == [numbers[int(digit)][0] for digit in str(n)] for n, ids in enumerate(numbers)
    )
    if (
        not (single or by_digits)
        or spell(form.region(_PROBE)) != [*region, *joined, *suffix[:-1]]
        or spell(form.region_prefix) != list(region)
    ):
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer does not spell boxes number by number or "
            "digit by digit, so the grammar cannot force their scaffolding: set grammar=false"
        )
    build = _Builder(full, region, shared)
    for digits in range(1, MAX_DIGITS + 1):
        build.decision()
        for coordinate in range(4):
            after = suffix if coordinate == 3 else separator
            if single:
                build.number([ids[0] for ids in numbers[: 10**digits]], after, last=coordinate == 3)
                continue
            figures = [ids[0] for ids in numbers[:10]]
            for written in range(digits):
                build.digit(figures, written, digits, after, last=coordinate == 3)
    count = 1 if single else MAX_DIGITS
    box = len(region) + 4 * count + 3 * len(separator) + len(suffix)
    return build.finish(max(box, len(full)))


class _Builder:
    """Collects states one after another; a state refers to those that come after it."""

    def __init__(self, full: Sequence[int], region: Sequence[int], shared: int) -> None:
        self.full, self.region, self.shared = full, region, shared
        self.starts = [0]  # no number has 0 digits
        self.states: list[dict[int, tuple[int, tuple[int, ...]]]] = []

    def decision(self) -> None:
        """FULL to its end, or REGION up to its first number."""
        here, at = len(self.states), self.shared
        self.starts.append(here)
        self.states.append(
            {
                self.full[at]: (END, tuple(self.full[at + 1 :])),
                self.region[at]: (here + 1, tuple(self.region[at + 1 :])),
            }
        )

    def number(self, numbers: Sequence[int], after: Sequence[int], last: bool) -> None:
        """A whole number in one token."""
        then = END if last else len(self.states) + 1
        self.states.append({number: (then, tuple(after)) for number in numbers})

    def digit(
        self, figures: Sequence[int], written: int, most: int, after: Sequence[int], last: bool
    ) -> None:
        """One digit; or the end of the number, if it has begun."""
        here = len(self.states)
        number = END if last else here + most - written  # the next one
        full = written + 1 == most
        state = {figure: (number, tuple(after)) if full else (here + 1, ()) for figure in figures}
        if written == 0:
            state[figures[0]] = (number, tuple(after))  # no leading zeros
        else:
            state[after[0]] = (number, tuple(after[1:]))
        self.states.append(state)

    def finish(self, longest: int) -> AnswerGrammar:
        ids = sorted({token for state in self.states for token in state})
        runs = sorted({run for state in self.states for _, run in state.values()})
        shape = (len(self.states), len(ids))
        allowed = torch.zeros(shape, dtype=torch.bool)
        following, run = torch.full(shape, END), torch.zeros(shape, dtype=torch.long)
        where = {token: column for column, token in enumerate(ids)}
        for row, state in enumerate(self.states):
            for token, (then, forced) in state.items():
                column = where[token]
                allowed[row, column] = True
                following[row, column], run[row, column] = then, runs.index(forced)
        length = max(len(forced) for forced in runs)
        table = torch.tensor([[*forced, *[NOTHING] * (length - len(forced))] for forced in runs])
        return AnswerGrammar(
            torch.tensor(ids), allowed, following, run, table, torch.tensor(self.starts), longest
        )
