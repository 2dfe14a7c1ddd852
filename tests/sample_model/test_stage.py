"""Sampling from a checkpoint alone: pictures go in as those of the training did, and all that comes out names its making."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stages.artifacts.latents import StoredImage
from stages.core.errors import ExitCode, TfcliError
from stages.core.hashing import hash_file
from stages.core.runtime import Runtime
from stages.diffusion.samplers import DdimSampler
from stages.generation.config import GenerationConfig
from stages.generation.engine import Engine
from stages.generation.loading import LoadedModel, load_model
from stages.generation.prompts import Ended, ImageDone, ImagePiece, Prompt, TextAdded, TextPiece
from stages.model.cpu.inference import key_value_dtype
from stages.sample_model.config import SampleConfig
from stages.sample_model.pictures import drawn_pixels, edit_of, fit_of, picture_piece
from stages.sample_model.stage import _within
from stages.sample_model.tasks import Task
from stages.sample_model.writing import FRAMES, GifFrames, RunInfo, Writer
from stages.sources.decoding import read_picture
from stages.sources.document import FileSpan
from tests.bad_inputs.lab import Lab, Outcome, Shelf
from tests.builders import edit_manifest
from tfcli import End, Picture, Step, Text, load

QUICK = ("--steps", "2", "--set", "sample.generation.max_text_tokens=4")
SETTINGS: dict[str, Any] = {"sampler": {"kind": "ddim", "steps": 2}, "max_text_tokens": 4}


@pytest.fixture
def lab(tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab(tmp_path / "lab", shelf, monkeypatch)
    made.finish(trained=True)
    return made


def sampled(lab: Lab, *words: str) -> list[dict[str, Any]]:
    """Records of the only folder of samples that was made by prompts."""
    for old in (lab.folder / "work").glob("samples-*"):
        old.rename(lab.folder / f"old-{old.name}-{len(list(lab.folder.iterdir()))}")
    outcome: Outcome = lab.run("sample work", *words, *QUICK)
    assert outcome.code == 0, outcome.stderr
    (folder,) = (lab.folder / "work").glob("samples-*")
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def pixels(lab: Lab, name: str) -> np.ndarray[Any, Any]:
    (folder,) = (lab.folder / "work").glob("samples-*")
    with Image.open(folder / name) as image:
        return np.array(image)


def test_a_size_that_no_training_picture_had_is_told_of(lab: Lab) -> None:
    outcome: Outcome = lab.run("sample work", "a thing", "--size", "48x16", *QUICK)
    assert outcome.code == 0, outcome.stderr
    assert "no picture of 48x16 was seen in training, only 16x16" in outcome.stderr
    again: Outcome = lab.run("sample work", "a thing", "--size", "16x16", *QUICK)
    assert "was seen in training" not in again.stderr


def test_more_steps_than_noise_levels_are_told_of_and_not_recorded(lab: Lab) -> None:
    loaded = load_model(lab.folder / "work" / "checkpoint", "cpu")
    told: list[Any] = []
    asked = SampleConfig(generation=GenerationConfig(sampler=DdimSampler(steps=5000)))
    taken = _within(asked, loaded, Runtime(report=told.append))
    assert taken.generation.sampler.steps == 1000
    assert "1,000 steps are taken, not 5,000" in told[0].text
    assert _within(taken, loaded, Runtime(report=told.append)) == taken
    assert len(told) == 1


def test_without_a_prompt_the_samples_of_the_recipe_are_kept(lab: Lab) -> None:
    first: Outcome = lab.run("sample work", "--count", "1")
    assert first.code == 0, first.stderr
    (made,) = (lab.folder / "work").glob("samples-*")
    made.rename(lab.folder / "work" / "samples")  # as 'tfcli run' names them
    again: Outcome = lab.run("sample work", "--count", "1")
    assert again.code == 0, again.stderr
    assert not list((lab.folder / "work").glob("samples-*"))


def test_a_picture_of_the_training_is_seen_as_training_saw_it(lab: Lab) -> None:
    loaded: LoadedModel = load_model(lab.folder / "work" / "checkpoint", "cpu")
    tried = 0
    for document in loaded.latents.documents():
        (image,) = (segment for segment in document.segments if isinstance(segment, StoredImage))
        stored = loaded.latents.rows(image.grid).read(np.array([image.row]))[0, 0]
        piece = picture_piece(lab.folder / "pictures" / image.name, loaded)
        expected = loaded.scale.normalise(torch.from_numpy(stored))
        assert torch.allclose(piece.latent, expected, atol=2e-3)  # stored in float16
        tried += 1
    assert tried > 3


def test_records_and_pictures_say_how_they_were_made(lab: Lab) -> None:
    (record,) = sampled(lab, "from <image> to", "-i", "pictures/good0.png", "--draw", "--seed", "7", "--gif")
    assert [part["text"] or "<image>" for part in record["prompt"]] == ["from ", "<image>", " to"]
    (drawn,) = record["output"]
    assert (record["ended"], record["seed"], drawn["size"]) == ("drawn", 7, [16, 16])
    (folder,) = (lab.folder / "work").glob("samples-*")
    with Image.open(folder / drawn["image"]) as image:
        chunks = image.text  # type: ignore[attr-defined]
    manifest = json.loads((lab.folder / "work" / "checkpoint" / "manifest.json").read_text())
    assert chunks["checkpoint"] == record["checkpoint"] == manifest["digest"]
    assert (chunks["seed"], chunks["prompt"]) == ("7", "from <image> to")
    assert json.loads(chunks["settings"]) == record["settings"]
    assert record["settings"]["sampler"] == SETTINGS["sampler"]
    assert record["settings"]["stop"] == []
    assert json.loads(chunks["record"]) == {key: value for key, value in record.items() if key not in OUTCOME}
    with Image.open(folder / drawn["animation"]) as animation:
        assert animation.n_frames == 2  # type: ignore[attr-defined]  # the last of two estimates is the picture
    page = (folder / "index.html").read_text()
    assert drawn["image"] in page
    assert drawn["animation"] in page
    assert (folder / "grid.png").exists()


OUTCOME = ("output", "ended", "begin", "mask", "strength")  # what records hold beside what it takes to make them again


def test_a_picture_says_all_that_it_takes_to_draw_it_again(lab: Lab) -> None:
    """From the file alone, its text and the digests of what was given, in Python."""
    masked(lab, "pictures/hole.png", 10)
    lines = [
        {"parts": [{"text": "first"}]},
        {"parts": [{"text": "a"}], "size": "24x16", "negative": "b"},
        {
            "parts": [{"image": "good2.png"}, {"text": "c"}],
            "draw": True,
            "begin": {"image": "good1.png", "mask": "hole.png"},
        },
        {"parts": [{"text": "d"}], "begin": {"image": "good1.png", "strength": 0.6}, "negative": "e"},
    ]
    (lab.folder / "pictures" / "all.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    more = ("--set", "sample.generation.stop=['zz']", "--guidance", "2")
    records = sampled(lab, "--prompts", "pictures/all.jsonl", "--count", "2", "--seed", "11", *more)
    files = {hash_file(path): path for path in (lab.folder / "pictures").glob("*.png")}
    model = load(lab.folder / "work", "cpu")  # or its checkpoint
    (folder,) = (lab.folder / "work").glob("samples-*")
    for record in records:
        (drawn,) = record["output"]
        with Image.open(folder / drawn["image"]) as image:
            told = json.loads(image.text["record"])  # type: ignore[attr-defined]
        asked = told["asked"]
        given = iter(asked["pictures"])
        parts = [part["text"] or files[next(given)["sha256"]] for part in told["prompt"]]
        begun = {name: files[asked[name]["sha256"]] for name in ("begin", "mask") if asked[name]}
        options = {key: asked[key] for key in ("draw", "size", "negative")}
        options["strength"] = 1.0 if asked["strength"] is None else asked["strength"]
        named = {"seed": told["seed"], "index": told["index"], "count": told["take"] + 1}
        assert told["settings"]["stop"] == ["zz"]
        assert told["number"] == 1000 * told["index"] + told["take"]
        events = model.generate(parts, **begun, **options, **named, **told["settings"])
        (again,) = (event.image for event in events if isinstance(event, Picture) and event.take == told["take"])
        assert np.abs(np.array(again).astype(int) - pixels(lab, drawn["image"])).max() <= 1
    assert str(lab.folder) not in (folder / "records.jsonl").read_text()


@pytest.mark.parametrize("steps", [0, 1, 23, 24, 25, 48, 49, 250, 1000])
def test_an_animation_keeps_no_more_frames_than_it_shows(steps: int) -> None:
    frames, most = GifFrames(), 0
    for step in range(steps):
        frames.add(torch.tensor(float(step)))
        most = max(most, len(frames.kept))
    kept = [int(frame) for frame in frames.kept]
    assert most <= FRAMES
    assert len(kept) == steps if steps <= FRAMES else FRAMES // 2 < len(kept) <= FRAMES
    assert kept == list(range(0, steps, frames.every))


def test_estimates_are_let_go_with_their_picture(lab: Lab) -> None:
    loaded = load_model(lab.folder / "work" / "checkpoint", "cpu")
    tasks = [Task("prompts", index, Prompt((TextPiece("a"),), image_next=True)) for index in range(3)]
    (lab.folder / "images").mkdir()
    writer = Writer(lab.folder, tasks, loaded, RunInfo(0, "x", {}, gif=True), Runtime(), report_parts=False)
    config = GenerationConfig(sampler=DdimSampler(steps=30), guidance=1.0)
    most = 0
    for event in Engine(loaded, config, 0, Runtime()).stream(
        [task.prompt for task in tasks], [task.number for task in tasks], steps=True
    ):
        writer.take(event)
        held = [len(document.frames.kept) for document in writer.growing.values()]
        most = max([most, *held])
        if isinstance(event, ImageDone):
            assert writer.growing[event.prompt].frames.kept == []
    assert most == FRAMES
    assert len(list((lab.folder / "images").glob("*.gif"))) == 3


def test_the_first_sample_does_not_depend_on_how_many_are_asked_for(lab: Lab) -> None:
    words = ("one thing", "another")
    single = sampled(lab, *words)
    alone = [pixels(lab, record["output"][0]["image"]) for record in single]
    many = sampled(lab, *words, "--count", "3")
    assert [(record["index"], record["take"]) for record in many] == [(i, t) for i in range(2) for t in range(3)]
    drawn = [pixels(lab, record["output"][0]["image"]) for record in many]
    for index in range(2):
        assert np.abs(drawn[3 * index].astype(int) - alone[index]).max() <= 1
        assert np.abs(drawn[3 * index + 1].astype(int) - alone[index]).max() > 1


def test_a_sample_does_not_depend_on_other_prompts_nor_on_how_it_is_asked_for(lab: Lab) -> None:
    alone = sampled(lab, "one thing", "--count", "3", "--seed", "5")
    expected = [pixels(lab, record["output"][0]["image"]).astype(int) for record in alone]
    beside = sampled(lab, "one thing", "another", "a third", "--count", "3", "--seed", "5")
    found = [pixels(lab, record["output"][0]["image"]).astype(int) for record in beside]
    assert [(record["index"], record["take"]) for record in beside] == [(i, t) for i in range(3) for t in range(3)]
    for index, text in enumerate(("one thing", "another", "a third")):
        events = model_events(lab, [text], count=3, seed=5, index=index)
        python = {event.take: np.array(event.image).astype(int) for event in events if isinstance(event, Picture)}
        for take in range(3):
            assert np.abs(python[take] - found[3 * index + take]).max() <= 1
    for take in range(3):
        assert np.abs(found[take] - expected[take]).max() <= 1
        assert all(np.abs(found[take] - found[other]).max() > 1 for other in range(9) if other != take)


def test_python_gives_what_the_command_gives(lab: Lab) -> None:
    (record,) = sampled(lab, "what is it?", "--image", "pictures/good1.png", "--decide", "--seed", "3")
    model = load(lab.folder / "work" / "checkpoint", "cpu")
    with Image.open("pictures/good1.png") as opened:
        opened.load()
    for picture in (Path("pictures/good1.png"), opened):
        events = list(model.generate([picture, "what is it?"], draw="model", seed=3, **SETTINGS))
        assert events[-1] == End(0, record["ended"])
        found: list[Any] = []
        for event in events:
            if isinstance(event, Text) and found and isinstance(found[-1], str):
                found[-1] += event.text
            elif isinstance(event, Text):
                found.append(event.text)
            elif isinstance(event, Picture):
                found.append(np.array(event.image))
        assert len(found) == len(record["output"]) > 0
        for one, part in zip(found, record["output"], strict=True):
            if isinstance(one, str):
                assert one == part["text"]
            else:
                assert np.array_equal(one, pixels(lab, part["image"]))


def test_python_events_tell_how_far_a_picture_is(lab: Lab) -> None:
    model = load(lab.folder / "work" / "checkpoint", "cpu")
    events = list(model.generate(["a thing"], count=2, **SETTINGS))
    steps = [event.done for event in events if isinstance(event, Step) and event.take == 1]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert [event.take for event in events if isinstance(event, Picture)] == [0, 1]


def test_prompts_that_leave_no_room_for_what_is_asked_are_refused(lab: Lab) -> None:
    """At the last length that fits the whole document is as long as a row of the training, negative text included."""
    model = load(lab.folder / "work" / "checkpoint", "cpu")
    loaded, rows = model.loaded, model.loaded.checkpoint.content.row_length
    _, height, width = loaded.latent_shape
    image = height * width // loaded.checkpoint.content.patch_side**2 + 2

    def text_of(tokens: int) -> str:
        text = ""
        while len(loaded.text.encode(text + "zq")) <= tokens:
            text += "zq"
        while len(loaded.text.encode(text + "z")) <= tokens:
            text += "z"
        assert len(loaded.text.encode(text)) == tokens
        return text

    for room, parts, options in (
        (rows - 1, [], {"draw": False}),
        (rows - 1 - image, [], {}),
        (rows - 1 - image, ["a"], {"negative": True}),
        (rows - 1 - image, [], {"begin": "pictures/good0.png", "strength": 0.5}),
        (rows - 1 - 2 * image, [Path("pictures/good0.png")], {"draw": True}),
    ):
        for tokens in (room, room + 1):
            given = {**options, **SETTINGS}
            if options.get("negative"):
                given["negative"], document = text_of(tokens), parts
            else:
                document = [*parts, text_of(tokens)]
            if tokens == room:
                assert model.generate(document, **given)
                continue
            with pytest.raises(TfcliError, match="is too long") as caught:
                model.generate(document, **given)
            assert caught.value.code == ExitCode.USAGE
            assert f"takes {rows + 1} elements" in caught.value.why
    with pytest.raises(TfcliError, match="is too long"):
        model.generate(["a"], height=64, width=64)


def test_python_loads_in_bf16_and_says_where_to_ask_for_it(lab: Lab) -> None:
    model = load(lab.folder / "work" / "checkpoint", "cpu", "bf16")
    assert any(isinstance(event, Picture) for event in model.generate(["a thing"], **SETTINGS))
    assert key_value_dtype(model.loaded.model) == torch.bfloat16
    with pytest.raises(TfcliError, match="precision belongs"):
        next(model.generate(["a thing"], precision="fp32"))


def test_python_refuses_what_cannot_be(lab: Lab) -> None:
    model = load(lab.folder / "work" / "checkpoint", "cpu")
    (lab.folder / "page.png").write_text("<html>")
    begin = {"begin": "pictures/good0.png"}
    usage: list[tuple[Any, dict[str, Any]]] = [
        ([3], {}),
        (["a"], {"guidence": 2.0}),
        (["a"], {"guidance": -1.0}),
        (["word " * 100], {}),
        (["a\x00b"], {}),
        (["a\udcff"], {}),
        ("abc", {}),
        (Path("pictures/good0.png"), {}),
        (["a"], {"negative": "\udcff"}),
        (["a"], {"negative": "b", "guidance": 1.0}),
        (["a"], {"negative": "b", "draw": False}),
        (["a"], {"mask": "pictures/good0.png"}),
        (["a"], {"strength": 0.5}),
        (["a"], begin),
        (["a"], {**begin, "strength": 0.5, "draw": False}),
        (["a"], {**begin, "strength": 0.5, "size": "16x16"}),
        *[(["a"], {**begin, "strength": strength}) for strength in (2.0, -0.5, 0, float("nan"), "much", None)],
        *[(["a"], {"size": size}) for size in ("abc", "0x16", "-16x16", "64", (16, 16), 16, "160x160", "18x16")],
        *[(["a"], {"draw": draw}) for draw in ("modle", "yes", 1)],
        *[(["a"], {"count": count}) for count in (0, -1, 1001, 1.5, "2", True)],
        *[(["a"], {"seed": seed}) for seed in (-1, 1.5, 2**70, None)],
        (["a"], {"index": -1}),
    ]
    for parts, settings in usage:
        with pytest.raises(TfcliError) as caught:
            model.generate(parts, **settings)
        assert caught.value.code == ExitCode.USAGE, (parts, settings, caught.value.what)
        assert caught.value.fix
    unusable: list[tuple[Any, dict[str, Any]]] = [
        ([Path("page.png")], {}),
        ([Path("nowhere.png")], {}),
        ([Image.new("RGB", (2, 2))], {}),
        ([], {"begin": "nowhere.png", "strength": 0.5}),
        ([], {"begin": "pictures", "strength": 0.5}),
        ([], {**begin, "mask": "page.png"}),
    ]
    for parts, settings in unusable:
        with pytest.raises(TfcliError) as caught:
            model.generate(parts, **settings)
        assert caught.value.code == ExitCode.INPUT, (parts, settings, caught.value.what)
    assert model_events(lab, [], begin=Path("pictures/good0.png"), strength=0.5)[-1] == End(0, "drawn")


@pytest.mark.parametrize("recipe", ["{", "[]", '{"sample": {"generation": {"guidence": 3}}}', '{"sample": 3}', "\xff"])
def test_python_refuses_a_damaged_checkpoint(lab: Lab, recipe: str) -> None:
    folder = lab.folder / "work" / "checkpoint"
    for wrong, code in (
        (lab.folder / "recipe.toml", 4),
        (lab.folder / "nowhere", 4),
        (lab.folder / "work" / "latents", 4),
    ):
        with pytest.raises(TfcliError) as caught:
            load(wrong, "cpu")
        assert caught.value.code == code
    with pytest.raises(TfcliError) as caught:
        load(folder, "cpu", "fp64")  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.USAGE
    (folder / "recipe.json").write_bytes(recipe.encode("latin-1"))
    with pytest.raises(TfcliError) as caught:
        load(folder, "cpu")
    assert caught.value.code == ExitCode.ARTIFACT


def test_what_drawing_begins_from_is_told_only_of_drawings(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("a thing", "--begin", "pictures/good0.png", "--strength", "0.5", "--decide")

    def writes(_engine: Engine, _prompts: Any, numbers: Any, **_options: Any) -> Any:
        for number in numbers:
            yield from (TextAdded(number, "no"), Ended(number, "eos"))

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "stream", writes)
        (record,) = sampled(lab, *words)
    assert (record["begin"], record["strength"]) == (None, None)
    (folder,) = (lab.folder / "work").glob("samples-*")
    assert "drawing begins from" not in (folder / "index.html").read_text()
    assert list((folder / "images").iterdir()) == []
    (record,) = sampled(lab, *words[:-1])
    assert record["begin"]["size"] == [16, 16]


def model_events(lab: Lab, parts: list[Any], **options: Any) -> list[Any]:
    """What Python gives of the finished checkpoint."""
    return list(load(lab.folder / "work" / "checkpoint", "cpu").generate(parts, **options, **SETTINGS))


def masked(lab: Lab, name: str, left: int, side: int = 20) -> str:
    """A mask that is white from the column `left` on."""
    values = np.zeros((side, side, 3), np.uint8)
    values[:, left:] = 255
    Image.fromarray(values).save(lab.folder / name)
    return name


def test_a_drawing_begins_from_a_picture_and_keeps_what_the_mask_keeps(lab: Lab) -> None:
    words = ("a thing", "--begin", "pictures/good0.png", "--mask", masked(lab, "right.png", 10))
    (record,) = sampled(lab, *words)
    assert (record["strength"], record["begin"]["size"], record["mask"]["size"]) == (1.0, [16, 16], [16, 16])
    assert [part["text"] for part in record["prompt"]] == ["a thing"]
    hole = pixels(lab, record["mask"]["image"])[..., 0] > 0
    assert hole[:, 8:].all()
    assert not hole[:, :8].any()
    loaded = load_model(lab.folder / "work" / "checkpoint", "cpu")
    edit = edit_of(Path("pictures/good0.png"), Path("right.png"), 1.0, loaded)
    config = GenerationConfig(sampler=DdimSampler(steps=2))
    output = Engine(loaded, config, 0, Runtime()).generate(
        [Prompt((TextPiece("a thing"),), image_next=True, edit=edit)]
    )[0]
    (drawn,) = (piece.latent for piece in output.pieces if isinstance(piece, ImagePiece))
    assert torch.equal(drawn[:, :, :4], edit.latent[:, :, :4])
    assert (drawn[:, :, 4:] - edit.latent[:, :, 4:]).abs().mean() > 0.1
    # and in pixels the kept half is the picture itself, which the autoencoder alone would not give back
    given = read_picture(FileSpan(Path("pictures/good0.png")), fit_of(loaded.latents)).pixels
    assert given is not None
    shown = pixels(lab, record["output"][0]["image"])
    assert np.array_equal(shown[:, :8], given[:, :8])
    assert not np.array_equal(shown[:, 8:], given[:, 8:])
    assert np.array_equal(pixels(lab, record["begin"]["image"]), given)
    assert not np.array_equal(loaded.decode_pictures(drawn[None])[0][:, :8], given[:, :8])
    events = model_events(lab, ["a thing"], begin="pictures/good0.png", mask="right.png")
    (python,) = (np.array(event.image) for event in events if isinstance(event, Picture))
    assert np.array_equal(python, shown)
    (varied,) = sampled(lab, "--begin", "pictures/good0.png", "--strength", "0.5")
    assert (varied["strength"], varied["mask"], varied["prompt"]) == (0.5, None, [])


def test_a_mask_says_where_it_is_painted_and_nothing_else(lab: Lab) -> None:
    """Thin strokes count, padding and transparency do not."""
    loaded = load_model(lab.folder / "work" / "checkpoint", "cpu")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (512, 512, 3), dtype=np.uint8)).save("large.png")
    painted = np.zeros((512, 512, 4), np.uint8)
    painted[100:400, 250:254] = 255
    Image.fromarray(painted).save("stroke.png")
    edit = edit_of(Path("large.png"), Path("stroke.png"), 1.0, loaded)
    assert edit.change_hw is not None
    cell = 512 // edit.change_hw.shape[0]
    assert edit.change_hw.tolist() == (painted[..., 3].reshape(-1, cell, 512 // cell, cell) > 0).any((1, 3)).tolist()
    assert 0 < int(edit.change_hw.sum()) < edit.change_hw.numel() / 4
    kept = drawn_pixels(torch.zeros_like(edit.latent)[None], edit, loaded)[0] == edit.pixels
    assert not kept.all()
    assert kept.all(-1).mean() > 0.7


def test_white_that_is_cropped_away_is_said(lab: Lab) -> None:
    loaded = load_model(lab.folder / "work" / "checkpoint", "cpu")
    Image.new("RGB", (64, 32), "red").save("wide.png")
    values = np.zeros((32, 64), np.uint8)
    values[:, :10] = 255
    Image.fromarray(values).save("edge.png")
    with pytest.raises(TfcliError) as caught:
        edit_of(Path("wide.png"), Path("edge.png"), 1.0, loaded)
    assert "cropped away" in caught.value.why


def test_a_document_may_say_all_of_it(lab: Lab) -> None:
    masked(lab, "pictures/hole.png", 10)
    lines = [
        {"parts": [{"text": "a"}], "size": "24x16", "negative": "b"},
        {"parts": [], "begin": {"image": "good1.png", "mask": "hole.png", "strength": 0.7}},
    ]
    (lab.folder / "pictures" / "all.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    sized, begun = sampled(lab, "--prompts", "pictures/all.jsonl")
    assert sized["output"][0]["size"] == [16, 24]
    assert pixels(lab, sized["output"][0]["image"]).shape == (16, 24, 3)
    assert sized["negative"] == "b"
    assert begun["strength"] == 0.7
    model = load(lab.folder / "work" / "checkpoint", "cpu")
    events = list(model.generate(["a"], size="24x16", negative="b", **SETTINGS))
    (drawn,) = (event for event in events if isinstance(event, Picture))
    assert np.array_equal(np.array(drawn.image), pixels(lab, sized["output"][0]["image"]))


def test_another_autoencoder_than_that_of_the_training_is_refused(lab: Lab) -> None:
    edit_manifest(lab.folder / "work" / "autoencoder", lambda raw: raw.update(digest="0" * 64))
    outcome = lab.run("sample work", "a thing")
    assert outcome.code == 4
    assert "was made from other autoencoder" in outcome.lines[0]


def test_a_changed_picture_is_another_sampling(lab: Lab) -> None:
    words = ("it", "--image", "pictures/good0.png", "--write", *QUICK)
    for _ in range(2):
        assert lab.run("sample work", *words).code == 0
    assert len(list((lab.folder / "work").glob("samples-*"))) == 1
    lab.add("good0.png", lab.shelf.pictures[1])
    assert lab.run("sample work", *words).code == 0
    assert len(list((lab.folder / "work").glob("samples-*"))) == 2


def test_a_given_picture_is_shown_above_what_the_autoencoder_makes_of_it(lab: Lab) -> None:
    """And its loss is said: the autoencoder of these tests is untrained, so that the model sees a blob."""
    outcome: Outcome = lab.run("sample work", "--image", "pictures/good0.png", *QUICK)
    assert outcome.code == 0, outcome.stderr
    assert re.search(r"given picture 1 back with [\d.]+ dB PSNR, below 20 dB", " ".join(outcome.stderr.split()))
    (folder,) = (lab.folder / "work").glob("samples-*")
    (record,) = map(json.loads, (folder / "records.jsonl").read_text().splitlines())
    (part,) = record["prompt"]
    page = (folder / "index.html").read_text()
    original, image = (f'src="{part[key]}"' for key in ("original", "image"))
    assert 0 < page.index(original) < page.index(image)
    found = {name: pixels(lab, part[name]).astype(float) for name in ("original", "image")}
    with Image.open("pictures/good0.png") as image:
        given = np.array(image.convert("RGB").resize(found["original"].shape[1::-1])).astype(float)
    assert np.abs(found["original"] - given).mean() < 12
    assert np.abs(found["image"] - given).mean() > 24
    assert "original" not in json.dumps(record["output"])


def test_what_drawing_begins_from_is_judged_as_well(lab: Lab) -> None:
    outcome: Outcome = lab.run("sample work", "a", "--begin", "pictures/good0.png", "--strength", "0.5", *QUICK)
    assert outcome.code == 0, outcome.stderr
    assert "dB PSNR, below 20 dB" in " ".join(outcome.stderr.split())
