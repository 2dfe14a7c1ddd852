"""The list of faults: those that a command line shows, as cases; the others with the tests that hold them."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.pipeline import HASHES
from tests.bad_inputs.lab import GOOD, Case, Lab, Outcome, png, sets

KILL = "test_pipeline.py::test_killed_stages_finish_with_the_same_bytes"
FOLDER = "artifacts/test_folder.py::"
RANKS = "train_model/test_ranks.py::"
PARTS = "encode_images/test_parts.py::"
SHARD = "arrays/8x8/c/1/0/0/0/0"


@dataclass(frozen=True)
class Held:
    """A fault that no single command line shows: what happens, and the tests that hold it."""

    number: int
    name: str
    happens: str
    tests: tuple[str, ...]


def unfinished(lab: Lab) -> None:
    work = lab.finish()
    (work / "latents").rename(work / "latents.partial")


def shard(change: Callable[[Path], object]) -> Callable[[Lab], None]:
    """A maker of finished latents with one shard damaged."""

    def make(lab: Lab) -> None:
        change(lab.finish() / "latents" / SHARD)

    return make


def keep(share: float, less: int = 0) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share) - less])

    return change


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(bytes(data))


def made_again(lab: Lab, _outcome: Outcome) -> None:
    """The stage itself sees the damage and makes the same bytes again."""
    wanted = lab.manifest("sequences")["inputs"]["latents"]["digest"]
    assert lab.run("encode").code == 0
    assert lab.manifest("latents")["digest"] == wanted
    assert lab.run("verify", "work/latents").code == 0


def at_work_already(lab: Lab) -> None:
    from stages.artifacts.lock import Lock

    lock = lab.open.enter_context(Lock((lab.folder / "work" / "latents").absolute(), "whole run"))
    assert lock.take_alone()


def limited(size: int, more: tuple[str, ...] = (), ready: Callable[[Lab], object] = lambda _: None) -> Callable[[Lab], tuple[str, ...]]:  # fmt: skip
    """A maker after which no file may grow beyond `size` bytes, as on a disk that fills up."""

    def make(lab: Lab) -> tuple[str, ...]:
        ready(lab)
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        real = lab.run

        def run(command: str, *arguments: str) -> Outcome:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
            try:
                return real(command, *arguments)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, old)
                lab.patch.setattr(lab, "run", real)

        lab.patch.setattr(lab, "run", run)
        return more

    return make


def goes_on(command: str, *more: str) -> Callable[[Lab, Outcome], None]:
    """With the fault gone the same command ends well and leaves nothing half done."""

    def check(lab: Lab, _outcome: Outcome) -> None:
        again = lab.run(command, *more)
        assert again.code == 0, again.stderr
        files = [path for path in (lab.folder / "work").iterdir() if path.suffix != ".lock" and path.name != HASHES]
        left = [path.name for path in files if "." in path.name]
        assert left == [], "left over after success"
        assert lab.run("verify", "work").code == 0

    return check


def without(kind: str) -> Callable[[Lab], None]:
    def ready(lab: Lab) -> None:
        import shutil

        shutil.rmtree(lab.finish() / kind)

    return ready


def finished_vae(lab: Lab) -> None:
    import shutil

    shutil.copytree(lab.shelf.autoencoder / "model", lab.folder / "vae")
    shutil.rmtree(lab.folder / "work" / "autoencoder")


def hit(module: str, name: str, number: int, ready: Callable[[Lab], object] = lambda _: None, more: tuple[str, ...] = ()) -> Callable[[Lab], tuple[str, ...]]:  # fmt: skip
    """A maker after which the process gets a signal when `module.name` is called for the first time."""

    def make(lab: Lab) -> tuple[str, ...]:
        ready(lab)
        holder: Any = import_module(module)
        *path, last = name.split(".")
        for part in path:
            holder = getattr(holder, part)
        real = getattr(holder, last)
        sent: list[int] = []

        def struck(*arguments: Any, **options: Any) -> Any:
            if not sent:
                sent.append(number)
                os.kill(os.getpid(), number)
            return real(*arguments, **options)

        lab.patch.setattr(holder, last, struck)
        return more

    return make


def many_pictures(lab: Lab) -> None:
    for number in range(20):
        lab.add(f"more{number}.png", lab.shelf.pictures[number % GOOD])


def read_only(lab: Lab) -> tuple[str, ...]:
    real = Path.mkdir  # root may write everywhere, so the answer of the system is made up

    def mkdir(path: Path, *arguments: Any, **options: Any) -> None:
        if path.parts[:1] == ("sealed",):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        real(path, *arguments, **options)

    finished_vae(lab)
    lab.patch.setattr(Path, "mkdir", mkdir)
    return ("--work", "sealed/work", *PRETRAINED)


def parents_made(lab: Lab, _outcome: Outcome) -> None:
    assert (lab.folder / "a" / "b" / "c").is_dir()


def breaks(which: Callable[[np.ndarray], np.ndarray] | None) -> Callable[[Lab], None]:
    """A maker after which the autoencoder gives NaN for the pictures that `which` picks; None: it is out of memory."""

    def make(lab: Lab) -> None:
        from stages.coders.vae import Vae

        real = Vae.encode

        def encode(vae: Vae, pixels: Any) -> Any:
            if which is None:
                import torch

                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            mean, deviation = real(vae, pixels)
            mean[which(pixels)] = np.nan
            return mean, deviation

        lab.patch.setattr(Vae, "encode", encode)

    return make


def one_red(lab: Lab) -> None:
    lab.add("red.png", png(Image.new("RGB", (16, 16), (255, 0, 0))))
    breaks(lambda pixels: (pixels == (255, 0, 0)).all((1, 2, 3)))(lab)


def all_nan(lab: Lab) -> None:
    many_pictures(lab)
    breaks(lambda pixels: np.full(len(pixels), len(pixels) > 1))(lab)  # not the probe of the weights, a single picture


def times_wrong(lab: Lab) -> tuple[str, ...]:
    for path in [*lab.finish().rglob("*"), *(lab.folder / "pictures").iterdir()]:
        os.utime(path, (0, 0) if path.suffix == ".png" else (4e9, 4e9))
    return ("--dry-run",)


def picture_more(lab: Lab) -> tuple[str, ...]:
    lab.finish()
    lab.add("new.png", lab.shelf.pictures[0])
    return ("--dry-run",)


def picture_changed(lab: Lab) -> tuple[str, ...]:
    lab.finish()
    (lab.folder / "pictures" / "good1.png").write_bytes(lab.shelf.pictures[0])
    return ("--dry-run",)


def tokenizer_again(lab: Lab) -> tuple[str, ...]:
    lab.finish()
    assert lab.run("tokenize", *sets("tokenize.tokenizer.vocab_size=290")).code == 0
    return ("--dry-run",)


PRETRAINED = sets("vae.kind=pretrained", "vae.path=vae")
# so that the shards and the rows are what does not fit, and not the small files before them
FLOATS, MANY = sets("encode.dtype=float32"), sets("pack.passes=60")
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
CASES = [
    Case(2, "killed before the manifest; the next stage", unfinished, 4, ("no latents at work/latents", "it was started but not finished"), "tokenize"),
    Case(4, "a shard deleted; verify", shard(Path.unlink), 4, (SHARD, "--retry-failed"), "verify work/latents", check=made_again, note="encode then makes that shard alone again, with the same bytes"),
    Case(4, "a shard deleted; pack", shard(Path.unlink), 4, (f"error: work/latents/{SHARD} is missing", "run 'tfcli encode' to make it again"), "pack"),
    Case(5, "a shard cut to 0 bytes", shard(keep(0)), 4, (f"error: work/latents/{SHARD} is damaged", "0 bytes, the manifest says"), "pack", check=made_again),
    Case(5, "a shard 1 byte short", shard(keep(1, 1)), 4, (f"error: work/latents/{SHARD} is damaged",), "pack"),
    Case(5, "half a shard", shard(keep(0.5)), 4, (f"error: work/latents/{SHARD} is damaged",), "verify work/latents"),
    Case(6, "a flipped bit; verify", shard(flip), 4, (SHARD,), "verify work/latents", held=("artifacts/test_arrays.py::test_every_flipped_bit_is_noticed",)),
    Case(6, "a flipped bit; train", shard(flip), 4, (SHARD, "checksum of a row"), "train"),
    Case(8, "two at once on one artifact", at_work_already, 5, ("work/latents is being made by another process", "last begun by: whole run, pid N on HOST"), held=(FOLDER + "test_a_second_process_is_told_the_pid_of_the_first",)),
    Case(11, "disk full; vae", limited(20_000, PRETRAINED, finished_vae), 5, ("work/autoencoder", "MiB are free", "free some space"), "vae", check=goes_on("vae", *PRETRAINED)),
    Case(11, "disk full; encode", limited(4_700, FLOATS), 5, ("work/latents", "MiB are free", "free some space"), check=goes_on("encode", *FLOATS)),
    Case(11, "disk full; tokenize", limited(4_700, (), without("tokens")), 5, ("work/tokens", "MiB are free", "free some space"), "tokenize", check=goes_on("tokenize")),
    Case(11, "disk full; pack", limited(4_700, MANY, without("sequences")), 5, ("work/sequences", "MiB are free", "free some space"), "pack", check=goes_on("pack", *MANY)),
    Case(13, "folder that may not be written", read_only, 5, ("cannot write sealed/work/autoencoder", "Read-only file system"), "vae"),
    Case(13, "folder below one that is missing", lambda _: ("--work", "a/b/c", *sets("vae.steps=1")), 4, ("no autoencoder at a/b/c/autoencoder",), note="the folders above --work are made; here encode lacks its input"),
    Case(15, "the autoencoder gives NaN for one picture", one_red, 0, ("red.png: LATENT_NONFINITE",)),
    Case(16, "the autoencoder gives NaN for all", all_nan, 3, ("of the first", "LATENT_NONFINITE")),
    Case(17, "the device is out of memory whatever the batch", breaks(None), 5, ("out of memory",)),
    Case(18, "SIGTERM while the source is hashed", hit("stages.sources.folder", "files_hash", TERM), 75, ("stopped by SIGTERM", "nothing was begun"), check=goes_on("encode")),
    Case(18, "SIGTERM while pictures are read for vae", hit("stages.sources.decoding", "decode", TERM, finished_vae, PRETRAINED), 75, ("stopped by SIGTERM",), "vae", check=goes_on("vae", *PRETRAINED)),
    Case(18, "SIGTERM while encoding", hit("stages.encode_images.rows", "write_shard", TERM), 75, ("stopped by SIGTERM", "finished shards are kept"), check=goes_on("encode")),
    Case(18, "SIGHUP while decoding", hit("stages.sources.decoding", "decode", HUP), 75, ("stopped by SIGHUP",), check=goes_on("encode")),
    Case(18, "SIGTERM while a tokenizer is trained", hit("stages.tokenize_text.stage", "train_in_process", TERM, without("tokens")), 75, ("stopped by SIGTERM",), "tokenize", check=goes_on("tokenize")),
    Case(18, "SIGTERM while packing", hit("stages.pack_sequences.stage", "_Packer.training", TERM, without("sequences")), 75, ("stopped by SIGTERM",), "pack", check=goes_on("pack")),
    Case(18, "SIGTERM while sums are checked", hit("tfcli.commands.artifacts", "hash_file", TERM, Lab.finish), 75, ("stopped by SIGTERM",), "verify work"),
    Case(20, "Ctrl-C once", hit("stages.encode_images.rows", "write_shard", INT), 130, ("stopped by SIGINT", "finished shards are kept", "run the same command again"), check=goes_on("encode")),
    Case(24, "tokenizer trained again; is pack fresh?", tokenizer_again, 0, ("pack: stale, tokens changed",), "pack"),
    Case(30, "all times wrong", times_wrong, 0, ("encode: fresh",)),
    Case(32, "a picture more", picture_more, 0, ("encode: stale, source files changed", "7 documents, 7 pictures, 2 shards")),
    Case(32, "a picture changed", picture_changed, 0, ("encode: stale, source files changed",)),
]  # fmt: skip

HELD = [
    Held(1, "SIGKILL at any moment of a stage", "the next run goes on and ends in the same bytes", (KILL, "encode_images/test_stage.py::test_a_killed_run_ends_in_the_same_bytes", "tfcli/test_run.py::test_kill_in_the_middle_of_a_stage")),
    Held(3, "SIGKILL while the manifest is written", "the old artifact or none, never half", (FOLDER + "test_a_kill_while_sealing_leaves_the_old_or_nothing_and_the_next_run_ends_well", "artifacts/test_manifest.py::test_every_cut_of_a_manifest_is_refused")),
    Held(7, "a flipped bit in a save", "the save is refused", ("train_model/test_checkpointing.py::test_a_damaged_save_is_refused",)),
    Held(9, "four encoders with --shards i/4 at once", "the bytes of a single run", (PARTS + "test_four_parts_at_once_make_the_bytes_of_one_run",)),
    Held(10, "the same --shards 2/4 twice", "one works, the other has nothing to do", (PARTS + "test_the_same_part_twice_at_once_is_done_once",)),
    Held(12, "SIGXFSZ", "Python turns it into the error of a full disk: 11", ("bad_inputs/test_table.py::test_a_case",)),
    Held(14, "a worker dies, or is killed", "another worker goes on with the same picture; if that one dies too, the picture is left out as DECODER_CRASHED", ("sources/test_decoding.py::test_a_process_that_is_killed_once_costs_no_picture", "sources/test_decoding.py::test_a_crash_costs_one_picture", "sources/test_decoding.py::test_a_picture_that_never_ends_costs_itself")),
    Held(19, "a kill while a checkpoint is written", "no half save counts", ("train_model/test_checkpointing.py::test_a_kill_in_the_middle_leaves_no_save_and_the_next_one_succeeds",)),
    Held(20, "Ctrl-C twice", "the process ends at once with 130", ("core/test_interrupts.py::test_only_a_second_ctrl_c_ends_the_process_at_once",)),
    Held(24, "a training with saves goes on after a setting or its data changed", "refused, the setting or input named; --force restarts it", (FOLDER + "test_saves_of_other_settings_are_kept_and_the_setting_is_named",)),
    Held(25, "the only save is damaged", "refused: nothing begins over it", ("train_model/test_checkpointing.py::test_a_damaged_record_is_refused",)),
    Held(26, "the newest save is not complete", "an older one is taken, and it is said", ("train_model/test_checkpointing.py::test_a_half_save_is_passed_over_and_named",)),
    Held(27, "a loss that is not finite", "exit code 6 before the optimizer step, the rows named", ("train_model/test_ranks.py::test_a_loss_that_is_not_finite_on_one_stops_both_and_names_its_rows",)),
    Held(29, "weights that are not finite reach a save", "refused", ("train_model/test_checkpointing.py::test_weights_that_are_not_finite_are_not_saved",)),
    Held(31, "make interrupted, and again", "`make pipelines` is one `tfcli run`: finished stages are skipped, an unfinished one goes on", ("tfcli/test_run.py::test_a_signal_stops_and_the_next_run_goes_on", "tfcli/test_run.py::test_a_second_run_makes_nothing")),
    Held(33, "stdout or stderr closed, `\\| head`, no terminal, 20 columns, TERM=dumb, NO_COLOR, LANG=C", "no traceback, the right exit code", ("tfcli/test_app.py::test_closed_pipes", "tfcli/test_app.py::test_locales", "tfcli/test_render.py::test_a_bar_on_a_terminal", "tfcli/test_render.py::test_a_dumb_terminal_gets_plain_lines", "tfcli/test_render.py::test_no_color")),
    Held(34, "fork, forkserver, spawn", "workers are always started by forkserver; none and two give the same bytes", ("encode_images/test_stage.py::test_workers_change_nothing",)),
    Held(35, "one of two processes of a training raises, dies, gets SIGTERM", "all end: the failure is reported with rank and reason, or the state is saved and the code is 75", (RANKS + "test_a_process_that_fails_is_named_with_its_reason", RANKS + "test_a_process_that_is_killed_ends_the_other_soon", RANKS + "test_a_signal_to_one_stops_both_and_one_process_resumes")),
    Held(36, "a loss that is not finite on one of two processes", "both stop at the same step", (RANKS + "test_a_loss_that_is_not_finite_on_one_stops_both_and_names_its_rows",)),
    Held(37, "saved by two processes, gone on by one and by four", "the same rows, weights equal to rounding", (RANKS + "test_a_signal_to_one_stops_both_and_one_process_resumes", RANKS + "test_four_processes_take_the_steps_of_one_and_resume_from_two")),
    Held(39, "GOPEN_REWRITE, ZARR_*, PYTHONOPTIMIZE=1", "the same bytes", ("bad_inputs/test_environment.py::test_a_hostile_environment_changes_nothing",)),
]  # fmt: skip
