"""Presets: every published row exists and can be selected at every scale; a table runs, continues and reports."""

import json
from dataclasses import replace
from itertools import chain, pairwise

import pytest
from rich.console import Console

from accelerated import run
from accelerated.checks import InputError
from accelerated.runs.folders import settings_of
from accelerated.thesis import pages, presets, tables


def call(*arguments):
    return run.main([*map(str, arguments)])


@pytest.mark.parametrize(("name", "table"), [(f"table-3-{i}", f"table_3_{i}") for i in range(2, 7)])
def test_every_published_row_is_a_row_of_the_preset(name, table):
    printed, rows = presets.published(table), presets.PRESETS[name].rows
    assert len(printed) == len(rows) == {2: 20, 3: 16, 4: 6, 5: 12, 6: 8}[int(name[-1])]
    for line, row in zip(printed, rows, strict=True):
        assert {line["dataset"], line["architecture"]} <= set(row.label)
        assert row.published == presets.figures(line)
        assert len(row.published) >= 2
    first = presets.PRESETS["table-3-2"].rows[0]
    assert (first.published["ann"], first.published[2], first.published.get(1)) == (95.64, 91.75, None)


@pytest.mark.parametrize("scale", presets.SCALES)
@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_row_can_be_asked_for_and_shares_its_run_only_with_its_like(name, scale):
    refused = {"imagenet": "scale 'cifar' is for rows on CIFAR-10 and CIFAR-100: choose another",
               "figure-3-5": "about where thresholds start, which scale 'cifar' decides: choose another"}  # fmt: skip
    if scale == "cifar" and name in refused:
        with pytest.raises(InputError, match=refused[name]):
            presets.jobs(name, scale)
        return
    preset, made = presets.jobs(name, scale, seeds=(0, 1))
    named = {}
    for row, lineages in made:
        assert len(lineages) == 2
        for config in chain(*lineages):
            assert named.setdefault(config.name, settings_of(config)) == settings_of(config), config.name
        columns = [c for c in pages.columns_of(preset) if isinstance(c, int)]
        assert scale == "smoke" or set(columns) >= set(lineages[0][-1].times) or not columns, row.label
        for before, after in chain(*map(pairwise, lineages)):
            assert after.start == before.name
            assert not any(one and other for one, other in zip(before.epochs, after.epochs, strict=True))
        asked = presets.scaled(row.config, scale).epochs
        assert all(tuple(map(sum, zip(*(run.epochs for run in runs), strict=True))) == asked for runs in lineages)
    if name == "table-3-2":
        assert len(named) == 2 * 5 * (4 if scale == "cifar" else 3), "QCFS, SRP and COS read the same network"


@pytest.mark.parametrize("scale", presets.SCALES)
def test_tables_share_runs_only_with_their_like(scale):
    """All tables write to one folder of runs."""
    named = {}
    for name in presets.PRESETS:
        if scale == "cifar" and name in ("imagenet", "figure-3-5"):
            continue
        for _, lineages in presets.jobs(name, scale)[1]:
            for config in chain(*lineages):
                assert named.setdefault(config.name, settings_of(config)) == settings_of(config), (name, config.name)


def test_what_goes_on_from_a_trained_relu_network_takes_a_smaller_rate():
    """And a first stage that is no row of its own is not simulated."""
    _, made = presets.jobs("table-3-5", "cifar")
    for row, ((relu, *stages),) in made:
        assert {run.lr for run in stages} == {relu.lr / presets.AFTER_RELU}, row.label
        assert relu.until == "relu"
        until = {"qcfs": "simulation", "s-qcfs": "training"}[stages[0].activation]
        assert [run.until for run in stages] == [until, "simulation"][-len(stages) :], row.label
    _, made = presets.jobs("table-3-5", "small")
    assert {run.lr for _, (stages,) in made for run in stages} <= {0.05, 0.01}, "as published, or stable when narrow"


def test_settings_of_the_published_rows():
    """3.3.2 and Table 3-1."""
    rows = {row.label: row.config for name in ("table-3-2", "table-3-3") for row in presets.PRESETS[name].rows}
    wide = rows["CIFAR-100", "ResNet-20", "CS-QCFS with COS"]
    assert (wide.levels, wide.initial_threshold, wide.lr, wide.epochs) == (8, "8", 0.05, (0, 300, 100))
    assert rows["CIFAR-10", "ResNet-50", "CS-QCFS with COS"].lr == 0.01
    assert rows["CIFAR-10", "ResNet-18", "QCFS"].epochs == (0, 300, 0), "one stage"
    assert rows["CIFAR-10", "VGG-16", "CS-QCFS with COS"].activation == "cs-qcfs"
    assert all((config.weight_decay, config.decay) == (5e-4, "all") for config in rows.values())
    large = {row.label[1]: row.config for row in presets.PRESETS["imagenet"].rows}
    assert {(config.initial_threshold, config.derivative) for config in large.values()} == {("8", "0<=u<L+1")}
    assert (large["ResNet-34"].stem, large["VGG-16"].stem) == ("cifar", "auto"), "theirs begins with 3 x 3 at any size"


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """One row of Table 3-4, run at smoke scale."""
    out = tmp_path_factory.mktemp("smoke")
    assert call("table-3-4", "--scale", "smoke", "--only", "ResNet-20", "w/o channel", "--out", out) == 0
    return out


def own(out):
    """The row's own run, beside the one from which it goes on."""
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert [path.name.split("-")[-3] for path in folders] == ["e0.1.0", "e0.1.1"]
    return folders[1]


def test_a_row_runs_and_stands_beside_the_published_one(smoke):
    page = (smoke / "table-3-4-smoke.md").read_text()
    (ours,) = [line for line in page.splitlines() if "| this run |" in line]
    (theirs,) = [line for line in page.splitlines() if "| published |" in line]
    assert theirs.split("|")[3:-1] == [
        "  ",
        " 91.48 ",
        " 90.04 ",
        " 91.06 ",
        " 91.29 ",
        " 91.68 ",
        " 92.10 ",
        " 92.13 ",
    ]
    assert all(0 <= float(cell) <= 100 for cell in ours.split("|")[3:-1])
    assert "in 3 of 3 pairs of network and schedule; least" in page, "both exact schedules, none vacuous"
    assert "This run: digits, 64 test images, width 0.125; ANN is" in page
    for picture in ("table-3-4-smoke.png", "table-3-4-smoke-pareto.png"):
        assert (smoke / picture).stat().st_size > 10_000
        assert f"({picture})" in page
    assert "no accuracy is claimed" in page
    second = page.split("## Every schedule")[1]
    for kind in ("streaming", "streaming, SRP", "streaming, COS", "integrate-then-fire", "signed"):
        (line,) = [line for line in second.splitlines() if f"· {kind} |" in line]
        assert len([part for part in line.split("|") if part.strip()]) >= 9, kind
    exact = [line.split("|")[-4].strip() for line in second.splitlines() if "· integrate" in line or "· signed" in line]
    assert exact == ["0.00", "0.00"]
    rows = json.loads((own(smoke) / "results.json").read_text())["rows"]
    assert {row["calibration"] for row in rows if row["schedule"] == "streaming"} == {"none", "srp", "cos"}
    assert {row["latency"] - row["T"] for row in rows if row["calibration"] == "cos"} == {19 * 4}
    assert {row["latency"] - row["T"] for row in rows if row["calibration"] == "srp"} == {4}
    exact = [row for row in rows if row["settled"] or (row["schedule"] == "integrate-then-fire" and row["T"] == 4)]
    assert min(min(row["nonzero_share"].values()) for row in exact) > 0.01, "no layer is dead"


def test_what_is_finished_is_not_run_again(smoke, monkeypatch, capsys):
    def run_again(*_, **__):
        raise AssertionError("the run was finished")

    monkeypatch.setattr(tables.experiment, "run", run_again)
    assert call("table-3-4", "--scale", "smoke", "--only", "ResNet-20", "w/o channel", "--out", smoke) == 0
    folder = own(smoke)
    changed = json.loads((folder / "results.json").read_text())
    changed["config"]["levels"] = 5
    other = smoke.parent / "other"
    (other / folder.name).mkdir(parents=True)
    (other / folder.name / "results.json").write_text(json.dumps(changed))
    assert call("table-3-4", "--scale", "smoke", "--only", "ResNet-20", "w/o channel", "--out", other) == 2
    assert "was made with levels=5, not 4: choose another --out" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_is_refused_leaves_its_reason_and_empty_cells(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("the threshold of 'relu' must be positive and finite, got -0.25")

    monkeypatch.setattr(tables.experiment, "run", refuse)
    assert call("table-3-4", "--scale", "smoke", "--only", "VGG-16", "w/o Softplus", "--out", tmp_path) == 2
    page = (tmp_path / "table-3-4-smoke.md").read_text()
    assert "got -0.25" in page
    assert "| this run (0 of 1 seeds: see below) |  |  |" in page
    page = tmp_path / "table-3-4-smoke.md"
    page.write_text("made before")
    assert call("table-3-4", "--scale", "smoke", "--only", "VGG-16", "w/o Softplus", "--out", tmp_path) == 2
    assert page.read_text() == "made before", "a page is not replaced by one on which nothing ran"


def test_rows_that_are_finished_stay_on_the_page_whatever_is_run_next(smoke, monkeypatch):
    """`--only` limits what is run: parts of labels, in any case."""

    def refuse(*_, **__):
        raise InputError("not now")

    monkeypatch.setattr(tables.experiment, "run", refuse)
    assert call("table-3-4", "--scale", "smoke", "--only", "vgg", "softplus", "--out", smoke) == 2
    page = (smoke / "table-3-4-smoke.md").read_text()
    assert "ResNet-20 · w/o channel | this run |" in page
    assert "VGG-16 · w/o Softplus | this run (0 of 1" in page
    assert "VGG-16 · Full" not in page


def test_reports_are_rebuilt_from_disk(smoke, capsys):
    folder = own(smoke)
    before, pictures = (folder / "report.md").read_text(), sorted(folder.glob("*.png"))
    (folder / "report.md").unlink()
    for picture in pictures:
        picture.unlink()
    assert call("report", folder) == 0
    assert (folder / "report.md").read_text() == before
    assert sorted(folder.glob("*.png")) == pictures
    assert "integrate-then-fire" in capsys.readouterr().out
    assert call("report", smoke / "nowhere") == 2
    assert "holds no run" in capsys.readouterr().err
    assert call("report") == 2
    assert call("report", smoke) == 2
    assert "holds runs and is none: choose among" in capsys.readouterr().err.replace("\n", " ")


def test_cells_over_seeds():
    assert pages.cell([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert pages.cell([1.0, None]) == "1.00"
    assert pages.cell([None]) == ""


def test_thresholds_below_zero_are_counted_even_where_the_run_was_refused(tmp_path):
    (preset, made) = presets.jobs("figure-3-5", "small", out=str(tmp_path))
    config = made[0][1][0][-1]
    (tmp_path / config.name).mkdir()
    lines = [{"thresholds": {"a": theta, "b": 1.0}} for theta in (0.5, -0.25, -0.5)]
    (tmp_path / config.name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert pages.value(config, "refused", preset.kind, "least", "none") == -0.5
    assert pages.value(config, "refused", preset.kind, "epochs", "none") == 2
    assert pages.value(replace(config, name="x"), "refused", preset.kind, "epochs", "none") is None


def test_a_row_whose_first_stage_was_refused_shows_that_stage(tmp_path):
    """Softplus underflowed to 0, conversion refused, and the row's own run never began."""
    row, lineages = next(
        made for made in presets.jobs("figure-3-5", "small", out=str(tmp_path))[1] if len(made[1][0]) > 1
    )
    before, own = lineages[0]
    (tmp_path / before.name).mkdir()
    (tmp_path / before.name / "config.json").write_text(json.dumps({"start": ""}))
    (tmp_path / before.name / "metrics.jsonl").write_text(json.dumps({"thresholds": {"a": 0.0, "b": 1.0}}) + "\n")
    assert pages.value(own, "refused", "positive", "least", row.calibration) == 0.0
    assert pages.value(own, "refused", "positive", "epochs", row.calibration) == 1


def test_a_row_that_trains_relu_alone_is_carried_out(tmp_path):
    """Nothing is converted, and nothing drawn."""
    _, made = presets.jobs("figure-3-3", "smoke", out=str(tmp_path))
    (lineage,) = next(lineages for row, lineages in made if row.label[1:] == ("ResNet-20", "ReLU"))
    (results,) = tables.carry_out([lineage], Console(quiet=True))
    assert set(results["accuracy"]) == {"relu"}
    assert results["best"]["epoch"] == 1
    assert tables.carry_out([lineage], Console(quiet=True), runs=False) == [results]


def test_the_plot_that_needs_no_run(tmp_path):
    assert call("figure-3-1", "--out", tmp_path) == 0
    assert (tmp_path / "figure-3-1.png").stat().st_size > 10_000
    assert "gives -1 whatever comes in" in (tmp_path / "figure-3-1.md").read_text()


BAD = [
    (["table-3-22"], "unknown command 'table-3-22': choose from report, export, verify, list, table-3-2"),
    (["table-3-2", "--scale", "tiny"], "unknown scale 'tiny': choose from full, cifar, small, smoke"),
    (["table-3-2", "--only", "ResNet-19"], "no row of table-3-2 is called ResNet-19"),
    (["table-3-2", "--seeds", "-1"], "seeds must be"),
    (["table-3-2", "--scael", "small"], "--scale"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    assert call(*arguments, *(["--out", tmp_path] if len(arguments) > 1 else [])) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert message in err


def test_the_list_names_every_preset(capsys):
    assert call("list") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in presets.PRESETS)


def test_a_label_that_is_whole_is_not_taken_for_a_piece():
    rows = presets.PRESETS["table-4-4"].rows
    chosen = tables.choose(rows, ("cifar-10", "ViT"))
    assert len(chosen) == 3
    assert {row.label[0] for row in chosen} == {"CIFAR-10"}
    assert tables.choose(rows, ("cifar-1", "vit")) == list(rows)
    assert tables.choose(rows, ("CIFAR-10", "no such")) == []
