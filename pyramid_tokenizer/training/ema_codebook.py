"""Training of a codebook by moving averages, which vector_quantize_pytorch computes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyramid_tokenizer.errors import CheckpointError
from pyramid_tokenizer.quantizer.nearest import nearest
from pyramid_tokenizer.training import distributed

MAX_VECTORS_PER_STEP = 4096
"""The library builds an (N, K) one-hot matrix: 4,096 vectors on 16,384 codes are 268 MB."""
_STATE = ("embed", "embed_avg", "cluster_size")
REVIVAL_SHARE = 1 / 16
"""An entry restarts when its average count per step falls below this share of the even count N / K. The library's usual
absolute threshold of 2 restarts a quarter of the entries at every step once N < 2 K, without end."""


class EmaCodebook:
    """Moves each entry to the mean of the vectors that it is the nearest to, averaged over the last steps.

    Entries that hardly any vector takes restart at vectors of the batch, until `stop_revival` is called.

    Args:
        codebook: (K, d) float32, the entries to start from, e.g. of k-means.
        vectors_per_step: N expected per update, at most `MAX_VECTORS_PER_STEP`; sets below which count an entry restarts.
        cosine: Whether entries have unit norm.
        decay: Share of the old average that each step keeps, in [0, 1).

    Example:
        >>> ema = EmaCodebook(torch.tensor([[0.0], [1.0]]), vectors_per_step=4, decay=0.5)
        >>> ema.update(torch.tensor([[0.2], [0.2], [0.8], [0.8]]))
        >>> [round(v, 1) for v in ema.codebook.flatten().tolist()]
        [0.1, 0.9]
    """

    def __init__(self, codebook: Tensor, *, vectors_per_step: int, cosine: bool = False, decay: float = 0.99):
        from vector_quantize_pytorch import VectorQuantize

        num_codes, dim = codebook.shape
        # the library sums counts over processes
        even = min(vectors_per_step, MAX_VECTORS_PER_STEP) * distributed.world_size() / num_codes
        self._vq = VectorQuantize(
            dim=dim,
            codebook_size=num_codes,
            decay=decay,
            use_cosine_sim=cosine,
            kmeans_init=False,
            rotation_trick=False,
            # by itself the library asks once and remembers: a codebook made before the process group would part them
            sync_codebook=distributed.world_size() > 1,
            threshold_ema_dead_code=even * REVIVAL_SHARE,  # type: ignore[arg-type]
        ).to(codebook.device)
        self._vq.train()
        # The library has a public setter for the entries but none for their running sums, which it would average with the
        # random start's: they are set here, and a test holds the result against the formula.
        self._state: Any = self._vq._codebook
        self._state.embed.copy_(codebook[None])
        self._state.cluster_size.fill_(even)
        self._state.embed_avg.copy_(codebook[None] * even)
        self._state.reset_cluster_size = even
        self._cosine = cosine

    @property
    def codebook(self) -> Tensor:
        """(K, d) float32, the entries now."""
        return self._vq.codebook

    def stop_revival(self) -> None:
        """Leaves unused entries where they are from now on; called before the end so that the last restarts settle."""
        self._state.has_dead_code_replacement = False

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        """One step of the moving averages.

        Args:
            vectors: (N, d) float; of more than `MAX_VECTORS_PER_STEP`, a random part is used.
        """
        if len(vectors) > MAX_VECTORS_PER_STEP:
            vectors = vectors[torch.randperm(len(vectors), device=vectors.device)[:MAX_VECTORS_PER_STEP]]
        if self._cosine:
            vectors = F.normalize(vectors, dim=1)
        self._vq.update_indices(vectors[None], nearest(vectors, self.codebook)[None])

    def state(self) -> dict[str, Tensor]:
        """Entries and running sums, for a checkpoint."""
        return {name: getattr(self._state, name).clone() for name in _STATE}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over what `state` gave.

        Args:
            state: The state of a codebook of the same size.

        Raises:
            CheckpointError: A tensor is missing or of another shape.
        """
        missing = [name for name in _STATE if name not in state]
        if missing:
            raise CheckpointError(f"expected the codebook's {', '.join(_STATE)}, got none for {', '.join(missing)}")
        for name in _STATE:
            own = getattr(self._state, name)
            if own.shape != state[name].shape:
                got = f"{tuple(state[name].shape)}: it belongs to a codebook of another size"
                raise CheckpointError(f"expected {name} of shape {tuple(own.shape)}, got {got}")
            own.copy_(state[name])
