"""Forecast forgetting from the neural tangent kernel, train, measure, and show the two side by side.

The map of the house, from the ground up (arrows point down; `tests/test_architecture.py` keeps them so):

    __main__                                 Hydra: compose, instantiate, run, write
    console  jobs                            the terminal; a plan, once: candidates, ranking, some of them trained
    results  tracking  figures  planning     a record as files, as a W&B run, as pictures; what one could do, ranked by its forecast
    record                                   a run as numbers: forecast beside measurement
    experiment                               the story, once: forecast, train, measure, yield
    predict                                  what training will do to a network, in one of several forms
    train                                    optax inside one lax.scan, for one seed or several at once
    kernels  forecast  losses  metrics       the mathematics: arrays in, arrays out
    networks  streams  sources  optimizers  methods   what conf/ names by _target_
    types  settings  meter  reuse            the nouns; checks of settings; seconds and memory; programs that serve many runs

As a library: `from ntkcl import kernels, forecast`.
"""
