"""The hybrid against the golden vectors of the published implementation, and its size against the 480B's."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import MissingError, UserError  # noqa: E402
from openarctic.formats import HybridConfig  # noqa: E402
from openarctic.formats.names import state_dict_shapes  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM, parameter_counts  # noqa: E402
from tests.plain_hybrid import PlainHybrid  # noqa: E402
from tests.tiny import IDS, LAYOUTS, random_state, tiny_config  # noqa: E402

TINY = tiny_config(hidden_size=32, intermediate_size=24)
# spec/arctic-architecture.md section 2.6
GOLDEN = {
    "A": {
        "frequency": 1,
        "counts": (78_912, 108),
        "first": [0.11755, -1.46797, 0.34874, -0.05601],
        "last": [0.24628, 0.14593, 0.44832, 0.48597, 1.75621, 1.37945],
        "argmax": [16, 29, 29, 24, 34, 29, 27, 34, 59, 21, 3, 34],
        "losses": (4.965368, 7.976783, 4.973345),
    },
    "B": {
        "frequency": 2,
        "counts": (39_936, 56),
        "first": [-0.37322, 0.1463, 1.21899, 0.19541],
        "last": [2.70433, -0.30074, 0.72725, -0.05402, -1.14632, -0.65321],
        "argmax": [15, 20, 59, 26, 52, 62, 45, 56, 56, 59, 59, 0],
        "losses": (5.056595, 2.425198, 5.059020),
    },
}


def golden_model(frequency: int) -> ArcticForCausalLM:
    model = ArcticForCausalLM(ArcticConfig.from_dict({**TINY, "moe_layer_frequency": frequency}))
    state = {}
    for name, tensor in model.state_dict().items():
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(tensor.shape))
        if tensor.ndim == 1:
            noise = 1 + 0.2 * noise
        elif "embed_tokens" not in name:
            noise = noise * 1.2 / np.sqrt(tensor.shape[1])
        state[name] = torch.tensor(noise, dtype=torch.float32)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_vectors(case: str) -> None:
    want = GOLDEN[case]
    model = golden_model(want["frequency"])
    ids = torch.tensor([IDS])
    with torch.no_grad():
        out = model(ids, labels=ids)
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == want["counts"]
    assert out.logits[0, 0, :4].tolist() == pytest.approx(want["first"], abs=1e-4)
    assert out.logits[0, -1, :6].tolist() == pytest.approx(want["last"], abs=1e-4)
    assert out.logits[0].argmax(-1).tolist() == want["argmax"]
    cross_entropy, aux, loss = want["losses"]
    assert out.aux_loss.item() == pytest.approx(aux, abs=1e-4)
    assert out.loss.item() == pytest.approx(loss, abs=1e-4)
    assert out.loss.item() - 0.001 * out.aux_loss.item() == pytest.approx(cross_entropy, abs=1e-4)


def random_model(config: dict[str, object], seed: int = 0) -> ArcticForCausalLM:
    model = ArcticForCausalLM(ArcticConfig(**config))
    model.load_state_dict({name: torch.from_numpy(values) for name, values in random_state(config, seed).items()}, strict=False)
    return model.eval()


@pytest.mark.parametrize("case", GOLDEN)
def test_the_plain_reference_has_the_golden_vectors_too(case: str) -> None:
    """The reference that all else is held to is itself held to the published implementation."""
    model = golden_model(GOLDEN[case]["frequency"])
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    logits = PlainHybrid(model.config.to_dict(), state).logits(IDS)
    assert logits[0, :4].tolist() == pytest.approx(GOLDEN[case]["first"], abs=1e-4)
    assert logits[-1, :6].tolist() == pytest.approx(GOLDEN[case]["last"], abs=1e-4)
    assert logits.argmax(-1).tolist() == GOLDEN[case]["argmax"]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_the_plain_reference(layout: str, attention: str) -> None:
    config = LAYOUTS[layout]
    for seed in (1, 2):
        model = random_model(config, seed)
        model.set_attn_implementation(attention)
        with torch.no_grad():
            got = model(torch.tensor([IDS])).logits[0].numpy()
        assert np.abs(got - PlainHybrid(config, random_state(config, seed)).logits(IDS)).max() < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_modules_have_the_official_names_in_the_official_order(layout: str) -> None:
    shape = HybridConfig.from_dict(LAYOUTS[layout])
    with torch.device("meta"):
        state = ArcticForCausalLM(ArcticConfig.from_shape(shape)).state_dict()
    wanted = state_dict_shapes(shape)
    own = {name: tuple(t.shape) for name, t in state.items() if not (shape.tie_word_embeddings and name == "lm_head.weight")}
    assert own == wanted
    # The module order of an MLP is w1, w2, w3 and that of a layer is attention, experts, norms, residual MLP.
    assert list(own) == list(wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_step_by_step_is_all_at_once(layout: str) -> None:
    model = random_model(LAYOUTS[layout])
    ids = torch.tensor([IDS, IDS[::-1]])
    with torch.no_grad():
        whole = model(ids).logits
        cache = None
        steps = []
        for start, end in ((0, 5), (5, 6), (6, 9), (9, 12)):
            out = model(ids[:, start:end], past_key_values=cache, use_cache=True)
            cache = getattr(out, "cache", None) or out.past_key_values
            steps.append(out.logits)
    assert (torch.cat(steps, 1) - whole).abs().max() < 1e-5


def test_padding_changes_nothing() -> None:
    model = random_model(tiny_config())
    short = IDS[:7]
    padded = torch.tensor([[0] * 5 + short, IDS])
    mask = (torch.arange(12)[None] >= torch.tensor([[5], [0]])).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        together = model(padded, attention_mask=mask, position_ids=positions).logits
        alone = model(torch.tensor([short])).logits[0]
    assert (together[0, 5:] - alone).abs().max() < 1e-5


def test_the_balancing_loss_reaches_the_router_and_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = random_model(tiny_config()).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        ids = torch.tensor([IDS])
        model(ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, again = gradients
    assert plain["model.layers.0.block_sparse_moe.gate.weight"].abs().max() > 0
    assert plain.keys() == again.keys() and all(torch.allclose(plain[n], again[n], atol=1e-6) for n in plain)


def test_router_logits_and_hidden_states_come_on_request() -> None:
    model = random_model(tiny_config())
    with torch.no_grad():
        out = model(torch.tensor([IDS]), output_router_logits=True, output_hidden_states=True)
    assert [tuple(r.shape) for r in out.router_logits] == [(12, 8)] * 3
    assert len(out.hidden_states) == 4
    assert model(torch.tensor([IDS])).router_logits is None


def test_batch_equals_single() -> None:
    model = golden_model(1)
    ids = torch.tensor([IDS, IDS[::-1]])
    with torch.no_grad():
        together = model(ids).logits
        alone = [model(row[None]).logits[0] for row in ids]
    assert torch.allclose(together, torch.stack(alone), atol=1e-5)


def test_the_480b_has_its_published_size() -> None:
    config = ArcticConfig.from_dict(
        {
            **TINY,
            "vocab_size": 32000,
            "hidden_size": 7168,
            "intermediate_size": 4864,
            "num_hidden_layers": 35,
            "num_attention_heads": 56,
            "num_key_value_heads": 8,
            "num_local_experts": 128,
            "max_position_embeddings": 4096,
        }
    )
    assert parameter_counts(config) == {"total": 478_584_608_768, "active": 17_318_647_808}


def test_a_missing_key_is_an_error_not_a_default() -> None:
    incomplete = {k: v for k, v in TINY.items() if k != "rope_theta"}
    with pytest.raises(MissingError, match="rope_theta"):
        ArcticConfig.from_dict(incomplete)


def test_contradicting_layout_flags_are_refused() -> None:
    with pytest.raises(UserError, match="use_residual"):
        ArcticConfig.from_dict({**TINY, "use_residual": False})


def test_heads_must_divide() -> None:
    with pytest.raises(UserError, match="num_attention_heads 5"):
        ArcticConfig.from_dict({**TINY, "num_attention_heads": 5})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads 3"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok 9"),
        ({"moe_layer_frequency": 0}, "moe_layer_frequency is 0"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "linear"),
        ({"sliding_window": 512}, "sliding_window 512"),
        ({"head_dim": 99}, "heads of width 99"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
    ],
)
def test_what_cannot_be_computed_is_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ArcticConfig(**{**TINY, **changes})


def test_the_newer_place_of_rope_theta_is_read() -> None:
    older = {k: v for k, v in TINY.items() if k != "rope_theta"}
    assert ArcticConfig(**older, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}).rope_theta == 5e5
