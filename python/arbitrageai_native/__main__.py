"""`python -m arbitrageai_native`: the command line."""

import sys

from arbitrageai_native._command_line import main

if __name__ == "__main__":
    sys.exit(main())
