"""The objective's docstring quotes the lines that compute it: they are the lines of the code, in this order."""

from __future__ import annotations

import inspect
import re

from stages.diffusion.process import image_errors
from stages.train_model import objective
from stages.train_model.images import ImageMaker
from stages.train_model.stage import Training


def test_the_quoted_lines_are_those_of_the_code() -> None:
    text = objective.__doc__ or ""
    quoted = re.findall(r"^    (\w[\w, ]* = .*)$", text, re.MULTILINE)
    code = inspect.getsource(objective.loss_sums) + inspect.getsource(objective.step_losses)
    lines = [line.strip() for line in code.splitlines()]
    assert len(quoted) == 5
    assert [line for line in lines if line in quoted] == quoted


def test_what_the_docstring_names_is_there() -> None:
    text = objective.__doc__ or ""
    for name, found in [
        ("image_errors", image_errors),
        ("ImageMaker.make", ImageMaker.make),
        ("Training._forward_backward", Training._forward_backward),
    ]:
        assert f"`{name}`" in text
        assert found.__qualname__ == name
    assert "loss.backward()" in inspect.getsource(Training._forward_backward)
