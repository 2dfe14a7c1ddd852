"""Training a tokenizer in a process of its own: texts go in, the bytes of a SentencePiece model come out.

SentencePiece trains in one call, which may take hours and asks nobody. A process can be ended: a signal is obeyed at once, and
one that takes too much memory costs this step and not the program that started it.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection

from stages.coders.text import train_sentencepiece
from stages.core.errors import ExitCode, TfcliError
from stages.core.interrupts import Interrupts
from stages.core.processes import forkserver

_BLOCK = 10_000  # texts that are sent together
_LOOK_SECONDS = 0.2


def train_in_process(texts: list[str], vocab_size: int, algorithm: str, interrupts: Interrupts, kept: str) -> bytes:
    """What `train_sentencepiece` gives. kept: said where a signal ends it.

    Raises TfcliError: as `train_sentencepiece` does; ENVIRONMENT where the process was ended from outside.
    """
    context = forkserver()
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, vocab_size, algorithm), daemon=True)
    process.start()
    theirs.close()
    try:
        with suppress(OSError):  # it is gone; its reason, or that it gave none, is reported below
            rest = iter(texts)
            while block := list(islice(rest, _BLOCK)):
                interrupts.check(kept)
                pipe.send(block)
            pipe.send([])
        while not pipe.poll(_LOOK_SECONDS):
            interrupts.check(kept)
        interrupts.check(kept)
        answer: bytes | TfcliError = pipe.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        raise TfcliError(
            "the training of the tokenizer was ended",
            why=f"its process died with exit code {process.exitcode}; for want of memory, if that is -9",
            fix="lower tokenize.tokenizer.max_sentences",
            code=ExitCode.ENVIRONMENT,
        ) from error
    finally:
        process.kill()
        process.join()
        pipe.close()
    if isinstance(answer, TfcliError):
        raise answer
    return answer


def _serve(pipe: Connection, vocab_size: int, algorithm: str) -> None:
    """In the process. Signals are the business of the other side, as they reach the whole group."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    texts: list[str] = []
    try:
        while block := pipe.recv():
            texts += block
        threading.Thread(target=_end_with, args=(pipe,), daemon=True).start()
        pipe.send(train_sentencepiece(texts, vocab_size, algorithm))
    except TfcliError as error:
        pipe.send(error)
    except (EOFError, OSError):
        return  # the other side is gone


def _end_with(pipe: Connection) -> None:
    """End this process when the other side is gone, even by SIGKILL: nobody would take the model."""
    with suppress(EOFError, OSError):
        pipe.recv()
    os._exit(1)
