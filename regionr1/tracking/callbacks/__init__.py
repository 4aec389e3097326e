"""One file for each thing that a run leaves behind: config, adapter, pictures, tables, load.

Lightning callbacks that only watch; training is the same without them.
"""
