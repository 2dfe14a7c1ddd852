"""Plans: what fits, what to do where it does not, and the paper's sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.core.errors import ExitCode, TfcliError
from stages.core.hardware import Machine, machine_of
from stages.diffusion.config import DiffusionConfig
from stages.diffusion.samplers import DdpmSampler
from stages.diffusion.schedules import CosineSchedule
from stages.diffusion.targets import NoiseTarget
from stages.estimate_training.memory import footprint, parameters_by_part, stand_in
from stages.estimate_training.plan import DataPlan, TrainingPlan, plan_training
from stages.estimate_training.probe import Trial, try_out
from stages.model.config import ModelConfig
from stages.model.transformer import ModelDims, Transfusion
from stages.pack_sequences.config import PackConfig
from stages.recipe import load_recipe
from stages.train_model.config import TrainConfig
from tests.builders import Story, make_all
from tfcli.commands.plan import data_of

MODEL = ModelConfig(width=64, layers=2, heads=2)
DATA = DataPlan(ModelDims(200, 4, 2), (8, 8), 512)
LARGE = Machine("BIG", 1, 10**12, 1e12, measured=False)


def made(train: TrainConfig, machine: Machine = LARGE) -> TrainingPlan:
    return plan_training(MODEL, DiffusionConfig(), train, DATA, machine, mfu=0.5)


def test_speed_and_time_follow_from_the_arithmetic() -> None:
    plan = made(TrainConfig(batch_rows=8, micro_rows=2, steps=100))
    assert plan.speed * plan.flops_per_element == pytest.approx(0.5e12)
    assert plan.seconds * plan.speed == pytest.approx(100 * plan.elements_per_step)
    assert plan.elements_per_step == pytest.approx(8 * 512, rel=0.1)
    two = made(TrainConfig(batch_rows=8, micro_rows=2, steps=100), replace(LARGE, count=2))
    assert two.seconds == pytest.approx(plan.seconds / 2)
    assert two.memory == plan.memory


def test_many_rows_are_extrapolated_from_a_few() -> None:
    """The line through a few rows ends where all of them are."""
    plan = made(TrainConfig(batch_rows=24))
    direct = footprint(MODEL, DATA.dims, TrainConfig(), [stand_in(DATA.dims, DATA.grid, DATA.row_length, 24)])
    assert plan.memory["activations"] == pytest.approx(direct.memory["activations"], rel=0.02)
    assert plan.elements_per_step == direct.elements
    assert plan.flops_per_element == pytest.approx(direct.flops / direct.elements)


@pytest.mark.parametrize("size", ["0.16b", "0.37b", "0.76b", "1.4b", "7b"])
@pytest.mark.parametrize("codec", ["", "-unet"])
def test_the_recipes_of_the_paper_have_its_settings(size: str, codec: str) -> None:
    """Section 4.1 and table 8."""
    recipe = load_recipe(f"paper-{size}{codec}")
    train, pack, diffusion = recipe.train, recipe.pack, recipe.diffusion
    assert train.optimizer == "adamw"
    assert (train.beta1, train.beta2, train.epsilon, train.weight_decay, train.clip_norm) == (0.9, 0.95, 1e-8, 0.1, 1.0)
    assert (train.learning_rate, train.final_learning_rate, train.warmup_steps) == (3e-4, 1.5e-5, 4000)
    assert (train.rate_schedule, train.steps, train.late_share) == ("cosine", 250_000, 0.01)
    assert (pack.row_length, train.batch_rows * pack.row_length) == (4096, 2_097_152)
    assert (pack.caption_first, pack.text_to_image, pack.patch_side) == (0.8, 1.0, 2)
    assert (diffusion.schedule, diffusion.target) == (CosineSchedule(steps=1000), NoiseTarget())
    assert (diffusion.image_weight, diffusion.noise_limit, diffusion.context_images) == (5.0, 500, "noised")
    assert recipe.sample.generation.sampler == DdpmSampler(steps=250)
    assert (recipe.images.size, recipe.images.fit) == (256, "crop")
    assert recipe.vae.kind == "train"
    assert (recipe.vae.downsampling, recipe.vae.latent_channels) == (8, 8)
    assert (recipe.model.codec.kind, recipe.model.image_attention) == (codec[1:] or "linear", "bidirectional")


def test_clean_copies_make_a_step_longer() -> None:
    train = TrainConfig(batch_rows=24)
    plain = made(train)
    with_copies = plan_training(MODEL, DiffusionConfig(context_images="clean"), train, DATA, LARGE, mfu=0.5)
    pairs = 512 // 2 // (16 + 33)
    assert with_copies.elements_per_step == plain.elements_per_step + 24 * pairs * 16
    assert with_copies.memory["activations"] > plain.memory["activations"]
    assert with_copies.seconds > plain.seconds


@pytest.mark.parametrize("context", ["noised", "clean"])
def test_noise_draws_make_a_step_longer(context: str) -> None:
    train = TrainConfig(batch_rows=24)
    one, three = (
        plan_training(
            MODEL,
            DiffusionConfig(context_images=context, noise_draws=draws),
            train,
            DATA,
            LARGE,
            mfu=0.5,  # type: ignore[arg-type]
        )
        for draws in (1, 3)
    )
    pairs = 512 // 2 // (16 + 33)
    assert three.elements_per_step == one.elements_per_step + 24 * pairs * 2 * 16
    assert three.memory["activations"] > one.memory["activations"]
    assert three.seconds > one.seconds


def test_what_is_advised_fits() -> None:
    train = TrainConfig(batch_rows=16)
    free = made(train)
    assert free.advice == ""
    room = free.peak_bytes - int(0.6 * free.memory["activations"])
    small = replace(LARGE, memory=room)
    advice = made(train, small).advice
    assert advice.startswith("set train.micro_rows = ")
    rows = int(advice.split("=")[1].split(":")[0])
    assert 1 < rows < 16
    assert made(train.model_copy(update={"micro_rows": rows}), small).advice == ""
    assert "smaller model" in made(train, replace(LARGE, memory=1000)).advice


def test_devices_without_rows_do_not_make_it_faster() -> None:
    train = TrainConfig(batch_rows=12, micro_rows=1)
    one, eight, many = (made(train, replace(LARGE, count=count)) for count in (1, 8, 64))
    assert one.busy == 1
    assert eight.speed == pytest.approx(6 * one.speed)  # the fullest has two rows of twelve
    assert many.speed == pytest.approx(12 * one.speed)


def test_a_trial_without_growth_is_not_extrapolated() -> None:
    assert Trial(50, 1000, 1000, 1.0).peak_after(10**6) == 1000
    assert Trial(50, 1000, 900, 1.0).peak_after(50) == 1000
    assert Trial(50, 1000, 900, 1.0).peak_after(100) == 1100
    assert Trial(50, 1000, 900, 1.0).peak_after(400) == 1220
    assert Trial(100, 1000, 980, 1.0).peak_after(800) == 1060


def test_on_a_cpu_with_data_memory_and_speed_are_those_of_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = [Story((f"a text about the number {number}", None)) for number in range(30)]
    sequences = make_all(tmp_path, stories, PackConfig(row_length=64, patch_side=2))
    cpu = Machine("cpu", 1, 10**12, 1e12, measured=True)
    seen: list[int] = []

    def try_out(*arguments: Any) -> Trial:
        seen.append(arguments[-1])
        return Trial(arguments[-1], 2 * 10**9, 2 * 10**9, 123.0)

    monkeypatch.setattr("stages.estimate_training.plan.try_out", try_out)
    plan = plan_training(MODEL, DiffusionConfig(), TrainConfig(batch_rows=2), sequences, cpu)
    assert seen == [100]
    assert plan.peak_bytes == 2 * 10**9
    assert plan.speed == pytest.approx(123)
    stated = plan_training(MODEL, DiffusionConfig(), TrainConfig(batch_rows=2), sequences, cpu, mfu=0.5)
    assert stated.mfu == 0.5
    gpu = plan_training(MODEL, DiffusionConfig(), TrainConfig(batch_rows=2), sequences, LARGE)
    assert gpu.trial is None
    assert len(seen) == 2


@pytest.mark.slow
def test_a_trial_takes_real_steps_and_leaves_nothing(tmp_path: Path) -> None:
    stories = [Story((f"a text about the number {number}", None)) for number in range(30)]
    sequences = make_all(tmp_path / "work", stories, PackConfig(row_length=64, patch_side=2))
    before = sorted(tmp_path.rglob("*"))
    found = try_out(MODEL, DiffusionConfig(), TrainConfig(batch_rows=2), sequences, 0, 4)
    assert found.steps == 4
    assert 10**8 < found.peak_of_half <= found.peak_bytes < 2 * 10**9
    assert found.elements_per_second > 0
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(TfcliError, match="2 trial steps failed"):
        try_out(MODEL, DiffusionConfig(), TrainConfig(), tmp_path / "none", 0, 2)


@pytest.mark.parametrize(
    ("text", "count", "name"), [("8xH100", 8, "H100"), ("h100", 1, "H100"), ("2xA100-40", 2, "A100-40")]
)
def test_gpus_by_name(text: str, count: int, name: str) -> None:
    machine = machine_of(text, "bf16")
    assert (machine.count, machine.name) == (count, name)
    assert machine_of(text, "fp32").peak < machine.peak / 10


@pytest.mark.parametrize("text", ["", "0xH100", "Z80", "8x", "-1xH100", "8 H100"])
def test_gpus_that_are_none(text: str) -> None:
    with pytest.raises(TfcliError) as caught:
        machine_of(text, "bf16")
    assert caught.value.code == ExitCode.USAGE


def test_of_uneven_shares_the_fullest_counts() -> None:
    two = replace(LARGE, count=2)
    assert made(TrainConfig(batch_rows=3), two).memory == made(TrainConfig(batch_rows=4), two).memory


def test_devices_that_the_group_does_not_divide_are_refused() -> None:
    with pytest.raises(TfcliError, match="is not divisible by"):
        made(TrainConfig(sharding="hybrid", shard_group=2), replace(LARGE, count=3))


def test_sharded_weights_are_divided_by_the_group_and_gathered_a_block_at_a_time() -> None:
    eight = replace(LARGE, count=8)
    whole, full, pairs = (
        made(TrainConfig.model_validate({"batch_rows": 8, "ema_decay": 0.9, **sharding}), eight).memory
        for sharding in ({}, {"sharding": "full"}, {"sharding": "hybrid", "shard_group": 2})
    )
    for kind in ("weights", "gradients", "optimizer", "running average"):
        assert full[kind] == pytest.approx(whole[kind] / 8, abs=8)
        assert pairs[kind] == pytest.approx(whole[kind] / 2, abs=8)
    assert full["activations"] == pairs["activations"] == whole["activations"]
    assert "gathered" not in whole
    block = 4 * sum(weight.numel() for weight in Transfusion(MODEL, DATA.dims).blocks[0].parameters())
    around = whole["weights"] - MODEL.layers * block
    assert full["gathered"] == pairs["gathered"] == pytest.approx(2 * around + 4 * block, rel=0.01)


def test_where_weights_do_not_fit_sharding_is_advised_and_then_checkpointing() -> None:
    eight = replace(LARGE, count=8)
    train = TrainConfig(batch_rows=8)
    whole = made(train, eight)
    little = replace(eight, memory=whole.peak_bytes - whole.memory["activations"])
    assert "train.sharding" in made(train, little).advice
    config = train.model_copy(update={"sharding": "full"})
    sharded = made(config, eight)
    little = replace(eight, memory=sharded.peak_bytes - sharded.memory["activations"] // 10)
    assert '"selective"' in made(config, little).advice
    assert made(config.model_copy(update={"checkpointing": "full"}), little).advice == ""


# Table 2 of the paper in our count, and the shares of table 7: +106.1, 71.3, 35.5, 19.3, 3.8 % for the U-Net.
SIZES = {
    "0.16b": (0.162, 106.1),
    "0.37b": (0.374, 71.3),
    "0.76b": (0.778, 35.5),
    "1.4b": (1.364, 19.3),
    "7b": (6.738, 3.8),
}


def paper(name: str) -> TrainingPlan:
    recipe = load_recipe(name)
    machine = machine_of("8xH100", recipe.train.precision)
    return plan_training(recipe.model, recipe.diffusion, recipe.train, data_of(recipe), machine, mfu=0.4)


def check_counts(size: str, linear: dict[str, int], unet: dict[str, int]) -> None:
    """Weights by part, with the linear codec and with the U-Net."""
    billions, share = SIZES[size]
    rest = linear["blocks"] + linear["text in and out"]
    assert rest / 1e9 == pytest.approx(billions, abs=6e-4)
    assert 100 * unet["patch codec"] / rest == pytest.approx(share, rel=0.09)
    assert 0.1 < 100 * linear["patch codec"] / rest < 0.6


@pytest.mark.parametrize("size", SIZES)
def test_the_weights_of_all_sizes_of_the_paper(size: str) -> None:
    counts = []
    for name in (f"paper-{size}", f"paper-{size}-unet"):
        recipe = load_recipe(name)
        with torch.device("meta"):
            counts.append(parameters_by_part(Transfusion(recipe.model, data_of(recipe).dims)))
    check_counts(size, *counts)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_plans_of_all_sizes_of_the_paper(size: str) -> None:
    """Forward, backward and optimizer of both codecs run on tensors without memory; counts are the paper's."""
    plans = linear, unet = paper(f"paper-{size}"), paper(f"paper-{size}-unet")
    check_counts(size, linear.parameters, unet.parameters)
    for plan in plans:
        assert plan.advice == ""
        assert plan.steps * plan.elements_per_step == pytest.approx(0.52e12, rel=0.01)


@pytest.mark.parametrize("side", [1, 2, 4, 8])
def test_every_patch_side_of_the_paper(side: int) -> None:
    recipe = load_recipe("paper-0.16b", (f"pack.patch_side={side}",))
    assert data_of(recipe).dims.patch_side == side
    assert data_of(recipe).grid == (32, 32)
