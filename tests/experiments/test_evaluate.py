import json

from experiments import evaluate


def test_the_printed_test_score_is_the_one_of_the_summary(call, digits_run):
    code, output, _ = call(evaluate, f"--workdir={digits_run}")
    summary = json.loads((digits_run / "summary.json").read_text())
    assert code == 0
    assert f"{summary['test']['accuracy']:.4f}" in output


def test_a_named_checkpoint_is_evaluated(call, digits_run):
    first = min(int(path.name) for path in (digits_run / "checkpoints").iterdir())
    code, output, _ = call(
        evaluate, f"--workdir={digits_run}", f"--checkpoint={first}", "--split=validation"
    )
    records = map(json.loads, (digits_run / "metrics.jsonl").read_text().splitlines())
    accuracy = next(
        record["accuracy"]
        for record in records
        if record["step"] == first and record["split"] == "validation"
    )
    assert code == 0
    assert f"{accuracy:.4f}" in output


def test_a_split_that_is_not_there_is_named(call, digits_run):
    code, _, errors = call(evaluate, f"--workdir={digits_run}", "--split=dev")
    assert code == 2
    assert "--split=dev" in errors
    assert "train, validation, test" in errors


def test_a_checkpoint_that_is_not_there_is_named(call, digits_run):
    code, _, errors = call(evaluate, f"--workdir={digits_run}", "--checkpoint=123456")
    assert code == 2
    assert "123456" in errors


def test_a_directory_without_a_run_is_refused(call, tmp_path):
    code, _, errors = call(evaluate, f"--workdir={tmp_path}")
    assert code == 2
    assert "no run directory" in errors
