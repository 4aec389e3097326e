"""Where the files lie that a clone has and a wheel has not."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
TESTS = ROOT / "tests"
