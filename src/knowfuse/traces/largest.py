"""Which are the K largest of many values?"""

import torch
from jaxtyping import Float
from torch import Tensor

GROUP = 128  # values whose largest is looked at before they are


def largest(values: Float[Tensor, "N V"], k: int) -> tuple[Tensor, Tensor]:
    """Ids and values of the k largest of each row, in decreasing order: those of the groups with the k largest maxima."""
    groups, size = values.shape[-1] // GROUP, values.shape[-1]
    if groups < k:
        kept = values.topk(k, dim=-1)
        return kept.indices, kept.values
    grouped = values[:, : groups * GROUP].unflatten(-1, (groups, GROUP))
    best = grouped.amax(-1).topk(k, dim=-1).indices[..., None]  # [N, k, 1]
    among = grouped.gather(1, best.expand(-1, -1, GROUP)).flatten(1)
    in_group, others = (torch.arange(*of, device=values.device) for of in ((GROUP,), (groups * GROUP, size)))
    ids = torch.cat([(best * GROUP + in_group).flatten(1), others.expand(len(values), -1)], 1)
    kept = torch.cat([among, values[:, groups * GROUP :]], 1).topk(k, dim=-1)
    return ids.gather(1, kept.indices), kept.values
