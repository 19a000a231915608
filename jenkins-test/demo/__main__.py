"""`python jenkins-test/demo`, which is what `provisioner demo` runs."""

import sys
from pathlib import Path

if not __package__:
    # started by its folder: its parent holds this package, the stand-in and the real controller's starter
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(p for p in sys.path if Path(p or ".").resolve() != here)]

from demo.interrupts import Interrupts

#: Before the slower imports: from here on a signal ends the demo in order.
INTERRUPTS = Interrupts()

from demo.program import main  # noqa: E402

sys.exit(main(INTERRUPTS))
