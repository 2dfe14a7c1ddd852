"""Draw pictures from a text, then let the model describe one of them: `python examples/draw.py work/shapes "a red circle"`.

Reads the checkpoint of a work folder; writes drawn-0.png, drawn-1.png ... into the current folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tfcli import End, Picture, Text, load


def main(work: Path, prompt: str, count: int = 2) -> None:
    """Draw `count` pictures, save them, and print what the model says of the first."""
    model = load(work / "checkpoint")
    pictures = {}
    for event in model.generate([prompt], draw=True, count=count, seed=0):
        match event:
            case Picture(take=take, image=image):
                pictures[take] = image
                image.save(f"drawn-{take}.png")
            case End(take=take, reason=reason):
                print(f"sample {take}: {reason}")
    texts = [event.text for event in model.generate([pictures[0]], draw=False, seed=0) if isinstance(event, Text)]
    print(f"drawn-0.png: {''.join(texts)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
