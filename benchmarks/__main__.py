"""`python -m benchmarks NAME [ARGUMENTS]`: runs one benchmark and prints its figures."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path


def main() -> int:
    found = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    names = [name for name in found if not name.startswith("_")]
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        print(f"usage: python -m benchmarks NAME, where NAME is one of: {', '.join(names)}")
        return 2
    result = importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
    return int(result or 0)


if __name__ == "__main__":
    sys.exit(main())
