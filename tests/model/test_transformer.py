"""Laws of the model: what an output depends on, what it does not, and that its parts invert."""

from __future__ import annotations

import torch

from stages.model.attention import DenseAttention, allowed
from stages.model.config import ModelConfig
from stages.model.patches import from_patches, to_patches
from stages.model.positions import rotary_table, rotate
from stages.model.transformer import DataFacts, ImageInputs, Inputs, Transfusion

# text 0-3, BOI 4, patches 5-8, EOI 9, text 10-11, BOI 12, patches 13-16, EOI 17
FIRST, SECOND = list(range(5, 9)), list(range(13, 17))
TEXT = [place for place in range(18) if place not in FIRST + SECOND]


def model(**options: object) -> Transfusion:
    config = ModelConfig(width=32, layers=2, heads=2, **options)  # type: ignore[arg-type]
    network = Transfusion(config, DataFacts(vocab_size=40, latent_channels=3, patch_side=2))
    network.initialise(torch.Generator().manual_seed(0))
    return network


def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 3, 4, 4, generator=generator)
    images = ImageInputs(latents, torch.tensor([300, 700]), torch.tensor([FIRST, SECOND]))
    ids = torch.randint(0, 40, (len(TEXT),), generator=generator)
    return Inputs(torch.arange(18), ids, torch.tensor(TEXT), (images,))


def attention(*, bidirectional: bool = True) -> DenseAttention:
    image = torch.full((18,), -1)
    image[FIRST], image[SECOND] = 0, 1
    return DenseAttention(allowed(torch.zeros(18, dtype=torch.long), image, bidirectional=bidirectional))


def with_latents(source: Inputs, change: torch.Tensor, times: torch.Tensor | None = None) -> Inputs:
    image = source.images[0]
    new = ImageInputs(image.latents_IChw + change, image.t_I if times is None else times, image.places_IP)
    return Inputs(source.positions_N, source.text_ids_T, source.text_places_T, (new,))


def test_text_is_unchanged_by_a_later_image_and_changed_by_an_earlier_one() -> None:
    network, source = model(), inputs()
    base = network.hidden(source, attention())
    change = torch.zeros(2, 3, 4, 4)
    change[1] = 1
    later = network.hidden(with_latents(source, change), attention())
    assert torch.equal(later[:13], base[:13])
    assert not torch.allclose(later[17], base[17])
    earlier = network.hidden(with_latents(source, change.flip(0)), attention())
    assert torch.equal(earlier[:5], base[:5])
    assert not torch.allclose(earlier[10:12], base[10:12])


def test_a_patch_sees_every_patch_of_its_own_image_and_none_of_a_later_one() -> None:
    network, source = model(), inputs()
    base = network.hidden(source, attention())
    for row, column in ((0, 0), (0, 2), (2, 0), (2, 2)):  # a pixel inside each of the four patches
        change = torch.zeros(2, 3, 4, 4)
        change[0, :, row, column] = 1
        found = network.hidden(with_latents(source, change), attention())
        assert ((found[FIRST] - base[FIRST]).abs().amax(1) > 1e-6).all()
    change = torch.zeros(2, 3, 4, 4)
    change[1] = 1
    assert torch.equal(network.hidden(with_latents(source, change), attention())[FIRST], base[FIRST])


def test_causal_images_hide_later_patches() -> None:
    network, source = model(), inputs()
    mask = attention(bidirectional=False)
    change = torch.zeros(2, 3, 4, 4)
    change[0, :, 2, 2] = 1  # last patch of the first image
    base, found = network.hidden(source, mask), network.hidden(with_latents(source, change), mask)
    assert torch.equal(found[:8], base[:8])


def test_the_time_of_one_image_reaches_no_earlier_element() -> None:
    network, source = model(), inputs()
    base = network.hidden(source, attention())
    none = torch.zeros(2, 3, 4, 4)
    found = network.hidden(with_latents(source, none, torch.tensor([300, 100])), attention())
    assert torch.equal(found[:13], base[:13])
    assert not torch.allclose(found[SECOND], base[SECOND])


def test_patches_invert_and_run_in_raster_order() -> None:
    latents = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    patches = to_patches(latents, 2)
    assert patches.shape == (2, 12, 12)
    assert torch.equal(from_patches(patches, 2, 6, 8), latents)
    marked = torch.zeros(1, 1, 4, 6)
    marked[0, 0, 1, 4] = 1  # row 0, column 2 of the 2 x 3 patches
    assert to_patches(marked, 2)[0].sum(1).tolist() == [0, 0, 1, 0, 0, 0]


def test_rotary_scores_depend_on_distance_only() -> None:
    q, k = torch.randn(2, 1, 2, 8, generator=torch.Generator().manual_seed(0)).unbind()
    scores = []
    for start in (0, 5, 300):
        tables = [rotary_table(torch.tensor([place]), 8, 10_000.0) for place in (start + 7, start)]
        scores.append((rotate(q, *tables[0]) * rotate(k, *tables[1])).sum(-1))
    assert torch.allclose(scores[0], scores[1], atol=1e-4)
    assert torch.allclose(scores[0], scores[2], atol=1e-4)
    assert torch.allclose(rotate(q, *rotary_table(torch.tensor([9]), 8, 1e4)).norm(), q.norm())


def test_codec_share_matches_the_paper() -> None:
    """Table 7 prints 0.5, 0.4, 0.4, 0.4, 0.3 % for the linear codec with its time embedding."""
    sizes = [
        (768, 16, 12, 2048),
        (1024, 24, 16, 2816),
        (1536, 24, 24, 4096),
        (2048, 24, 16, 5632),
        (4096, 32, 32, 11008),
    ]
    shares, totals = [], []
    for width, layers, heads, hidden in sizes:
        with torch.device("meta"):
            network = Transfusion(
                ModelConfig(width=width, layers=layers, heads=heads, ffn_width=hidden), DataFacts(32_000, 8, 2)
            )
        codec = sum(p.numel() for part in (network.patches, network.time_embedding) for p in part.parameters())
        total = sum(p.numel() for p in network.parameters()) - codec
        shares.append(round(100 * codec / total, 1))
        totals.append(round(total / 1e9, 3))
    assert shares == [0.5, 0.4, 0.4, 0.4, 0.3]
    assert totals == [0.162, 0.374, 0.778, 1.364, 6.738]


def test_text_enters_a_fresh_model_as_loud_as_patches_do() -> None:
    """An embedding drawn with the deviation of a matrix (1 / sqrt(width)) is lost beside what the first block adds."""
    network = model()
    latents = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    patches = network.patches.encode(latents, network.time_embedding(torch.arange(64)))
    loudness = [vectors.square().mean().sqrt().item() for vectors in (network.text_embedding.weight, patches)]
    assert 0.5 < loudness[0] / loudness[1] < 2
