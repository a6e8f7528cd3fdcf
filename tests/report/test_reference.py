"""Files of published numbers: the shipped ones against literals typed from the sources; reading."""

from pathlib import Path

import pytest

from fadepth.errors import FadepthError
from fadepth.report.reference import applicable, read_references

FOLDER = Path(__file__).parents[2] / "ablations" / "paper"
TABLES = {
    "table_kitti",
    "table_kitti_improved",
    "table_kitti_highres",
    "table_complexity",
    "table_ddad",
    "table_ablation",
    "table_etm",
    "table_pyramid",
    "table_apx",
    "table_hqdecv2",
    "table_generalisation",
}
SEVEN = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3")
HEADER = "row,kind,data,protocol,size,supervision,params_m,abs_rel,fps,note,source\n"
LINE = "A,reported,kitti,kitti_eigen_raw,192x640,M,3.1,0.110,> 500,a note,A README.md\n"


def of(table):
    return read_references(FOLDER / f"{table}.csv")


def numbers(table, row, **selection):
    found = [
        r
        for r in of(table)
        if r.row == row and all(getattr(r, key) == value for key, value in selection.items())
    ]
    assert len(found) == 1
    return found[0].values


def write(tmp_path, text):
    path = tmp_path / "table_x.csv"
    path.write_text(text, encoding="utf-8")
    return path


# The shipped files


def test_the_paper_has_eleven_tables():
    assert {path.stem for path in FOLDER.glob("*.csv")} == TABLES
    assert len(TABLES) == 11


@pytest.mark.parametrize("table", sorted(TABLES))
def test_shipped_file_is_in_order(table):
    references = of(table)
    assert any(reference.kind == "paper" for reference in references)
    for reference in references:
        assert reference.source or not reference.values
        assert reference.kind == "paper" or reference.values, "a peer without a number"


def test_numbers_of_the_paper_are_said_to_be_from_it():
    for table in TABLES:
        for reference in of(table):
            if reference.kind == "paper" and reference.values:
                assert "2405.10885" in reference.source or "FA-Depth" in reference.source


def test_the_abstract_gives_size_and_speed_only():
    known = {
        (table, r.row, key, text)
        for table in TABLES
        for r in of(table)
        if "abstract" in r.source and r.kind == "paper"
        for key, text in r.texts.items()
    }
    assert known == {
        ("table_complexity", "SmallDepth", "params_m", "about 2"),
        ("table_complexity", "SmallDepth", "fps", "> 500"),
    }


@pytest.mark.parametrize(
    ("table", "row", "selection", "printed"),
    [
        (
            "table_kitti",
            "Monodepth2 R18",
            {"supervision": "M"},
            (0.115, 0.903, 4.863, 0.193, 0.877, 0.959, 0.981),
        ),
        (
            "table_kitti",
            "Monodepth2 R18",
            {"supervision": "S"},
            (0.109, 0.873, 4.960, 0.209, 0.864, 0.948, 0.975),
        ),
        (
            "table_kitti",
            "Monodepth2 R18",
            {"supervision": "MS"},
            (0.106, 0.818, 4.750, 0.196, 0.874, 0.957, 0.979),
        ),
        # Not the row of 192x640, which HR-Depth's picture prints here by mistake.
        (
            "table_kitti_highres",
            "Monodepth2 R18",
            {"supervision": "MS"},
            (0.106, 0.806, 4.630, 0.193, 0.876),
        ),
        (
            "table_kitti_highres",
            "Monodepth2 R18",
            {"supervision": "M"},
            (0.115, 0.882, 4.701, 0.190, 0.879, 0.961, 0.982),
        ),
        (
            "table_kitti",
            "Lite-Mono-tiny",
            {},
            (0.110, 0.837, 4.710, 0.187, 0.880, 0.960, 0.982),
        ),
        (
            "table_kitti",
            "Lite-HR-Depth",
            {"supervision": "M+T"},
            (0.112, 0.767, 4.557, 0.184, 0.876, 0.963, 0.984),
        ),
        (
            "table_kitti_highres",
            "Lite-HR-Depth",
            {"size": "384x1280"},
            (0.104, 0.697, 4.349, 0.176, 0.893, 0.967, 0.985),
        ),
        # delta_1 is 0.897 or 0.896 in the sources, not the 0.987 that one copy has.
        ("table_kitti", "DIFFNet", {}, (0.102, 0.764, 4.483, 0.180, 0.896, 0.965, 0.983)),
        ("table_kitti", "PackNet", {}, (0.111, 0.800, 4.576, 0.189, 0.880)),
        ("table_kitti", "PyD-Net", {}, (0.146, 1.291, 5.907, 0.245, 0.801, 0.926, 0.967)),
        (
            "table_kitti",
            "NimbleD + Lite-Mono-8M",
            {"supervision": "M+pseudo"},
            (0.092, 0.646, 4.194, 0.165, 0.910, 0.970, 0.986),
        ),
        ("table_kitti", "RA-Depth", {}, (0.096, 0.632, 4.216, 0.171, 0.903, 0.968, 0.985)),
        ("table_ddad", "PackNet", {}, (0.173, 7.164, 14.363, 0.249, 0.835)),
        ("table_ddad", "ResNet18 of packnet-sfm", {}, (0.227, 11.293, 17.368, 0.303, 0.758)),
    ],
)
def test_peers_are_copied_right(table, row, selection, printed):
    values = numbers(table, row, **selection)
    assert tuple(values[key] for key in SEVEN if key in values) == printed


def test_peers_costs_are_copied_right():
    assert numbers("table_complexity", "SwiftDepth-small") == {
        "params_m": 3.6,
        "gmacs": 3.6,
        "abs_rel": 0.110,
    }
    speeds = {
        (r.row, r.values["device"]): r.values["fps"]
        for r in of("table_complexity")
        if r.row.startswith("RT-MonoDepth")
    }
    assert speeds == {
        ("RT-MonoDepth", "Jetson Nano, TensorRT fp16"): 18.4,
        ("RT-MonoDepth", "Jetson Orin, TensorRT fp16"): 253.0,
        ("RT-MonoDepth-S", "Jetson Nano, TensorRT fp16"): 30.5,
        ("RT-MonoDepth-S", "Jetson Orin, TensorRT fp16"): 364.1,
    }
    assert numbers("table_kitti", "PackNet")["params_m"] == 128.29


def test_metrics_of_a_peer_hang_together():
    """Copying errors such as a swapped column: thresholds nest, and errors are of known size."""
    for table in ("table_kitti", "table_kitti_highres", "table_ddad"):
        for reference in (r for r in of(table) if r.kind == "reported"):
            v = {k: x for k, x in reference.values.items() if isinstance(x, float)}
            deltas = [v[k] for k in ("delta_1", "delta_2", "delta_3") if k in v]
            assert deltas == sorted(deltas)
            errors = [v[k] for k in ("abs_rel", "rmse_log", "sq_rel", "rmse") if k in v]
            assert errors == sorted(errors)


def test_weak_sources_are_marked():
    rough = [r for r in of("table_kitti") if r.row.startswith("RT-MonoDepth")]
    assert [r.values["delta_1"] for r in rough] == ["≈0.837", "≈0.816"]
    assert "secondary" in rough[0].note
    assert "#142" in next(r for r in of("table_ddad") if r.row == "PackNet").note


# Reading


def test_reads_numbers_text_and_leaves_out_the_empty(tmp_path):
    text = HEADER + LINE + ",,,,,,,,,,\n" + '"B, twice",paper,kitti,kitti_eigen_raw,,M,,,,,\n'
    first, second = read_references(write(tmp_path, "\ufeff" + text))
    assert first.values == {"params_m": 3.1, "abs_rel": 0.11, "fps": "> 500"}
    assert first.texts == {"params_m": "3.1", "abs_rel": "0.110", "fps": "> 500"}
    assert [first.decimals(key) for key in ("params_m", "abs_rel")] == [1, 3]
    assert (first.size, first.supervision, first.note) == ("192x640", "M", "a note")
    assert (second.row, second.kind, second.values) == ("B, twice", "paper", {})


def test_no_file_no_references(tmp_path):
    assert read_references(tmp_path / "table_of_a_user.csv") == []


def test_data_sets_and_protocols_are_not_mixed(tmp_path):
    other = LINE.replace("kitti,kitti_eigen_raw", "kitti,kitti_eigen_improved")
    third = LINE.replace("kitti,kitti_eigen_raw", "ddad,ddad")
    references = read_references(write(tmp_path, HEADER + LINE + other + third))
    assert len(references) == 3, "a row under another protocol is another row"
    found = applicable(references, data="kitti", protocol="kitti_eigen_improved")
    assert [(r.data, r.protocol) for r in found] == [("kitti", "kitti_eigen_improved")]
    assert applicable(references, data="synthetic", protocol="kitti_eigen_raw") == []


@pytest.mark.parametrize(
    ("change", "line", "column", "told"),
    [
        (("reported", "measured"), 2, "kind", "reported or paper"),
        (("A README.md", ""), 2, "params_m", "source"),
        (("kitti_eigen_raw", "kitti_raw"), 2, "protocol", "kitti_eigen_raw"),
        (("kitti,kitti_eigen_raw", "ddad,kitti_eigen_raw"), 2, "data", "kitti"),
        (("192x640", "640x192"), 2, "size", "height x width"),
        (("0.110", '"0,110"'), 2, "abs_rel", "0.115"),
        (("0.110", "-"), 2, "abs_rel", "empty"),
        (("A,", ","), 2, "row", "fill"),
        (("abs_rel", "absrel"), 1, "absrel", "abs_rel"),
        (("fps", "abs_rel"), 1, "abs_rel", "at most once"),
    ],
)
def test_a_wrong_cell_is_named(tmp_path, change, line, column, told):
    path = write(tmp_path, (HEADER + LINE).replace(*change))
    with pytest.raises(FadepthError) as error:
        read_references(path)
    sentence = str(error.value)
    assert sentence.startswith(f"{path}, line {line}, column '{column}': ")
    assert told in sentence


def test_a_share_is_no_percentage(tmp_path):
    text = (HEADER + LINE).replace("abs_rel", "delta_1")
    assert read_references(write(tmp_path, text))[0].values["delta_1"] == 0.11
    with pytest.raises(FadepthError, match="column 'delta_1': expected a share"):
        read_references(write(tmp_path, text.replace("0.110", "88.4")))


def test_a_row_stands_once(tmp_path):
    path = write(tmp_path, HEADER + LINE + LINE.replace("192x640", "320x1024") + LINE)
    with pytest.raises(FadepthError, match=r"line 4, column 'row': 'A' .* line 2"):
        read_references(path)


def test_a_number_stands_in_the_row_of_its_protocol(tmp_path):
    text = (HEADER + LINE).replace("abs_rel", "make3d.abs_rel")
    with pytest.raises(FadepthError, match=r"column 'make3d\.abs_rel': .* protocol make3d"):
        read_references(write(tmp_path, text))
    right = text.replace("kitti,kitti_eigen_raw", "make3d,make3d")
    assert read_references(write(tmp_path, right))[0].values["make3d.abs_rel"] == 0.11


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "line 1: expected the columns row,kind"),
        ((HEADER + LINE).replace(",", ";"), "with commas"),
        (HEADER + LINE.replace(",a note", ""), "line 2: expected 11 cells as in the header"),
        (HEADER + LINE.replace("a note", 'a" note"'), None),
    ],
)
def test_another_form_is_refused(tmp_path, content, told):
    path = write(tmp_path, content)
    if told is None:  # a quote inside a text is text
        assert read_references(path)[0].note == 'a" note"'
        return
    with pytest.raises(FadepthError, match=told):
        read_references(path)


def test_another_encoding_is_refused(tmp_path):
    path = tmp_path / "table_x.csv"
    path.write_bytes((HEADER + LINE.replace("a note", "für")).encode("latin-1"))
    with pytest.raises(FadepthError, match="UTF-8"):
        read_references(path)
