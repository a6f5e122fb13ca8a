"""The options that say who listens: the recogniser, and the language that it listens to."""

from typing import Annotated

import typer

Asr = Annotated[
    str | None,
    typer.Option(
        "--asr",
        metavar="RECOGNISER",
        help="Who hears the words: faster-whisper, faster-whisper:FOLDER_OR_HUB_NAME or "
        "openai-whisper:NAME_OR_PATH. Another one gives other columns.",
        show_default="the benchmark's",
    ),
]

Language = Annotated[
    str | None,
    typer.Option(
        "--language",
        metavar="CODE",
        help="What is spoken, as in de. Other languages than English need multilingual weights "
        "(--asr faster-whisper:base), take Whisper's basic normaliser, and have no perplexity "
        "under the trigram, which reads English.",
        show_default="en",
    ),
]
