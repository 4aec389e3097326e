"""The same training step by TRL's GRPOTrainer, for `scripts/benchmark --against trl`.

TRL is no dependency: `scripts/install trl` brings it. The trainer is given a model that shares its
weights, LoRA included, with the policy, the same images, questions and reward, and answers of the
same length. Gradient checkpointing is off on both sides, and neither takes an optimizer's step.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.policy.loading import load_base
from regionr1.policy.logprobs import policy_pass
from regionr1.policy.processor import load_processor
from regionr1.speed.steps import trivial_reward
from regionr1.speed.work import Work


class TrlStep:
    """Takes steps of GRPO with TRL.

    Args:
        folder: Of the policy's files.
        policy: Whose weights are trained.
        work: Queries.
        group_size: G.
        kl_weight: TRL's `beta`.

    Raises:
        UserError: TRL is missing.
    """

    def __init__(
        self, folder: Path, policy: CropPolicy, work: Work, group_size: int, kl_weight: float
    ) -> None:
        try:
            from datasets import Dataset
            from peft import LoraConfig
            from trl import GRPOConfig, GRPOTrainer
        except ImportError as error:
            raise UserError(
                f"--against trl needs TRL ({error}): install it with `scripts/install trl`"
            ) from error
        self.policy, self.work, self.group_size = policy, work, group_size
        dtype = str(policy.base.dtype).removeprefix("torch.")
        lora = policy.vlm.peft_config["default"]
        rows = len(work.batch) * group_size
        config = GRPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=rows,
            num_generations=group_size,
            max_completion_length=work.completion,
            generation_kwargs={"min_new_tokens": work.completion},  # no end token before
            temperature=policy.temperature,
            beta=kl_weight,
            gradient_checkpointing=False,
            bf16=False,  # computed in the weights' own type, as ours is
            use_cpu=policy.device.type == "cpu",
            shuffle_dataset=False,
            report_to=[],
            save_strategy="no",
        )
        questions = [
            {"prompt": [{"role": "user", "content": question}], "image": image}
            for image, question in zip(work.batch.images, work.batch.questions, strict=True)
        ]
        self.trainer = GRPOTrainer(
            model=load_base(str(folder), None, dtype, policy.base.config._attn_implementation),
            reward_funcs=_reward,
            args=config,
            train_dataset=Dataset.from_list(questions),
            processing_class=load_processor(str(folder), None),
            peft_config=LoraConfig(
                r=lora.r, lora_alpha=lora.lora_alpha, target_modules=lora.target_modules
            ),
        )
        _share_weights(self.trainer.model, policy.vlm)
        # What `train()` sets before its first step.
        self.trainer.current_gradient_accumulation_steps = 1
        self.rows = next(iter(self.trainer.get_train_dataloader()))

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model that TRL runs."""
        return self.trainer.model.get_base_model()

    def __call__(self) -> None:
        """Takes one step: generation, reward, reference, loss and its gradient."""
        trainer, stage = self.trainer, self.policy.stage

        def scores(*args: object, **kwargs: Any) -> Any:
            with stage("logprobs" if torch.is_grad_enabled() else "reference"):
                return score(*args, **kwargs)

        def generates(*args: object, **kwargs: Any) -> Any:
            with stage("generation"):
                return generate(*args, **kwargs)

        def goes_back(*args: object, **kwargs: Any) -> Any:
            with stage("backward"):
                return backward(*args, **kwargs)

        score, generate = trainer._get_per_token_logps_and_entropies, trainer._generate_single_turn
        backward = trainer.accelerator.backward
        with (
            _replaced(trainer, "_get_per_token_logps_and_entropies", scores),
            _replaced(trainer, "_generate_single_turn", generates),
            _replaced(trainer.accelerator, "backward", goes_back),
        ):
            trainer.training_step(trainer.model, self.rows, None)
        trainer.model.zero_grad()

    @torch.no_grad()
    def gap(self) -> float:
        """How far the two sides' log-probabilities of TRL's last answers are apart, at most."""
        policy, last = self.policy, self.trainer._buffered_inputs[0]
        ids, mask = last["completion_ids"], last["completion_mask"]
        own = policy.encode(self.work.batch.images, self.work.batch.questions)
        # TRL shuffles the rows of a step.
        order = torch.cat(
            [(last["prompt_ids"] == prompt).all(-1).nonzero()[:, 0] for prompt in own.input_ids]
        )
        inputs = {name: last[name] for name in MULTIMODAL if name in last}
        theirs, *_ = self.trainer._get_per_token_logps_and_entropies(
            self.trainer.model,
            torch.cat([last["prompt_ids"], ids], 1),
            torch.cat([last["prompt_mask"], mask], 1),
            ids.shape[1],
            **inputs,
        )
        free = replace(policy.tokens, grammar=None, banned=torch.zeros_like(policy.tokens.banned))
        shape = (len(own.mask), self.group_size)
        ours = policy_pass(
            policy.base,
            own,
            free,
            ids[order].unflatten(0, shape),
            mask[order].bool().unflatten(0, shape),
            policy.temperature,
            policy.logprob_path,
        ).logp.flatten(0, 1)
        return float((ours - theirs[order]).abs().max())


MULTIMODAL = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")


def _reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    return [float(trivial_reward(torch.tensor(ids))) for ids in completion_ids]


def _share_weights(model: nn.Module, policy: nn.Module) -> None:
    """Lets one model compute with the other's weights."""
    own = dict(policy.named_parameters())
    theirs = dict(model.named_parameters())
    assert own.keys() == theirs.keys(), own.keys() ^ theirs.keys()
    for name, parameter in theirs.items():
        assert parameter.requires_grad == own[name].requires_grad, name
        parameter.data = own[name].data


@contextmanager
def _replaced(owner: object, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """A method of one object replaced for a while."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
