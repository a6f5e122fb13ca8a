"""The inner monologue: words to a token per frame and back (paper section 4.3; Moshi's padding).

T frames. A word's tokens stand at the frames from its onset on, EPAD one frame before the word, PAD
everywhere else. The text stream leads the audio by `lead` frames; that shift belongs to the system,
here frame i of text goes with frame i of audio.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from calm_bench.errors import WeightsError
from calm_bench.types import TimedWord

PAD, EPAD = 0, 1
FREE = -1  # a text frame that the prompt does not decide
SPECIALS = ["<pad>", "<epad>"]
SPACE = "\u0120"  # how byte-level BPE writes the space before a word


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens, PAD and EPAD first, that encodes every text."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" " + text for text in texts), trainer)
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file.

    Raises:
        WeightsError: If the file is missing or no tokenizer.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers package raises bare Exception
        raise WeightsError(f"{path} is not a usable tokenizer: {error}") from error


def write_words(
    stream: NDArray[np.int64],
    words: Iterable[TimedWord],
    frame_rate: float,
    tokens_of: Callable[[str], list[int]],
    before: int,
) -> None:
    """Write words over padding [T], each at its onset or after the one before, behind a token."""
    free = 0
    for word in words:
        at = max(free, math.floor(word.start * frame_rate + 1e-6))
        tokens = tokens_of(word.word)
        if free <= at - 1 < len(stream):
            stream[at - 1] = before
        piece = tokens[: max(0, len(stream) - at)]
        stream[at : at + len(piece)] = piece
        free = at + len(tokens)


class TextStream:
    """Encodes timed words to frames of tokens and reads them back."""

    def __init__(self, tokenizer: Tokenizer, frame_rate: float) -> None:
        """`frame_rate` in frames per second."""
        self.tokenizer, self.frame_rate = tokenizer, frame_rate
        self._starts_word = [
            str(tokenizer.id_to_token(i)).startswith(SPACE)
            for i in range(tokenizer.get_vocab_size())
        ]

    @classmethod
    def load(cls, path: Path | None, frame_rate: float) -> "TextStream":
        """The stream of a tokenizer file; bytes without merges if there is no file.

        Raises:
            WeightsError: If the file is missing or no tokenizer.
        """
        if path is None:
            return cls(train_tokenizer([], len(SPECIALS) + 256), frame_rate)
        return cls(load_tokenizer(path), frame_rate)

    def encode(self, words: Sequence[TimedWord], frames: int) -> NDArray[np.int64]:
        """Tokens [T] of the words' frames; -1 is never used: what holds no word is PAD.

        A word that begins before the one before it is written out waits for its turn; tokens beyond
        the last frame are cut.
        """
        stream = np.full(frames, PAD, np.int64)
        encode = self.tokenizer.encode
        write_words(stream, words, self.frame_rate, lambda w: encode(" " + w.strip()).ids, EPAD)
        return stream

    def given(
        self, rows: Sequence[Sequence[TimedWord]], counts: Sequence[int], steps: int
    ) -> NDArray[np.int64]:
        """What prompts decide of the text [B, steps], FREE elsewhere.

        Of each prompt's `rows` of words, those that begin in its `counts` of frames are written
        out; all prompts end at frame max(counts).
        """
        given = np.full((len(rows), steps), FREE, np.int64)
        longest = max(counts)
        for row, (every, count) in enumerate(zip(rows, counts, strict=True)):
            end = count / self.frame_rate
            words = [word for word in every if word.start < end - 1e-6]
            tokens = self.encode(words, steps - (longest - count))
            written = tokens.nonzero()[0]
            known = max(count, int(written[-1]) + 1 if len(written) else 0)
            given[row, longest - count : longest - count + known] = tokens[:known]
        return given

    def decode(self, stream: Sequence[int]) -> tuple[TimedWord, ...]:
        """Words of a token stream [T]; a word ends where the next begins or the stream ends."""
        pieces: list[tuple[int, list[int]]] = []
        for frame, token in enumerate(stream):
            # Untrained models draw what no text has.
            if token in (PAD, EPAD) or token >= len(self._starts_word):
                continue
            if not pieces or self._starts_word[token]:
                pieces.append((frame, []))
            pieces[-1][1].append(int(token))
        ends = [*(frame for frame, _ in pieces[1:]), len(stream)][: len(pieces)]
        words = []
        for (frame, tokens), end in zip(pieces, ends, strict=True):
            text = self.tokenizer.decode(tokens).strip()
            if text:
                times = {"start": frame / self.frame_rate, "end": end / self.frame_rate}
                words.append(TimedWord(word=text, **times))
        return tuple(words)
