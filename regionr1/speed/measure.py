"""What a way of doing a step costs: seconds by stage, what went through each model, memory."""

import ctypes
import gc
import platform
import resource
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from regionr1.policy.crop_policy import CropPolicy
from regionr1.scorers.reranker import RewardReranker
from regionr1.tracking.callbacks.profiler import StageProfiler

PAGE_BYTES = 4096
SAMPLE_S = 0.005


@dataclass
class Cost:
    """What one step costs, or several together.

    Attributes:
        steps: How many.
        seconds: Wall time by stage.
        user_s: Time on the CPU's cores, all threads together, of the program itself.
        system_s: The same, of the operating system on its behalf: mapping memory, above all.
        page_faults: How often the program touched memory that was not there yet.
        passed: Images and tokens through each model.
        peak_bytes: Most memory above what was in use before.
    """

    steps: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    user_s: float = 0.0
    system_s: float = 0.0
    page_faults: int = 0
    passed: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values()) / self.steps

    @property
    def processor_s(self) -> float:
        """Processor time of a step, which other programs on the machine hardly change."""
        return (self.user_s + self.system_s) / self.steps


def total(costs: Iterable[Cost]) -> Cost:
    """What several steps cost together; the peak is the highest."""
    whole = Cost()
    for cost in costs:
        whole.steps += cost.steps
        for stage, seconds in cost.seconds.items():
            whole.seconds[stage] += seconds
        whole.user_s += cost.user_s
        whole.system_s += cost.system_s
        whole.page_faults += cost.page_faults
        whole.passed += cost.passed
        whole.peak_bytes = max(whole.peak_bytes, cost.peak_bytes)
    return whole


def measure(
    step: Callable[[], object],
    policy: CropPolicy,
    reranker: RewardReranker | None,
    into: Cost,
    base: PreTrainedModel | None = None,
    memory: bool = False,
) -> None:
    """Takes a step and adds up what it costs.

    Args:
        step: What to measure.
        policy: Its `stage` is the step's clock.
        reranker: Whose images are counted.
        into: What the step is added to.
        base: The transformers model that the step runs; None for the policy's own.
        memory: Look at its memory, for which what is kept of the step before is handed back first.
    """
    profiler = StageProfiler()
    policy.stage = profiler.profile
    watched = _peak(into) if memory else nullcontext()
    with _count(policy, base or policy.base, reranker, into.passed), watched:
        before = resource.getrusage(resource.RUSAGE_SELF)
        with profiler.profile("run_training_batch"):
            step()
        after = resource.getrusage(resource.RUSAGE_SELF)
    into.user_s += after.ru_utime - before.ru_utime
    into.system_s += after.ru_stime - before.ru_stime
    into.page_faults += after.ru_minflt - before.ru_minflt
    into.steps += 1
    for stage, seconds in profiler.seconds.items():
        into.seconds["loss and the rest" if stage == "Lightning" else stage] += seconds


@contextmanager
def _count(
    policy: CropPolicy,
    base: PreTrainedModel,
    reranker: RewardReranker | None,
    passed: Counter[str],
) -> Iterator[None]:
    def vision(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
        passed["images through the vision tower"] += 0 if grid is None else len(grid)

    def language(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2]
        passed["tokens through the language model"] += rows * length
        passed["passes of the language model"] += 1

    hooks = [
        base.model.visual.register_forward_pre_hook(vision, with_kwargs=True),
        base.model.language_model.register_forward_pre_hook(language, with_kwargs=True),
    ]
    compiled = policy.compiled
    if policy.compile_decode:  # what is compiled runs no hooks
        decoded = policy.compiled_language()
        assert decoded is not None and policy.compiled is not None

        def counted_decode(*args: object, **kwargs: Any) -> Any:
            language(policy, args, kwargs)
            return decoded(*args, **kwargs)

        compiled, policy.compiled = policy.compiled, (policy.compiled[0], counted_decode)
    scorer: object = None if reranker is None else reranker.scorer
    names = () if scorer is None else ("embed_images", "embed_candidates")
    inside: list[str] = []  # one of the two may call the other
    for name in names:
        plain = getattr(scorer, name)

        def counted(
            images: Any, *rest: object, name: str = name, plain: Callable[..., Any] = plain
        ) -> Any:
            passed["images through the scorer"] += 0 if inside else len(images)
            inside.append(name)
            try:
                return plain(images, *rest)
            finally:
                inside.pop()

        object.__setattr__(scorer, name, counted)
    try:
        yield
    finally:
        policy.compiled = compiled
        for hook in hooks:
            hook.remove()
        for name in names:
            object.__delattr__(scorer, name)


@contextmanager
def _peak(into: Cost) -> Iterator[None]:
    """On a GPU by its allocator; on a CPU by looking at the process's resident memory."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield
        into.peak_bytes = max(into.peak_bytes, torch.cuda.max_memory_allocated() - before)
        return
    gc.collect()
    if platform.system() == "Linux":  # hand back what the way before has freed
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    before, done = _resident_bytes(), threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            into.peak_bytes = max(into.peak_bytes, _resident_bytes() - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:  # not Linux
        return 0


def seconds_of(call: Callable[[], object]) -> float:
    """Measures the wall seconds of one call."""
    begin = StageProfiler.now()
    call()
    return StageProfiler.now() - begin


def machine_speed(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes/s of a large copy, the best of a few tries."""
    side = 4096 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    big = torch.empty(2**28 if device.type == "cuda" else 2**25, device=device)
    product, copy = float("inf"), float("inf")
    for _ in range(5):
        product = min(product, seconds_of(lambda: a @ a))
        copy = min(copy, seconds_of(lambda: big.clone()))
    return 2 * side**3 / product, 2 * big.numel() * big.element_size() / copy
