"""WebDataset tars of queries with their candidates: written once, streamed to every rank.

`index` carries counts, checksums and the fingerprint of the scorer; `stream` is exact across ranks
and workers; `batch` and `datamodule` hand B queries to the trainer.
"""
