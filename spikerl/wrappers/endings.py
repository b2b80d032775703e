"""The last observations of episodes, where environments are reset within the step.

Imports nothing of spikerl.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def last_observations(infos: dict[str, Any], ended: NDArray[np.bool_]) -> NDArray[Any]:
    """[N] of objects out of info["final_obs"]: None where no episode ended.

    Gymnasium's own vectors have objects there already, ALE's has one batch for all environments.
    """
    last = np.full(len(ended), None, dtype=object)
    for i in np.flatnonzero(ended):
        last[i] = infos["final_obs"][i]
    return last
