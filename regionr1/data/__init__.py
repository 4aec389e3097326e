"""Published files to batches: `readers` read, `build` embeds and retrieves, `shards` stream.

`records` are the typed records that pass between the three, and `images` opens every image.
Nothing here knows a policy or a trainer.
"""
