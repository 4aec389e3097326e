"""`python -m regionr1` is `regionr1`."""

import sys

from regionr1.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
