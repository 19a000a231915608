"""`python jenkins-test/standin` and `python -m standin`."""

import sys
from pathlib import Path

if not __package__:
    # started by its folder: that folder itself must not be on the path, its `queue.py` would shadow Python's
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p or ".").resolve() != here)]

from standin.program import main

sys.exit(main())
