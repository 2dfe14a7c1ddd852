"""Laws of the model: what an output depends on, what it does not, and that patches invert."""

from __future__ import annotations

import pytest
import torch

from stages.core.errors import TfcliError
from stages.model.attention import DenseAttention, allowed
from stages.model.config import LinearCodec, ModelConfig, UNetCodec
from stages.model.patches import build_patches, from_patches, to_patches
from stages.model.rotary import Rotary, apply_rotary, grid_positions, rotary_table, rotate
from stages.model.transformer import ImageInputs, Inputs, ModelDims, Outputs, Transfusion

# text 0-3, BOI 4, patches 5-8, EOI 9, text 10-11, BOI 12, patches 13-16, EOI 17
FIRST, SECOND = list(range(5, 9)), list(range(13, 17))
TEXT = [index for index in range(18) if index not in FIRST + SECOND]


def model(**options: object) -> Transfusion:
    config = ModelConfig(width=32, layers=2, heads=2, **options)  # type: ignore[arg-type]
    network = Transfusion(config, ModelDims(vocab_size=40, latent_channels=3, patch_side=2))
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


def hidden(network: Transfusion, source: Inputs, *, bidirectional: bool = True) -> torch.Tensor:
    return network.hidden(source, attention(bidirectional=bidirectional)).hidden_ND


def with_latents(source: Inputs, change: torch.Tensor, times: torch.Tensor | None = None) -> Inputs:
    image = source.images[0]
    new = ImageInputs(image.latents_IChw + change, image.t_I if times is None else times, image.patch_index_IP)
    return Inputs(source.positions_N, source.text_ids_T, source.text_index_T, (new,))


VARIANTS: dict[str, dict[str, object]] = {
    "linear": {},
    "time at the patch": {"codec": LinearCodec(time_at="patch")},
    "grid positions": {"codec": LinearCodec(grid_positions=True)},
    "unet": {"codec": UNetCodec(channels=8, widest=16, blocks=2)},
    "query-key norm": {"qk_norm": True},
    "rotary grid": {"image_positions": "grid"},
}
variants = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@variants
def test_text_is_unchanged_by_a_later_image_and_changed_by_an_earlier_one(options: dict[str, object]) -> None:
    network, source = model(**options), inputs()
    base = hidden(network, source)
    change = torch.zeros(2, 3, 4, 4)
    change[1] = 1
    later = hidden(network, with_latents(source, change))
    assert torch.equal(later[:13], base[:13])
    assert not torch.allclose(later[17], base[17])
    earlier = hidden(network, with_latents(source, change.flip(0)))
    assert torch.equal(earlier[:5], base[:5])
    assert not torch.allclose(earlier[10:12], base[10:12])


@variants
def test_a_patch_sees_every_patch_of_its_own_image_and_none_of_a_later_one(options: dict[str, object]) -> None:
    network, source = model(**options), inputs()
    base = hidden(network, source)
    for row, column in ((0, 0), (0, 2), (2, 0), (2, 2)):  # a pixel inside each of the four patches
        change = torch.zeros(2, 3, 4, 4)
        change[0, :, row, column] = 1
        found = hidden(network, with_latents(source, change))
        assert ((found[FIRST] - base[FIRST]).abs().amax(1) > 1e-6).all()
    change = torch.zeros(2, 3, 4, 4)
    change[1] = 1
    assert torch.equal(hidden(network, with_latents(source, change))[FIRST], base[FIRST])


def test_causal_images_hide_later_patches() -> None:
    network, source = model(), inputs()
    change = torch.zeros(2, 3, 4, 4)
    change[0, :, 2, 2] = 1  # last patch of the first image
    base, found = (hidden(network, each, bidirectional=False) for each in (source, with_latents(source, change)))
    assert torch.equal(found[:8], base[:8])


def test_a_unet_mixes_the_patches_of_an_image_whatever_the_mask() -> None:
    network, source = model(**VARIANTS["unet"]), inputs()
    change = torch.zeros(2, 3, 4, 4)
    change[0, :, 2, 2] = 1
    base, found = (hidden(network, each, bidirectional=False) for each in (source, with_latents(source, change)))
    assert ((found[FIRST] - base[FIRST]).abs().amax(1) > 1e-6).all()
    assert torch.equal(found[:5], base[:5])


@variants
def test_the_time_of_one_image_reaches_no_earlier_element(options: dict[str, object]) -> None:
    network, source = model(**options), inputs()
    base = hidden(network, source)
    none = torch.zeros(2, 3, 4, 4)
    found = hidden(network, with_latents(source, none, torch.tensor([300, 100])))
    assert torch.equal(found[:13], base[:13])
    assert not torch.allclose(found[SECOND], base[SECOND])


@variants
def test_a_call_is_the_hidden_states_and_both_heads(options: dict[str, object]) -> None:
    network, source, index = model(**options), inputs(), torch.tensor([0, 3, 10])
    logits, images = network(source, attention(), index)
    outputs = network.hidden(source, attention())
    assert torch.equal(logits, network.text_head(outputs.hidden_ND[index]))
    assert [image.shape for image in images] == [source.images[0].latents_IChw.shape]
    assert torch.equal(images[0], network.image_outputs(outputs)[0])


@variants
def test_every_weight_gets_a_gradient(options: dict[str, object]) -> None:
    network = model(**options)
    logits, images = network(inputs(), attention(), torch.tensor([0, 3, 10]))
    (logits.square().mean() + images[0].square().mean()).backward()
    silent = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not silent


@pytest.mark.parametrize("side", [2, 4, 8])
def test_a_unet_makes_one_vector_a_patch_and_the_same_grid_again(side: int) -> None:
    codec = build_patches(UNetCodec(channels=8, widest=16, blocks=1), 3, side, 32, 16)
    latents = torch.randn(2, 3, 2 * side, 4 * side, generator=torch.Generator().manual_seed(0))
    encoded = codec.encode(latents, torch.tensor([5, 900]))
    assert encoded.vectors_IPD.shape == (2, 8, 32)
    assert codec.decode(encoded.vectors_IPD, encoded).shape == latents.shape
    assert (
        len(encoded.memory) == 1 + 2 * side.bit_length()
    )  # the time embedding, and a skip for each block of the way out


def test_a_unet_is_refused_for_patches_of_side_one() -> None:
    with pytest.raises(TfcliError, match="patch_side = 1"):
        build_patches(UNetCodec(), 3, 1, 32, 16)


def test_the_way_out_of_a_unet_sees_what_the_way_in_saw() -> None:
    """Skip connections: the same vectors from the transformer, but other latents or another t, give another image."""
    codec = build_patches(UNetCodec(channels=8, widest=16, blocks=1), 3, 2, 32, 16)
    latents, t = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 5])
    encoded = codec.encode(latents, t)
    same = torch.zeros_like(encoded.vectors_IPD)
    decoded = codec.decode(same, encoded)
    assert not torch.allclose(decoded[0], decoded[1], atol=1e-3)
    assert not torch.allclose(decoded, codec.decode(same, codec.encode(latents, t + 900)), atol=1e-3)


def test_an_image_shifted_in_the_batch_of_its_grid_gives_the_same_vectors() -> None:
    """The codec treats images one by one: no norm or convolution may mix them."""
    codec = build_patches(UNetCodec(channels=8, widest=16, blocks=2), 3, 2, 32, 16)
    latents, t = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 900, 40])
    together = codec.encode(latents, t)
    alone = codec.encode(latents[1:2], t[1:2])
    assert torch.allclose(together.vectors_IPD[1], alone.vectors_IPD[0], atol=1e-6)
    decoded = codec.decode(together.vectors_IPD, together)[1]
    assert torch.allclose(decoded, codec.decode(alone.vectors_IPD, alone)[0], atol=1e-6)


def test_grid_positions_count_rows_and_columns_from_the_image() -> None:
    positions = torch.arange(12)
    pairs = grid_positions(positions, [(torch.arange(3, 9)[None], 3)])  # two rows of three patches from index 3
    assert pairs[:3].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert pairs[3:9].tolist() == [[3, 3], [3, 4], [3, 5], [4, 3], [4, 4], [4, 5]]
    assert pairs[9:].tolist() == [[9, 9], [10, 10], [11, 11]]
    plain, doubled = rotary_table(positions, 8, 100.0), rotary_table(positions[:, None].repeat(1, 2), 8, 100.0)
    assert torch.equal(plain[0], doubled[0])
    rows, columns = rotary_table(torch.tensor([[5, 0], [0, 5]]), 8, 100.0)[1]
    assert rows.nonzero()[:, 0].tolist() == [0, 2]
    assert columns.nonzero()[:, 0].tolist() == [1, 3]


def test_query_key_norm_bounds_the_scores() -> None:
    """However large the hidden states, no score exceeds the size of a head."""
    seen: list[float] = []

    def look(_: int, qkv: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        q, k, v = apply_rotary(qkv, rotary)
        seen.append(torch.einsum("qhd,khd->hqk", q, k).abs().max().item())
        return v

    for normed in (False, True):
        network = model(qk_norm=normed)
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name.endswith("qkv.weight"):
                    weight *= 100
        network.hidden(inputs(), look)
    assert max(seen[:2]) > 1000
    assert max(seen[2:]) <= 16.001


def test_patches_invert_and_run_in_raster_order() -> None:
    latents = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    patches = to_patches(latents, 2)
    assert patches.shape == (2, 12, 12)
    assert torch.equal(from_patches(patches, 2, 6, 8), latents)
    marked = torch.zeros(1, 1, 4, 6)
    marked[0, 0, 1, 4] = 1  # row 0, column 2 of the 2 x 3 patches
    assert to_patches(marked, 2)[0].sum(1).tolist() == [0, 0, 1, 0, 0, 0]


def test_the_papers_patches_make_1024_to_16_elements_of_an_image() -> None:
    latents = torch.randn(1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    shapes = [to_patches(latents, side).shape[1:] for side in (1, 2, 4, 8)]
    assert shapes == [(1024, 8), (256, 32), (64, 128), (16, 512)]
    for side in (1, 2, 4, 8):
        assert torch.equal(from_patches(to_patches(latents, side), side, 32, 32), latents)


@pytest.mark.parametrize("options", [{}, VARIANTS["unet"]], ids=["linear", "unet"])
def test_time_enters_at_the_codec_and_nowhere_else(options: dict[str, object]) -> None:
    network, source = model(**options), inputs()
    with torch.no_grad():
        network.patches.time.second.weight.zero_()
    later = with_latents(source, torch.zeros(2, 3, 4, 4), torch.tensor([1, 999]))
    assert torch.equal(hidden(network, later), hidden(network, source))


def test_rotary_scores_depend_on_distance_only() -> None:
    q, k = torch.randn(2, 1, 2, 8, generator=torch.Generator().manual_seed(0)).unbind()
    scores = []
    for start in (0, 5, 300):
        tables = [rotary_table(torch.tensor([position]), 8, 10_000.0) for position in (start + 7, start)]
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
    for width, layers, heads, ffn_width in sizes:
        with torch.device("meta"):
            network = Transfusion(
                ModelConfig(width=width, layers=layers, heads=heads, ffn_width=ffn_width), ModelDims(32_000, 8, 2)
            )
        codec = sum(p.numel() for p in network.patches.parameters())
        total = sum(p.numel() for p in network.parameters()) - codec
        shares.append(round(100 * codec / total, 1))
        totals.append(round(total / 1e9, 3))
    assert shares == [0.5, 0.4, 0.4, 0.4, 0.3]
    assert totals == [0.162, 0.374, 0.778, 1.364, 6.738]


def test_text_embeddings_of_a_fresh_model_have_the_norm_of_patches() -> None:
    """An embedding with the standard deviation of a matrix (1 / sqrt(width)) is small against what the first block adds."""
    network = model()
    latents = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    patches = network.patches.encode(latents, torch.arange(64)).vectors_IPD
    loudness = [vectors.square().mean().sqrt().item() for vectors in (network.text_embedding.weight, patches)]
    assert 0.5 < loudness[0] / loudness[1] < 2


def test_what_adds_to_the_stream_starts_smaller_by_the_root_of_twice_the_layers() -> None:
    network = Transfusion(ModelConfig(width=256, layers=2, heads=2), ModelDims(40, 2, 2))
    network.initialise(torch.Generator().manual_seed(0))
    for block in network.blocks:
        for layer, smaller in ((block.qkv, 1), (block.gate_up, 1), (block.attention_out, 2), (block.down, 2)):
            wanted = layer.weight.shape[1] ** -0.5 / smaller  # smaller: (2 layers)^1/2
            assert layer.weight.std().item() == pytest.approx(wanted, rel=0.02)


def test_each_residual_block_of_a_fresh_unet_adds_less_by_the_root_of_their_number() -> None:
    network = model(codec=UNetCodec(channels=64, widest=64, blocks=2))
    layers = [(name, weight) for name, weight in network.named_parameters() if name.endswith("residual_out.weight")]
    assert len(layers) == 10  # two levels, of two blocks on the way in and three on the way out
    for _, weight in layers:
        wanted = weight[0].numel() ** -0.5 / 10**0.5
        assert weight.std().item() == pytest.approx(wanted, rel=0.02)


def test_what_is_predicted_of_a_patch_is_read_at_its_own_element() -> None:
    """Not at the element before it, where text is predicted: each element of an image decides its own 2 x 2 pixels alone."""
    network = model()
    outputs = network.hidden(inputs(), attention())
    (base,) = network.image_outputs(outputs)
    for image, elements in enumerate((FIRST, SECOND)):
        for patch, element in enumerate(elements):
            changed = outputs.hidden_ND.clone()
            changed[element] += 1
            (found,) = network.image_outputs(Outputs(changed, outputs.images))
            row, column = 2 * (patch // 2), 2 * (patch % 2)
            expected = torch.zeros(2, 4, 4, dtype=torch.bool)
            expected[image, row : row + 2, column : column + 2] = True
            assert torch.equal((found != base).any(1), expected)


def test_rotary_positions_of_a_wide_image_are_its_rows_and_columns() -> None:
    """With image_positions "grid", in the model: an image of 2 x 4 patches after two tokens, then a token."""
    network = model(image_positions="grid")
    latents = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    images = ImageInputs(latents, torch.tensor([5]), torch.arange(2, 10)[None])
    found: list[Rotary] = []

    def look(_: int, qkv: torch.Tensor, rotary: Rotary) -> torch.Tensor:
        found.append(rotary)
        return qkv[:, 2]

    text = torch.tensor([0, 1, 10])
    network.hidden(Inputs(torch.arange(11), text, text, (images,)), look)
    grid = [[2 + row, 2 + column] for row in range(2) for column in range(4)]
    expected = rotary_table(torch.tensor([[0, 0], [1, 1], *grid, [10, 10]]), 16, network.config.rope_base)
    for rotary in found:
        assert torch.equal(rotary[0], expected[0])
        assert torch.equal(rotary[1], expected[1])
