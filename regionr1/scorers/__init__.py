"""The frozen dual encoders that score candidates, and the re-ranker that turns scores to rewards.

`base.Scorer` is the interface, `load` finds one by name or file, and `reranker` is the
LightningModule that embeds views. A scorer never trains, so it stands below the data.
"""
