"""Help of `fit`, `validate`, `test` and `predict`: the options that most runs need.

All of them come from the classes that are trained, which takes seconds to import.
"""

OPTIONS = {
    "-c NAME_OR_FILE": "a recipe (`regionr1 recipes` lists them) or a config file; several stack",
    "--resume RUN_ID": "go on with an MLflow run, or with the newest (`last`): config, checkpoint",
    "--data.shards FOLDER": "what `regionr1 data prepare` or `data shards` wrote; URLs too",
    "--data.batch_size N": "queries per step and device",
    "--model.group_size N": "answers per query",
    "--model.decision HOW": "exact, balanced (the paper's) or on_policy",
    "--model.kl_weight X": "pull towards the policy before training",
    "--model.optimizer.lr X": "learning rate",
    "--model.policy.init_args.model NAME": "builtin, a folder or a hub id of a VLM",
    "--model.policy.init_args.lora_rank N": "rank of the adapter",
    "--trainer.max_steps N": "optimizer steps",
    "--trainer.devices N": "GPUs, or processes on a CPU",
    "--trainer.limit_val_batches N": "batches of a validation; limit_test_batches of a test",
    "--trainer.logger.init_args.run_name NAME": "name of the run in MLflow",
    "--seed_everything N": "seed; --model.seed and --data.seed of sampling and of order",
    "--print_config": "print the config that the options come to, and stop",
}
OF_VERB = {"predict": {"--predictions.path FILE": "the file to write"}}


def verb_help(verb: str, about: str) -> str:
    """The page of a verb."""
    options = OPTIONS | OF_VERB.get(verb, {})
    width = max(map(len, options))
    lines = [f"  {name:<{width}}  {text}" for name, text in options.items()]
    return "\n".join(
        [
            f"usage: regionr1 {verb} [-c NAME_OR_FILE ...] [--KEY VALUE ...]",
            "",
            f"{about[0].upper()}{about[1:]}.",
            "",
            *lines,
            "",
            f"`regionr1 {verb} --help all` lists every key with its meaning, and",
            f"`regionr1 {verb} -c quickstart --print_config` shows them with their values.",
            "",
        ]
    )
