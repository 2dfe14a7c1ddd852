"""Several ranks train what one does: local rows, sums, sharded weights, saves of another number of ranks, failures of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.artifacts.checkpoint import Checkpoint, read_tensors
from stages.artifacts.sequences import Sequences
from stages.core.errors import ExitCode
from stages.core.files import read_jsonl
from stages.diffusion.config import DiffusionConfig
from stages.pack_sequences.config import PackConfig
from stages.train_model.batches import rows_of_step
from stages.train_model.config import TrainConfig
from stages.train_model.distributed.ranks import Ranks
from tests.builders import Story, make_all
from tests.train_model.many import TRAIN, Job, Outcome, die, fail, spoil, term, train, train_on

STORIES = [
    *[Story((f"a pair {number}", None)) for number in range(3)],
    *[Story((f"only text, and more of it than of others {number}",), fixed_order=True) for number in range(40)],
]
MODES = {
    "none": TRAIN,
    "full": TRAIN.model_copy(update={"sharding": "full", "checkpointing": "full"}),
    "hybrid": TRAIN.model_copy(update={"sharding": "hybrid", "shard_group": 2}),
}
MUON = TRAIN.model_copy(update={"sharding": "full", "optimizer": "muon"})


# pictures to describe: without a loss of their own, so that the codec learns by the text loss alone, and its way out nothing
CONDITIONING: dict[str, Any] = {"sequences": "given/sequences", "diffusion": DiffusionConfig(noise_limit=0)}


def small(config: TrainConfig) -> TrainConfig:
    """The same steps in passes of one row."""
    return config.model_copy(update={"micro_rows": 1})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    make_all(folder, STORIES, PackConfig(row_length=48, heldout_fraction=0.2))
    make_all(folder / "given", STORIES, PackConfig(row_length=48, heldout_fraction=0.2, caption_first=0.0))
    assert train(Job("one", TRAIN), folder).code == 0
    assert train(Job("one-given", TRAIN, **CONDITIONING), folder).code == 0
    assert train(Job("one-muon", TRAIN.model_copy(update={"optimizer": "muon"})), folder).code == 0
    return folder


@pytest.fixture(scope="module")
def two(work: Path) -> dict[str, list[Outcome]]:
    """The outcomes of two processes, by job; the last ends with the death of one."""
    jobs = [
        Job("two-none", MODES["none"]),
        Job("two-full", small(MODES["full"])),
        Job("two-given", MODES["none"], **CONDITIONING),
        Job("two-given-full", MODES["full"], **CONDITIONING),
        Job("two-muon", MUON),
        Job("stopped", MODES["full"], {(1, 3): term}),
        Job("stopped-whole", MODES["none"], {(1, 3): term}),
        Job("failed", MODES["none"], {(1, 2): fail}),
        Job("spoilt", MODES["full"].model_copy(update={"eval_every": 100}), {(1, 2): spoil}),
        Job("killed", MODES["full"], {(1, 2): die}),
    ]
    return {job.folder: outcome for job, outcome in zip(jobs, train_on(2, jobs, work), strict=True)}


def metrics(folder: Path) -> list[dict[str, float]]:
    return list(read_jsonl(folder / "metrics.jsonl"))


def check_same(work: Path, name: str, other: str = "one") -> None:
    """Losses and gradient norms of each step, held-out losses, weights, average and the optimizer's state."""
    expected, found = metrics(work / other), metrics(work / name)
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for one, two in zip(expected, found, strict=True):
        assert two == pytest.approx(one, rel=2e-6), name
    for file in ("weights.safetensors", "ema.safetensors", "optimizer.safetensors"):
        left, right = read_tensors(work / other / file), read_tensors(work / name / file)
        assert left.keys() == right.keys()
        size = torch.cat([tensor.flatten() for tensor in left.values()]).norm()
        apart = torch.cat([(left[key] - right[key]).flatten() for key in left]).norm()
        assert apart <= 1e-6 * size, (name, file, float(apart / size))
    assert Checkpoint.open(work / name).content == Checkpoint.open(work / other).content


def test_the_rows_hold_the_cases_that_matter(work: Path) -> None:
    """Steps in which a process has no image, in which nobody has one, and (three rows on four) a process without a row."""
    sequences = Sequences.open(work / "sequences")
    offsets = sequences.split("train").row_images
    steps = [rows_of_step(sequences.content.num_rows, 3, 0, step) for step in range(TRAIN.steps)]
    images = [[int(offsets[row + 1] - offsets[row]) for row in rows] for rows in steps]
    uneven = [counts for counts in images if 0 in (sum(counts[:2]), counts[2]) and sum(counts)]
    assert uneven
    assert any(sum(counts) == 0 for counts in images)


@pytest.mark.parametrize("name", ["two-none", "two-full"])
def test_two_processes_take_the_steps_of_one(work: Path, two: dict[str, list[Outcome]], name: str) -> None:
    assert two[name] == [Outcome(0), Outcome(0)]
    check_same(work, name)


@pytest.mark.parametrize("name", ["two-given", "two-given-full"])
def test_pictures_that_are_only_read_count_for_all_processes(
    work: Path, two: dict[str, list[Outcome]], name: str
) -> None:
    assert two[name] == [Outcome(0), Outcome(0)]
    check_same(work, name, "one-given")
    assert not any("image_loss" in row for row in metrics(work / name))


def test_sharded_muon_orthogonalises_full_matrices(work: Path, two: dict[str, list[Outcome]]) -> None:
    """To the rounding of bf16, in which torch does it: a last bit of a gradient may turn one of the update."""
    assert two["two-muon"] == [Outcome(0), Outcome(0)]
    one, sharded, adamw = (
        read_tensors(work / name / "weights.safetensors") for name in ("one-muon", "two-muon", "one")
    )
    for name in one:
        moved = (one[name] - adamw[name]).norm()
        if name.startswith("blocks.") and one[name].ndim == 2:
            assert (one[name] - sharded[name]).norm() < 0.02 * moved, name


@pytest.mark.parametrize("name", ["stopped", "stopped-whole"])
def test_a_signal_to_one_stops_both_and_one_process_resumes(
    work: Path, two: dict[str, list[Outcome]], name: str
) -> None:
    assert [outcome.code for outcome in two[name]] == [ExitCode.TERMINATED] * 2
    assert two[name][0].why == "state saved at step 3"
    assert two[name][1].what == ""
    saves = sorted((work / f"{name}.partial" / "saves").iterdir())
    assert [path.name for path in saves] == ["step-00000003"]
    assert sum(path.name.startswith("shard-") for path in saves[0].iterdir()) == (2 if name == "stopped" else 0)
    assert train(Job(name, TRAIN), work).code == 0
    check_same(work, name)


def test_a_process_that_fails_is_named_with_its_reason(two: dict[str, list[Outcome]]) -> None:
    first, second = two["failed"]
    assert second.what == "row 7 cannot be read"
    assert first.what == "rank 1 failed: row 7 cannot be read"
    assert first.why == "the disk is gone"
    assert first.code == second.code == ExitCode.INPUT


def test_a_loss_that_is_not_finite_on_one_stops_both_and_names_its_rows(
    work: Path, two: dict[str, list[Outcome]]
) -> None:
    first, second = two["spoilt"]
    assert [first.code, second.code] == [ExitCode.DIVERGED] * 2
    sequences = Sequences.open(work / "sequences")
    offsets = sequences.split("train").row_images
    for step in range(2, TRAIN.steps):  # the first step in which the second process has an image
        rows = rows_of_step(sequences.content.num_rows, 3, 0, step)
        if offsets[rows[2] + 1] > offsets[rows[2]]:
            break
    assert first.what == f"training diverged at step {step}"
    assert first.why.startswith("text loss ")
    assert first.why.endswith(f"rows [{rows[2]}]")


def test_a_process_that_is_killed_ends_the_other_soon(two: dict[str, list[Outcome]]) -> None:
    first, second = two["killed"]
    assert second.code == -9
    assert first.code == ExitCode.ENVIRONMENT
    assert first.what == "rank 1 exited"
    assert first.seconds < 30


@pytest.mark.slow
def test_four_processes_take_the_steps_of_one_and_resume_from_two(work: Path, two: dict[str, list[Outcome]]) -> None:
    """Replicated, sharded over all four, and two copies over two each; from the saves of two processes in both forms."""
    del two
    jobs = [Job(f"four-{name}", config) for name, config in MODES.items()]
    jobs += [Job(f"four-{name}-small", small(config)) for name, config in MODES.items()]
    halves = train_on(2, [Job(f"half-{name}", MODES["full"], {(0, 3): term}) for name in MODES], work)
    assert all(outcome.code == ExitCode.TERMINATED for job in halves for outcome in job)
    jobs += [Job(f"half-{name}", config) for name, config in MODES.items()]
    for job, outcome in zip(jobs, train_on(4, jobs, work), strict=True):
        assert outcome == [Outcome(0)] * 4, job.folder
        check_same(work, job.folder)


def test_local_rows_cover_the_batch_in_order() -> None:
    cpu = torch.device("cpu")
    for rows, count in [(3, 4), (8, 4), (5, 2), (1, 3)]:
        shares = [Ranks(cpu, index, count).local_rows(rows) for index in range(count)]
        assert np.concatenate(shares).tolist() == list(range(rows))
        longest = max(len(share) for share in shares)
        for micro in (0, 1, 2):
            assert Ranks(cpu, 0, count).num_micro_batches(rows, micro) == -(-longest // (micro or longest))


def test_settings_that_cannot_be_are_refused() -> None:
    for bad in ({"sharding": "hybrid"}, {"shard_group": 2}):
        with pytest.raises(ValueError):
            TrainConfig.model_validate(bad)
