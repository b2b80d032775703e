"""ARROWS: what each module of the core may import of spikerl, at module level."""

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "layers": {"errors"},
    "network": {"errors", "layers"},
    "connections": {"network", "layers"},
    "reference": {"errors", "network", "layers"},
    "statistics": {"errors"},
    "report": {"errors", "statistics"},
    "encoding": {"errors", "network", "layers"},
    "heads": {"errors", "layers"},
    "decoding": {"errors", "heads", "network", "layers"},
    "preprocessing": {"errors", "network", "layers"},
    "backends.base": {"errors", "network", "layers", "reference"},
    "backends": {"errors", "backends.base"},
    "backends.reference": {"errors", "network", "layers", "reference", "backends.base"},
    "backends.loihi_numbers": {"connections", "network"},
    "backends.loihi_plan": {"backends.loihi_numbers", "network"},
    "backends.loihi_rates": {"errors", "network", "reference"},
    "backends.loihi_chip": {
        *("backends.loihi_numbers", "backends.loihi_plan", "backends.nengo", "errors"),
    },
    "backends.loihi_session": {
        *("backends.base", "backends.loihi_chip", "backends.loihi_plan", "errors", "network"),
        "reference",
    },
    "backends.loihi_board": {
        *("backends.loihi_chip", "backends.loihi_plan", "backends.loihi_session", "errors"),
        "network",
    },
    "backends.loihi": {
        *("backends.base", "backends.loihi_board", "backends.loihi_plan", "backends.loihi_rates"),
        *("backends.loihi_session", "errors", "network"),
    },
    "backends.nengo": {"backends.base", "backends.nengo_neuron", "connections", "network"},
    "backends.pynn_units": set(),
    "backends.pynn": {"backends.pynn_units", "connections", "errors", "network"},
    "backends.pynn_nest": {
        *("backends.base", "backends.nest", "backends.nest_kernel", "backends.pynn"),
        *("backends.pynn_units", "connections", "errors", "network"),
    },
    "backends.pynn_neuron": {
        *("backends.base", "backends.pynn", "backends.pynn_units"),
        *("connections", "errors", "network"),
    },
    "backends.pynn_brian2": {
        *("backends.base", "backends.pynn", "backends.pynn_units"),
        *("connections", "errors", "network"),
    },
    "backends.genn_plan": {"connections", "layers", "network"},
    "backends.genn_model": {"backends.genn_plan", "errors"},
    "backends.genn": {
        *("backends.base", "backends.genn_model", "backends.genn_plan"),
        *("errors", "layers", "network"),
    },
    "agent": {"decoding", "encoding", "errors", "network", "preprocessing", "report"},
    "container": {"errors"},
    "spaces": {"container", "errors"},
    "fields": {"container", "errors", "spaces"},
    "document": {
        *("agent", "decoding", "encoding", "errors", "fields", "layers", "network"),
        *("preprocessing", "report", "statistics"),
    },
    "files": {"__init__", "agent", "container", "document", "errors"},
    "backends.wire": {"backends.base", "container", "errors", "network"},
    "backends.channel": set(),
    "backends.journal": {"errors"},
    "backends.worker_process": {"backends.channel", "backends.wire", "errors"},
    "backends.worker_server": {
        *("__init__", "backends", "backends.base", "backends.channel", "backends.wire", "errors"),
    },
    "backends.worker": {
        *("backends.base", "backends.journal", "backends.wire", "backends.worker_process"),
        *("backends.worker_server", "errors", "network"),
    },
    "hardware": {
        *("agent", "backends", "backends.base", "backends.worker", "errors", "network"),
        "preprocessing",
    },
    "backends.spikingjelly": {"backends.base", "network"},
    "backends.spinnaker_config": {"errors"},
    "backends.spinnaker_plan": {"backends.base", "connections", "errors", "network"},
    "backends.spinnaker_graph": {"backends.spinnaker_plan", "network"},
    "backends.spinnaker_dry_run": {
        *("backends.spinnaker_config", "backends.spinnaker_graph", "backends.spinnaker_plan"),
        *("errors", "network", "statistics"),
    },
    "backends.spinnaker": {
        *("backends.base", "backends.spinnaker_config", "backends.spinnaker_dry_run"),
        *("backends.spinnaker_graph", "backends.spinnaker_plan", "errors", "network", "reference"),
    },
    "assembly": {"layers"},
    "nir.numbers": {"errors", "network"},
    "nir.chain": set(),
    "nir.stacking": {"assembly", "network", "nir.chain", "nir.numbers"},
    "nir.reading": {"errors", "network", "nir.chain", "nir.numbers", "nir.stacking"},
    "nir.writing": {"agent", "errors", "network", "nir.numbers"},
    "nir": {"nir.reading", "nir.writing"},
    "backends.xylo_core": set(),
    "backends.xylo_chip": {"backends.xylo_core"},
    "backends.xylo_plan": {"backends.base", "backends.xylo_chip", "backends.xylo_core", "network"},
    "backends.xylo_host": {"backends.xylo_core", "backends.xylo_plan", "errors", "network"},
    "backends.xylo_dry_run": {
        *("backends.xylo_chip", "backends.xylo_core", "backends.xylo_host", "backends.xylo_plan"),
        *("errors", "network", "reference", "statistics"),
    },
    "backends.xylo_board": {"backends.xylo_chip", "backends.xylo_plan", "errors", "network"},
    "backends.xylo": {
        *("backends.base", "backends.xylo_chip", "backends.xylo_core", "backends.xylo_dry_run"),
        *("backends.xylo_host", "backends.xylo_plan", "errors", "network"),
    },
    "backends.rockpool_imports": {"errors"},
    "backends.rockpool": {"backends.base", "backends.rockpool_imports", "network"},
    "dynapse.circuit": {"errors"},
    "dynapse.net": {"dynapse.circuit", "errors", "network"},
    "dynapse.simulation": {
        *("backends.rockpool_imports", "dynapse.circuit", "dynapse.net", "errors"),
    },
    "dynapse.training": {"dynapse.circuit", "dynapse.net", "dynapse.simulation", "errors"},
    "dynapse.quantization": {"dynapse.circuit", "dynapse.net", "dynapse.simulation", "network"},
    "dynapse.board": {"backends.rockpool_imports", "dynapse.quantization", "errors"},
    "dynapse.policy": {
        *("dynapse.circuit", "dynapse.net", "dynapse.simulation", "encoding", "errors", "network"),
    },
    "dynapse.imitation": {
        *("dynapse.circuit", "dynapse.policy", "dynapse.training", "errors", "network"),
    },
    "operations": {"connections", "errors", "layers", "network"},
    "energy": {"errors", "operations"},
    "metrics": {"errors", "hardware", "operations", "preprocessing", "statistics"},
    "episode": {"errors", "network"},
    "wrappers.arguments": set(),
    "wrappers.endings": set(),
    "wrappers.encode": {
        *("agent", "encoding", "errors", "network", "preprocessing"),
        *("wrappers.arguments", "wrappers.endings"),
    },
    "wrappers.events": {"agent", "errors", "network", "wrappers.arguments", "wrappers.endings"},
    "wrappers.decisions": {"episode", "errors", "hardware", "heads", "network"},
    "wrappers.record": {"episode", "errors", "hardware", "wrappers.decisions"},
    "wrappers.record_vector": {
        *("episode", "errors", "hardware", "network", "wrappers.decisions"),
    },
    "wrappers.select": {"agent", "errors", "wrappers.arguments"},
    "wrappers": {
        *("wrappers.encode", "wrappers.events", "wrappers.record", "wrappers.record_vector"),
        "wrappers.select",
    },
    "envs.catch": {"errors"},
    "envs": {"envs.catch", "wrappers"},
    "evaluation": {
        *("energy", "errors", "hardware", "metrics", "operations", "statistics"),
    },
    "process": {"errors"},
    "experiment.columns": {"errors"},
    "experiment.locks": {"errors"},
    "experiment.grid": {"agent", "errors"},
    "experiment.formats": {"errors", "experiment.columns"},
    "experiment.table": {
        *("__init__", "errors", "experiment.columns", "experiment.formats", "experiment.locks"),
    },
    "experiment.cell": {
        *("__init__", "agent", "backends", "errors", "evaluation", "experiment.columns"),
        *("experiment.grid", "experiment.locks", "hardware", "process"),
    },
    "experiment.trained": {"errors", "experiment.grid", "network", "preprocessing"},
    "experiment.trial": {
        *("backends.base", "backends.worker", "errors", "experiment.grid", "network"),
    },
    "experiment.checks": {
        *("backends", "backends.base", "errors", "experiment.cell", "experiment.grid", "network"),
        *("experiment.trained", "experiment.trial"),
    },
    "experiment.crew": {"errors", "experiment.cell", "experiment.columns"},
    "experiment.cluster": {
        *("__init__", "backends", "errors", "experiment.cell", "experiment.crew"),
    },
    "experiment.run": {
        *("experiment.cell", "experiment.columns", "experiment.crew", "experiment.table"),
    },
    "experiment": {
        *("experiment.cell", "experiment.checks", "experiment.cluster", "experiment.columns"),
        *("experiment.crew", "experiment.grid", "experiment.run", "experiment.table"),
    },
    "plots.drawing": {"errors"},
    "plots.experiment": {"plots.drawing"},
    "plots.episode": {"agent", "episode", "errors", "network", "plots.drawing"},
    "plots.learning": {"errors", "plots.drawing", "statistics"},
    "plots.membranes": {"errors", "network", "plots.drawing", "plots.episode", "reference"},
    "plots.panel": {"errors", "network", "plots.drawing"},
    "plots.report": {"evaluation", "plots.drawing", "report"},
    "plots": {
        *("plots.drawing", "plots.episode", "plots.learning", "plots.membranes", "plots.report"),
    },
}

# the same for those that are compiled, and cannot do without numba
COMPILED: dict[str, set[str]] = {
    "compiling": set(),
    "backends.cpu_blocks": set(),
    "backends.cpu_kernels": {"__init__", "backends", "backends.cpu_blocks", "compiling"},
    "backends.cpu_plan": {
        *("backends", "backends.cpu_blocks", "backends.cpu_kernels", "connections", "network"),
    },
    "backends.cpu_engine": {
        *("backends", "backends.cpu_blocks", "backends.cpu_kernels", "backends.cpu_plan"),
        *("connections", "layers"),
    },
    "backends.cpu": {
        *("backends.base", "backends.cpu_blocks", "backends.cpu_engine", "backends.cpu_plan"),
        *("errors", "network"),
    },
}
