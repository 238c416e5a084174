"""Hydra's door to `ntkcl.cli.sweep`: launchers that make what is missing of a sweep, each by the
launcher that it wraps.

Hydra imports every module here at each start, so this one imports nothing of ours by itself.
"""

from collections.abc import Sequence

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher


class Sweep(Launcher):
    """A launcher with the settings of the one named `wraps`."""

    wraps: str

    def __init__(self, **settings):
        pass  # the wrapped launcher takes them

    def setup(self, *, hydra_context, task_function, config) -> None:
        from ntkcl.cli import sweep

        sweep.check_sweeper(config.hydra.sweeper)
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from ntkcl.cli import sweep

        outcome = sweep.launch(
            self.context, self.task, self.config, self.wraps, job_overrides, initial_job_idx
        )
        if outcome.exit_code is not None:  # a sweeper would go on with what is not there
            raise sweep.Ended(outcome.exit_code)
        return outcome.returns


class Basic(Sweep):
    """One job after the other, in this process."""

    wraps = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


class Joblib(Sweep):
    """Processes on this machine that share the jobs."""

    wraps = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"


class SubmititLocal(Sweep):
    """A process a job on this machine, `sweep.workers` at a time."""

    wraps = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"


class SubmititSlurm(Sweep):
    """Slurm's job arrays."""

    wraps = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"


class Ray(Sweep):
    """Ray's workers, on this machine or a cluster."""

    wraps = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
