"""The nano-GPT: names, shapes, causality, window, rotary phases, and the reference attention against its formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.kernels.reference.attention import attention as defined_attention
from nanomd.kernels.reference.attention import rotate
from nanomd.kernels.sdpa_attention import attention as sdpa_attention
from nanomd.model.network import NanoGPT
from nanomd.model.scoring import cut, full_context, mean_log_likelihood

SHAPE = {"n_states": 7, "d_model": 32, "n_layer": 2, "n_head": 4, "context_length": 6, "mlp_ratio": 2}
VARIANTS = [
    {"norm": norm, "position": position, "activation": activation, "n_kv_head": n_kv_head, "markov_head": markov_head}
    for norm, position, activation, n_kv_head, markov_head in [
        ("pre", "rope", "gelu", 4, False),
        ("post", "rope", "relu", 2, True),
        ("pre", "learned", "relu", 1, False),
        ("post", "learned", "gelu", 4, True),
    ]
]


def make(seed: int = 0, **changes: object) -> NanoGPT:
    model = NanoGPT(ModelConfig.from_dict({**SHAPE, **changes}), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():  # biases and zero-initialised heads must matter in these tests
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def formula(q, k, v, window, cos, sin):
    """Attention, element by element."""
    out = torch.zeros_like(q)
    group = q.shape[1] // k.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                low = max(0, i - window + 1)
                qi, kj = q[b, h, i], k[b, h // group, low : i + 1]
                if cos is not None:
                    qi, kj = (
                        rotate(qi[None], cos[i : i + 1], sin[i : i + 1])[0],
                        rotate(kj, cos[low : i + 1], sin[low : i + 1]),
                    )
                p = torch.softmax(kj @ qi / math.sqrt(q.shape[3]), 0)
                out[b, h, i] = p @ v[b, h // group, low : i + 1]
    return out


@pytest.mark.parametrize("kernel", [defined_attention, sdpa_attention])
@pytest.mark.parametrize("window", [1, 3, 5, 11, 50])
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
@pytest.mark.parametrize("rope", [False, True])
def test_attention_equals_its_formula(kernel, window: int, n_kv_head: int, rope: bool) -> None:
    generator = torch.Generator().manual_seed(window)
    q = torch.randn(2, 4, 11, 8, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(2, n_kv_head, 11, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    angle = torch.rand(11, 4, generator=generator)
    cos, sin = (angle.cos(), angle.sin()) if rope else (None, None)
    expected = formula(q, k, v, window, cos, sin)
    torch.testing.assert_close(kernel(q, k, v, window=window, cos=cos, sin=sin), expected, rtol=0, atol=1e-12)
    if rope:  # the rotation is seen at all
        assert (expected - formula(q, k, v, window, None, None)).abs().max() > (1e-3 if window > 1 else -1)


@pytest.mark.parametrize("kernel", [defined_attention, sdpa_attention])
def test_attention_gradients(kernel) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, 7, 8, generator=generator, dtype=torch.float64, requires_grad=True) for heads in (2, 1, 1)
    )
    angle = torch.rand(7, 4, generator=generator)
    assert torch.autograd.gradcheck(lambda *x: kernel(*x, window=3, cos=angle.cos(), sin=angle.sin()), (q, k, v))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_the_tensors_of_the_model_file(variant: dict[str, object]) -> None:
    model = make(**variant)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == model.config.tensor_shapes()
    other = NanoGPT(model.config, seed=5)
    other.load_tensors(model.to_tensors())
    tokens = torch.randint(0, 7, (2, 6), generator=torch.Generator().manual_seed(1))
    assert torch.equal(other.eval()(tokens), model(tokens))


def test_wrong_tensors_are_refused() -> None:
    model = make()
    tensors = model.to_tensors()
    with pytest.raises(InputError, match=r"head\.bias is missing"):
        model.load_tensors({name: value for name, value in tensors.items() if name != "head.bias"})
    with pytest.raises(InputError, match="unknown in"):
        model.load_tensors({**tensors, "evil": np.zeros(3, np.float32)})
    with pytest.raises(InputError, match=r"head.bias must have shape \(7,\)"):
        model.load_tensors({**tensors, "head.bias": np.zeros(8, np.float32)})


@pytest.mark.parametrize("variant", VARIANTS)
def test_prediction_sees_the_receptive_field_and_nothing_else(variant: dict[str, object]) -> None:
    model = make(**variant).double()
    length = 18 if variant["position"] == "rope" else 6
    tokens = torch.randint(0, 7, (1, length), generator=torch.Generator().manual_seed(3))
    base = model(tokens)
    field = model.config.receptive_field if variant["position"] == "rope" else 6
    assert field < length or variant["position"] == "learned"
    seen = torch.zeros(length, length, dtype=torch.bool)
    for j in range(length):
        changed = tokens.clone()
        changed[0, j] = (changed[0, j] + 1) % 7
        seen[:, j] = (model(changed) - base).abs().amax(-1)[0] > 0
    lag = torch.arange(length)[:, None] - torch.arange(length)[None, :]
    assert torch.equal(seen, (lag >= 0) & (lag < field))


def test_only_differences_of_positions_matter() -> None:
    model = make()
    tokens = torch.randint(0, 7, (2, 30), generator=torch.Generator().manual_seed(3))
    far = model(tokens, positions=torch.arange(30) + 10**9)
    torch.testing.assert_close(far, model(tokens), rtol=0, atol=3e-5)
    assert (model(tokens, positions=2 * torch.arange(30)) - far).abs().max() > 1e-2


def test_single_precision_meets_the_double() -> None:
    for variant in VARIANTS:
        model = make(**variant)
        tokens = torch.randint(0, 7, (2, 6), generator=torch.Generator().manual_seed(3))
        single = model(tokens).log_softmax(-1)
        double = model.double()(tokens).log_softmax(-1)
        assert (single - double).abs()[double > math.log(1e-7)].max() < 1e-4


def test_learned_positions_refuse_more_than_a_window() -> None:
    with pytest.raises(InputError, match="at most context_length = 6"):
        make(position="learned")(torch.zeros(1, 7, dtype=torch.int64))


def test_markov_start_is_the_markov_model() -> None:
    model = NanoGPT(ModelConfig.from_dict({**SHAPE, "markov_head": True}), seed=0)
    counts = np.random.default_rng(0).integers(0, 50, (7, 7)).astype(float)
    model.start_at_markov(counts, 1e-3)
    tokens = torch.randint(0, 7, (2, 20), generator=torch.Generator().manual_seed(3))
    expected = (counts + 1e-3) / (counts + 1e-3).sum(1, keepdims=True)
    np.testing.assert_allclose(model(tokens).softmax(-1).detach().numpy(), expected[tokens.numpy()], rtol=1e-5)
    with pytest.raises(InputError, match="markov_head=True"):
        NanoGPT(ModelConfig.from_dict(SHAPE)).start_at_markov(counts, 1e-3)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    one, two, other = (NanoGPT(ModelConfig.from_dict(SHAPE), seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_first_predictions_are_nearly_uniform() -> None:
    for norm in ("pre", "post"):
        model = NanoGPT(ModelConfig(n_states=50, n_layer=6, norm=norm), seed=0)
        tokens = torch.randint(0, 50, (4, 60), generator=torch.Generator().manual_seed(3))
        assert (model(tokens).log_softmax(-1) + math.log(50)).abs().max() < 0.5


@pytest.mark.parametrize("position", ["rope", "learned"])
@pytest.mark.parametrize("lengths", [[2], [7, 100, 3], [40, 41, 6, 7, 8]])
def test_pieces_score_every_target_once(position: str, lengths: list[int]) -> None:
    length, context = full_context(ModelConfig.from_dict({**SHAPE, "position": position}))
    seen = [np.zeros(n - 1, dtype=int) for n in lengths]
    for piece in cut(lengths, length, context):
        assert piece.n_targets <= length and piece.start + piece.n_targets < lengths[piece.trajectory]
        seen[piece.trajectory][piece.start + piece.scored_from : piece.start + piece.n_targets] += 1
    assert all((count == 1).all() for count in seen)


def test_likelihood_in_pieces_is_that_of_one_parallel_pass() -> None:
    model = make().double()
    rng = np.random.default_rng(0)
    trajectories = [rng.integers(0, 7, n) for n in (400, 2, 150)]
    total = 0.0
    for x in trajectories:
        tokens = torch.from_numpy(x)[None]
        total += model(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum().item()
    # Rotary tables are rounded to float32, so that shifted positions rotate alike to about 1e-7.
    expected = total / sum(len(x) - 1 for x in trajectories)
    assert mean_log_likelihood(model, trajectories, batch_size=3) == pytest.approx(expected, rel=1e-8)


def test_likelihood_with_learned_positions_hops() -> None:
    model = make(position="learned").double()
    x = np.random.default_rng(0).integers(0, 7, 40)
    total, start = 0.0, 0
    for t in range(39):  # predict frame t + 1 from frames start..t
        if t - start == 6:  # full: the window starts again with the three frames before this one
            start = t - 3
        logits = model(torch.from_numpy(x[start : t + 1])[None])[0, -1]
        total += logits.log_softmax(-1)[x[t + 1]].item()
    assert mean_log_likelihood(model, [x]) == pytest.approx(total / 39, rel=1e-12)
