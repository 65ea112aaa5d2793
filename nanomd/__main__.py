"""``python -m nanomd`` is the command `nanomd`, as ``torchrun -m -- nanomd`` needs it."""

import sys

from nanomd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
