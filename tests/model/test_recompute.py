"""Selective recomputation: gradients to the bit, memory as planned, and functions of our own against autograd's."""

from __future__ import annotations

import gc
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from openarctic.errors import UserError  # noqa: E402
from openarctic.formats import HybridConfig  # noqa: E402
from openarctic.model import ArcticConfig, ArcticForCausalLM  # noqa: E402
from openarctic.model.attention import _Rotate, rotary, rotate  # noqa: E402
from openarctic.model.mlp import _GatedSilu  # noqa: E402
from openarctic.model.norm import _RMSNorm, rms_norm_reference  # noqa: E402
from openarctic.model.recompute import recompute_selectively  # noqa: E402
from openarctic.model.routing import RoutingConfig  # noqa: E402
from openarctic.planner.activations import saved_bytes  # noqa: E402
from tests.tiny import IDS, LAYOUTS, tiny_config  # noqa: E402

# Arctic's own proportions: experts of 0.68 and a residual MLP of 1 times the hidden size, seven queries a key, top-2.
TWELVE_LAYERS = tiny_config(
    vocab_size=128,
    hidden_size=224,
    intermediate_size=152,
    num_hidden_layers=12,
    num_attention_heads=14,
    num_key_value_heads=2,
    num_local_experts=16,
)


class Living(TorchDispatchMode):
    """Watches every tensor that is made, and tells how many bytes of them are still held."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[tuple[Any, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._made.append((StorageWeakRef(storage), storage.nbytes()))
        return out

    def bytes_without(self, known: Any) -> int:
        gc.collect()
        not_counted = {StorageWeakRef(tensor.untyped_storage()).cdata for tensor in known}
        held = {ref.cdata: size for ref, size in self._made if not ref.expired()}
        return sum(size for place, size in held.items() if place not in not_counted)


def measured(
    config: dict[str, Any], recompute: bool, batch: int, length: int, with_logits: bool = True, bf16: bool = False
) -> int:
    """Bytes that a forward pass leaves for the backward pass: all that lives after it, but parameters and ids."""
    torch.manual_seed(0)
    model = ArcticForCausalLM(ArcticConfig(**config)).train()
    recompute_selectively(model, recompute)
    ids = torch.randint(0, config["vocab_size"], (batch, length))
    with Living() as living:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = model(ids, labels=ids, use_cache=False, with_logits=with_logits).loss
    held = living.bytes_without([*model.parameters(), ids, loss])
    loss.backward()
    return held


def test_a_twelve_layer_hybrid_keeps_at_most_60_percent_as_planned() -> None:
    without, with_it = (measured(TWELVE_LAYERS, recompute, 2, 64) for recompute in (False, True))
    assert with_it <= 0.6 * without
    shape = ArcticConfig(**TWELVE_LAYERS).shape
    for recompute, held in ((False, without), (True, with_it)):
        assert saved_bytes(shape, 2, 64, recompute=recompute) == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_of_every_layout_is_as_planned(layout: str) -> None:
    for recompute in (False, True):
        held = measured(LAYOUTS[layout], recompute, 2, 32)
        shape = ArcticConfig(**LAYOUTS[layout]).shape
        assert saved_bytes(shape, 2, 32, recompute=recompute) == pytest.approx(held, rel=0.1), recompute


def test_memory_without_logits_is_as_planned() -> None:
    config = tiny_config(vocab_size=512)
    held = [measured(config, True, 2, 32, with_logits) for with_logits in (True, False)]
    shape = ArcticConfig(**config).shape
    planned = [saved_bytes(shape, 2, 32, recompute=True, with_logits=with_logits) for with_logits in (True, False)]
    held[0] += 2 * 32 * 512 * 4  # the gradient of the logits, which the backward pass begins with
    assert planned == pytest.approx(held, rel=0.1)


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_under_autocast_is_bounded_by_float32s(recompute: bool) -> None:
    shape = ArcticConfig(**TWELVE_LAYERS)
    with torch.device("meta"):
        model = ArcticForCausalLM(shape)
    cast = [p.numel() for name, p in model.named_parameters() if p.ndim == 2 and not is_kept_as_stored(name)]
    held = measured(TWELVE_LAYERS, recompute, 2, 64, with_logits=False, bf16=True) - 2 * sum(cast)
    assert 0.7 <= held / saved_bytes(shape.shape, 2, 64, recompute=recompute, with_logits=False) <= 1


def is_kept_as_stored(name: str) -> bool:
    """Whether autocast keeps no copy of a matrix: it is not multiplied, or by a function that casts it again."""
    return ".experts." in name or ".gate." in name or "embed_tokens" in name


def gradients(config: dict[str, Any], recompute: bool, dtype: Any = None, **routing: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    model = ArcticForCausalLM(ArcticConfig(**config)).train()
    model.set_routing(RoutingConfig(**routing))
    recompute_selectively(model, recompute)
    ids = torch.tensor([IDS, IDS[::-1]])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
        model(ids, labels=ids).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_the_same_bits(layout: str) -> None:
    without, with_it = (gradients(LAYOUTS[layout], recompute) for recompute in (False, True))
    assert without.keys() == with_it.keys() and all(torch.equal(without[n], with_it[n]) for n in without)


@pytest.mark.parametrize(
    "options",
    [{"dtype": torch.bfloat16}, {"drop": "random", "capacity_factor": 0.5, "jitter": 0.1, "min_capacity": 1}],
    ids=["autocast", "chance"],
)
def test_gradients_are_the_same_bits_under(options: dict[str, Any]) -> None:
    without, with_it = (gradients(tiny_config(), recompute, **options) for recompute in (False, True))
    assert all(torch.equal(without[n], with_it[n]) for n in without)


def test_gradients_with_adapters_are_the_same_bits() -> None:
    peft = pytest.importorskip("peft")
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = ArcticForCausalLM(ArcticConfig(**tiny_config()))
        lora = peft.LoraConfig(target_modules=["q_proj", "w1", "w2"], r=2, init_lora_weights=False)
        adapted = peft.get_peft_model(model, lora).train()
        recompute_selectively(adapted, recompute)
        ids = torch.tensor([IDS])
        adapted(input_ids=ids, labels=ids).loss.backward()
        found.append([p.grad for p in adapted.parameters() if p.grad is not None])
    assert len(found[0]) > 20 and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_graph_can_be_walked_twice() -> None:
    model = ArcticForCausalLM(ArcticConfig(**tiny_config())).train()
    recompute_selectively(model)
    ids = torch.tensor([IDS])
    loss = model(ids, labels=ids).loss
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    loss.backward()
    assert all(torch.equal(p.grad, 2 * g) for p, g in zip(model.parameters(), once, strict=True))


def test_it_refuses_what_it_cannot_do() -> None:
    model = ArcticForCausalLM(ArcticConfig(**tiny_config())).train()
    with pytest.raises(UserError, match="Linear has no layers"):
        recompute_selectively(model.lm_head)
    model.gradient_checkpointing_enable()
    with pytest.raises(UserError, match="gradient checkpointing is on"):
        recompute_selectively(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_functions_are_autograds_own(dtype: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, up, weight = (torch.randn(*s, generator=generator).to(dtype) for s in ((2, 5, 3, 8), (2, 5, 3, 8), (8,)))
    cos, sin = rotary(ArcticConfig(**tiny_config(hidden_size=32)), torch.arange(3)[None], dtype)
    pairs = [
        (_RMSNorm.apply, rms_norm_reference, (x, weight, 1e-5)),
        (_GatedSilu.apply, lambda gate, up: F.silu(gate) * up, (x, up)),
        (_Rotate.apply, rotate, (x, cos, sin)),
    ]
    for ours, plain, inputs in pairs:
        outcomes = []
        for function in (ours, plain):
            own = [
                i.clone().requires_grad_() if isinstance(i, torch.Tensor) and i is not cos and i is not sin else i for i in inputs
            ]
            out = function(*own)
            out.backward(up)
            outcomes.append([out, *(i.grad for i in own if isinstance(i, torch.Tensor) and i.requires_grad)])
        tolerance = {"rtol": 1e-5, "atol": 2e-6} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.03}
        torch.testing.assert_close(outcomes[0], outcomes[1], **tolerance)
    assert torch.equal(_Rotate.apply(x, cos, sin), rotate(x, cos, sin))


def test_memory_counts_the_layers_that_were_chosen_for_experts() -> None:
    each = [HybridConfig.from_dict(tiny_config(moe_layers=[layer], dense_intermediate_size=96)) for layer in range(3)]
    first, *others = [saved_bytes(shape, 2, 32, recompute=False) for shape in each]
    assert others == [first, first]
    assert first != saved_bytes(HybridConfig.from_dict(tiny_config(dense_intermediate_size=96)), 2, 32, recompute=False)
