"""What training will do to a network, foretold at an anchor (theta, and all that was measured up to there) in one of these forms.

* `closed`: the solve of a training rule, `ntkcl.dynamics.sequence`; squared error, full batches (for minibatches their mean path).
* `matrix_free`: the same rule by Lanczos on kernel-vector products, for tasks whose kernels no memory holds; no method.
* `simulated`: step by step in dual coefficients, the true batches in their true order, any loss; rules linear in gradients, no method.
* `linearised`: the linearised network is trained, by the trainer itself with any loss, rule and method; no kernel is held.

These foretell the network linearised at the anchor, and agree where they overlap.

* `integrated`: the network itself, its training integrated in long strides and linearised anew on the way.

`path` is none of them: it tells, once training is done, what the kernel on its way did.
"""

from ntkcl.forecast.baseline_models import input_cosine, slopes
from ntkcl.forecast.closed_form import closed, solved
from ntkcl.forecast.forms import AUTO, FORMS, form_of, reasons
from ntkcl.forecast.gram_solvers import DIAGONALISED, extend, prepare
from ntkcl.forecast.integrated import integrated
from ntkcl.forecast.linearised import linearised
from ntkcl.forecast.matrix_free import matrix_free
from ntkcl.forecast.outcome import Effort, Outcome
from ntkcl.forecast.path_kernel import path
from ntkcl.forecast.self_consistency import halved, trial
from ntkcl.forecast.simulated import simulated
from ntkcl.forecast.stability import limit, limits

__all__ = [
    "AUTO",
    "DIAGONALISED",
    "FORMS",
    "Effort",
    "Outcome",
    "closed",
    "extend",
    "form_of",
    "halved",
    "input_cosine",
    "integrated",
    "limit",
    "limits",
    "linearised",
    "matrix_free",
    "path",
    "prepare",
    "reasons",
    "simulated",
    "slopes",
    "solved",
    "trial",
]
