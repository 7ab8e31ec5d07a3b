"""`python -m subtuning_hf.cli`, which launchers such as torchrun need."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
