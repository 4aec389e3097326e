"""Runs what `scripts/benchmark` asks for and prints it."""

import argparse
import copy
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from regionr1.algorithm.objective import Objective
from regionr1.errors import UserError
from regionr1.policy.crop_policy import CropPolicy
from regionr1.scorers.reranker import RewardReranker
from regionr1.speed.floor import step_floor
from regionr1.speed.inference import inference
from regionr1.speed.measure import Cost, machine_speed, measure, total
from regionr1.speed.shapes import SHAPES, build_shape
from regionr1.speed.steps import Stepper
from regionr1.speed.trl_step import TrlStep
from regionr1.speed.work import SIDE_PX, make_work

GROWING = ("group", "candidates", "text", "image", "queries")


def run(args: argparse.Namespace, folder: Path) -> None:
    """Builds the policy, times a step each way and prints what it cost.

    Args:
        args: Of `scripts/benchmark`.
        folder: For the policy's files.

    Raises:
        UserError: an option that cannot be.
    """
    dtype = getattr(torch, args.dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"machine: {torch.cuda.get_device_name() if device.type == 'cuda' else 'no GPU'}; torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads"
    )
    torch.manual_seed(0)
    build_shape(folder, SHAPES[args.shape], dtype)
    policy = CropPolicy(
        str(folder),
        max_new_tokens=max(args.completion, 48) if args.grammar else args.completion,
        grammar=args.grammar,
        dtype=args.dtype,
        logprob_path=args.path,
        gradient_checkpointing=args.checkpointing,
        compile_decode=args.compile,
    ).to(device)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # as after some training: at 0 half of the gradients vanish
            torch.nn.init.normal_(parameter, std=0.02)
    policy.tokens.banned[policy.tokens.eos] = True  # free text goes on to its full length
    weights = sum(p.numel() for p in policy.base.parameters())
    print(
        f"policy: {args.shape}, {weights / 1e6:.0f} M weights, {args.dtype}, path {args.path}, "
        f"grammar {'on' if args.grammar else 'off'}, reward {args.reward}"
    )
    if args.inference:
        inference(args, policy, device)
        return
    settings = list(_variations(args))
    for chosen in settings:
        _compare(chosen, folder, policy, device, brief=len(settings) > 1)


def _variations(args: argparse.Namespace) -> Iterable[argparse.Namespace]:
    if not args.grow:
        yield args
    for text in args.grow:
        name, _, values = text.partition("=")
        if name not in GROWING or not all(v.isdigit() and int(v) for v in values.split(",")):
            raise UserError(f"--grow {text}: use NAME=N,N with a name of {', '.join(GROWING)}")
        for value in values.split(","):
            chosen = copy.copy(args)
            setattr(chosen, name, int(value))
            yield chosen


def _compare(
    args: argparse.Namespace, folder: Path, policy: CropPolicy, device: torch.device, brief: bool
) -> None:
    reranker = RewardReranker("builtin").to(device) if args.reward == "scorer" else None
    if reranker is not None:
        reranker.remember = 0  # every step is timed as if its queries were new
    dim = 8 if reranker is None else reranker.scorer.dim
    work = make_work(args.queries, args.image, args.text, args.candidates, dim, args.completion)
    work.batch = work.batch.to(device)
    objective = Objective(
        decision=args.decision, kl_weight=args.kl, max_completion_length=policy.max_new_tokens
    )
    with torch.no_grad():  # how long are prompt and answer?
        drawn = policy.sample(
            work.batch.images[:1], work.batch.questions[:1], 2, torch.ones(1, 2, dtype=torch.long)
        )
    prompt, answer = drawn.prompt.mask.shape[1], int(drawn.mask.sum(-1).max())
    choices = int(drawn.chosen.sum(-1).max())
    if args.grammar:
        work.completion = answer  # the others sample as many tokens
    stepper = Stepper(policy, reranker, work, args.group, objective)
    ways: dict[str, Callable[[], None]] = {"ours": stepper.ours}
    if "dense" in args.against:
        ways["dense"] = stepper.dense
    if "trl" in args.against:
        ways["TRL"] = trl = TrlStep(folder, policy, work, args.group, args.kl)
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    peak: dict[str, int] = {}
    for turn in range(args.rounds + 1):
        for name, step in ways.items():
            torch.manual_seed(turn)
            cost = Cost()
            base = trl.base if name == "TRL" else None
            measure(step, policy, reranker, cost, base, memory=turn == 0)
            if turn == 0:  # warms up, and tells the memory
                peak[name] = cost.peak_bytes
            else:
                costs[name].append(cost)
    head = (
        f"B={args.queries} G={args.group} K={args.candidates} prompt={prompt} tokens "
        f"completion={answer} tokens, {choices} of them choices (the decision is one)"
    )
    if brief:
        for name, found in costs.items():
            print(f"{head}: {name} {_brief(total(found), peak[name])}")
        return
    print(f"\n{head}; KL weight {args.kl}; {args.rounds} timed steps of each way, in turns")
    flop_s, bytes_s = machine_speed(device, policy.base.lm_head.weight.dtype)
    print(f"this machine now: {flop_s / 1e9:.0f} GFLOP/s, {bytes_s / 1e9:.1f} GB/s")
    images = (args.image // SIDE_PX) ** 2
    for name, found in costs.items():
        cost, dense = total(found), name != "ours"
        floor = step_floor(
            policy,
            args.queries,
            args.group,
            prompt,
            images,
            answer,
            answer if dense else choices,
            dense,
            args.kl > 0,
        )
        _table(name, cost, peak[name])
        least = floor.seconds(flop_s, bytes_s)
        print(
            f"  floor: {floor.flop / 1e9:.0f} GFLOP and {floor.bytes / 1e9:.2f} GB of weights, "
            f"{least:.3f} s here; measured {cost.step_s:.3f} s"
        )
    for name in [*ways][1:]:
        pairs = [*zip(costs[name], costs["ours"], strict=True)]
        print(
            f"\n{name} / ours: {_ratio([a.processor_s / b.processor_s for a, b in pairs])} in "
            f"processor time, {_ratio([a.step_s / b.step_s for a, b in pairs])} in seconds, pair "
            "by pair"
        )
    if "trl" in args.against:
        print(f"log-probabilities of TRL's answers, ours against TRL's: {trl.gap():.1e} apart")
    if not args.skip_gap:
        loss, grad = stepper.gap()
        print(
            f"same rollouts, {args.path} against dense: loss {loss:.1e} and gradients {grad:.1e} "
            "apart, relative"
        )


def _brief(cost: Cost, peak: int) -> str:
    passed = ", ".join(f"{number / cost.steps:,.0f} {what}" for what, number in cost.passed.items())
    return (
        f"{cost.step_s:.3f} s, on the processor {cost.processor_s:.3f} s; "
        f"{peak / 1e6:,.0f} MB above rest; {passed}"
    )


def _ratio(pairs: list[float]) -> str:
    middle = f"{statistics.median(pairs):.2f} times"
    return middle if len(pairs) == 1 else f"{middle} ({min(pairs):.2f} to {max(pairs):.2f})"


def _table(name: str, cost: Cost, peak: int) -> None:
    seconds = sum(cost.seconds.values())
    system, faults = cost.system_s / cost.steps, cost.page_faults / cost.steps
    print(
        f"\n{name}: {cost.step_s:.3f} s a step; on the processor {cost.processor_s:.3f} s, of "
        f"these {system:.3f} s the system's, with {faults:,.0f} page faults"
    )
    for stage, spent in sorted(cost.seconds.items(), key=lambda item: -item[1]):
        print(f"  {stage:<20} {spent / cost.steps:8.3f} s  {spent / seconds:6.1%}")
    for what, number in cost.passed.items():
        print(f"  {what}: {number / cost.steps:,.0f}")
    print(f"  peak memory above rest: {peak / 1e6:,.0f} MB")
