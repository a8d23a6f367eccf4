"""What is written is what is read back; what was not finite is null."""

import json
import math
import pathlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2

from dlcore.errors import TrainingError, UsageError
from dlcore.train.writers import JsonLines, TensorBoard, read_records

numbers = st.one_of(st.integers(-(2**60), 2**60), st.floats(), st.booleans(), st.text())


@settings(deadline=None)
@given(records=st.lists(st.dictionaries(st.text(min_size=1), numbers)))
def test_records_are_read_back_as_written_but_for_what_was_not_finite(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("lines") / "metrics.jsonl"
    lines = JsonLines(path)
    for record in records:
        lines.write({**record, "step": 1})
    lines.close()

    def finite(value):
        return None if isinstance(value, float) and not math.isfinite(value) else value

    expected = [{k: finite(v) for k, v in record.items()} | {"step": 1} for record in records]
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == expected


def test_a_record_is_on_disk_at_once_and_without_its_arrays(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.write({"step": 3, "loss": 0.5, "confusion": np.eye(2)})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "loss": 0.5}\n'
    lines.close()


def line(step):
    return f'{{"step":{step},"split":"train"}}\n'.replace(":", ": ").replace(",", ", ")


def record(step):
    return {"step": step, "split": "train"}


def test_cut_forgets_what_came_after_a_position(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    lines.write(record(1))
    position = lines.position()
    for step in (2, 3):
        lines.write(record(step))
    lines.close()
    # Another process takes it up.
    lines = JsonLines(path)
    assert lines.position() == path.stat().st_size > position
    lines.cut(position)
    assert lines.position() == position
    lines.write(record(4))
    lines.close()
    assert path.read_text() == line(1) + line(4)


@pytest.mark.parametrize(
    "after",
    [
        b"",
        b'{"step": 2, "spl',
        b"\0" * 4096,
        b"\xff\xfe garbage\n",
        b"[1, 2]\n",
        b'{"step": 2}\n',
        b'{"step": "2", "split": "train"}\n',
        b'{"step": 2, "split": "train", "loss": "low"}\n',
        b"[" * 2000 + b"\n",
        b'{"step": 2, "split": "train"}',
    ],
)
@pytest.mark.parametrize("behind", [b"", line(3).encode()])
def test_what_follows_the_last_whole_record_is_cut_and_passed_over(tmp_path, after, behind, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(1).encode() + after + (after and behind))
    records = read_records(path)
    assert records == [record(1)]
    assert ("line 2 is no record" in caplog.text) is bool(after)
    caplog.clear()
    lines = JsonLines(path)
    lines.cut(100_000)
    assert "all but the first 1 records are lost" in caplog.text
    lines.write(record(2))
    lines.close()
    assert path.read_text() == line(1) + line(2)


def test_what_cannot_be_written_is_refused_by_name(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to(path)
    with pytest.raises(UsageError, match=r"metrics.jsonl cannot be written: Too many levels"):
        JsonLines(path)


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full: not on Linux")
def test_a_full_disk_is_a_clear_error():
    lines = JsonLines(pathlib.Path("/dev/full"))
    with pytest.raises(TrainingError, match=r"step 5: /dev/full could not be written: No space"):
        lines.write({"step": 5, "loss": 1.0})
    lines.close()


def events(directory: pathlib.Path) -> list[event_pb2.Event]:
    """Every event in the order of writing: records of length, checksum, content, checksum."""
    found = []
    for path in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, position = path.read_bytes(), 0
        while position < len(content):
            (length,) = struct.unpack_from("<Q", content, position)
            found.append(
                event_pb2.Event.FromString(content[position + 12 : position + 12 + length])
            )
            position += 16 + length
    return found


def test_tensorboard_gets_each_number_under_its_split_at_its_step(tmp_path):
    writer = TensorBoard(tmp_path, 0)
    writer.write({"step": 7, "epoch": 0.5, "split": "train", "loss": 0.25, "steps_skipped": 2})
    record = {"step": 9, "split": "validation", "loss": math.nan, "accuracy": 0.75}
    writer.write({**record, "confusion": np.eye(2)})
    writer.close()
    found = [
        (event.step, value.tag, value.simple_value)
        for event in events(tmp_path)
        for value in event.summary.value
    ]
    assert found == [
        (7, "train/epoch", 0.5),
        (7, "train/loss", 0.25),
        (7, "train/steps_skipped", 2),
        (9, "validation/accuracy", 0.75),
    ]


def test_tensorboard_hides_the_steps_after_the_one_that_a_run_is_resumed_at(tmp_path):
    TensorBoard(tmp_path, 12).close()
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    # TensorBoard drops what it had from the step of a new session's start on.
    assert starts == [13]


@pytest.mark.parametrize("written", [0, 2])
def test_where_tensorboard_cannot_be_written_a_line_says_so(tmp_path, caplog, monkeypatch, written):
    writer = TensorBoard(tmp_path / "tensorboard", 0)

    def fail(event):
        raise OSError(28, "No space left on device")

    for step in range(written):
        writer.write({"step": step, "split": "train", "loss": 1.0})
    monkeypatch.setattr(writer._events, "write_event", fail)
    for step in range(3):
        writer.write({"step": step, "split": "train", "loss": 1.0})
    writer.close()
    assert caplog.messages == [
        f"no more TensorBoard events in {tmp_path}/tensorboard: No space left on device"
    ]


def test_a_file_in_the_place_of_tensorboard_s_folder_costs_a_line(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("")
    writer = TensorBoard(tmp_path / "tensorboard", 0)
    writer.write({"step": 1, "split": "train", "loss": 1.0})
    writer.close()
    assert caplog.messages == [f"no more TensorBoard events in {tmp_path}/tensorboard: File exists"]
