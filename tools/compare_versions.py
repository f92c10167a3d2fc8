"""Compare the results of two checkouts on this machine: ``python tools/compare_versions.py OLD [NEW]``.

Runs the golden commands (``tests/golden/cases.py`` of this checkout) once with each checkout, with the
bundled model ``starter``, whose answers depend on the processor and are therefore in no golden file. Prints
every value that differs. Exit status: 0 the same, 1 different.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUN = """
import sys
from pathlib import Path
from golden import cases
cases.HERE, cases.MODEL = Path(sys.argv[1]), sys.argv[2]
cases.save(dict(cases.measure(cases.HERE / "work")))
"""


def main() -> int:
    """Run both checkouts and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("old", type=Path, help="a checkout of another version")
    parser.add_argument("new", type=Path, nargs="?", default=ROOT, help="default: this checkout")
    parser.add_argument("--old-python", default=sys.executable, help="interpreter for the old checkout")
    parser.add_argument("--model", default="starter", help="a bundled model, or the absolute path of a file")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    cases: Any = import_module("golden.cases")

    measures = []
    with tempfile.TemporaryDirectory() as work:
        for name, checkout, python in (
            ("old", options.old, options.old_python),
            ("new", options.new, sys.executable),
        ):
            out = Path(work, name)
            out.mkdir()
            path = os.pathsep.join([str(checkout.resolve() / "src"), str(ROOT / "tests")])
            command = [python, "-c", RUN, str(out), options.model]
            subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=True, cwd=out)
            cases.HERE = out
            measures.append(cases.load())
    old, new = measures
    found = list(cases.differences(new, old))
    print("\n".join(found) or f"The {len(old)} cases have the same results.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
