"""Shows on this machine what the time gate does, by running the command itself.

    python tests/gate/prove.py unchanged --runs 20   no run on an unchanged tree may fail
    python tests/gate/prove.py planted --percent 15  a slower CALM head must fail
    python tests/gate/prove.py curve                 the rule's operating curve, on no clock at all

The tree is the commit that is checked out, cloned to a temporary folder; what is not committed is
not in it. The first two want an idle machine: on a busy one, runs end as inconclusive or unfit (3).
"""

import argparse
import collections
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORDS = {0: "pass", 1: "regressed", 2: "error", 3: "inconclusive or unfit"}

# Whatever way systems are prepared, a CALM head takes longer by this share of its processor time.
PLANTED = """

_unslowed = load_system


def load_system(*args, **options):
    import time

    system = _unslowed(*args, **options)
    head_step = system.head_step

    def slowed(state, z):
        began = time.thread_time_ns()
        frame = head_step(state, z)
        until = began + {factor} * (time.thread_time_ns() - began)
        while time.thread_time_ns() < until:
            pass
        return frame

    if type(system).__name__ == "CalmSystem":
        system.head_step = slowed
    return system
"""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def check(tree: Path, gates: list[str]) -> tuple[int, str, float]:
    """Exit code, table and seconds of `calm-bench check --against HEAD` in a tree."""
    code = "from calm_bench.cli.app import main; main()"
    words = ["check", "--against", "HEAD", "--gates", *gates]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout if done.returncode in (0, 1, 3) else done.stderr
    return done.returncode, text, time.monotonic() - began


def against_itself(runs: int, gates: list[str], percent: float, wanted: set[int]) -> int:
    """Run the gate several times; 0 if every exit code was one of those wanted."""
    seen: collections.Counter[int] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="calm-bench-prove-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, tree], check=True)
        if percent:
            loading = tree / "calm_bench" / "systems" / "loading.py"
            factor = 1 + percent / 100
            loading.write_text(loading.read_text() + PLANTED.format(factor=factor))
        for run in range(runs):
            code, text, seconds = check(tree, gates)
            seen[code] += 1
            say(f"run {run + 1}: {WORDS.get(code, code)} in {seconds:.0f} s\n{text}")
    say(", ".join(f"{count} × {WORDS.get(code, code)}" for code, count in sorted(seen.items())))
    return 0 if set(seen) <= wanted else 1


def curve(draws: int) -> int:
    """Verdicts of the rule, in percent of simulated machines, for true slowdowns of the head."""
    import test_rule  # beside this script

    for noise, outliers in ((0.02, 0.03), (0.06, 0.1), (0.2, 0.2)):
        for percent in (0, 3, 5, 7, 10, 12, 15, 20):
            found = test_rule.verdicts(
                draws, slower=1 + percent / 100, noise=noise, outliers=outliers
            )
            shares = ", ".join(
                f"{100 * n / draws:.1f} % {word}" for word, n in sorted(found.items())
            )
            say(f"noise {100 * noise:.0f} %, head slower by {percent} %: {shares}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["unchanged", "planted", "curve"])
    parser.add_argument("--runs", type=int, default=None)
    parser.add_argument("--percent", type=float, default=15.0)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument(
        "--gates",
        nargs="+",
        default=["calm_head", "rq_head", "calm_overall", "rq_overall", "head_speedup"],
    )
    given = parser.parse_args()
    if given.what == "curve":
        return curve(given.draws)
    if given.what == "unchanged":
        return against_itself(given.runs or 20, given.gates, 0.0, {0, 3})
    return against_itself(given.runs or 1, given.gates, given.percent, {1})


if __name__ == "__main__":
    sys.exit(main())
