"""Commands as tests call them: in this process, each with the exit code that it has to end with."""

import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from calm_bench.cli.app import app

PLAIN = {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"}


@dataclass(frozen=True)
class Said:
    """What a command answered on standard output and standard error, and both as one line."""

    code: int
    out: str
    err: str
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*words: object, code: int | tuple[int, ...] = 0) -> Said:
    """What a command line answers; it ends with this exit code and without a traceback."""
    result = CliRunner(env=PLAIN).invoke(app, [str(word) for word in words])
    assert result.exit_code in (code if isinstance(code, tuple) else (code,)), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.output
    text = " ".join(result.output.split())
    return Said(result.exit_code, result.stdout, result.stderr, text)


def refused(*words: object, code: int = 2) -> str:
    """The one line that a command is refused with."""
    said = call(*words, code=code)
    (line,) = [line for line in said.err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")
