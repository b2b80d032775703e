"""A small right session in numpy, and seeded defects: each a way in which real simulators differ.

DEFECTS: name -> (Backend, names of checks that must catch it). Long on purpose: it is one list.
"""

import mmap
import time
from dataclasses import replace
from typing import ClassVar

import numpy as np

from spikerl.backends.base import (
    Capabilities,
    Session,
    capability_problems,
    refuse_options,
    require_runnable,
)
from spikerl.network import AvgPool2d, Conv2d, Dense, NeuronLayer, Recording, SpikingNetwork
from spikerl.reference import as_drive


class Raised:
    """A layer's thresholds, lifted."""

    def __init__(self, v_threshold):
        self.v_threshold = v_threshold


class Right(Session):
    """The neuron contract, cut into the pieces that a defect may replace."""

    def __init__(self, network, batch_size):
        super().__init__("right", network, batch_size)
        self.runs = network  # what is really run
        self.allocate()
        self._reset(None)

    def allocate(self):
        shapes = [(self.batch_size, layer.n_out) for layer in self.network.neuron_layers]
        self.v = [np.zeros(shape) for shape in shapes]
        self.rest = [np.zeros(shape, int) for shape in shapes]
        self.flow = [np.zeros(shape) for shape in shapes]
        self.lift = [np.zeros(shape) for shape in shapes]
        self.sent = [
            np.zeros((max(1, layer.delay_steps), *shape))
            for layer, shape in zip(self.network.neuron_layers, shapes, strict=True)
        ]

    def _reset(self, rows):
        rows = slice(None) if rows is None else rows
        for k, layer in enumerate(self.network.neuron_layers):
            self.reset_layer(k, layer, rows)

    def reset_layer(self, k, layer, rows):
        self.v[k][rows] = layer.v_init
        self.rest[k][rows] = 0
        self.flow[k][rows] = 0
        self.lift[k][rows] = 0
        self.sent[k][:, rows] = 0

    def _run(self, drive, record_spikes):
        rows = drive.shape[1]
        trains = [[] for _ in self.network.spiking_layers]
        for x in drive:
            k = 0
            for layer in self.runs.layers:
                if not isinstance(layer, NeuronLayer):
                    x = self.current(layer, x)
                    continue
                fired, x = self.step(k, layer, x, rows)
                if layer.spiking:
                    trains[k].append(fired)
                    k += 1
        spikes = tuple(np.array(train) for train in trains)
        return Recording(
            counts=tuple(s.sum(axis=0, dtype=np.int64) for s in spikes),
            potentials=tuple(v[:rows].copy() for v in self.v),
            sim_steps=len(drive),
            spikes=tuple(s > 0 for s in spikes) if record_spikes else None,
        )

    def step(self, k, layer, x, rows):
        old, rest, sent = self.v[k][:rows], self.rest[k][:rows], self.sent[k][:, :rows]
        current = self.current(layer, x)
        if layer.recurrent_weight is not None:
            current = current + self.echo(layer, sent)
        flow, lift = self.flow[k][:rows], self.lift[k][:rows]
        flow[:] = self.filtered(layer, flow, current, rest)
        v = self.floored(layer, self.integrated(layer, old, flow))
        v = np.where(rest > 0, old, v)
        if not layer.spiking:
            old[:] = v
            return None, None
        raised = self.raised(layer, lift)
        fired = self.fires(raised, v) * (rest == 0)
        old[:] = self.after_spike(self.taken(layer, raised), v, fired)
        lift[:] = layer.adaptation_decay * lift + fired
        rest[:] = np.where(fired, self.refractory(layer), np.maximum(rest - 1, 0))
        heard = self.heard(layer, sent, fired)
        sent[:] = np.concatenate([sent[1:], [fired]])
        return fired, heard

    def current(self, layer, x):
        return layer.apply(x)

    def echo(self, layer, sent):
        return sent[0] @ layer.recurrent_weight.T

    def filtered(self, layer, flow, current, rest):
        return layer.current_decay * flow + current

    def raised(self, layer, lift):
        if not layer.adaptation.any():
            return layer
        return Raised(layer.v_threshold + layer.adaptation * lift)

    def taken(self, layer, raised):
        return layer

    def integrated(self, layer, v, current):
        return layer.decay * v + current

    def floored(self, layer, v):
        return v if layer.v_min is None else np.maximum(v, layer.v_min)

    def fires(self, layer, v):
        return (v >= layer.v_threshold).astype(int)

    def after_spike(self, layer, v, fired):
        if layer.reset == "zero":
            return np.where(fired, 0.0, v)
        return v - fired * layer.v_threshold

    def refractory(self, layer):
        return layer.refractory_steps

    def heard(self, layer, sent, fired):
        return sent[0].copy() if layer.delay_steps else fired.astype(float)

    def _close(self):
        self.v = []


class NumpyBackend:
    """Compiles to a Right session or to a defective one."""

    name = "right"

    def __init__(self, session=Right, **capabilities):
        self.session = session
        self.capabilities = Capabilities(**{"current": True, "adaptation": True, **capabilities})

    def problems(self, network):
        return capability_problems(self.capabilities, network)

    def compile(self, network, *, batch_size=1, seed=None, **options):
        require_runnable(self, network, batch_size)
        refuse_options(self.name, options)
        return self.session(network, batch_size)


DEFECTS = {}


def defect(*caught_by):
    """Enter a defective session with the names of checks that must catch it."""

    def enter(cls):
        backend = cls() if issubclass(cls, NumpyBackend) else NumpyBackend(cls)
        DEFECTS[cls.__name__] = (backend, caught_by)
        return cls

    return enter


# the neuron -----------------------------------------------------------------------------------


@defect("threshold_is_inclusive", "matches_reference")
class StrictThreshold(Right):
    def fires(self, layer, v):
        return (v > layer.v_threshold).astype(int)


@defect("zero_discards_remainder", "matches_reference")
class SubtractForZero(Right):
    def after_spike(self, layer, v, fired):
        return v - fired * layer.v_threshold


@defect("subtract_keeps_remainder", "matches_reference")
class ZeroForSubtract(Right):
    def after_spike(self, layer, v, fired):
        return np.where(fired, 0.0, v)


@defect("subtract_keeps_remainder")
class SubtractsOne(Right):
    def after_spike(self, layer, v, fired):
        return v - fired if layer.reset == "subtract" else np.where(fired, 0.0, v)


@defect("zero_discards_remainder", "leak_before_input", "matches_reference_leaky")
class LateReset(Right):
    """The reset of a spike acts at the next step, after the leak."""

    def step(self, k, layer, x, rows):
        self.before = self.sent[k][-1, :rows]
        return super().step(k, layer, x, rows)

    def integrated(self, layer, v, current):
        if layer.reset == "zero":
            return np.where(self.before, 0.0, layer.decay * v) + current
        return layer.decay * v + current - self.before * layer.v_threshold

    def after_spike(self, layer, v, fired):
        return v


@defect("bias_every_step", "matches_reference")
class DroppedBias(Right):
    def current(self, layer, x):
        if isinstance(layer, NeuronLayer):
            layer = replace(layer, bias=None)
        return layer.apply(x)


@defect("inhibition_is_remembered", "matches_reference")
class FloorAtZero(Right):
    def floored(self, layer, v):
        return np.maximum(v, 0.0)


@defect("inhibition_is_remembered", "matches_reference")
class FloorAtMinusThreshold(Right):
    def floored(self, layer, v):
        return np.maximum(v, -layer.v_threshold)


@defect("floor_is_applied", "matches_reference_floored")
class FloorIgnored(Right):
    def floored(self, layer, v):
        return v


@defect("one_spike_per_step", "matches_reference")
class SeveralSpikesPerStep(Right):
    def fires(self, layer, v):
        return np.maximum(np.floor(v / layer.v_threshold), 0).astype(int)


@defect("leak_before_input", "matches_reference_leaky")
class LeakAfterInput(Right):
    def integrated(self, layer, v, current):
        return layer.decay * (v + current)


@defect("leak_before_input", "matches_reference_leaky")
class InputScaledByLeak(Right):
    def integrated(self, layer, v, current):
        scale = np.where(layer.decay < 1, 1 - layer.decay, 1.0)
        return layer.decay * v + scale * current


@defect("refractory_neurons_are_held", "matches_reference_refractory")
class RefractorinessIgnored(Right):
    def refractory(self, layer):
        return 0


@defect("refractory_neurons_are_held", "matches_reference_refractory")
class RefractoryOneStepShort(Right):
    def refractory(self, layer):
        return max(layer.refractory_steps - 1, 0)


@defect("small_increments_accumulate", "effective_network_reproduces_device")
class HalfPrecision(Right):
    def integrated(self, layer, v, current):
        return super().integrated(layer, v, current).astype(np.float16).astype(float)


@defect("leak_before_input", "matches_reference")
class StartIgnored(Right):
    def reset_layer(self, k, layer, rows):
        super().reset_layer(k, replace(layer, v_init=0.0), rows)


@defect("current_outlasts_its_input", "matches_reference_with_currents")
class CurrentsIgnored(Right):
    def filtered(self, layer, flow, current, rest):
        return current


@defect("current_outlasts_its_input")
class CurrentsRestToo(Right):
    def filtered(self, layer, flow, current, rest):
        return np.where(rest > 0, flow, layer.current_decay * flow + current)


@defect("currents_and_lifts_are_state")
class CurrentsOutliveReset(Right):
    def reset_layer(self, k, layer, rows):
        kept = self.flow[k].copy()
        super().reset_layer(k, layer, rows)
        self.flow[k][:] = kept


@defect("spikes_lift_the_threshold", "matches_reference_adaptive")
class LiftsIgnored(Right):
    def raised(self, layer, lift):
        return layer


@defect("spikes_lift_the_threshold", "matches_reference_adaptive")
class ResetTakesTheLift(Right):
    """Reset by subtraction takes the lifted threshold."""

    def after_spike(self, layer, v, fired):
        if layer.reset == "zero":
            return np.where(fired, 0.0, v)
        return v - fired * self.lifted

    def taken(self, layer, raised):
        self.lifted = raised.v_threshold
        return layer


@defect("currents_and_lifts_are_state")
class LiftsOutliveReset(Right):
    def reset_layer(self, k, layer, rows):
        kept = self.lift[k].copy()
        super().reset_layer(k, layer, rows)
        self.lift[k][:] = kept


@defect("matches_reference")
class OneThresholdPerLayer(Right):
    def fires(self, layer, v):
        return (v >= layer.v_threshold.mean()).astype(int)


@defect("quiet")
class SpontaneousSpikes(Right):
    def integrated(self, layer, v, current):
        return super().integrated(layer, v, current) + 0.3


@defect("quiet", "same_seed_same_result")
class UnseededNoise(Right):
    def integrated(self, layer, v, current):
        return super().integrated(layer, v, current) + np.random.default_rng().normal(0, 1e-2)


# wiring ---------------------------------------------------------------------------------------


@defect("matches_reference", "matches_reference_combined")
class TransposedSquareWeights(Right):
    def current(self, layer, x):
        if isinstance(layer, Dense) and layer.n_in == layer.n_out:
            layer = replace(layer, weight=layer.weight.T)
        return layer.apply(x)


@defect("neurons_hear_themselves_a_step_later", "matches_reference_recurrent")
class TransposedRecurrentWeights(Right):
    def echo(self, layer, sent):
        return sent[0] @ layer.recurrent_weight


@defect("neurons_hear_themselves_a_step_later", "matches_reference_recurrent")
class EchoIgnoresDelay(Right):
    def echo(self, layer, sent):
        return sent[-1] @ layer.recurrent_weight.T


@defect("matches_reference_convolutional")
class FlippedKernel(Right):
    def current(self, layer, x):
        if isinstance(layer, Conv2d):
            layer = replace(layer, weight=layer.weight[:, :, ::-1, ::-1])
        return layer.apply(x)


@defect("matches_reference_convolutional")
class ChannelsLast(Right):
    """Maps are flattened as [H, W, C]."""

    def current(self, layer, x):
        if isinstance(layer, Conv2d):
            channels, height, width = layer.input_shape
            x = x.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).reshape(len(x), -1)
        return layer.apply(x)


@defect("matches_reference_convolutional")
class PoolTakesTheMaximum(Right):
    def current(self, layer, x):
        pooled = layer.apply(x)
        return (pooled > 0) * 1.0 if isinstance(layer, AvgPool2d) else pooled


@defect("spikes_arrive_when_due", "matches_reference_delayed")
class DelayIgnored(Right):
    def heard(self, layer, sent, fired):
        return fired.astype(float)


@defect("spikes_arrive_when_due", "matches_reference")
class AlwaysNextStep(Right):
    def heard(self, layer, sent, fired):
        return sent[-max(1, layer.delay_steps)].copy()


@defect("bias_every_step", "matches_reference")
class UngatedBias(Right):
    """Each layer works a step after the one before; windows are shifted, the bias is not gated."""

    def reset_layer(self, k, layer, rows):
        super().reset_layer(k, layer, rows)
        for _ in range(k):
            silent = layer.apply(np.zeros((1, layer.n_in)))
            self.v[k][rows] = layer.decay * self.v[k][rows] + silent


# state and rows -------------------------------------------------------------------------------


@defect("partial_reset_leaves_others")
class PartialResetResetsAll(Right):
    def _reset(self, rows):
        super()._reset(None)


@defect("partial_reset_leaves_others", "evaluate_policy_runs")
class PartialResetDoesNothing(Right):
    def _reset(self, rows):
        if rows is None:
            super()._reset(None)


@defect("reset_restores_start", "partial_reset_leaves_others")
class ResetForgetsALayer(Right):
    built = False

    def reset_layer(self, k, layer, rows):
        if k != 1 or not self.built:
            super().reset_layer(k, layer, rows)
        self.built = self.built or k == len(self.v) - 1


@defect("reset_restores_start", "evaluate_policy_runs")
class StaleState(Right):
    built = False

    def _reset(self, rows):
        if not self.built:
            super()._reset(rows)
        self.built = True


@defect("split_run_equals_one_run")
class StateDroppedBetweenRuns(Right):
    def _run(self, drive, record_spikes):
        super()._reset(None)
        return super()._run(drive, record_spikes)


@defect("in_flight_spikes_do_not_leak", "reset_restores_start")
class InFlightSpikesSurviveReset(Right):
    def reset_layer(self, k, layer, rows):
        kept = self.sent[k].copy()
        super().reset_layer(k, layer, rows)
        self.sent[k][:] = kept


@defect("reset_restores_start")
class RefractorinessSurvivesReset(Right):
    def reset_layer(self, k, layer, rows):
        kept = self.rest[k].copy()
        super().reset_layer(k, layer, rows)
        self.rest[k][:] = kept


@defect("matches_reference", "rows_independent", "evaluate_policy_runs")
class ShuffledRows(Right):
    def _run(self, drive, record_spikes):
        got = super()._run(drive, record_spikes)
        return replace(
            got,
            counts=tuple(n[::-1] for n in got.counts),
            potentials=tuple(v[::-1] for v in got.potentials),
            spikes=got.spikes and tuple(s[:, ::-1] for s in got.spikes),
        )


@defect("rows_independent", "matches_reference")
class RowsHearTheirNeighbours(Right):
    def heard(self, layer, sent, fired):
        heard = super().heard(layer, sent, fired)
        return np.maximum(heard, np.roll(heard, 1, axis=0))


@defect("fewer_rows_than_batch_size")
class AbsentRowsAdvance(Right):
    def _run(self, drive, record_spikes):
        rows = drive.shape[1]
        full = np.zeros((len(drive), self.batch_size, drive.shape[2]))
        full[:, :rows] = drive
        got = super()._run(full, record_spikes)
        return replace(
            got,
            counts=tuple(n[:rows] for n in got.counts),
            potentials=tuple(v[:rows] for v in got.potentials),
            spikes=got.spikes and tuple(s[:, :rows] for s in got.spikes),
        )


@defect("constant_drive_is_a_drive")
class ConstantDriveActsOnce(Right):
    def _run(self, drive, record_spikes):
        if drive.strides[0] == 0:
            drive = np.array(drive)
            drive[1:] = 0
        return super()._run(drive, record_spikes)


@defect("matches_reference")
class WorksOnTheCallersArray(Right):
    def _run(self, drive, record_spikes):
        drive *= 1.0
        return super()._run(drive, record_spikes)


# the session as a thing -----------------------------------------------------------------------


@defect("recordings_do_not_change_later")
class RecordsAreViews(Right):
    def _run(self, drive, record_spikes):
        got = super()._run(drive, record_spikes)
        return replace(got, potentials=tuple(v[: drive.shape[1]] for v in self.v))


@defect("records")
class SpikesUnasked(Right):
    def _run(self, drive, record_spikes):
        return super()._run(drive, True)


@defect("split_run_equals_one_run")
class CountsNeverStartAnew(Right):
    total = 0

    def _run(self, drive, record_spikes):
        got = super()._run(drive, record_spikes)
        self.total += got.counts[0].sum()
        return replace(got, counts=(got.counts[0] + self.total, *got.counts[1:]))


@defect("lifecycle")
class RunsAfterClose(Right):
    def _check_open(self):
        pass

    def _close(self):
        pass


@defect("lifecycle")
class SecondCloseFails(Right):
    def close(self):
        if self.closed:
            raise RuntimeError("handle is gone")
        super().close()


@defect("lifecycle")
class ForgottenInSilence(Right):
    def __del__(self):
        self.close()


@defect("lifecycle")
class WithDoesNotClose(Right):
    closes_itself: ClassVar[list] = []

    def __exit__(self, *exc):
        self.closes_itself.append(self)  # kept, so that nothing is forgotten

    def __del__(self):
        self.closed = True


@defect("sessions_do_not_disturb_each_other")
class SharedState(Right):
    """One simulator for all sessions of a process."""

    shared: ClassVar[dict] = {}

    def allocate(self):
        super().allocate()
        key = tuple(v.shape for v in self.v), tuple(s.shape for s in self.sent)
        self.v, self.rest, self.sent = self.shared.setdefault(key, (self.v, self.rest, self.sent))

    def _close(self):
        pass


@defect("wrong_drive_is_refused")
class TakesAnyDrive(Right):
    def run(self, drive, *, record_spikes=False):
        self._check_open()
        drive = np.nan_to_num(np.asarray(drive, dtype=float))
        if drive.ndim != 3 or not len(drive):
            return self._run(np.zeros((1, 1, self.network.n_in)), record_spikes)
        drive = drive[:, : self.batch_size, : self.network.n_in]
        return self._run(as_drive(drive, self.network), record_spikes)


@defect("memory_stays_flat")
class LeaksObjects(Right):
    def _run(self, drive, record_spikes):
        self.history = [*getattr(self, "history", []), len(drive) + 0.5]
        return super()._run(drive, record_spikes)


@defect("memory_stays_flat")
class LeaksOnABusyMachine(LeaksObjects):
    def _run(self, drive, record_spikes):
        if len(getattr(self, "history", [])) == 10:
            time.sleep(0.2)  # once, while it measures how many decisions there is time for
        return super()._run(drive, record_spikes)


@defect("memory_stays_flat")
class LeaksOutsidePython(Right):
    held: ClassVar[list] = []

    def _run(self, drive, record_spikes):
        block = mmap.mmap(-1, 1 << 16)
        block.write(b"x" * (1 << 16))
        self.held.append(block)
        return super()._run(drive, record_spikes)

    def _close(self):
        self.held.clear()


def quantised(network, bits):
    """Every weight rounded to a signed number of this many bits, scaled per layer."""
    layers = []
    for layer in network.layers:
        if isinstance(layer, NeuronLayer):
            scale = max(np.abs(layer.weight).max(), 2.0**-20) / (2 ** (bits - 1) - 1)
            layer = replace(layer, weight=np.round(layer.weight / scale) * scale)
        layers.append(layer)
    return SpikingNetwork(tuple(layers), network.dt_ms)


class Quantised(Right):
    """Right: says what it holds."""

    bits = 8

    def __init__(self, network, batch_size):
        super().__init__(quantised(network, self.bits), batch_size)


@defect("effective_network_reproduces_device")
class HidesItsQuantisation(Right):
    def __init__(self, network, batch_size):
        super().__init__(network, batch_size)
        self.runs = quantised(network, 8)


@defect("effective_network_reproduces_device")
class QuantisesUndeclared(Quantised):
    bits = 12


@defect("effective_network_reproduces_device")
class QuantisesMoreThanDeclared(NumpyBackend):
    def __init__(self):
        super().__init__(type("FourBits", (Quantised,), {"bits": 4}), weight_bits=8)


# the back end ---------------------------------------------------------------------------------


@defect("problems_is_complete")
class NamesTheFirstProblemOnly(NumpyBackend):
    def __init__(self):
        super().__init__(recurrent=False, v_min=False, decay=False)

    def problems(self, network):
        return super().problems(network)[:1]


@defect("problems_is_complete")
class RunsWhatItCannot(NumpyBackend):
    def __init__(self):
        super().__init__(refractory=False)

    def compile(self, network, *, batch_size=1, seed=None, **options):
        refuse_options(self.name, options)
        return self.session(network, batch_size)


@defect("matches_reference_recurrent")
class RefusesWhatItDeclares(NumpyBackend):
    def problems(self, network):
        found = super().problems(network)
        return found + ["recurrent"] * any(
            n.recurrent_weight is not None for n in network.layers if isinstance(n, NeuronLayer)
        )


@defect("nonsense_is_refused")
class IgnoresUnknownOptions(NumpyBackend):
    def compile(self, network, *, batch_size=1, seed=None, **options):
        return super().compile(network, batch_size=batch_size)
