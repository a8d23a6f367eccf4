"""Hands a trained model on: `python -m experiments.export --workdir=runs/digits`.

`--format=stablehlo` writes `model.stablehlo`, a program that answers raw inputs wherever JAX is,
without dlcore; `--format=safetensors` writes the weights by their paths, and `--format=torchvision`
(`torchvision.safetensors`) as the network of torchvision that is this model has them. A model card,
`README.md`, comes with each. All go to the folder `export` of the run, or to that of `--output`.
"""

from collections.abc import Sequence

from dlcore import paths, torchvision, weights
from dlcore.errors import UsageError
from dlcore.train import export
from experiments import cache, flags

# What is written, and to which file.
FORMATS = {
    "stablehlo": "model.stablehlo",
    "safetensors": "model.safetensors",
    "torchvision": "torchvision.safetensors",
}


def define(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of this program."""
    flags.define_run(values)
    flags.define_one(values, "format", "stablehlo", f"What is written: {' or '.join(FORMATS)}.")
    flags.define_one(values, "output", "", "Folder for the files; by default that of the run.")


def main(values: flags.FlagValues) -> None:
    """Restores, exports, writes."""
    directory = flags.run_directory(values)
    if values.format not in FORMATS:
        raise UsageError(f"--format={values.format}: it is one of {', '.join(FORMATS)}")
    folder = paths.to_write(values.output or directory / "export", "output")
    cache.use()
    run = flags.open_run(values, directory)
    trained = run.answering(values.checkpoint)
    card = export.card(run, trained)
    path = folder / FORMATS[values.format]
    program = export.to_stablehlo(trained) if values.format == "stablehlo" else b""
    variables = trained.variables
    if values.format == "torchvision":
        variables = torchvision.to_torchvision(run.recipe.model, weights.flatten(variables))
    folder.mkdir(parents=True, exist_ok=True)
    if program:
        paths.write_whole(path, program)
    else:
        weights.write(path, variables, {"recipe": run.recipe.name})
    paths.write_whole(folder / "README.md", card.encode())
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    flags.run(main, define)
