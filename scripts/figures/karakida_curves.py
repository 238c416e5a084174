"""Karakida, Akaho 2022: two tasks in turn by kernel regression, error against the similarity.

Lines: the average case, re-derived (its normalisation of teachers may differ from the paper's).
Points: ridgeless regression on random features, solved by `ntkcl.dynamics`, and wide networks that
are trained on the sphere. Settings in conf/figure/karakida_curves.yaml. Writes
results/tables/karakida_curves.{json,md} and results/figures/karakida_curves.{png,pdf}; exit code 1
if a claim fails.

    python scripts/figures/karakida_curves.py [size=small] [draw=true] [results_dir=PATH]
"""

from math import comb
from typing import NamedTuple

import hydra
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from omegaconf import DictConfig
from publish import COLOURS, claim, claims_list, interval, numbers, publish, settings_of
from scipy.optimize import brentq
from scipy.special import eval_gegenbauer, roots_gegenbauer

from ntkcl import dynamics, kernels, losses, networks, optimizers
from ntkcl.cli.config import CONF
from ntkcl.kernels.infinite import infinite
from ntkcl.training.loop import train
from ntkcl.types import Dataset
from ntkcl.validation import SettingError, finite, whole

W_STD = 2**0.5  # of the trained networks: ReLU, one hidden layer, no bias
DEGREES = 40  # of the spherical harmonics that the network's kernel is expanded in
TINY = 1e-7  # the eigenvalue given to those beyond: far below any kappa


class Spectrum(NamedTuple):
    """Eigenvalues e of a kernel, and how often each occurs."""

    e: np.ndarray
    multiplicity: np.ndarray

    def sum(self, values: np.ndarray) -> float:
        return float(np.sum(self.multiplicity * values))


class Errors(NamedTuple):
    """Errors on the population: of either task alone, of B after A, of A after B."""

    alone_a: float
    alone_b: float
    forward: float
    backward: float


def power_law(exponent: float, terms: int) -> Spectrum:
    """e_i as i^-exponent, adding up to 1."""
    e = np.arange(1, terms + 1) ** -exponent
    return Spectrum(e / e.sum(), np.ones(terms))


def on_the_sphere(dimensions: int) -> Spectrum:
    """Of the infinitely wide network's kernel on the sphere, over the kernel of an input with
    itself: spherical harmonics of degree k have one eigenvalue, by Gauss-Gegenbauer quadrature.
    Those of the degrees beyond, many and small, act by their sum alone."""
    a = dimensions / 2 - 1
    cosines, weights = roots_gegenbauer(400, a)
    inputs = np.zeros((2, len(cosines), dimensions))
    inputs[0, :, 0] = dimensions**0.5
    inputs[1, :, 0], inputs[1, :, 1] = cosines, np.sqrt(1 - cosines**2)
    inputs[1] *= dimensions**0.5
    ntk = infinite(depth=1, w_std=W_STD).ntk
    theta = np.asarray(ntk(jnp.asarray(inputs[0, :1]), jnp.asarray(inputs[1])))[0]
    theta = theta / float(ntk(jnp.asarray(inputs[0, :1]))[0, 0])
    degrees = range(DEGREES)
    projected = [
        np.sum(weights * theta * eval_gegenbauer(k, a, cosines)) / eval_gegenbauer(k, a, 1.0)
        for k in degrees
    ]
    count = [
        comb(k + dimensions - 1, k) - (comb(k + dimensions - 3, k - 2) if k > 1 else 0)
        for k in degrees
    ]
    e, count = np.maximum(np.array(projected) / weights.sum(), 0), np.array(count, float)
    beyond = 1 - np.sum(count * e)
    return Spectrum(np.append(e, TINY), np.append(count, beyond / TINY))


def average_case(spectrum: Spectrum, a: int, b: int, rho: float) -> Errors:
    """Ridgeless regression on a samples, then on b; teachers N(0, e_i) with correlation rho.

    kappa_N solves N = sum_i e_i / (kappa + e_i); p = kappa_A / (kappa_A + e), q = kappa_B /
    (kappa_B + e); gamma = (1/b) sum (1 - q)^2:
        E_A = kappa_A a,    E_fwd = E_B + (1 - 2 rho) / (1 - gamma) sum q^2 e (1 - p)
        E_back = sum e [1 + q^2 (1 - p) + (1 - q)^2 - 2 q (1 - p) - 2 rho (1 - q)(1 - q (1 - p))]
            + gamma E_fwd
    """
    e = spectrum.e
    kappa_a, kappa_b = (_kappa(spectrum, n) for n in (a, b))
    p, q = kappa_a / (kappa_a + e), kappa_b / (kappa_b + e)
    gamma = spectrum.sum((1 - q) ** 2) / b
    alone_a, alone_b = kappa_a * a, kappa_b * b
    forward = alone_b + (1 - 2 * rho) / (1 - gamma) * spectrum.sum(q**2 * e * (1 - p))
    kept = 1 + q**2 * (1 - p) + (1 - q) ** 2 - 2 * q * (1 - p)
    shared = 2 * rho * (1 - q) * (1 - q * (1 - p))
    backward = spectrum.sum(e * (kept - shared)) + gamma * forward
    return Errors(alone_a, alone_b, forward, backward)


def _kappa(spectrum: Spectrum, n: int) -> float:
    def missing(kappa):
        return spectrum.sum(spectrum.e / (kappa + spectrum.e)) - n

    return brentq(missing, 1e-12, spectrum.sum(spectrum.e), xtol=1e-15)


def critical(spectrum: Spectrum, n: int) -> float:
    """The similarity above which A is not forgotten; E_back is linear in it."""
    none, same = (average_case(spectrum, n, n, rho) for rho in (0.0, 1.0))
    return (none.backward - none.alone_a) / (none.backward - same.backward)


def regression(spectrum: Spectrum, a: int, b: int, rho: float, draws: int, seed: int) -> list:
    """Errors [draws, 3] alone, forward and backward, by kernel regression on random features."""
    rng = np.random.default_rng([seed, a, b, round(1000 * rho)])
    return [_regressed(spectrum.e, a, b, rho, rng) for _ in range(draws)]


def _regressed(e, a, b, rho, rng) -> tuple[float, float, float]:
    features = rng.normal(size=(a + b, len(e)))
    first, fresh = rng.normal(size=(2, len(e))) * np.sqrt(e)
    second = rho * first + (1 - rho**2) ** 0.5 * fresh
    block = ((features * e) @ features.T)[:, None, :, None]
    tasks = (np.arange(a), features[:a] @ first), (a + np.arange(b), features[a:] @ second)
    steps = [
        lambda _, inputs=inputs, y=y: dynamics.Step(
            inputs, jnp.asarray(y[:, None]), np.ones((len(y), 1))
        )
        for inputs, y in tasks
    ]
    solves = dynamics.sequence(
        lambda inputs: block[:, :, inputs],
        jnp.zeros((a + b, 1)),
        steps,
        [dynamics.converged()] * 2,
    )
    weights = [
        e * (features[inputs].T @ np.asarray(solve.alpha)[:, 0])
        for (inputs, _), solve in zip(tasks, solves, strict=True)
    ]
    after = weights[0] + weights[1]
    return tuple(
        float(np.sum((found - teacher) ** 2))
        for found, teacher in ((weights[0], first), (after, second), (after, first))
    )


def trained(settings: dict, similarities: list, seed: int) -> dict[str, list]:
    """Errors [draws, 3] by similarity: wide networks trained on the sphere, one task then the
    other, each output on a teacher drawn from the Gaussian process of the infinite kernel."""
    return {
        str(rho): [_trained(settings, rho, seed, draw) for draw in range(settings["draws"])]
        for rho in similarities
    }


def _trained(settings, rho, seed, draw) -> list[float]:
    d, n, c = settings["dimensions"], settings["samples"], settings["teachers"]
    rng = np.random.default_rng([seed, draw])
    x = rng.normal(size=(2 * n + settings["tested"], d))
    x *= d**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    theta = infinite(depth=1, w_std=W_STD).ntk
    covariance = np.asarray(theta(jnp.asarray(x))) / float(theta(jnp.asarray(x[:1]))[0, 0])
    root = np.linalg.cholesky(covariance + 1e-10 * np.eye(len(x)))
    first, fresh = (root @ rng.normal(size=(len(x), c)) for _ in range(2))
    teachers = first, rho * first + (1 - rho**2) ** 0.5 * fresh
    x = jnp.asarray(x, jnp.float32)
    network = networks.mlp(outputs=c, width=settings["width"], w_std=W_STD, centred=True)
    key = jax.random.key(seed * 1000 + draw)
    parameters, outputs = network.init(key, x[0]), []
    apply = networks.centred(network.apply, parameters)
    for t, teacher in enumerate(teachers):
        own = slice(t * n, (t + 1) * n)
        task = Dataset(x[own], jnp.asarray(teacher[own], jnp.float32))
        gram = np.asarray(kernels.structured(network)(parameters, task.x)).reshape(n * c, n * c)
        fitted = train(
            key,
            parameters,
            task,
            jnp.ones(c, jnp.float32),
            apply=apply,
            loss=losses.squared_error(),
            transform=optimizers.sgd().transform(n * c / float(np.linalg.eigvalsh(gram)[-1])),
            steps=settings["steps"],
        )
        parameters = fitted.theta
        outputs.append(np.asarray(networks.forward(apply, parameters, x))[2 * n :])
    tested = [teacher[2 * n :] for teacher in teachers]
    pairs = (outputs[0], tested[0]), (outputs[1], tested[1]), (outputs[1], tested[0])
    return [float(np.mean((found - teacher) ** 2)) for found, teacher in pairs]


def compute(settings: dict) -> dict:
    """Theory and points of every panel, and the claims."""
    jax.config.update("jax_enable_x64", True)
    power, sphere = (
        power_law(**settings["spectrum"]),
        on_the_sphere(settings["network"]["dimensions"]),
    )
    seed, draws, unequal = settings["seed"], settings["draws"], settings["unequal"]
    points = {
        str(n): {
            str(rho): spread(regression(power, n, n, rho, draws, seed))
            for rho in settings["similarities"]
        }
        for n in settings["samples"]
    }
    parts = {
        str(b): spread(regression(power, unequal["first"], b, 1.0, draws, seed))
        for b in unequal["second"]
    }
    nets = trained(settings["network"], settings["similarities"], seed)
    stored = {
        "critical": {str(n): critical(power, n) for n in settings["samples"]},
        "crossing": {str(n): crossing(power, n) for n in settings["samples"]},
        "regression": points,
        "unequal": parts,
        "networks": {rho: spread(errors) for rho, errors in nets.items()},
        "networks critical": critical(sphere, settings["network"]["samples"]),
    }
    return {"claims": judge(settings, stored), **stored}


def spread(errors: list) -> dict:
    """Means of the errors alone, forward and backward, and half of their 95 % intervals."""
    return {
        name: interval(values)
        for name, values in zip(("alone", "forward", "backward"), np.array(errors).T, strict=True)
    }


def crossing(spectrum: Spectrum, n: int) -> float:
    """The similarity above which B is learned better after A; E_fwd is linear in it."""
    none, same = (average_case(spectrum, n, n, rho) for rho in (0.0, 1.0))
    return (none.forward - none.alone_b) / (none.forward - same.forward)


def judge(settings: dict, stored: dict) -> list[dict]:
    """The claims of the paper's abstract, and how near points are to lines."""
    power, unequal = power_law(**settings["spectrum"]), settings["unequal"]
    first, smallest = unequal["first"], min(unequal["second"])
    alone = average_case(power, first, first, 1.0)
    small = stored["unequal"][str(smallest)]["backward"]
    equal = stored["unequal"][str(first)]["backward"]
    forward, backward = (
        {n: crossed(points, name) for n, points in stored["regression"].items()}
        for name in ("forward", "backward")
    )
    points = compared(settings, stored, "regression")
    inside = sum(abs(mean - line) <= half for mean, half, line in points)
    off = [mean / line - 1 for mean, _, line in compared(settings, stored, "networks")]
    return [
        claim(
            "the second task is helped by the first above a similarity, within .1 of theory's: "
            "measured and theory, by N",
            published="above a threshold",
            ours=beside(forward, stored["crossing"]),
            holds=near(forward, stored["crossing"], 0.1),
        ),
        claim(
            "the first task is forgotten even where teachers are very similar, up to a similarity "
            "above .9 and within .03 of theory's: measured and theory, by N",
            published="very similar targets",
            ours=beside(backward, stored["critical"]),
            holds=near(backward, stored["critical"], 0.03) and min(backward.values()) > 0.9,
        ),
        claim(
            f"of one teacher, {smallest} samples after {first} make it worse than {first} alone",
            published="unbalanced sizes deteriorate",
            ours=f"{small[0]:.4f} ± {small[1]:.4f}, alone {alone.alone_a:.4f}",
            holds=small[0] - small[1] > alone.alone_a,
        ),
        claim(
            f"of one teacher, {first} samples after {first} make it better",
            published="equal sizes improve",
            ours=f"{equal[0]:.4f} ± {equal[1]:.4f}, alone {alone.alone_a:.4f}",
            holds=equal[0] + equal[1] < alone.alone_a,
        ),
        claim(
            "of the errors by kernel regression at least nine in ten have theory within their 95 % "
            "interval",
            ours=f"{inside} of {len(points)}",
            holds=inside >= 0.9 * len(points),
        ),
        claim(
            "errors of trained wide networks are within 15 % of their kernel's theory: off by",
            ours=f"{min(off):+.1%} to {max(off):+.1%}",
            holds=max(map(abs, off)) < 0.15,
        ),
    ]


def crossed(points: dict, name: str) -> float:
    """The similarity at which a line through measured errors meets that of the task alone."""
    rhos = [float(rho) for rho in points]
    slope, offset = np.polyfit(rhos, [errors[name][0] for errors in points.values()], 1)
    alone = np.mean([errors["alone"][0] for errors in points.values()])
    return float((alone - offset) / slope)


def beside(measured: dict, theory: dict) -> str:
    return " / ".join(f"{value:.3f} ({theory[n]:.3f})" for n, value in measured.items())


def near(measured: dict, theory: dict, slack: float) -> bool:
    return all(abs(value - theory[n]) < slack for n, value in measured.items())


def compared(settings: dict, stored: dict, kind: str) -> list[tuple[float, float, float]]:
    """Every measured error, half of its interval, and theory's."""
    if kind == "networks":
        given = settings["network"]
        spectrum, by_size = on_the_sphere(given["dimensions"]), {given["samples"]: stored[kind]}
    else:
        spectrum = power_law(**settings["spectrum"])
        by_size = {int(n): points for n, points in stored[kind].items()}
    found = []
    for n, points in by_size.items():
        for rho, errors in points.items():
            line = average_case(spectrum, n, n, float(rho))
            lines = {"alone": line.alone_a, "forward": line.forward, "backward": line.backward}
            found += [(*errors[name], value) for name, value in lines.items()]
    return found


def markdown(stored: dict) -> str:
    """A row a similarity, theory beside points; the unequal parts; the claims."""
    settings = stored["settings"]
    power, sphere = (
        power_law(**settings["spectrum"]),
        on_the_sphere(settings["network"]["dimensions"]),
    )
    lines = [
        "| kernel, samples a task | similarity | error of B after A: theory | measured "
        "| error of A after B: theory | measured | of A alone: theory | measured |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [("regression", power, int(n), points) for n, points in stored["regression"].items()]
    given = settings["network"]
    rows.append((f"networks, width {given['width']}", sphere, given["samples"], stored["networks"]))
    for name, spectrum, n, points in rows:
        for rho, errors in points.items():
            line = average_case(spectrum, n, n, float(rho))
            cells = [
                cell
                for theory, key in (
                    (line.forward, "forward"),
                    (line.backward, "backward"),
                    (line.alone_a, "alone"),
                )
                for cell in (f"{theory:.4f}", "{:.4f} ± {:.4f}".format(*errors[key]))
            ]
            lines.append(f"| {name}, {n} | {rho} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"One teacher, {settings['unequal']['first']} samples and then more:",
        "",
        "| samples of the second part | error after both: theory | measured | after the first |",
        "|---|---|---|---|",
    ]
    for b, errors in stored["unequal"].items():
        line = average_case(power, settings["unequal"]["first"], int(b), 1.0)
        measured = "{:.4f} ± {:.4f}".format(*errors["backward"])
        lines.append(f"| {b} | {line.backward:.4f} | {measured} | {line.alone_a:.4f} |")
    return "\n".join([*lines, "", *claims_list(stored["claims"])]) + "\n"


def draw(stored: dict) -> Figure:
    """Errors against the similarity, by kernel regression and by networks; unequal parts."""
    settings = stored["settings"]
    power, sphere = (
        power_law(**settings["spectrum"]),
        on_the_sphere(settings["network"]["dimensions"]),
    )
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    a, b, c = figure.subplots(1, 3)
    for colour, (n, points) in zip(COLOURS, stored["regression"].items(), strict=False):
        against_similarity(a, power, int(n), points, colour, f"N = {n}")
    a.set_title("kernel regression, two teachers")
    given = settings["network"]
    n = given["samples"]
    against_similarity(b, sphere, n, stored["networks"], COLOURS[0], f"N = {n}")
    b.set_title(f"trained networks, width {given['width']}")
    first = settings["unequal"]["first"]
    sizes = np.unique(np.geomspace(5, 2 * first, 60).round().astype(int))
    lines = [average_case(power, first, int(size), 1.0) for size in sizes]
    c.plot(sizes, [line.backward for line in lines], color=COLOURS[0], label="both parts")
    c.axhline(lines[0].alone_a, color="0.4", ls=":", label="first part alone")
    second = [int(size) for size in stored["unequal"]]
    means, halves = np.array([one["backward"] for one in stored["unequal"].values()]).T
    c.errorbar(second, means, halves, fmt="o", color=COLOURS[0], ms=4)
    c.set(
        xscale="log",
        xlabel="samples of the second part",
        ylabel="error on the population",
        title=f"one teacher, {first} samples first",
    )
    for axis in (a, b, c):
        axis.legend(fontsize=7)
    return figure


def against_similarity(axis, spectrum, n, points, colour, label) -> None:
    """Errors of B after A (full) and of A after B (dashed); dotted: of A alone."""
    similarities = np.linspace(0, 1, 50)
    lines = [average_case(spectrum, n, n, rho) for rho in similarities]
    rhos = [float(rho) for rho in points]
    for name, style, marker in (("forward", "-", "o"), ("backward", "--", "s")):
        which = "B after A" if name == "forward" else "A after B"
        values = [getattr(line, name) for line in lines]
        axis.plot(similarities, values, ls=style, color=colour, label=f"{label}, {which}")
        means, halves = np.array([one[name] for one in points.values()]).T
        axis.errorbar(rhos, means, halves, fmt=marker, color=colour, ms=4)
    axis.axhline(lines[0].alone_a, color=colour, ls=":", lw=1)
    axis.set(xlabel="similarity of the teachers", ylabel="error on the population")


def check(cfg: DictConfig) -> dict:
    """The settings, or ValueError for one that cannot be meant."""
    settings = settings_of(cfg)
    network, unequal = settings["network"], settings["unequal"]
    for name in ("draws", "seed"):
        whole(name, settings[name], 0 if name == "seed" else 2)
    for name, least in {
        "dimensions": 3,
        "samples": 2,
        "width": 1,
        "steps": 1,
        "teachers": 1,
        "draws": 2,
        "tested": 1,
    }.items():
        whole(f"network.{name}", network[name], least)
    terms = whole("spectrum.terms", settings["spectrum"]["terms"])
    finite("spectrum.exponent", settings["spectrum"]["exponent"], above=0.0)
    numbers("samples", settings["samples"])
    numbers("similarities", settings["similarities"], 2)
    numbers("unequal.second", unequal["second"])
    if unequal["first"] not in unequal["second"]:
        raise SettingError(
            f"unequal.second={unequal['second']}: expected unequal.first={unequal['first']} among "
            "them, to see equal sizes"
        )
    sizes = [*settings["samples"], unequal["first"], *unequal["second"]]
    if not sizes or max(whole("samples", n) for n in sizes) >= terms:
        raise SettingError(f"samples={sizes}: expected fewer than spectrum.terms={terms}")
    for rho in settings["similarities"]:
        if not 0 <= finite("similarities", rho) <= 1:
            raise SettingError(f"similarities={rho}: expected 0 to 1")
    return settings


@hydra.main(version_base="1.3", config_path=CONF, config_name="figure/karakida_curves")
def main(cfg: DictConfig) -> None:
    publish(cfg, "karakida_curves", check, compute, markdown, draw)


if __name__ == "__main__":
    main()
