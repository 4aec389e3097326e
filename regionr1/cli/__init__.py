"""The command line: one file per verb, and `call`, the one wrapper that runs them all.

Nothing heavy is imported before it is known what is asked.
"""
