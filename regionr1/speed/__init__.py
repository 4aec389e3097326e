"""Where the time of a step goes, against what a user would run instead (`scripts/benchmark`)."""
