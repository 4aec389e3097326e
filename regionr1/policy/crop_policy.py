"""CropPolicy: the vision-language model that decides whether and where to crop."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from regionr1.algorithm.answers import Decision
from regionr1.errors import UserError
from regionr1.files import as_umask_allows
from regionr1.hub import resolve_source
from regionr1.policy import adapter as lora
from regionr1.policy.decode import decode, evaluating
from regionr1.policy.family import family_of
from regionr1.policy.loading import Quantization, load_base
from regionr1.policy.logprobs import LogprobPath, PolicyPass, policy_pass
from regionr1.policy.prefix import Prefix, decision_logprobs, prefill
from regionr1.policy.processor import load_processor
from regionr1.policy.prompt import Prompt, build_prompt, process, seen_sizes
from regionr1.policy.reasoning import with_reasoning
from regionr1.policy.rollout import Rollouts, read_rollouts
from regionr1.policy.self_check import check_path
from regionr1.policy.tokens import FORMS, FREE, FormName, answer_tokens
from regionr1.policy.vision_cache import VisionCache


class CropPolicy(LightningModule):
    """A frozen Qwen2-VL, Qwen2.5-VL, Qwen3-VL, InternVL or SmolVLM with LoRA.

    Boxes are read in the numbers that the family writes: pixels of the image as the model saw it
    (Qwen2.5-VL), or thousandths of its sides (the others). The prompt should ask for these.
    A query is processed, seen and prefilled once, whatever the group size. Only where the adapter
    reaches the vision tower, every pass sees the images again.

    Args:
        model: `builtin`, a local folder, or a hub id with `revision`. Safetensors only, and
            never remote code.
        revision: Commit of the hub repository; required for a hub id.
        adapter: Folder that `save_adapter` wrote; its LoRA settings replace the `lora_*` ones.
        lora_rank: Rank of the adapter.
        lora_alpha: Its scale is alpha / rank.
        lora_dropout: Dropout on the adapter's input, in training passes only; never in sampling.
        lora_targets: Regular expression over module names, by default the language model's linear
            layers; or `all-linear`, those of the vision tower too.
        temperature: Of sampling and of log-probabilities.
        max_new_tokens: Most tokens of a completion.
        grammar: Let answers follow the grammar only: scaffolding is fed in blocks, only the
            decision and the digits are sampled, and probabilities are taken among what the grammar
            allows.
        reasoning_tokens: Most tokens of free reasoning before the answer, `<think>...</think>`; 0
            for none. It is written once per query and shared by the group, which branches where the
            decision is made; it is not trained. A prompt that asks for reasoning, without this,
            has every answer reason for itself, which `decision: on_policy` trains.
        prompt: The user's message; `{question}` is replaced.
        system: A system message before it; none where empty.
        answer: How answers are written: `short`, `NO_CROP_NEEDED` or `{"bbox_2d": [...]}`; or
            `paper`, a JSON object with a decision and a tool call (Region-R1, table 10; see
            `regionr1.algorithm.paper_answer`). The prompt must ask for what is chosen here.
        dtype: Of the frozen weights: float32, bfloat16, float16 or auto.
        quantization: `nf4` keeps the language model's frozen weights in 4 bits, computed in dtype
            (needs bitsandbytes). Run on CPU with untrained models only, never on a GPU.
        attn_implementation: sdpa, eager or flash_attention_2; not the last for `packed`.
        logprob_path: `two_pass` (prompt once, then its completions), `packed` (both in one row), or
            `dense` (repeats the prompt G times).
        gradient_checkpointing: Trade compute for memory in the loss pass; needs `packed` or
            `dense`.
        compile_decode: Compile the language model for decoding, at the first answer. Takes a
            minute and a C++ compiler, and pays where passes cost more than arithmetic.
        vision_cache: Folder in which vision features are kept from epoch to epoch; see
            `regionr1.policy.vision_cache`. Not with an adapter on the vision tower.
        self_check: Compare logprob_path with `dense` on the first batch, gradients included, and
            stop if they differ.

    Attributes:
        stage: Context around `processor`, `vision`, `reasoning`, `prefill`, `decode`, `logprobs`
            and `reference`; to time them.
    """

    stage: Callable[[str], AbstractContextManager[object]]

    def __init__(
        self,
        model: str = "builtin",
        revision: str | None = None,
        adapter: str | None = None,
        lora_rank: int = 8,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.0,
        lora_targets: str = lora.LANGUAGE_MODEL_LINEARS,
        temperature: float = 1.0,
        max_new_tokens: int = 32,
        grammar: bool = False,
        reasoning_tokens: int = 0,
        prompt: str = "{question}",
        system: str = "",
        answer: FormName = "short",
        dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
        quantization: Quantization = "none",
        attn_implementation: str = "sdpa",
        logprob_path: LogprobPath = "two_pass",
        gradient_checkpointing: bool = False,
        compile_decode: bool = False,
        vision_cache: str | None = None,
        self_check: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"temperature must be above 0, not {temperature}")
        if "{question}" not in prompt:
            raise UserError(f"prompt must hold {{question}}: {prompt!r}")
        if answer not in FORMS:
            raise UserError(f"answer must be one of {', '.join(FORMS)}, not {answer!r}")
        if reasoning_tokens < 0:
            raise UserError(f"reasoning_tokens must be at least 0, not {reasoning_tokens}")
        if gradient_checkpointing and logprob_path == "two_pass":
            raise UserError(
                "gradient_checkpointing drops the cache that two_pass needs: set "
                "logprob_path=packed (or dense) or gradient_checkpointing=false"
            )
        source = resolve_source(model, revision)
        base = load_base(source, revision, dtype, attn_implementation, quantization)
        family = family_of(base.config.model_type)
        self.processor = load_processor(source, revision, family.processor)
        self.tokenizer = self.processor.tokenizer
        self.tokens = answer_tokens(
            self.tokenizer,
            base.config,
            base.generation_config.eos_token_id,
            grammar,
            FORMS[answer],
        )
        needed = max(len(self.tokens.full), len(self.tokens.region) + 1)
        if self.tokens.grammar is not None:
            needed = self.tokens.grammar.longest
        if max_new_tokens < needed:
            raise UserError(
                f"max_new_tokens={max_new_tokens} cannot hold an answer: set at least {needed}"
            )
        if family.deepstack and logprob_path == "packed":
            raise UserError(
                f"logprob_path=packed does not fit {base.config.model_type}, whose first layers "
                "take vision features too: use two_pass"
            )
        if gradient_checkpointing:
            # What transformers 5.23 calls it; the older name goes in v6.
            newer = getattr(base, "activation_checkpointing_enable", None)
            (newer or base.gradient_checkpointing_enable)({"use_reentrant": False})
        self.vlm = (
            lora.load_lora(base, adapter)
            if adapter is not None
            else lora.add_lora(base, lora_rank, lora_alpha, lora_dropout, lora_targets)
        )
        self.vision = None
        if not any(parameter.requires_grad for parameter in self.base.model.visual.parameters()):
            self.vision = VisionCache(self.base, vision_cache)
        elif vision_cache is not None:
            raise UserError(
                f"vision_cache={vision_cache} would keep features that training changes: leave it "
                "out, or keep lora_targets off the vision tower"
            )
        self.frame = family.frame
        self.prompt = prompt
        self.system = system
        self.form = FORMS[answer]
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.reasoning_tokens = reasoning_tokens
        self.logprob_path: LogprobPath = logprob_path
        self.compile_decode = compile_decode
        self.compiled: tuple[int, Callable[..., Any]] | None = None
        self.unchecked = self_check and logprob_path != "dense"
        self.stage = nullcontext
        # from_pretrained returns eval mode and Lightning never calls train()
        self.train()

    @property
    def base(self) -> Qwen2_5_VLForConditionalGeneration:
        """The transformers model, LoRA layers in place."""
        return self.vlm.get_base_model()

    def train(self, mode: bool = True) -> "CropPolicy":
        """Sets the mode as Lightning does, but a frozen vision tower stays in eval mode."""
        super().train(mode)
        if self.vision is not None:
            self.base.model.visual.eval()
        return self

    def encode(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Prompt:
        """Process B images and questions; a frozen tower sees them here, once per query."""
        with self.stage("processor"):
            inputs = process(self.processor, images, questions, self.prompt, self.system)
        with self.stage("vision"):
            seen_hw = seen_sizes(self.processor, inputs)
            return build_prompt(self.base, inputs, seen_hw, self.vision)

    def sample(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        group_size: int,
        forced: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Rollouts:
        """Sample G answers per query, in eval mode whatever the mode is.

        Where gradients are enabled and the loss pass would prefill the same, the prefill keeps its
        gradient and that pass goes on from it.

        Args:
            images: B images.
            questions: B questions.
            group_size: G.
            forced: (B, G) `Decision` to force, -1 where the model decides. FULL forces the
                whole answer, REGION its tokens up to the first number.
            generator: Randomness, on the policy's device.
        """
        keep = torch.is_grad_enabled() and self.prefill_is_exact
        with torch.no_grad():
            prompt = self.encode(images, questions)
            return self._roll_out(prompt, group_size, forced, self.temperature, generator, keep)

    @torch.no_grad()
    def greedy(
        self,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        force_region: bool = False,
        use_adapter: bool = True,
    ) -> Rollouts:
        """The most probable answer token by token, G = 1.

        Args:
            images: B images.
            questions: B questions.
            force_region: Dictate REGION, so that every query gets a box.
            use_adapter: False gives the base model: the policy before training, unless training
                began from a given adapter.
        """
        forced = torch.full((len(images), 1), int(Decision.REGION)) if force_region else None
        prompt = self.encode(images, questions)
        with self.adapter(use_adapter):
            return self._roll_out(prompt, 1, forced, None, None)

    @torch.no_grad()
    def greedy_both(self, prompt: Prompt, use_adapter: bool = True) -> Rollouts:
        """The free answer and the forced REGION of `greedy` from one prefill: G = 2.

        Args:
            prompt: The queries as `encode` gives them, the same with the adapter and without.
            use_adapter: As for `greedy`.
        """
        forced = torch.tensor([[FREE, int(Decision.REGION)]]).expand(len(prompt.mask), 2)
        with self.adapter(use_adapter):
            return self._roll_out(prompt, 2, forced, None, None)

    def score(self, rollouts: Rollouts, use_adapter: bool = True) -> PolicyPass:
        """Log-probabilities, entropies and the exact decision; adapter off: reference policy."""
        if self.unchecked and use_adapter:
            self.unchecked = False
            with evaluating(self), self.stage("self-check"):
                check_path(self._pass, self.logprob_path, rollouts, list(self.parameters()))
        prefix = None
        if use_adapter and torch.is_grad_enabled():  # its gradient serves once
            prefix, rollouts.prefix = rollouts.prefix, None
            prefix = prefix if self.prefill_is_exact else None  # the mode may have changed
        torch.clear_autocast_cache()  # before torch 2.10, sampling leaves it casts without gradient
        with self.adapter(use_adapter), self.stage("logprobs" if use_adapter else "reference"):
            return self._pass(rollouts, self.logprob_path, prefix)

    @property
    def prefill_is_exact(self) -> bool:
        """Whether a loss pass would prefill exactly as sampling does."""
        dropout = any(m.p > 0 for m in self.base.modules() if isinstance(m, torch.nn.Dropout))
        noisy = dropout or self.base.config.get_text_config().attention_dropout > 0
        return self.logprob_path == "two_pass" and not (self.training and noisy)

    def _pass(
        self, rollouts: Rollouts, path: LogprobPath, prefix: Prefix | None = None
    ) -> PolicyPass:
        return policy_pass(
            self.base,
            rollouts.prompt,
            self.tokens,
            rollouts.completion_ids,
            rollouts.mask,
            self.temperature,
            path,
            rollouts.states,
            prefix,
        )

    @torch.no_grad()
    def p_full(
        self, images: Sequence[Image.Image], questions: Sequence[str], use_adapter: bool = True
    ) -> Tensor:
        """(B,) exact probability of FULL at temperature 1, after greedy reasoning if any."""
        encoded = self.encode(images, questions)
        with evaluating(self), self.adapter(use_adapter):
            prompt, _ = self._reason(encoded, None, None)
            with self.stage("prefill"):
                prefix = prefill(self.base, prompt)
                return decision_logprobs(self.base, prefix, self.tokens)[0].exp()

    def adapter(self, enabled: bool) -> AbstractContextManager[object]:
        """A context with the adapter on, or off for the reference policy."""
        return nullcontext() if enabled else self.vlm.disable_adapter()

    def adapter_state(self) -> dict[str, Tensor]:
        """The adapter's weights under PEFT's names: all that a checkpoint needs."""
        return lora.adapter_state(self.vlm)

    def save_adapter(self, folder: str | Path) -> None:
        """Write the adapter as plain PEFT reads it: config and safetensors, no base weights."""
        self.vlm.save_pretrained(str(folder), save_embedding_layers=False)
        as_umask_allows(Path(folder))

    def _roll_out(
        self,
        encoded: Prompt,
        group_size: int,
        forced: Tensor | None,
        temperature: float | None,
        generator: torch.Generator | None,
        keep_prefill: bool = False,
    ) -> Rollouts:
        if group_size < 1:
            raise UserError(f"group_size must be at least 1, not {group_size}")
        shape = (len(encoded.mask), group_size)
        if forced is None:
            forced = torch.full(shape, FREE)
        if tuple(forced.shape) != shape:
            raise ValueError(f"forced is {tuple(forced.shape)}, but B and G are {shape}")
        with evaluating(self):
            prompt, reasoning = self._reason(encoded, temperature, generator)
            plan = self.tokens.plan(forced.to(prompt.mask.device), self.max_new_tokens)
            with self.stage("prefill"):
                with torch.set_grad_enabled(keep_prefill):
                    kept = prefill(self.base, prompt)
                prefix = kept.detached()
                log_p_full, log_p_region = decision_logprobs(self.base, prefix, self.tokens)
            with self.stage("decode"):
                sides = self.frame.sides(prompt.seen_hw)
                done = decode(
                    self.base,
                    prefix,
                    self.tokens,
                    plan,
                    temperature,
                    generator,
                    sides,
                    language=self.compiled_language(),
                )
        rollouts = read_rollouts(
            self.tokenizer,
            self.frame,
            prompt,
            done.ids.unflatten(0, shape),
            done.mask.unflatten(0, shape),
            (plan[:, : done.ids.shape[1]] != FREE).unflatten(0, shape),
            (log_p_full.exp(), log_p_region.exp()),
            None if done.states is None else done.states.unflatten(0, shape),
            self.form,
        )
        rollouts.prefix = kept if keep_prefill else None
        rollouts.reasoning = reasoning
        return rollouts

    def compiled_language(self) -> Callable[..., Any] | None:
        """The language model, compiled for decoding if `compile_decode` asks for it."""
        if not self.compile_decode:
            return None
        language = self.base.model.language_model
        # By id: a deep copy of the policy must not decode with what it was copied from.
        if self.compiled is None or self.compiled[0] != id(language):
            # blocks of tokens, rows and the cache change in size from pass to pass
            self.compiled = (id(language), torch.compile(language.forward, dynamic=True))
        return self.compiled[1]

    def _reason(
        self, prompt: Prompt, temperature: float | None, generator: torch.Generator | None
    ) -> tuple[Prompt, list[str]]:
        """What answers go on from, and the reasoning in it."""
        if not self.reasoning_tokens:
            return prompt, [""] * len(prompt.mask)
        with self.stage("reasoning"):
            return with_reasoning(
                self.base,
                self.tokenizer,
                self.tokens,
                prompt,
                self.reasoning_tokens,
                temperature,
                generator,
                self.compiled_language(),
            )
