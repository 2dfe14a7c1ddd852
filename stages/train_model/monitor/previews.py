"""Previews of a running training: pictures generated for held-out captions, with the recipe's sampling settings and the weights
that sampling will use. Each preview is a strip of pictures in `previews/`. They are outside the digest and change nothing in
the training: sampling has its own random generator and reads the weights in place."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from stages.artifacts.checkpoint import CAPTIONS, PREVIEWS, TRUTH, Checkpoint, CheckpointContent
from stages.artifacts.folder import Build
from stages.artifacts.latents import caption_of
from stages.artifacts.manifest import make_manifest
from stages.coders.pixels import Pixels, encode_png
from stages.coders.sheets import contact_sheet
from stages.core.errors import ExitCode, TfcliError
from stages.core.events import Note
from stages.core.files import write_atomic, write_json
from stages.core.runtime import Runtime
from stages.core.seeds import derive_seed
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.heldout import heldout_documents, is_pair, pieces_of
from stages.generation.loading import LoadedModel, assemble
from stages.generation.prompts import ImagePiece, Prompt, TextPiece
from stages.train_model.checkpointing import TrainState
from stages.train_model.optimizer import averaged_weights

NUMBER = 8  # pictures in a strip


class Previews:
    """Generates pictures for the captions of the first held-out pairs. The model for sampling is set up at the first call."""

    def __init__(
        self,
        content: CheckpointContent,
        sequences: Path,
        build: Build,
        generation: GenerationConfig,
        runtime: Runtime,
        seed: int,
    ) -> None:
        self.content, self.sequences, self.build, self.generation = content, sequences, build, generation
        self.runtime, self.seed = runtime, derive_seed(seed, "previews")
        self.folder = build.folder / PREVIEWS
        self._loaded: LoadedModel | None = None
        self._prompts: list[Prompt] = []

    def generate(self, state: TrainState) -> None:
        """Write the strip of this step; nothing where a signal stops the training meanwhile."""
        with averaged_weights(state.model, state.ema):
            loaded = self._loaded or self._open(state)
            if not self._prompts:
                return
            try:
                outputs = Engine(loaded, self.generation, self.seed, self.runtime).generate(self._prompts)
            except TfcliError as error:
                if error.code in (ExitCode.TERMINATED, ExitCode.INTERRUPTED):
                    return  # the training stops after saving its state
                raise
        latents = [piece.latent for output in outputs for piece in output.pieces if isinstance(piece, ImagePiece)]
        pictures = [loaded.decode_pictures(latent[None])[0] for latent in latents]
        if pictures:  # none where captions are longer than the rows
            write_atomic(self.folder / f"step-{state.step:08d}.png", _strip(pictures))

    def _open(self, state: TrainState) -> LoadedModel:
        manifest = make_manifest(self.build.stamp, self.content.model_dump(), {}, [], self.build.started)
        checkpoint = Checkpoint(self.build.folder, manifest, self.content)
        device = next(state.model.parameters()).device
        self._loaded = loaded = assemble(checkpoint, self.sequences, state.model, device)
        pairs = list(islice((one for one in heldout_documents(loaded) if is_pair(one)), NUMBER))
        captions = [caption_of(pair) for pair in pairs]
        self._prompts = [Prompt((TextPiece(caption),), image_next=True) for caption in captions]
        if not pairs:
            self.runtime.report(Note("no previews: no held-out document is a caption with a picture"))
            return loaded
        pieces = [piece for pair in pairs for piece in pieces_of(pair, loaded)]
        true = [loaded.decode_pictures(piece.latent[None])[0] for piece in pieces if isinstance(piece, ImagePiece)]
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / CAPTIONS, captions)
        write_atomic(self.folder / TRUTH, _strip(true))
        return loaded


def _strip(pictures: list[Pixels]) -> bytes:
    return encode_png(contact_sheet(pictures, NUMBER, gap=2, background=(128, 128, 128)))


def strip_files(folder: Path) -> list[tuple[int, Path]]:
    """(step, file) of the strips in a checkpoint's folder, by step."""
    found = sorted((folder / PREVIEWS).glob("step-*.png"))
    return [(int(path.stem.removeprefix("step-")), path) for path in found]
