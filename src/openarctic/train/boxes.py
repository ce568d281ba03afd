"""The box of a tensor that a process holds: all of a plain one, of a DTensor its shard."""

from __future__ import annotations

from torch import Tensor

Box = tuple[tuple[int, ...], tuple[int, ...]]  # offset and size in every dimension


def box_of(tensor: Tensor) -> Box:
    """Offset and size of what this process holds of a tensor: all of a plain one, a shard of a DTensor."""
    if not hasattr(tensor, "to_local"):
        return (0,) * tensor.ndim, tuple(tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    size, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(offset), tuple(size)


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered where several processes hold it; each of them must ask."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


def own_part(full: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of `like`."""
    offset, size = box_of(like)
    return full[tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))]
