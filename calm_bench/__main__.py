"""`python -m calm_bench` is the command `calm-bench`, where launchers want a module."""

from calm_bench.cli.app import main

if __name__ == "__main__":
    main()
