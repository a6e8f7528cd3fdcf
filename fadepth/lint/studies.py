"""All findings about several studies, and those that take two studies to see."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fadepth.errors import FadepthError
from fadepth.lint.checks import findings_of
from fadepth.lint.findings import LEVELS, Finding, Told, a_warning, an_error, not_resolved
from fadepth.study import NotInPreset, Study, draft_study, two_evaluations, usable_preset
from fadepth.study_file import StudyFile, read_study_file


def lint_studies(
    paths: Iterable[Path],
    preset: Mapping[str, Any],
    origin: str,
    base: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """All findings about studies on a preset, study by study, errors first.

    Args:
        paths: study files.
        preset, origin, base, overrides: as for `resolve_study`.

    Raises:
        FadepthError: the preset is wrong, or a study file is absent or no YAML.
    """
    usable_preset(preset, origin)
    found: list[Finding] = []
    read: dict[str, StudyFile] = {}
    whole: dict[str, Study] = {}
    for path in paths:
        file, problems = read_study_file(path)
        told = [an_error("file", "", problem) for problem in problems]
        if file is not None:
            told += _same_names(path, file, read)
            read[str(path)] = file
            try:
                draft = draft_study(file, path, preset, origin, base, overrides)
            except NotInPreset as reason:
                told.append(not_resolved(reason))
            except FadepthError as error:
                told.append(an_error("file", "", str(error)))
            else:
                told += findings_of(draft, base or Path.cwd())
                if not (draft.absent or draft.faults):
                    whole[str(path)] = draft.study
        found += _in_order(path, file.name if file else path.stem, told)
    return found + list(_judged_twice(whole))


def _in_order(path: Path, study: str, told: Iterable[Told]) -> Iterator[Finding]:
    for level in LEVELS:
        for one in told:
            if one.level == level:
                yield Finding(level, one.check, str(path), study, one.row, one.sentence)


def _same_names(path: Path, file: StudyFile, before: Mapping[str, StudyFile]) -> Iterator[Told]:
    for place, other in before.items():
        if other.table == file.table:
            sentence = f"{place} feeds '{file.table}', too: give each study a table of its own"
            yield an_error("table", "", sentence)
        elif other.name == file.name:
            yield a_warning(
                "name",
                "",
                f"{place} is called '{file.name}', too, and both would be one MLflow experiment: "
                "give each a name of its own",
            )


def _judged_twice(studies: Mapping[str, Study]) -> Iterator[Finding]:
    told: set[tuple[str, str]] = set()
    for one, other, run_id in two_evaluations(studies):
        if (one, other) not in told:
            told.add((one, other))
            sentence = (
                f"shares the run {run_id} with {one}, which evaluates it differently: give "
                "'datasets' of the preset data of their own, or the same 'evaluation'"
            )
            yield Finding("error", "evaluation", other, studies[other].file.name, "", sentence)
