"""Forecast forgetting from the neural tangent kernel, train, measure, and show the two side by
side.

The packages, from top to bottom. Imports point down; packages of one floor do not import each
other (`tests/test_architecture.py`).

    __main__      starts and ends the command quickly
    cli           the command: configurations in, runs, sweeps, tables and reports out
    reporting     what a person looks at: terminal, tables, figures, HTML, Weights & Biases
    runs          runs on disk: identity, lock, status, files, checkpoints
    planning      orders, methods, buffers, learning rates ranked without training
    whatif        what the next training would do to old samples: one training answers for many
    experiment    forecast, train, measure: events, record, scores, comparison
    forecast      what training will do to a network, in one of several forms
    training      the training loop, the problem that is trained, its settings
    networks      Flax models as pure functions of theta and one input
    methods       continual-learning algorithms, one a file: training and kernel-space equivalent
    optimizers    training rules with their kernel-space equivalents, schedules
    kernels       neural tangent kernels as blocks, operators, infinite-width limits
    dynamics      training in function space, from kernel blocks alone
    metrics       scores of a stream; agreement, baselines, verdict of a forecast
    losses        losses of one prediction and one target
    streams       sequences of tasks made from a source
    sources       data sets
    types         the nouns: aliases and NamedTuples
    validation    checks of single settings
    resources     seconds and memory of a phase
    compilation   programs that serve many runs

As a library: `from ntkcl import kernels, dynamics, forecast, methods, metrics, networks`.
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
