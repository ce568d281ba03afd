"""The hybrid against the golden vectors of the published implementation, and its size against the 480B's."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from openarctic.errors import MissingError, UserError  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM, parameter_counts  # noqa: E402

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "moe_layer_frequency": 1,
    "parallel_attn_mlp_res": True,
    "rope_theta": 1e4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
IDS = [1, 5, 9, 60, 33, 2, 17, 48, 5, 63, 21, 8]
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
