"""Published files to typed records, with file and line in every error and a count of every skip.

One file per data set; `registry` names them, `base` says what a reader must offer, and the rest
is shared between the published layouts.
"""
