"""Rollouts: G answers to each of B queries, read as decisions and boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from regionr1.algorithm.answers import SHORT, Action, AnswerForm, Decision
from regionr1.algorithm.boxes import CoordFrame
from regionr1.policy.prefix import Prefix
from regionr1.policy.prompt import Prompt


@dataclass
class Rollouts:
    """What was sampled, kept with all that scoring it again needs.

    Attributes:
        prompt: The model inputs and vision features of the B queries; opaque to callers.
        completion_ids: (B, G, T) token ids, padded after the end token.
        mask: (B, G, T) bool, True up to and including the end token.
        forced: (B, G, T) bool, True where the token was forced and not sampled.
        texts: B lists of G answers, special tokens removed.
        actions: B lists of G readings.
        decision: (B, G) `Decision` as int64.
        boxes_unit: (B, G, 4) xyxy in the unit square of the image, as answered: not clamped.
            NaN where the decision is not REGION.
        p_full: (B,) exact probability of FULL at temperature 1.
        p_region: (B,) exact probability of beginning a REGION answer at temperature 1.
        seen_hw: (B, 2) height and width in pixels of the image that the model saw.
        states: (B, G, T) state of the grammar where it left a choice, -1 elsewhere; None without a
            grammar.
        prefix: The prefill with its gradient, for the first loss pass to go on from; None where
            that pass would compute another.
        reasoning: B texts that the policy wrote before its answers; they end the prompt.
    """

    prompt: Prompt
    completion_ids: Tensor
    mask: Tensor
    forced: Tensor
    texts: list[list[str]]
    actions: list[list[Action]]
    decision: Tensor
    boxes_unit: Tensor
    p_full: Tensor
    p_region: Tensor
    seen_hw: Tensor
    states: Tensor | None = None
    prefix: Prefix | None = None
    reasoning: Sequence[str] = ()

    @property
    def chosen(self) -> Tensor:
        """(B, G, T) bool, the tokens that had an alternative, which alone carry a gradient."""
        return self.mask if self.states is None else self.mask & (self.states >= 0)


def read_rollouts(
    tokenizer: PreTrainedTokenizerBase,
    frame: CoordFrame,
    prompt: Prompt,
    completion_ids: Tensor,
    mask: Tensor,
    forced: Tensor,
    decision_probabilities: tuple[Tensor, Tensor],
    states: Tensor | None = None,
    form: AnswerForm = SHORT,
) -> Rollouts:
    """Read what was decoded.

    Args:
        tokenizer: Of the policy.
        frame: The policy's coordinate frame.
        prompt: What was answered.
        completion_ids: (B, G, T)
        mask: (B, G, T) bool
        forced: (B, G, T) bool, where the plan named a token.
        decision_probabilities: pi(FULL) and pi(REGION), each (B,).
        states: (B, G, T) states of the grammar, if there is one.
        form: How the answers are written.
    """
    texts, actions = read_answers(tokenizer, completion_ids, mask, form)
    decision, boxes_unit = boxes_from_actions(actions, frame, prompt.seen_hw)
    return Rollouts(
        prompt=prompt,
        completion_ids=completion_ids,
        mask=mask,
        forced=forced & mask,
        texts=texts,
        actions=actions,
        decision=decision,
        boxes_unit=boxes_unit,
        p_full=decision_probabilities[0],
        p_region=decision_probabilities[1],
        seen_hw=prompt.seen_hw,
        states=states,
    )


def read_answers(
    tokenizer: PreTrainedTokenizerBase,
    completion_ids: Tensor,
    mask: Tensor,
    form: AnswerForm = SHORT,
) -> tuple[list[list[str]], list[list[Action]]]:
    """Texts and actions of (B, G, T) completions, as B lists of G."""
    group = completion_ids.shape[1]
    rows, keep = completion_ids.flatten(0, 1).tolist(), mask.flatten(0, 1).sum(-1).tolist()
    texts = tokenizer.batch_decode(
        [ids[:length] for ids, length in zip(rows, keep, strict=True)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    grouped = [texts[i : i + group] for i in range(0, len(texts), group)]
    return grouped, [[form.parse(text) for text in row] for row in grouped]


def boxes_from_actions(
    actions: list[list[Action]], frame: CoordFrame, seen_hw: Tensor
) -> tuple[Tensor, Tensor]:
    """Decisions (B, G) and unit boxes (B, G, 4), NaN where there is no region.

    Args:
        actions: B lists of G actions, boxes in the model's own frame.
        frame: That frame.
        seen_hw: (B, 2) size of the image that the model saw, from the processor's output.
    """
    missing = (float("nan"),) * 4
    decision = torch.tensor([[int(action.decision) for action in row] for row in actions])
    boxes_seen = torch.tensor(
        [
            [
                action.box_seen
                if action.decision is Decision.REGION and action.box_seen
                else missing
                for action in row
            ]
            for row in actions
        ],
        dtype=torch.float32,
    )
    device = seen_hw.device
    return decision.to(device), frame.to_unit(boxes_seen.to(device), seen_hw)
