"""`python -m provisioner`."""

import sys

from provisioner.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
