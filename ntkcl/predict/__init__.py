"""What training will do to a network, foretold at an anchor (theta, and all that was measured up to there) in one of these forms.

* `closed`: the solve of a training rule, `ntkcl.forecast.sequence`; squared error, full batches (for minibatches their mean path).
* `matrix_free`: the same rule by Lanczos on kernel-vector products, for tasks whose kernels no memory holds; no method.
* `simulated`: step by step in dual coefficients, the true batches in their true order, any loss; rules linear in gradients, no method.
* `linearised`: the linearised network is trained, by the trainer itself with any loss, rule and method; no kernel is held.

These foretell the network linearised at the anchor, and agree where they overlap.

* `integrated`: the network itself, its training integrated in long strides and linearised anew on the way.

`path` is none of them: it tells, once training is done, what the kernel on its way did.
"""

from ntkcl.predict.baselines import input_cosine, slopes
from ntkcl.predict.closed import closed, solved
from ntkcl.predict.decompositions import DIAGONALISED, extend, prepare
from ntkcl.predict.forms import AUTO, FORMS, form_of, reasons
from ntkcl.predict.integrated import integrated
from ntkcl.predict.linearised import linearised
from ntkcl.predict.matrix_free import matrix_free
from ntkcl.predict.path import path
from ntkcl.predict.setting import Anchor, Effort, Outcome, Setting, consolidated, fit, left, order, task_rows, together, walk
from ntkcl.predict.simulated import simulated
from ntkcl.predict.stability import limit, limits
from ntkcl.predict.trial import halved, trial

__all__ = [
    "AUTO",
    "DIAGONALISED",
    "FORMS",
    "Anchor",
    "Effort",
    "Outcome",
    "Setting",
    "closed",
    "consolidated",
    "extend",
    "fit",
    "form_of",
    "halved",
    "input_cosine",
    "integrated",
    "left",
    "limit",
    "limits",
    "linearised",
    "matrix_free",
    "order",
    "path",
    "prepare",
    "reasons",
    "simulated",
    "slopes",
    "solved",
    "task_rows",
    "together",
    "trial",
    "walk",
]
