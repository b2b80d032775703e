"""Gymnasium wrappers: observations as spikes or events, and what a policy's neurons did.

Imports gymnasium and the numpy core; no torch.
"""

from spikerl.wrappers.encode import EncodeObservation, VectorEncodeObservation
from spikerl.wrappers.events import EventCamera, VectorEventCamera
from spikerl.wrappers.record import RecordSpikes
from spikerl.wrappers.record_vector import VectorRecordSpikes
from spikerl.wrappers.select import KeepEntries

__all__ = [
    "EncodeObservation",
    "EventCamera",
    "KeepEntries",
    "RecordSpikes",
    "VectorEncodeObservation",
    "VectorEventCamera",
    "VectorRecordSpikes",
]
