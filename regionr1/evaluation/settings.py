"""The settings of a run that can change its result, by the dotted names of the options.

The tracker logs these as parameters and `regionr1 compare` tells runs apart by them. What a
resolved config holds beside them names files, draws bars, or belongs to a loss, a decision or a
variant of the reward that the run does not use.
"""

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]

# Names and files of a run, and what is logged, drawn and kept of it.
OF_THE_RUN = (
    *("config", "resume", "ckpt_path", "weights_only", "verbose", "return_predictions"),
    *("checkpoint.", "best.", "gallery.", "system_metrics.", "predictions."),
    *("data.num_workers", "data.start_method", "data.verify_checksums"),
    *("trainer.logger", "trainer.default_root_dir", "trainer.callbacks", "trainer.profiler"),
    *("trainer.enable_", "trainer.log_every_n_steps", "trainer.num_sanity_val_steps"),
    *("trainer.fast_dev_run", "trainer.max_epochs"),  # the stream is endless: steps count
)
# What Lightning's Trainer does without being told.
LIGHTNINGS = {
    **{"accelerator": "auto", "strategy": "auto", "devices": "auto", "num_nodes": 1},
    **{"accumulate_grad_batches": 1, "use_distributed_sampler": True, "inference_mode": True},
    **{"detect_anomaly": False, "barebones": False, "sync_batchnorm": False},
    **{"reload_dataloaders_every_n_epochs": 0, "overfit_batches": 0.0},
}
SEEDS = ("seed_everything", "model.seed", "data.seed")


def flat(config: Config, prefix: str = "") -> dict[str, Any]:
    """A nested config by dotted key; `class_path` is the value of its key, `init_args` no level."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        own = key in ("init_args", "class_path") and prefix
        path = prefix if own else f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict) and value:
            found.update(flat(value, path))
        else:
            found[path] = value
    return found


def settings(config: Config) -> dict[str, Any]:
    """What can change the result: neither names and files, nor what is not set or has no effect.

    Args:
        config: A resolved config.
    """
    found = {
        key: value
        for key, value in flat(config).items()
        if value is not None and not key.startswith(OF_THE_RUN)
    }
    return {key: value for key, value in found.items() if _counts(key, found)}


def _counts(key: str, found: Config) -> bool:
    if key.removeprefix("trainer.") in LIGHTNINGS and key.startswith("trainer."):
        return bool(found[key] != LIGHTNINGS[key.removeprefix("trainer.")])
    return all(rule(found) for name, rule in COUNTS_IF.items() if _named(key, name))


def _named(key: str, name: str) -> bool:
    return key.startswith(name[:-1]) if name.endswith("*") else key == name


def _is(key: str, *values: object) -> Callable[[Config], bool]:
    return lambda found: found.get(key) in values


def _is_not(key: str, *values: object) -> Callable[[Config], bool]:
    return lambda found: found.get(key) not in values


def _above(key: str, least: float = 0) -> Callable[[Config], bool]:
    return lambda found: (found.get(key) or 0) > least


def _both(*rules: Callable[[Config], bool]) -> Callable[[Config], bool]:
    return lambda found: all(rule(found) for rule in rules)


def _on(*keys: str) -> dict[str, Callable[[Config], bool]]:
    """Extras that do nothing while they are 0, false or none."""
    return {key: _is_not(key, 0, False, "none", "", None) for key in keys}


_BALANCED = _is("model.decision", "balanced")
_SAMPLED = _is_not("model.decision", "exact")
_UNCORRECTED = _is_not("model.estimator.balanced_correction", True)
_RATIO = _above("model.num_iterations", 1)  # else new and old policy are one, and the ratio is 1
_CLIPPED = (None, "grpo", "bnpo", "dr_grpo", "dapo", "luspo")  # the losses that clip the ratio
_FLOOR = "model.estimator.region_floor"
_LOSS = "model.loss.loss_type"
_OWN = _is("model.reward.variant", "own", None)
_NOT_RELEASE = _is_not("model.reward.variant", "release")
_VOTED = _is("model.reward.labels", "vote")
_ENCOURAGED = _both(_above("model.crop_prior.encouragement"), _NOT_RELEASE)

COUNTS_IF: dict[str, Callable[[Config], bool]] = {
    "model.kl": _above("model.kl_weight"),
    "model.num_iterations": _RATIO,
    "model.crop_prior.region_share": _BALANCED,
    "model.crop_prior.min_area": _OWN,
    "model.crop_prior.max_aspect": _OWN,
    "model.crop_prior.encouragement*": _ENCOURAGED,
    "model.reward.vote_*": _VOTED,
    "model.reward.malformed": _NOT_RELEASE,
    "model.reward.invalid": _NOT_RELEASE,
    "model.reward.labels": _VOTED,
    "model.advantage.baseline": _both(_SAMPLED, _UNCORRECTED),
    "model.advantage.scale_rewards": _UNCORRECTED,
    "model.estimator.decision_loss": _is("model.decision", "exact"),
    "model.estimator.region_floor": _both(_is("model.decision", "exact"), _above(_FLOOR)),
    "model.loss.importance_sampling_level": _RATIO,
    "model.loss.epsilon_low": _both(_RATIO, _is(_LOSS, *_CLIPPED)),
    "model.loss.epsilon_high": _both(_RATIO, _is(_LOSS, *_CLIPPED, "cispo")),
    "model.loss.delta": _both(_RATIO, _is(_LOSS, *_CLIPPED)),
    "model.loss.shape.sapo*": _both(_RATIO, _is(_LOSS, "sapo")),
    "model.loss.shape.vespo*": _both(_RATIO, _is(_LOSS, "vespo")),
    "model.scheduler.last_epoch": lambda found: False,
    **_on(
        *("model.advantage.stratified", "model.estimator.balanced_correction"),
        *(
            "model.soft_fusion",
            "model.kl_weight",
            "model.estimator.decision_entropy",
            "model.crop_prior.padding",
        ),
        *("model.policy.lora_dropout", "model.policy.reasoning_tokens"),
        *("model.policy.grammar", "model.policy.system", "model.policy.quantization"),
        *("model.policy.gradient_checkpointing", "model.policy.compile_decode"),
        *("model.policy.self_check", "model.policy.vision_cache"),
        *("model.optimizer.amsgrad", "model.optimizer.maximize", "model.optimizer.foreach"),
        *("model.optimizer.capturable", "model.optimizer.differentiable", "model.optimizer.fused"),
    ),
}
"""When a setting has an effect; one that no line names always counts."""
