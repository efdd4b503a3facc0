"""What `python -m accelerated.run` refuses: one line that names the value, and nothing left behind."""

import pytest

from accelerated import run


def call(*arguments):
    return run.main([*map(str, arguments)])


BAD = [
    (["--data", "digit"], "unknown data 'digit': choose from digits, mnist5k, mnist,"),
    (["--model", "resnet"], "unknown model 'resnet': choose from cnn, mlp"),
    (["--activation", "relu"], "unknown activation 'relu'"),
    (["--activation", "n-qcfs"], "does not fit model 'cnn'"),
    (
        ["--activation", "h-qcfs", "--model", "mlp"],
        "activation 'h-qcfs' does not fit model 'mlp': choose cs-qcfs or c-qcfs",
    ),
    (["--stage1", "cs-qcfs"], "unknown stage-1 activation 'cs-qcfs': choose from auto, qcfs, s-qcfs"),
    (["--schedules", "sign"], "unknown schedule 'sign'"),
    (["--levels", "0"], "levels must be a whole number of at least 1, got 0"),
    (["--times", "4", "0"], "times must be a whole number of at least 1, got 0"),
    (["--epochs", "1", "-1", "1"], "epochs must be a whole number of at least 0, got -1"),
    (["--batch", "0"], "batch must be"),
    (["--batch", "5000"], "batch must be at most 1437, the training images, got 5000"),
    (["--width", "0"], "width must be"),
    (["--lr", "0"], "lr must be positive and finite, got 0"),
    (["--lr", "nan"], "lr must be positive and finite, got nan"),
    (["--initial-threshold", "-4"], "initial_threshold must be positive and finite, got -4"),
    (["--initial-threshold", "four"], "must be a number, 'max', 'mse' or a percentile such as 'p99.9', got 'four'"),
    (["--arithmetic", "total"], "did you mean 'totals'?"),
    (["--engine", "fast"], "unknown engine 'fast': choose from auto, dense, event"),
    (["--device", "cuda:77"], "device 'cuda:77' is not available"),
    (["--device", "gpu"], "device 'gpu' is not available"),
    (["--device", "meta"], "device 'meta' is not available"),
    (["--schedules"], "schedules must name at least one"),
    (["--times"], "times must name at least one"),
    (["--name", "../up"], "name must be at most 100 letters"),
    (["--name", "."], "name must be at most 100 letters"),
    (["--name", "x" * 300], "name must be at most 100 letters"),
    (["--seed", "-1"], "seed must lie in 0..2^63 - 1, got -1"),
    (["--levels", "100000000"], "levels must be at most 16777216"),
    (["--levels", "four"], "'four'"),
    (["--levels", "2.5"], "'2.5'"),
    (["--epochs", "1", "2"], "Expected 3 values"),
    (["--nonsense", "3"], "--nonsense"),
    (["--width", "100000000000", "--model", "mlp"], "choose a smaller --width"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, tmp_path, capsys):
    assert call("--out", tmp_path / "runs", *arguments) == 2
    err = capsys.readouterr().err.strip()  # a progress bar that was just begun leaves an empty line
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1, err
    assert message in err
    assert not list((tmp_path / "runs").glob("*")), "nothing half-written"


IDLE = [
    (["--blocks", "2"], "blocks is for transformers"), (["--stem", "cifar"], "stem is for the published CNNs"),
    (["--data-root", "x"], "data_root is for data sets from a folder"),
    (["--pre-steps", "8"], "pre_steps is for calibrations"),
    (["--calibrations", "srp", "--iterations", "2"], "iterations is for cos"),
    (["--schedules", "signed", "--engine", "event"], "engine is for streaming, or event with --bits"),
    (["--schedules", "signed", "--bits", "8", "--engine", "auto"], "got 'auto', schedules ('signed',)"),
    (["--schedules", "signed", "--calibrations", "srp"], "calibrations is for streaming"),
    (["--schedules", "signed", "--worths", "4,2,1"], "worths is for halving"),
    (["--span", "2"], "span is chosen with the worths"),
    (["--worths", "4,2"], "worths must end in 1"),
    (["--worths", "half"], "worths are numbers, such as 4,2,1, or auto, got 'half'"),
    (["--schedules", "streaming", "--arithmetic", "increments"], "arithmetic is for the exact schedules"),
    (["--schedules", "signed", "--no-audit"], "audit is for integrate-then-fire"),
    (["--schedules", "integrate-then-fire", "--no-audit", "--margins", "0.5"], "margins is for steps that are"),
    (["--bits", "8", "--engine", "event", "--schedules", "integrate-then-fire", "--no-audit"],
     "engine is for steps that are executed"),
    (["--bits", "8", "--levels", "3000"], "3000 levels have no form in whole numbers: choose fewer, or a power of two"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), IDLE, ids=[" ".join(a) for a, _ in IDLE])
def test_an_option_that_would_do_nothing_is_refused(arguments, message, tmp_path, capsys):
    assert call("--out", tmp_path / "runs", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
