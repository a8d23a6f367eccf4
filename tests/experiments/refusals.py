"""What a refused command line looks like: its code, its line, and nothing that was touched."""

import pathlib

# Small, so that a row that is no error after all ends soon.
DIGITS = ("--recipe=lenet5_digits", "--num_epochs=1", "--batch_size=64")
SOFTMAX = (*DIGITS, "--model=softmax_regression")


def files(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def assert_refused(result: tuple[int, str, str], *fragments: str) -> None:
    code, _, errors = result
    assert code == 2, errors
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert errors.splitlines()[-1] == line
    for fragment in fragments:
        assert fragment in line
