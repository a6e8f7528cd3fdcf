"""Why trainings are due: told from hand-made run folders of studies that were then changed."""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import Project

from fadepth.config import load_yaml, merge
from fadepth.errors import FadepthError
from fadepth.execution.reruns import (
    Explanation,
    PlannedFile,
    explain_reruns,
    parse_summary,
    planned_files,
)
from fadepth.fingerprint import module_fingerprints
from fadepth.run import TRAINED, Run
from fadepth.study import Study, resolve_study
from tests.report.fakes import write_rows_study
from tests.tiny import tiny_manifest

ROOT = Path(__file__).resolve().parent.parent
SMOKE = load_yaml(ROOT / "config" / "smoke.yaml")


def study_of(path: Path | str = "components", **overrides: Any) -> Study:
    """A study of the repository, or of a file, on the smoke preset."""
    file = path if isinstance(path, Path) else ROOT / "ablations" / f"{path}.yaml"
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return resolve_study(file, merge(SMOKE, dotted), "config/smoke.yaml")


def rows_study(folder: Path, name: str = "mine", **rows: dict[str, Any]) -> Study:
    """A study with these rows, label -> settings; written to a file first."""
    path = write_rows_study(folder, name, rows)
    return study_of(path)


def finish(run: Run, runs: Path, **changes: Any) -> Path:
    """What a finished training leaves; `changes` go into its manifest."""
    folder = runs / run.id
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {
        "run_id": run.id,
        "kind": run.kind,
        "row": run.label,
        "study": run.study,
        "factors": dict(run.factors),
        "seed": run.seed,
        "scale": run.config.scale,
        "dataset": run.config.data.name,
        "status": "finished",
        "started": 1_700_000_000.0,
        "ended": 1_700_000_100.0,
        "data_hash": "0123456789",
        "code_hash": run.code_hash,
        "modules": module_fingerprints(run.code_modules),
        "teacher": run.teacher.id if run.teacher else None,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))
    settings = {"settings": run.config.model_dump(mode="json")}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "model.pt").touch()
    return folder


def finish_all(study: Study, runs: Path) -> None:
    for run in study.networks:
        finish(run, runs)


def training(run: Run, status: str = "missing") -> PlannedFile:
    return PlannedFile(f"runs/{run.id}/model.pt", f"train_{run.kind}", status, True)


def new_ones(study: Study, runs: Path) -> list[PlannedFile]:
    """What Snakemake would train: networks whose folder is not there."""
    due = {run.id: run for run in study.networks if not (runs / run.id).exists()}
    return [training(run) for run in due.values()]


def explained(
    studies: Study | Iterable[Study], runs: Path, planned: Sequence[PlannedFile]
) -> Explanation:
    studies = [studies] if isinstance(studies, Study) else studies
    return explain_reruns(studies, runs, runs.parent / "data", planned)


def told(studies: Study | Iterable[Study], runs: Path, planned: Sequence[PlannedFile]) -> list[str]:
    return list(explained(studies, runs, planned).lines())


def row(study: Study, label: str, seed: int = 1) -> Run:
    return next(r for row in study.rows for r in row.runs if (row.label, r.seed) == (label, seed))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


# A changed setting makes a run that was never there


def test_a_changed_setting_is_told_with_both_values_and_the_run_before(runs: Path) -> None:
    before = study_of(seeds=[1, 2])
    finish_all(before, runs)
    after = study_of(seeds=[1, 2], loss__apx__weight=0.2)
    lines = told(after, runs, new_ones(after, runs))
    expected = [
        f"{label}, seed {seed}: loss.apx.weight 1.0 → 0.2 (was {row(before, label, seed).id})"
        for label in ("+ APX", "+ ETM + APX", "+ pyramid loss + APX", "+ ETM + pyramid loss + APX")
        for seed in (1, 2)
    ]
    assert lines == expected


def test_swapped_switches_of_two_rows_are_exactly_two_lines(runs: Path, tmp_path: Path) -> None:
    etm, pyramid = {"student.etm.branches": "ac"}, {"loss.pyramid.enabled": True}
    wide, narrow = {"student.width": 0.5}, {"student.width": 0.75}
    before = rows_study(tmp_path / "a", plain={}, A={**etm, **wide}, B={**pyramid, **narrow})
    finish_all(before, runs)
    after = rows_study(tmp_path / "b", plain={}, A={**pyramid, **wide}, B={**etm, **narrow})
    assert told(after, runs, new_ones(after, runs)) == [
        "A, seed 1: student.etm.branches ac → off; loss.pyramid.enabled false → true "
        f"(was {row(before, 'A').id})",
        "B, seed 1: student.etm.branches off → ac; loss.pyramid.enabled true → false "
        f"(was {row(before, 'B').id})",
    ]


def test_rows_that_swap_all_their_settings_train_nothing(runs: Path, tmp_path: Path) -> None:
    """Their runs are there, under the other label."""
    one, other = {"loss.border": 2}, {"student.width": 0.5}
    finish_all(rows_study(tmp_path / "a", plain={}, A=one, B=other), runs)
    after = rows_study(tmp_path / "b", plain={}, A=other, B=one)
    assert new_ones(after, runs) == []
    assert told(after, runs, []) == ["nothing is to be done"]


def test_settings_that_make_no_other_run_are_not_told(runs: Path) -> None:
    """Where data lie, how they are loaded, how often is logged, how results are evaluated."""
    before = study_of(
        training__workers=2,
        training__log_every=7,
        data__root="elsewhere",
        data__cache="off",
        evaluation__panels=1,
    )
    finish_all(before, runs)
    after = study_of(training__batch_size=1)
    lines = told(after, runs, new_ones(after, runs))
    assert len(lines) == 9
    teacher = row(before, "HQDecv2 (teacher)")
    assert lines[:2] == [
        f"HQDecv2 (teacher), seed 1: training.batch_size 2 → 1 (was {teacher.id})",
        f"SmallDepth, seed 1: training.batch_size 2 → 1 (was {row(before, 'SmallDepth').id})",
    ]


def test_of_what_is_off_only_the_switch_is_told(runs: Path, tmp_path: Path) -> None:
    on = {"loss.pyramid.enabled": True, "loss.pyramid.weight": 0.25, "loss.pyramid.flip": False}
    finish_all(rows_study(tmp_path / "a", plain={}, A={**on, "loss.border": 1}), runs)
    after = rows_study(tmp_path / "b", plain={}, A={"loss.border": 1, "loss.pyramid.weight": 0.3})
    (line,) = told(after, runs, new_ones(after, runs))
    assert line.startswith("A, seed 1: loss.pyramid.enabled true → false (was ")


def test_the_closest_earlier_run_is_taken_and_of_equals_the_latest(
    runs: Path, tmp_path: Path
) -> None:
    settings = [
        {"loss.border": 1},
        {"loss.border": 2},
        {"loss.border": 3, "training.batch_size": 1},
    ]
    earlier = []
    for number, changes in enumerate(settings):
        study = rows_study(tmp_path / str(number), plain={}, A=changes)
        finish(row(study, "A"), runs, started=1_700_000_000.0 + number)
        earlier.append(row(study, "A"))
    after = rows_study(tmp_path / "after", plain={}, A={"loss.border": 4})
    (line,) = told(after, runs, [training(row(after, "A"))])
    assert line == f"A, seed 1: loss.border 2 → 4 (was {earlier[1].id})"


def test_a_renamed_and_changed_row_is_found_by_what_it_is(runs: Path, tmp_path: Path) -> None:
    """The slug: ETM alone, whatever the row is called."""
    before = rows_study(tmp_path / "a", plain={}, old={"student.etm.branches": "ac"})
    finish_all(before, runs)
    after = study_of("components", student__etm__space="activation")
    etm = row(after, "+ ETM")
    (line,) = told(after, runs, [training(etm)])
    assert line == (
        f"+ ETM, seed 1: student.etm.space kernel → activation (was {row(before, 'old').id})"
    )


def test_a_defaults_old_value_comes_from_the_old_runs_own_file(runs: Path, tmp_path: Path) -> None:
    """A key that no preset names has a value all the same; one that is gone stops nothing."""
    before = rows_study(tmp_path / "a", plain={}, A={"loss.border": 1})
    folder = finish(row(before, "A"), runs)
    content = load_yaml(folder / "config.yaml")
    content["settings"]["loss"]["forgotten"] = 3
    content["settings"]["ancient"] = {"section": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    after = rows_study(tmp_path / "b", plain={}, A={"loss.border": 1, "loss.ssim_weight": 0.5})
    (line,) = told(after, runs, [training(row(after, "A"))])
    assert line == f"A, seed 1: loss.ssim_weight 0.85 → 0.5 (was {row(before, 'A').id})"


def test_other_frames_of_the_same_settings_are_told(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity of the data is in the id and in no setting: a list of frames that changed."""
    before = study_of()
    finish_all(before, runs)
    monkeypatch.setattr("fadepth.study.data_identity", lambda *arguments: "fedcba9876")
    after = study_of()
    lines = told(after, runs, new_ones(after, runs))
    assert len(lines) == 9
    assert "SmallDepth, seed 1: its frames or the picture of its ego mask are others (was " in (
        lines[1] + lines[2]
    )


# New rows and seeds


def test_a_fresh_project_has_never_started(runs: Path) -> None:
    lines = told(study_of(), runs, new_ones(study_of(), runs))
    assert lines[0].startswith("HQDecv2 (teacher), seed 1: never started")
    assert lines[1] == (
        "SmallDepth, seed 1: never started: no student of scale smoke has been trained on "
        "synthetic_street"
    )
    assert "waits for its teacher, which is trained first" in lines[-1]


def test_runs_of_another_scale_are_no_earlier_runs(runs: Path) -> None:
    finish_all(study_of(scale="quick"), runs)
    lines = told(study_of(), runs, new_ones(study_of(), runs))
    assert len(lines) == 9
    assert all("never started" in line for line in lines)


def test_a_new_seed_is_called_so(runs: Path) -> None:
    finish_all(study_of(seeds=[1, 4]), runs)
    after = study_of(seeds=[1, 2, 4])
    lines = told(after, runs, new_ones(after, runs))
    assert len(lines) == 8
    assert all(line.endswith(", seed 2: new seed (until now: 1, 4)") for line in lines)


def test_a_new_row_is_called_so(runs: Path, tmp_path: Path) -> None:
    finish_all(rows_study(tmp_path / "a", plain={}, A={"loss.border": 1}), runs)
    after = rows_study(tmp_path / "b", plain={}, A={"loss.border": 1}, B={"loss.automask": False})
    assert told(after, runs, new_ones(after, runs)) == ["B, seed 1: new row"]


def test_a_row_in_place_of_another_names_the_closest_one_that_nobody_needs(
    runs: Path, tmp_path: Path
) -> None:
    before = rows_study(tmp_path / "a", plain={}, A={"loss.border": 1, "student.width": 0.5})
    finish_all(before, runs)
    after = rows_study(tmp_path / "b", plain={}, B={"loss.border": 2, "student.width": 0.5})
    assert told(after, runs, new_ones(after, runs)) == [
        f"B, seed 1: new row; closest earlier run {row(before, 'A').id}: loss.border 1 → 2"
    ]


def test_a_row_that_another_table_has_under_the_same_name_is_not_its_earlier_self(
    runs: Path,
) -> None:
    """Both tables have a row SmallDepth, at two resolutions."""
    base, high = study_of("components"), study_of("kitti_highres")
    finish_all(base, runs)
    planned = new_ones(high, runs)
    line = next(line for line in told([base, high], runs, planned) if "SmallDepth" in line)
    assert line == "SmallDepth, seed 1: new row"


def test_two_tables_rows_of_one_name_are_told_apart(runs: Path, tmp_path: Path) -> None:
    one = rows_study(tmp_path, "one", plain={}, A={"loss.border": 1})
    other = rows_study(tmp_path, "other", plain={}, A={"loss.border": 2})
    planned = [training(row(one, "A")), training(row(other, "A"))]
    lines = told([one, other], runs, planned)
    assert [line.split(",")[0] for line in lines] == ["A (table_one)", "A (table_other)"]


def test_a_shared_run_is_called_as_in_the_table_that_is_asked_for(runs: Path) -> None:
    components, etm = study_of("components"), study_of("etm")
    shared = row(components, "+ ETM")
    table = PlannedFile("reports/table_etm.csv", "render_table", "missing", True)
    assert told([components, etm], runs, [training(shared)])[0].startswith("+ ETM, seed 1")
    lines = told([components, etm], runs, [table, training(shared)])
    assert lines[0].startswith("+ ETM ac, seed 1")


# A run that has been there


def test_changed_code_is_named_by_its_module(runs: Path) -> None:
    study = study_of()
    apx = row(study, "+ APX")
    modules = module_fingerprints(apx.code_modules)
    finish(apx, runs, modules={**modules, "losses/apx.py": "0000000000"})
    assert told(study, runs, [training(apx, "params changed")]) == [
        "+ APX, seed 1: code of losses/apx.py changed"
    ]


def test_modules_that_came_and_went_are_named(runs: Path) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    modules = module_fingerprints(plain.code_modules)
    del modules["losses/ssim.py"]
    finish(plain, runs, modules={**modules, "losses/old.py": "0000000000"})
    (line,) = told(study, runs, [training(plain, "params changed")])
    assert "it now depends on losses/ssim.py; it no longer depends on losses/old.py" in line


@pytest.mark.parametrize("modules", [None, "x", [1]])
def test_an_older_manifest_says_only_that_code_changed(runs: Path, modules: object) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    finish(plain, runs, modules=modules, code_hash="0000000000")
    (line,) = told(study, runs, [training(plain, "params changed")])
    assert line == "SmallDepth, seed 1: code changed"


def test_changed_data_are_told_by_their_manifest(runs: Path, tmp_path: Path) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    (tmp_path / "images").mkdir()
    manifest = tiny_manifest(tmp_path / "images")
    path = tmp_path / "data" / plain.data_folder / "manifest.jsonl"
    manifest.write(path)
    finish(plain, runs, data_hash="0000000000")
    (line,) = told(study, runs, [training(plain, "updated input files")])
    assert line.startswith("SmallDepth, seed 1: its data changed (data/")
    assert line.endswith(f"manifest.jsonl: 0000000000 → {manifest.content_hash})")
    finish(plain, runs, data_hash=manifest.content_hash)
    assert told(study, runs, [training(plain, "updated input files")]) == [
        "SmallDepth, seed 1: what they are made from is newer"
    ]


def test_data_that_are_prepared_anew_come_first(runs: Path) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    finish(plain, runs)
    name = f"data/{plain.data_folder}/manifest.jsonl"
    data = PlannedFile(name, "prepare_data", "missing", True)
    lines = told(study, runs, [data, training(plain, "ok")])
    assert lines == [
        f"SmallDepth, seed 1: waits for its data, {name}, which are prepared anew: not there, "
        "never made or deleted",
        f"prepare_data {name}: not there, never made or deleted",
    ]


def test_students_wait_for_a_teacher_that_is_trained_anew(runs: Path) -> None:
    before = study_of()
    finish_all(before, runs)
    after = study_of(teacher__width=0.2)
    old, new = row(before, "HQDecv2 (teacher)"), row(after, "HQDecv2 (teacher)")
    targets = PlannedFile(f"runs/{new.id}/targets.npy", "predict_teacher", "missing", True)
    lines = told(after, runs, [*new_ones(after, runs), targets])
    assert lines[0] == f"HQDecv2 (teacher), seed 1: teacher.width 0.1 → 0.2 (was {old.id})"
    assert lines[1] == (
        "+ APX, seed 1: waits for its teacher, which is trained anew: teacher.width 0.1 → 0.2 "
        f"(was {row(before, '+ APX').id})"
    )
    assert len(lines) == 1 + 4 + 1
    assert lines[-1] == f"predict_teacher {new.id}: networks are trained first"


def test_a_teacher_whose_code_changed_holds_up_its_students(runs: Path) -> None:
    study = study_of()
    finish_all(study, runs)
    teacher, apx = row(study, "HQDecv2 (teacher)"), row(study, "+ APX")
    modules = module_fingerprints(teacher.code_modules)
    finish(teacher, runs, modules={**modules, "models/hqdec.py": "0000000000"})
    lines = told(study, runs, [training(apx, "ok"), training(teacher, "params changed")])
    assert lines == [
        "HQDecv2 (teacher), seed 1: code of models/hqdec.py changed",
        "+ APX, seed 1: waits for its teacher, which is trained anew: code of models/hqdec.py "
        "changed",
    ]


def test_predictions_that_are_made_anew_are_a_reason(runs: Path) -> None:
    study = study_of()
    finish_all(study, runs)
    teacher, apx = row(study, "HQDecv2 (teacher)"), row(study, "+ APX")
    targets = PlannedFile(f"runs/{teacher.id}/targets.npy", "predict_teacher", "missing", True)
    lines = told(study, runs, [training(apx, "ok"), targets])
    assert lines[0] == "+ APX, seed 1: its teacher's predictions are made anew"


def interrupted(folder: Path, status: str = "interrupted", **files: str) -> None:
    (folder / "model.pt").unlink()
    content = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(content | {"status": status}))
    (folder / "ckpt").mkdir()
    (folder / "ckpt" / "last.pt").touch()
    (folder / "progress.json").write_text('{"epoch": 4, "epochs": 20}')
    for name, text in files.items():
        (folder / f"{name}.log").write_text(text)


def test_an_interrupted_training_goes_on_unless_its_code_changed(runs: Path) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    interrupted(finish(plain, runs))
    assert told(study, runs, [training(plain)]) == [
        "SmallDepth, seed 1: was interrupted in epoch 4/20, goes on from its checkpoint"
    ]
    etm = row(study, "+ ETM")
    modules = module_fingerprints(etm.code_modules) | {"training.py": "0000000000"}
    interrupted(finish(etm, runs, modules=modules))
    assert told(study, runs, [training(etm)]) == [
        "+ ETM, seed 1: was interrupted in epoch 4/20, begins anew; code of training.py changed"
    ]


def test_a_failed_training_is_told_with_its_last_words(runs: Path) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    interrupted(finish(plain, runs), "failed", train="2026-11-24 18:00:01,1 ERROR the loss is NaN")
    assert told(study, runs, [training(plain)]) == ["SmallDepth, seed 1: failed: the loss is NaN"]


def test_a_deleted_network_is_told(runs: Path) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    (finish(plain, runs) / "model.pt").unlink()
    (line,) = told(study, runs, [training(plain)])
    assert line.startswith("SmallDepth, seed 1: its model.pt of 2023-11-1")
    assert line.endswith(" was deleted")


def test_without_a_reason_of_its_own_a_run_has_snakemakes(runs: Path) -> None:
    study = study_of()
    plain = row(study, "SmallDepth")
    finish(plain, runs)
    (line,) = told(study, runs, [training(plain, "rule implementation changed")])
    assert line == "SmallDepth, seed 1: settings or code changed"
    (line,) = told(study, runs, [training(plain, "ok")])
    assert "Snakemake was stopped before it noted the result" in line


BROKEN: dict[str, Callable[[Path], object]] = {
    "half a manifest": lambda f: (f / "manifest.json").write_text('{"row": "Small'),
    "a list": lambda f: (f / "manifest.json").write_text("[]"),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
    "other types": lambda f: (f / "manifest.json").write_text(
        '{"kind": 1, "seed": "x", "row": [], "started": "y", "modules": 3, "teacher": 4}'
    ),
    "half a config": lambda f: (f / "config.yaml").write_text("settings: {loss: [1"),
    "no settings": lambda f: (f / "config.yaml").write_text("run_id: x"),
    "bad settings": lambda f: (f / "config.yaml").write_text("settings: {loss: 3}"),
    "no config": lambda f: (f / "config.yaml").unlink(),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_damaged_folders_stop_nothing(runs: Path, damage: str) -> None:
    """Neither those of earlier runs nor the one of the training itself."""
    before = study_of()
    finish_all(before, runs)
    for run in before.networks:
        BROKEN[damage](runs / run.id)
    after = study_of(loss__border=1)
    assert len(told(after, runs, new_ones(after, runs))) == 9
    plain = row(before, "SmallDepth")
    (line,) = told(before, runs, [training(plain, "params changed")])
    assert line.startswith("SmallDepth, seed 1: ")


# What is no training


def evaluations(study: Study, status: str) -> list[PlannedFile]:
    """Two files a job."""
    return [
        PlannedFile(f"runs/{run.id}/{name}", rule, status, True)
        for run in study.runs
        for rule, names in {
            "evaluate_run" if run.kind in TRAINED else "evaluate_baseline": (
                "metrics.json",
                "per_image.csv",
            ),
        }.items()
        for name in names
    ]


def report(rule: str, name: str, status: str = "ok") -> PlannedFile:
    return PlannedFile(f"reports/{name}", rule, status, True)


def test_work_without_training_is_grouped_by_reason(runs: Path) -> None:
    study = study_of()
    finish_all(study, runs)
    planned = [
        *evaluations(study, "params changed"),
        *(report("render_table", f"table_ablation.{end}") for end in ("csv", "md", "tex")),
        report("render_table", "table_kitti.csv"),
        *(report("render_table", f"table_{n}.csv", "params changed") for n in "abcd"),
        report("render_report", "index.html", "missing"),
        PlannedFile("reports/table_etm.csv", "render_table", "ok", False),
    ]
    assert told(study, runs, planned) == [
        "12 evaluations: evaluation code or protocol changed",
        "render_table table_ablation, table_kitti: results are new",
        "render_table 4 times: rows or code changed",
        "render_report index: not there, never made or deleted",
    ]


def test_what_follows_from_a_training_is_told_last(runs: Path) -> None:
    before = study_of()
    finish_all(before, runs)
    after = study_of(seeds=[1, 2])
    new = [run for run in after.networks if run.seed == 2]
    planned = [
        report("render_table", "table_ablation.csv", "set of input files changed"),
        *evaluations(after, "missing"),
        *map(training, new),
    ]
    lines = told(after, runs, planned)
    # Nine networks and three baselines had been trained, or need not be.
    assert lines[8:] == [
        "12 evaluations: not there, never made or deleted",
        "8 evaluations: networks are trained first",
        "render_table table_ablation: results are new",
    ]


def test_an_explanation_is_json(runs: Path) -> None:
    before = study_of()
    finish_all(before, runs)
    after = study_of(loss__apx__weight=0.2)
    found = explained(after, runs, [*new_ones(after, runs), *evaluations(after, "ok")])
    content = json.loads(json.dumps(found.as_json()))
    assert content["trainings"][0] == {
        "run": row(after, "+ APX").id,
        "kind": "student",
        "row": "+ APX",
        "seed": 1,
        "reasons": [],
        "changes": [{"key": "loss.apx.weight", "old": 1.0, "new": 0.2, "identity": True}],
        "earlier": row(before, "+ APX").id,
    }
    assert sum(len(other["items"]) for other in content["others"]) == 12


# Snakemake's word

SUMMARY = """Building DAG of jobs...
output_file\tdate\trule\tlog-file(s)\tstatus\tplan
reports/table_etm.csv\tTue Nov 24 18:02:59 2026\trender_table\ta.log\tok\tupdate pending
runs/a-s1-0123456789/model.pt\t-\ttrain_student\t-\tmissing\tupdate pending
runs/b-s1-0123456789/model.pt\tTue Nov 24 18:02:59 2026\ttrain_student\ta.log\tok\tno update
"""


def test_the_summary_is_read_by_its_header() -> None:
    assert parse_summary(SUMMARY) == [
        PlannedFile("reports/table_etm.csv", "render_table", "ok", True),
        PlannedFile("runs/a-s1-0123456789/model.pt", "train_student", "missing", True),
        PlannedFile("runs/b-s1-0123456789/model.pt", "train_student", "ok", False),
    ]


@pytest.mark.parametrize("text", ["", "nothing", SUMMARY.replace("plan", "plans")])
def test_another_table_is_an_error(text: str) -> None:
    with pytest.raises(FadepthError, match="printed no table that is known here"):
        parse_summary(text)


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Project:
    """A folder with one study of our own."""
    (tmp_path / "config").symlink_to(repository / "config")
    return Project(tmp_path, repository)


def test_snakemake_decides_what_is_due(project: Project, runs: Path) -> None:
    """Two rows swap a switch, a third one stays: two trainings, no more."""
    etm, border = {"student.etm.branches": "ac"}, {"loss.border": 1}
    folder = project.folder / "ablations"
    before = rows_study(folder, plain={}, A={**etm, "student.width": 0.5}, B=border)
    data = project.folder / "data" / row(before, "A").data_folder / "manifest.jsonl"
    tiny_manifest(project.folder).write(data)
    os.utime(data, (1_700_000_000, 1_700_000_000))
    finish_all(before, runs)
    rows_study(folder, plain={}, A={**border, "student.width": 0.5}, B=etm)
    result = project.fadepth("why-rerun", "reports/table_mine.csv", "--preset", "config/smoke.yaml")
    assert result.returncode == 0, result.stdout
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        f"A, seed 1: student.etm.branches ac → off; loss.border 0 → 1 (was {row(before, 'A').id})",
        f"B, seed 1: student.etm.branches off → ac; loss.border 1 → 0 (was {row(before, 'B').id})",
    ]
    assert not any(", seed" in line for line in lines[2:])
    assert "2 evaluations: networks are trained first" in lines


def test_snakemakes_refusal_is_one_sentence(project: Project) -> None:
    rows_study(project.folder / "ablations", plain={}, A={"loss.border": 1})
    result = project.fadepth("why-rerun", "reports/table_yours.csv")
    assert result.returncode == 2
    assert result.stdout.startswith("fadepth: snakemake cannot plan reports/table_yours.csv: ")
    assert "no study feeds 'table_yours'" in result.stdout
    assert "Traceback" not in result.stdout


def test_overrides_reach_snakemake_as_nested_settings(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids that it plans are those that the same override gives here."""
    rows_study(project.folder / "ablations", plain={}, A={"loss.border": 1})
    monkeypatch.chdir(project.folder)
    planned = planned_files(
        ["reports/table_mine.csv"], [Path("config/smoke.yaml")], {"loss.smoothness_weight": 0.5}
    )
    expected = study_of(project.folder / "ablations" / "mine.yaml", loss__smoothness_weight=0.5)
    found = {Path(file.path).parent.name for file in planned if file.rule == "train_student"}
    assert found == {run.id for run in expected.networks}
