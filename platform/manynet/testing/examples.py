"""Examples as values that can be compared and counted."""

from __future__ import annotations

import hashlib

from manynet.data import Batch

Rows = list[bytes]


def fingerprints(batch: Batch) -> Rows:
    """What tells the examples of a batch apart: a digest of each one's inputs and target."""
    tensors = [tensor.detach().cpu().contiguous() for tensor in (*batch.inputs, batch.targets)]
    parts = [tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1) for tensor in tensors]
    arrays = [part.numpy() for part in parts]
    return [
        hashlib.blake2b(b"".join(array[at].tobytes() for array in arrays), digest_size=12).digest()
        for at in range(len(batch.targets))
    ]
