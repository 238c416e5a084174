"""Continual-learning algorithms, one a file: training, and its kernel-space equivalent.

A constructor takes the method's settings and returns a `Method`. In the lazy regime every one of
them is ordinary training in other rows, weights, targets or directions (theory 6), so the
equivalent says which, and `ntkcl.dynamics` solves it like any other task. A method of one's own is
made by `custom`.
"""

from ntkcl.methods.agem import agem
from ntkcl.methods.custom import checked as checked
from ntkcl.methods.custom import custom as custom
from ntkcl.methods.der import der, der_plus_plus
from ntkcl.methods.er import er
from ntkcl.methods.ewc import ewc
from ntkcl.methods.ewc_diagonal import ewc_diagonal
from ntkcl.methods.functional import functional
from ntkcl.methods.gpm import gpm
from ntkcl.methods.joint import joint
from ntkcl.methods.l2 import l2
from ntkcl.methods.lwf import lwf
from ntkcl.methods.mas import mas
from ntkcl.methods.naive import is_naive as is_naive
from ntkcl.methods.naive import naive
from ntkcl.methods.ogd import ogd, ogd_plus, pca_ogd
from ntkcl.methods.replay import replay
from ntkcl.methods.si import si
from ntkcl.methods.spectral import spectral
from ntkcl.methods.together import together

# This is also the list of methods that a configuration may name (`plan.methods`, read in
# `ntkcl.cli.config`). `custom`, `checked` and `is_naive` are public, but are no such methods: they
# are exported above as `x as x`, and are not in the list.
__all__ = [
    "agem",
    "der",
    "der_plus_plus",
    "er",
    "ewc",
    "ewc_diagonal",
    "functional",
    "gpm",
    "joint",
    "l2",
    "lwf",
    "mas",
    "naive",
    "ogd",
    "ogd_plus",
    "pca_ogd",
    "replay",
    "si",
    "spectral",
    "together",
]
