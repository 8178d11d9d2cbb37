from vae.evaluation.report import as_text, print_edits, print_report


def test_numbers_have_three_digits_and_whole_numbers_all():
    assert [as_text(value) for value in (12.3456, 0.0, 0.012345, 1234, "celeba")] == [
        "12.346",
        "0.000",
        "0.0123",
        "1234",
        "celeba",
    ]


def test_numbers_are_printed_with_their_units_and_lists_are_not(capsys):
    print_report({"codes": {"kl": 2.5, "active_units": 3, "eigenvalues": [1.0], "none": None}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CODES"
    assert lines[1].split() == ["kl", "2.500", "nats", "per", "image"]
    assert lines[2].split()[:2] == ["active_units", "3"]
    assert lines[3:] == [""]


def test_the_highest_auc_is_printed_first_and_rare_attributes_last(capsys):
    areas = {"Hat": 0.6, "Smiling": 0.95}
    section = {"auc": areas, "positives": {"Hat": 7, "Smiling": 40}, "too_rare": ["Bald"]}
    print_report({"attributes": section})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["Smiling", "0.950", "(40)", "Hat", "0.600", "(7)"]
    assert lines[2].split()[-1] == "Bald"


def test_rows_are_printed_as_a_table_with_the_meaning_of_its_columns(capsys):
    rows = {
        "real": {"n": 500, "judge_frechet": 1.5, "judge_kernel": 0.0012},
        "PCA samples": {"n": 20, "judge_frechet": 0.25, "judge_kernel": -0.001},
    }
    print_report({"features_of_the_judge": {"judge": "judge.pt", "rows": rows}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FEATURES OF THE JUDGE"
    assert lines[2].split() == ["n", "judge_frechet", "judge_kernel"]
    assert lines[3].split() == ["real", "500", "1.500", "0.0012"]
    assert lines[4].split() == ["PCA", "samples", "20", "0.250", "-0.001"]
    assert len({len(line) for line in lines[2:5]}) == 1
    assert lines[5].startswith("  judge_frechet: ")
    assert "not FID" in lines[5]
    assert len(lines) == 8


def test_the_table_of_edits_has_a_line_for_each_method(capsys):
    edit = {
        "strength": 1.25,
        "success": (0.8, 0.02),
        "mean_absolute_shift": 0.125,
        "mean_absolute_face_shift": 0.375,
        "worst": ["Male"],
        "identity_drift": (0.1, 0.01),
        "pixel_drift": (0.05, 0.001),
        "parts": {"High_Cheekbones": (0.5, 0.1)},
        "shifts": {"Male": (-0.25, 0.1), "Hat": (0.0, 0.1)},
    }
    having = {"n": 30, "real": (0.9, 0.01), "reconstructed": (0.7, 0.01)}
    measured = {"attribute": "Smiling", "n": 50, "target": 0.8, "matched": 0.8, "having": having}
    print_edits(measured | {"methods": {"mean": edit, "balanced": edit | {"parts": {}}}})
    lines = capsys.readouterr().out.splitlines()
    assert "50 faces without it" in lines[0]
    assert "0.90 ± 0.01 real, 0.70 ± 0.01 reconstructed" in lines[1]
    assert "2 other attributes" in lines[2]
    row = lines[4].split()
    assert row[:2] == ["mean", "1.25"]
    assert row[5:7] == ["0.125", "0.375"]
    assert " ".join(row[-4:]) == "High_Cheekbones +0.50; Male -0.25"
    assert lines[5].split()[-3:] == ["-;", "Male", "-0.25"]
