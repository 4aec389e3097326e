"""WebDataset tars of query images with their questions and candidates, streamed to every rank.

`samples` says what they hold and `writer` writes them once. `index` carries counts, checksums and
the fingerprint of the scorer; `stream` is exact across ranks and workers; `batch` and `datamodule`
hand B queries to the trainer.
"""
