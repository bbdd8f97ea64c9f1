"""Runs a module with our packages in place, whatever the working directory holds: `python -P boot.py MODULE ...`.

A file to run by its path, because a module of `flows` is looked up in the working directory first.
"""

import runpy
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])


def main() -> None:
    """Imports our packages, then runs the module that is named as `python -m` would."""
    sys.path.insert(0, ROOT)
    import flows  # noqa: F401  # it prepares the process

    sys.path.remove(ROOT)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
