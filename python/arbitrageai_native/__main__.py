"""`python -m arbitrageai_native`: the command line."""

import sys

from arbitrageai_native.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
