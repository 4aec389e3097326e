"""The vision-language policy: prompt, prefill, decoding, grammar and log-probabilities.

`crop_policy.CropPolicy` is the LightningModule around it. A query is decoded and prefilled once,
whatever the size of its group; a model family is one file.
"""
