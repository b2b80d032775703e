"""Networks trained with other libraries: from_spikingjelly(), from_snntorch(), from_norse().

Each takes a sequence of linear layers and that library's neurons, and gives the SpikingNetwork
that fires in the same steps. The libraries differ in what their neurons mean by the same numbers:
whether a potential that meets the threshold fires, whether the leak scales the input, when the
reset comes. All of it is written down exactly or refused by name, with every reason at once.
"""

from spikerl.importers.norse import from_norse
from spikerl.importers.snntorch import from_snntorch
from spikerl.importers.spikingjelly import from_spikingjelly

__all__ = ["from_norse", "from_snntorch", "from_spikingjelly"]
