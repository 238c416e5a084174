"""What training will do to a network, predicted at an anchor.

An anchor is theta and all outputs that were measured up to there. A forecast has one of five forms.
Four of them predict the network linearised at the anchor, and agree where they overlap:

* `closed`: the solve of a training rule, `ntkcl.dynamics.sequence`; squared error, full batches
  (for minibatches their mean path). A Gram matrix a task; all inputs are read off by J (J^T alpha).
* `matrix_free`: the same rule by Lanczos on kernel-vector products, for tasks whose kernels no
  memory holds; no method.
* `simulated`: step by step in dual coefficients, the true batches in their true order, any loss;
  rules linear in gradients, no method.
* `linearised`: the linearised network is trained, by the trainer itself with any loss, rule and
  method; no kernel is held.

The fifth predicts the network itself:

* `integrated`: its training integrated in long strides, linearised anew on the way.

`change` asks one of them about arrays of one's own: what training on new examples does to old ones.

`path` is no forecast: it says, once training is done, what the kernel has done on the way.
"""

from ntkcl.forecast.baseline_models import SUBSAMPLE, energies, input_cosine, slopes
from ntkcl.forecast.change import change
from ntkcl.forecast.closed_form import closed, solved, solved_from_each
from ntkcl.forecast.estimate import Estimate, estimate
from ntkcl.forecast.forms import AUTO, BY_KERNEL, FORMS, form_of, reasons
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
    "BY_KERNEL",
    "DIAGONALISED",
    "FORMS",
    "SUBSAMPLE",
    "Effort",
    "Estimate",
    "Outcome",
    "change",
    "closed",
    "energies",
    "estimate",
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
    "solved_from_each",
    "trial",
]
