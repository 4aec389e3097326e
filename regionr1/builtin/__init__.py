"""The built-in benchmark, policy and scorer: all that is needed to try r-GRPO without a download.

The benchmark is written in a published layout and then treated like any other data.
"""
