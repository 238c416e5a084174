"""Forecast forgetting from the neural tangent kernel, train, measure, and show the two side by side.

The map of the house, from the roof down (arrows point down; `tests/test_architecture.py` keeps them so):

    __main__                                 starts and ends the command
    command                                  the runs, and one line for what the user can mend
    plugins  looks                           Hydra's door to sweeps; what looks at runs: table, report, dashboard
    sweeps                                   jobs to runs: which are lacking, who makes them, how far they are, what failed
    configuration  report  dashboards        from a configuration to its parts; a page; the same panels in W&B
    table                                    runs as one table, means over seeds
    console  jobs  identity  panels  tracking  the terminal; a plan; what a run is called; what a dashboard shows; a run in W&B
    results  claims  figures  planning  checkpoints  references  a record as files; who makes it; pictures; plans, ranked
    record                                   a run as numbers: forecast beside measurement
    experiment                               the story, once: forecast, train, measure, yield
    predict                                  what training will do to a network, in one of several forms
    train  events                            optax inside one lax.scan, for one seed or several at once; what a story tells
    kernels  forecast  losses  metrics       the mathematics: arrays in, arrays out
    networks  streams  sources  optimizers  methods   what conf/ names by _target_
    types  settings  meter  machine  reuse   the nouns; checks of settings; seconds; cores; programs that serve many runs
    where  stored                            a condition on runs; a run's files, damaged or not

As a library: `from ntkcl import kernels, forecast`.
"""


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ntkcl")
    except PackageNotFoundError:  # a copy on the path that was never installed
        return "unknown"
