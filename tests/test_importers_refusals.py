"""Modules of other libraries that the contract cannot say are refused by name, all at once."""

import warnings

import pytest
from foreign import MAP, half_leaking, level, library, spikingjelly

from spikerl.errors import ConversionError

torch = library("torch")
from torch import nn  # noqa: E402

from spikerl.importers import from_norse, from_snntorch, from_spikingjelly  # noqa: E402


def told(function, modules, **options):
    with pytest.raises(ConversionError) as caught:
        function(modules, **options)
    return str(caught.value)


def after(*neurons):
    return [nn.Linear(5, 5), *neurons]


def hooked():
    module = nn.Linear(5, 5)
    module.register_forward_hook(lambda *arguments: None)
    return [module]


def forgetful(neuron):
    cell = neuron.LIFNode()
    cell.tau = 1.0
    return cell


def reset_changed(snn):
    cell = snn.Leaky(0.5)
    cell.reset_mechanism = "zero"
    return after(cell)


SPIKINGJELLY_REFUSED = {
    "is not known to from_spikingjelly()": lambda s: after(s.neuron.EIFNode()),
    "fold it into the convolution": lambda s: [nn.Conv2d(2, 1, 1), s.layer.BatchNorm2d(1)],
    "is in training mode": lambda s: [s.layer.Dropout(), nn.Linear(5, 5)],
    "decode='max-mem'": lambda s: after(s.neuron.NonSpikingIFNode(decode="max-mem")),
    "v_threshold must be finite and in (0, inf]": lambda s: after(s.neuron.IFNode(1.0, 2.0)),
    "no step from 0 to 1": lambda s: after(
        s.neuron.IFNode(surrogate_function=s.surrogate.Sigmoid(spiking=False))
    ),
    "no step from 0 to 1: Expected p_in": lambda s: after(
        s.neuron.IFNode(surrogate_function=s.surrogate.PoissonPass())
    ),
    "no step from 0 to 1, but gives [0.0, 0.0, 0.0, 0.0, 1.0, 4.0]": lambda s: after(
        s.neuron.IFNode(surrogate_function=s.surrogate.MultiLevelSpikeCount(4))
    ),
    "does not follow neurons that spike": lambda s: [s.layer.Delay(1), nn.Linear(5, 5)],
    "decay must be finite and in (0, 1]": lambda s: after(forgetful(s.neuron)),
    "never fires, so nothing may come after it": lambda s: after(
        s.neuron.NonSpikingIFNode(), nn.Linear(5, 5), s.neuron.IFNode()
    ),
}

SNNTORCH_REFUSED = {
    "has a synaptic current": lambda s: after(s.Synaptic(alpha=0.5, beta=0.5)),
    "subtracts before it compares": lambda s: after(s.Leaky(0.5, reset_delay=False)),
    "it still resets by 'subtract'": reset_changed,
    "has inhibition=True": lambda s: after(s.Leaky(0.5, inhibition=True)),
    "has state_quant": lambda s: after(s.Leaky(0.5, state_quant=torch.round)),
    "graded_spikes_factor": lambda s: after(s.Leaky(0.5, graded_spikes_factor=2.0)),
    "nothing remains from step to step": lambda s: after(s.Leaky(0.0)),
    "no step from 0 to 1": lambda s: after(s.Leaky(0.5, spike_grad=torch.sigmoid)),
    "which neurons of a convolution cannot": lambda s: [nn.Conv2d(2, 1, 1), s.Leaky(0.5)],
    "wanted a Linear": lambda s: after(s.RLeaky(0.5, conv2d_channels=1, kernel_size=3)),
    "numbers that do not fit (5,)": lambda s: after(s.Leaky(beta=torch.full((4,), 0.5))),
}

NORSE_REFUSED = {
    "LIFBoxCell and LIBoxCell have none": lambda n: after(n.LIFCell()),
    "wanted the same": lambda n: after(half_leaking(n, v_reset=level(0.5))),
    "wanted v_leak=0": lambda n: after(
        half_leaking(
            n,
            v_leak=level(0.5),
            reset_method=library("norse.torch.functional.reset").reset_subtract,
        )
    ),
    "wanted reset_value or reset_subtract": lambda n: after(half_leaking(n, reset_method=max)),
    "more than 0 and less than 1": lambda n: after(n.LIFBoxCell(dt=0.01)),
    "v_leak != 0": lambda n: after(n.LIBoxCell(n.LIBoxParameters(v_leak=level(1)))),
}


@pytest.mark.parametrize("text", SPIKINGJELLY_REFUSED)
def test_what_spikingjelly_can_and_spikerl_cannot_is_refused(text):
    assert text in told(
        from_spikingjelly, SPIKINGJELLY_REFUSED[text](spikingjelly()), input_shape=None
    )


@pytest.mark.parametrize("text", SNNTORCH_REFUSED)
def test_what_snntorch_can_and_spikerl_cannot_is_refused(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # inhibition is unstable, it says
        modules = SNNTORCH_REFUSED[text](library("snntorch"))
    shape = MAP if isinstance(modules[0], nn.Conv2d) else None
    assert text in told(from_snntorch, modules, input_shape=shape)


@pytest.mark.parametrize("text", NORSE_REFUSED)
def test_what_norse_can_and_spikerl_cannot_is_refused(text):
    assert text in told(from_norse, NORSE_REFUSED[text](library("norse.torch")))


PLAIN_REFUSED = {
    "found Linear, wanted a torch.nn.Sequential or a list": nn.Linear(5, 5),
    "(ReLU) is not known to from_snntorch()": after(nn.ReLU()),
    "has hooks": hooked(),
    "without neurons between them": [nn.Linear(5, 5), nn.Linear(5, 5)],
    "reads a map of unknown shape": [nn.Conv2d(1, 1, 1)],
    "groups=2": [nn.Conv2d(2, 2, 1, groups=2)],
    "dilation=(2, 2)": [nn.Conv2d(2, 2, 2, dilation=2)],
    "padding='same'": [nn.Conv2d(2, 2, 3, padding="same")],
    "padding_mode='circular'": [nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")],
    "has padding, ceil_mode": [nn.AvgPool2d(2, ceil_mode=True), nn.Linear(5, 5)],
    "wanted all but the batch": [nn.Flatten(2), nn.Linear(60, 5)],
    "wanted a row: flatten the map before": [nn.Linear(60, 5)],
    "no neurons or weights at the end": [nn.Flatten()],
    "stands between": [nn.Conv2d(2, 2, 1), nn.AvgPool2d(2)],
    "reads 5 numbers where 60 come": [nn.Flatten(), nn.Linear(5, 5)],
}


@pytest.mark.parametrize("text", PLAIN_REFUSED)
def test_layers_that_have_no_counterpart_are_refused(text):
    shape = None if "unknown shape" in text or "hooks" in text or "ReLU" in text else MAP
    assert text in told(from_snntorch, PLAIN_REFUSED[text], input_shape=shape)


def test_everything_in_the_way_is_told_at_once():
    snn = library("snntorch")
    modules = [
        nn.Linear(5, 5),
        snn.Synaptic(alpha=0.5, beta=0.5),
        nn.Linear(5, 5),
        snn.Leaky(0.0, graded_spikes_factor=2.0),
        nn.MaxPool2d(2),
    ]
    text = told(from_snntorch, nn.Sequential(*modules))
    assert [line.split(" ")[4] for line in text.splitlines()[1:]] == ["'1'", "'3'", "'3'", "'4'"]
