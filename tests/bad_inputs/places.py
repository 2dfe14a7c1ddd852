"""Row 41: commands inside of artifacts, and paths that lead back to what is being made."""

from __future__ import annotations

from collections.abc import Callable

from tests.bad_inputs.lab import Case, Lab, Outcome, sets


def inside(folder: str, *more: str) -> Callable[[Lab], tuple[str, ...]]:
    """A maker that goes into a folder of a finished work folder."""

    def make(lab: Lab) -> tuple[str, ...]:
        lab.finish(trained=True)
        lab.patch.chdir(lab.folder / folder)
        return more

    return make


def samples_lie_outside(lab: Lab, _outcome: Outcome) -> None:
    work = lab.folder / "work"
    assert list(work.glob("samples-*/manifest.json"))
    assert not [path for path in (work / "checkpoint").iterdir() if path.is_dir() or path.name.startswith(".")]


def starting_from(path: str) -> Callable[[Lab], tuple[str, ...]]:
    def make(lab: Lab) -> tuple[str, ...]:
        lab.finish(trained=True)
        (lab.folder / "link").symlink_to(lab.folder / "work" / "checkpoint")
        return sets(f"train.start_from={path.replace('LAB', str(lab.folder))}")

    return make


SAYS = ("is the checkpoint that this training makes",)
CASES = (
    Case(41, "sample . in a checkpoint", inside("work/checkpoint", "a thing"), 0, (), "sample .", samples_lie_outside),
    Case(41, "sample . in a work folder", inside("work", "a thing"), 0, (), "sample .", samples_lie_outside),
    Case(41, "sample .. in latents", inside("work/latents", "a thing"), 0, (), "sample ..", samples_lie_outside),
    Case(
        41,
        "--work . in a checkpoint",
        inside("work/checkpoint", "-r", "../../recipe.toml", "--work", "."),
        2,
        ("--work . is inside an artifact",),
        "pack",
    ),
    *[
        Case(41, f"train.start_from = {name}", starting_from(path), 2, SAYS, "train")
        for name, path in (
            ("the checkpoint that is made", "work/checkpoint"),
            ("the same, absolute", "LAB/work/checkpoint/"),
            ("the same, over other folders", "./pictures/../work//checkpoint/."),
            ("the same, by a link", "link"),
            ("the work folder", "work"),
        )
    ],
)
