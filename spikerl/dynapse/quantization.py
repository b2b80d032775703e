"""Four weight currents per core: which synapse adds up which, and the net that results.

A synapse of Dynap-SE2 has four switches, its core four currents Iw_0..Iw_3: sixteen strengths, a
sign besides. Rockpool's autoencoder_quantization looks for both. What it returns is decoded here,
sign * sum_b bit_b * Iw_b / Iscale, because Rockpool cannot simulate its own result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikerl.dynapse.circuit import WEIGHT_BITS
from spikerl.dynapse.net import DynapseNet
from spikerl.dynapse.simulation import rockpool_module
from spikerl.network import FloatArray

Codes = NDArray[np.int64]
BITS = (np.arange(2**WEIGHT_BITS)[:, None] >> np.arange(WEIGHT_BITS)) & 1  # [16, 4]


@dataclass(frozen=True, eq=False)
class Quantized:
    """A net as a core holds it.

    net:      the net whose weights are those sums; simulate this one.
    original: the net it was made from.
    codes_in, codes_rec: [n_in, n] and [n, n], 0..15: bit b set where the synapse adds Iw_b.
    currents: [4] Iw_0..Iw_3 in amperes.
    specification: the whole core in Rockpool's words, for config_from_specification.
    """

    net: DynapseNet
    original: DynapseNet
    codes_in: Codes
    codes_rec: Codes
    currents: FloatArray
    specification: dict[str, Any]

    def error(self) -> float:
        """Root mean square of what the weights lost, as a share of the largest."""
        before = np.concatenate([self.original.w_in, self.original.w_rec])
        after = np.concatenate([self.net.w_in, self.net.w_rec])
        return float(np.sqrt(((after - before) ** 2).mean()) / np.abs(before).max())

    def __str__(self) -> str:
        amperes = ", ".join(f"{1e9 * value:.2f}" for value in self.currents)
        return f"weight currents {amperes} nA; weights off by {self.error():.1%} of the largest"


def quantize(net: DynapseNet, *, refine: bool = True, seed: int = 0) -> Quantized:
    """The net on four weight currents.

    refine: after the autoencoder, give each weight the nearest of the sixteen sums and each current
            its least-squares value, in turn until nothing changes. Never worse, and often far
            better; False keeps what Rockpool found.
    seed:   of the autoencoder's first weights.
    """
    module = rockpool_module(net.w_in, net.w_rec, net.dt_ms)
    with _numpy_seeded(seed):
        from rockpool.devices.dynapse import autoencoder_quantization, mapper

        specification = mapper(module.as_graph())
        specification.update(autoencoder_quantization(**specification, n_bits=WEIGHT_BITS))

    unit = float(specification["Iscale"])
    currents = np.array([float(specification[f"Iw_{b}"][0]) for b in range(WEIGHT_BITS)]) / unit
    codes_in = _codes(specification["weights_in"], net.w_in)
    codes_rec = _codes(specification["weights_rec"], net.w_rec)
    if refine:
        currents, codes_in, codes_rec = _refined(net, currents, codes_in, codes_rec)
        specification |= {f"Iw_{b}": [currents[b] * unit] for b in range(WEIGHT_BITS)}
        specification["weights_in"] = [codes_in]
        if specification["weights_rec"][0] is not None:
            specification["weights_rec"] = [codes_rec]
    held = replace(
        net,
        w_in=np.sign(net.w_in) * (BITS @ currents)[codes_in],
        w_rec=np.sign(net.w_rec) * (BITS @ currents)[codes_rec],
    )
    return Quantized(held, net, codes_in, codes_rec, currents * unit, specification)


def _codes(found: Any, weights: Any) -> Codes:
    """Codes of the one core; none where the net has no such weights."""
    if found[0] is None:
        return np.zeros(weights.shape, np.int64)
    codes: Codes = np.rint(np.asarray(found[0])).astype(np.int64)
    return codes


def _refined(
    net: DynapseNet, currents: FloatArray, codes_in: Codes, codes_rec: Codes
) -> tuple[FloatArray, Codes, Codes]:
    """Alternate between codes and currents, as in Lloyd's algorithm; currents stay >= 0."""
    from scipy.optimize import nnls

    size = np.abs(np.concatenate([net.w_in, net.w_rec])).astype(np.float64)
    there = size > 0
    codes = np.concatenate([codes_in, codes_rec])

    def loss() -> float:
        return float((((BITS @ currents)[codes] - size)[there] ** 2).sum())

    best, kept = loss(), (currents, codes)
    # the autoencoder's currents and binary ones: two starts, because each may end in a hollow
    for start in (np.abs(currents), size.max() * 2.0 ** np.arange(WEIGHT_BITS) / 15):
        currents = start
        while True:
            before = codes
            sums = BITS @ currents
            codes = np.abs(size[..., None] - sums).argmin(-1) * there
            currents = nnls(BITS[codes[there]].astype(np.float64), size[there])[0]
            if np.array_equal(before, codes):
                break
        if loss() < best:
            best, kept = loss(), (currents, codes)
    currents, codes = kept
    return currents, codes[: net.n_in], codes[net.n_in :]


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """A context with numpy's global generator seeded, from which Rockpool draws; then as before."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
