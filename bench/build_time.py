"""Measure what a build costs: from an edited kernel to its loaded library, and from an unedited one (a cache hit).

    python bench/build_time.py [VARIANT ...] [--dtype bfloat16] [--repeat 3] [--json]

* Without names: of each family of kernels the variant with the longest source.
* Edit: a copy of the variant's folder gets a new comment; one variant, one dtype, one target is compiled, linked and loaded in a
  fresh process. The host runtime is compiled beforehand, as it is once on a machine. Limit: 3 s.
* Hit: another fresh process loads the same library, all sources hashed again. Limit: 50 ms.
* Both are timed without the interpreter's start and imports. The limits apply to the median of the repeats. `cpu s` is the processor
  time of the compilers: where it is far below the median, other work on the machine delayed them.
* Targets: `host`, and `sm_90a` where nvcc is found. Exit code 1 when a limit is passed.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from elmanctl import toolchain
from elmanctl.console import print_json
from elmanctl.errors import UserError
from elmanctl.plugins.registry import registry
from elmanctl.verify import hashes

ROOT = Path(__file__).resolve().parent.parent
LIMIT_SECONDS = {"edit": 3.0, "hit": 0.05}
CHILD = """
import resource, sys, time
from pathlib import Path
from elmanctl import build, tiles
from elmanctl.plugins.discovery import load_variant
variant = load_variant(Path(sys.argv[1]))
kernel, constants = variant.kernel(), variant.module("binding").constants(variant.config())
if kernel.tiling:
    constants = kernel.complete(constants, kernel.tiling.typical, sys.argv[2], tiles.of_target(sys.argv[3]))
start = time.perf_counter()
build.load(kernel, constants, sys.argv[2], sys.argv[3])
wall = time.perf_counter() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(wall, used.ru_utime + used.ru_stime)
"""


def seconds_to_load(folder: Path, dtype: str, target: str, cache: Path) -> tuple[float, float]:
    """Return (wall seconds that build.load takes in a fresh process, processor seconds of the compilers it ran)."""
    environment = os.environ | {"ELMANCTL_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-c", CHILD, str(folder), dtype, target]
    ran = subprocess.run(call, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    wall, cpu = map(float, ran.stdout.split())
    return wall, cpu


def measure(name: str, dtype: str, target: str, repeat: int) -> list[dict]:
    """Return one row each for `edit` and `hit`: variant, dtype, target, kind, median and worst seconds, and the limit."""
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "variants" / name, Path(place) / "cache"
        shutil.copytree(ROOT / "variants" / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
        source = toolchain.kernel_source(folder)
        seconds_to_load(folder, dtype, target, cache)
        seconds: dict[str, list[tuple[float, float]]] = {"edit": [], "hit": []}
        for n in range(repeat):
            source.write_text(source.read_text() + f"// edit {n}\n")
            for kind in seconds:
                seconds[kind].append(seconds_to_load(folder, dtype, target, cache))
    return [
        {
            "variant": name,
            "dtype": dtype,
            "target": target,
            "kind": kind,
            "median_seconds": round(statistics.median(wall for wall, _ in values), 4),
            "worst_seconds": round(max(wall for wall, _ in values), 4),
            "cpu_seconds": round(statistics.median(cpu for _, cpu in values), 4),
            "limit_seconds": LIMIT_SECONDS[kind],
        }
        for kind, values in seconds.items()
    ]


def targets() -> list[str]:
    """Return the targets whose compiler is here."""
    found = []
    for target in (toolchain.HOST, "sm_90a"):
        try:
            toolchain.compiler(target)
            found.append(target)
        except UserError as missing:
            print(missing, file=sys.stderr)
    return found


def longest_of_each_family() -> list[str]:
    """Return folders below variants/: of those whose kernels reach the same family headers the one with the most text of its own."""
    longest: dict[str, tuple[int, str]] = {}
    for variant in registry().variants().values():
        if variant.has_kernel and variant.folder.parent == ROOT / "variants":
            size = len(toolchain.kernel_source(variant.folder).read_text()), variant.folder.name
            family = hashes.family(variant)
            longest[family] = max(size, longest.get(family, size))
    return sorted(name for _, name in longest.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("variants", nargs="*", help="folders below variants/; default: one of each family")
    parser.add_argument("--dtype", default="bfloat16", help="compute dtype")
    parser.add_argument("--repeat", type=int, default=3, help="edits timed")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    chosen = parser.parse_args()
    names = chosen.variants or longest_of_each_family()
    rows = [row for name in names for target in targets() for row in measure(name, chosen.dtype, target, chosen.repeat)]
    if chosen.json:
        print_json(rows)
    else:
        print(
            f"{'variant':10} {'dtype':9} {'target':7} {'kind':5} {'median s':>9} {'worst s':>9} {'cpu s':>7} {'limit s':>8}"
        )
        for r in rows:
            late = "  over" if r["median_seconds"] > r["limit_seconds"] else ""
            cells = f"{r['variant']:10} {r['dtype']:9} {r['target']:7} {r['kind']:5}"
            print(
                f"{cells} {r['median_seconds']:9.3f} {r['worst_seconds']:9.3f} {r['cpu_seconds']:7.2f} {r['limit_seconds']:8.2f}{late}"
            )
    return int(any(r["median_seconds"] > r["limit_seconds"] for r in rows))


if __name__ == "__main__":
    sys.exit(main())
