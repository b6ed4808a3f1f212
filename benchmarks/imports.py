"""What importing the models costs, against SQLAlchemy's ORM and the psycopg2 dialect that they need anyway.

Each import runs in a fresh interpreter, in turn with a bare one and with the floor, so that a slow moment of
the machine hits all of them. What counts is the processor time of the process (user and system), less that of
the bare interpreter.

    python benchmarks/imports.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys

BARE = "pass"
FLOOR = "import sqlalchemy.orm, sqlalchemy.dialects.postgresql.psycopg2, psycopg2"
OURS = "import platform_db.models"


def main() -> None:
    """Run the benchmark and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    programs = (BARE, FLOOR, OURS)
    for program in programs:
        seconds(program)  # writes the .pyc files, and warms the disk's cache
    bare, floor, ours = (
        statistics.median(times)
        for times in zip(*([seconds(program) for program in programs] for _ in range(rounds)), strict=True)
    )
    for program, taken in ((BARE, bare), (FLOOR, floor), (OURS, ours)):
        print(f"{taken * 1000:7.0f} ms  {program}")
    print(f"{(ours - bare) / (floor - bare):7.2f}x the floor, without the interpreter itself")
    print(f"{ours / floor:7.2f}x the floor, with it  (medians of {rounds} rounds)")


def seconds(program: str) -> float:
    """Return the processor time that a fresh interpreter takes for the program."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", program], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
