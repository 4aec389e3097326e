"""The mathematics on tensors: boxes, answers, ranking, rewards, advantages, decision, losses.

Pure functions that import neither lightning nor transformers, each tested against a plain
reference. Read `objective` first: it is what a training step minimises.
"""
