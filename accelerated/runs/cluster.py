"""Slurm through submitit: its executor, and its options as NAME=VALUE."""

from ..checks import InputError, first_line


def parameters_of(pairs):
    """{name: number or text} of Slurm's options, given as NAME=VALUE."""
    for pair in pairs:
        if not pair.partition("=")[0].isidentifier() or "=" not in pair:
            raise InputError(f"slurm options are NAME=VALUE, for instance partition=gpu, got {pair!r}")
    named = dict(pair.split("=", 1) for pair in pairs)
    return {name: int(value) if value.isdigit() else value for name, value in named.items()}


def library(what):
    """The package submitit; InputError where it is not installed."""
    try:
        import submitit
    except ImportError as error:
        raise InputError(f"{what} needs submitit: pip install 'isospike[cluster]'") from error
    return submitit


def slurm_executor(folder, pairs, what="launcher 'slurm'"):
    """submitit's executor under Slurm, which writes its files to a folder; InputError where it cannot work."""
    try:
        executor = library(what).SlurmExecutor(folder)
        executor.update_parameters(**{"time": 60 * 24, "job_name": "isospike"} | parameters_of(pairs))
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"Slurm: {first_line(error)}") from error
    return executor
