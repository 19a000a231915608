"""Whatever of the tests is imported may import the programs of `jenkins-test/`, which is no package."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "jenkins-test"))
