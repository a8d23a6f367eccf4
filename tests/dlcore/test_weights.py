"""Weights by name: they come back as they were, and every misfit is said with what mends it."""

import functools
import json
import re
import stat

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors import safe_open

from dlcore import weights
from dlcore.errors import UsageError

DTYPES = (np.float32, np.float16, np.float64, ml_dtypes.bfloat16, np.int32, np.uint8, np.bool_)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,6}", fullmatch=True)


@st.composite
def arrays(draw):
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    values = draw(npst.arrays(np.int8, shape))
    array = values.astype(draw(st.sampled_from(DTYPES)))
    # As PyTorch's weights come when they are turned round.
    return array.T if draw(st.booleans()) else array


TREES = st.recursive(
    arrays(), lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6
)
LAYERS = st.dictionaries(NAMES, TREES, max_size=3)
# Collections whose names no layer has.
VARIABLES = st.fixed_dictionaries({"params": LAYERS}, optional={"batch__stats": LAYERS})


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)


@settings(max_examples=40)
@given(VARIABLES)
def test_flat_variables_are_the_same_arrays_and_become_the_same_tree(variables):
    flat = weights.flatten(variables)
    assert len(flat) == len(jax.tree.leaves(variables))
    assert_same(weights.unflatten(flat, like=variables), variables)
    shuffled = dict(reversed(flat.items()))
    assert_same(weights.unflatten(shuffled, like=variables), variables)


@settings(max_examples=40)
@given(VARIABLES)
def test_a_file_gives_back_every_bit(tmp_path_factory, variables):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    weights.write(path, variables)
    assert_same(weights.unflatten(weights.read(path), like=variables), variables)


def test_a_parameter_has_its_path_for_a_name_and_others_their_collection_before_it():
    variables = {
        "params": {"block": {"norm1": {"scale": 1, "bias": 2}}, "temperature": 3},
        "batch_stats": {"block": {"norm1": {"mean": 4}}},
    }
    assert weights.flatten(variables) == {
        "block/norm1/scale": 1,
        "block/norm1/bias": 2,
        "temperature": 3,
        "batch_stats/block/norm1/mean": 4,
    }


def test_a_layer_that_is_called_as_a_collection_is_refused_where_names_would_meet():
    twice = {"params": {"batch_stats": {"x": 1.0}}, "batch_stats": {"x": 2.0}}
    with pytest.raises(ValueError, match="two arrays have the same name"):
        weights.flatten(twice)


def test_names_of_another_tree_are_refused():
    with pytest.raises(ValueError, match="names that are not on both sides: a, c"):
        weights.unflatten({"a": 1, "b": 2}, like={"params": {"b": 0, "c": 0}})


def test_a_file_says_what_was_written_about_it_and_is_readable_by_all(tmp_path):
    path = tmp_path / "w.safetensors"
    for value in (1.0, 2.0):
        weights.write(path, {"params": {"w": jnp.full(3, value)}}, {"recipe": "lenet5_digits"})
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"recipe": "lenet5_digits"}
        np.testing.assert_array_equal(file.get_tensor("w"), [2, 2, 2])
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    assert {file.name for file in tmp_path.iterdir()} == {"w.safetensors", "other"}


def damaged(path, change):
    weights.write(path, {"params": {"w": np.arange(100.0)}})
    path.write_bytes(change(path.read_bytes()))


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "header": lambda data: data[:8] + b"x" + data[9:],
    "text": lambda data: b"weights of a network" * 10,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_one_clear_line(tmp_path, kind):
    path = tmp_path / "w.safetensors"
    damaged(path, DAMAGE[kind])
    with pytest.raises(UsageError, match="w.safetensors is damaged, or not a .safetensors") as e:
        weights.read(path)
    assert "\n" not in str(e.value)


def test_a_file_that_cannot_be_opened_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match="none.safetensors does not exist: name a .safetensors"):
        weights.read(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="cannot be read: "):
        weights.read(tmp_path)
    variables = {"params": {"w": np.ones(2)}}
    with pytest.raises(FileNotFoundError, match="none/w.safetensors"):
        weights.write(tmp_path / "none" / "w.safetensors", variables)
    with pytest.raises(UsageError, match="w.safetensors cannot be written: .*complex128"):
        weights.write(tmp_path / "w.safetensors", {"params": {"w": np.ones(2, np.complex128)}})
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match="folder"):
        weights.write(tmp_path / "folder", variables)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(UsageError, match="a type that NumPy lacks: .*float8_e4m3"):
        weights.read(path)


# A small model, its own start and the weights of another one that is like it.


def full(value, *shape, dtype=np.float32):
    return np.full(shape, value, dtype)


def model():
    return {
        "params": {
            "trunk": {
                "conv1": {"kernel": full(0, 3, 2)},
                "norm1": {"scale": full(0, 2), "bias": full(0, 2)},
            },
            "head": {"kernel": full(0, 2, 4), "bias": full(0, 4)},
        },
        "batch_stats": {"trunk": {"norm1": {"mean": full(0, 2), "var": full(0, 2)}}},
    }


def source(trunk="trunk", head="head"):
    return {
        f"{trunk}/conv1/kernel": full(1, 3, 2),
        f"{trunk}/norm1/scale": full(2, 2),
        f"{trunk}/norm1/bias": full(3, 2),
        f"{head}/kernel": full(4, 2, 4),
        f"{head}/bias": full(5, 4),
        f"batch_stats/{trunk}/norm1/mean": full(6, 2),
        f"batch_stats/{trunk}/norm1/var": full(7, 2),
    }


def values(variables):
    return {name: array.reshape(-1)[0] for name, array in weights.flatten(variables).items()}


ALL = {name: array.reshape(-1)[0] for name, array in source().items()}
FRESH_HEAD = ALL | {"head/kernel": 0, "head/bias": 0}


def test_the_same_names_need_no_mapping():
    started = weights.start(model(), source())
    assert values(started) == ALL
    assert jax.tree.structure(started) == jax.tree.structure(model())


@pytest.mark.parametrize(
    ("theirs", "mapping", "expected"),
    [
        (source("encoder"), r"trunk/(.*)<-encoder/\1", ALL),
        (
            {
                re.sub("^(batch_stats/)?", r"\1old/", name): array
                for name, array in source().items()
            },
            r"(.*)<-old/\1",
            ALL,
        ),
        (source("encoder"), r"trunk/(?P<rest>.*)<-encoder/\g<rest>", ALL),
        (source("encoder", "out"), r"trunk/(.*)<-encoder/\1 head/(.*)<-out/\1", ALL),
        (source("encoder"), r"(trunk)/(.*)/(.*)<-encoder/\2/\3", ALL),
        (source(head="out"), "head/.*<- <-out/.*", FRESH_HEAD),
        (source(), "head/.*<- <-head/.*", FRESH_HEAD),
        # The first that matches counts, and the rest keeps its name.
        (source(), r"head/bias<- (.*)<-\1 <-head/bias", ALL | {"head/bias": 0}),
        # One weight may start several.
        (
            source(),
            r"trunk/norm1/bias<-trunk/norm1/scale <-trunk/norm1/bias",
            ALL | {"trunk/norm1/bias": 2},
        ),
        # A collection that is spelled out is meant alone.
        (
            source(),
            r"batch_stats/.*<- <-batch_stats/.*",
            ALL | dict.fromkeys((name for name in ALL if name.startswith("batch_stats")), 0),
        ),
        (
            {**source(), "old/mean": full(8, 2), "old/var": full(9, 2)},
            r"batch_stats/trunk/norm1/(.*)<-old/\1 <-batch_stats/trunk/.*",
            ALL | {"batch_stats/trunk/norm1/mean": 8, "batch_stats/trunk/norm1/var": 9},
        ),
        # Names with dots, as other libraries have them.
        (
            {
                name.replace("/", "."): array
                for name, array in source().items()
                if "batch" not in name
            },
            r"batch_stats/.*<- (.*)/(.*)/(.*)<-\1.\2.\3 (.*)/(.*)<-\1.\2",
            {name: 0 if name.startswith("batch") else value for name, value in ALL.items()},
        ),
    ],
)
def test_a_mapping_says_what_is_read_kept_and_left_over(theirs, mapping, expected):
    assert values(weights.start(model(), theirs, mapping)) == expected


def test_weights_of_a_collection_that_the_model_lacks_are_left_out_by_their_whole_name():
    own = {"params": model()["params"]}
    with pytest.raises(UsageError, match="2 left over .*<-batch_stats/"):
        weights.start(own, source())
    started = weights.start(own, source(), "<-batch_stats/.*")
    assert values(started) == {name: ALL[name] for name in ALL if "batch_stats" not in name}


@pytest.mark.parametrize("here", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("there", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_floating_point_weights_take_the_models_precision(here, there):
    theirs = np.asarray([1 / 3, -2.0]).astype(there)
    started = weights.start({"params": {"w": np.zeros(2, here)}}, {"w": theirs})
    assert started["params"]["w"].dtype == here
    np.testing.assert_array_equal(started["params"]["w"], theirs.astype(here))


def test_weights_can_be_checked_before_they_are_there_and_within_a_compiled_function():
    abstract = jax.eval_shape(model)
    theirs = jax.eval_shape(functools.partial(source, "encoder"))
    mapping = r"trunk/(.*)<-encoder/\1"
    assert weights.start(abstract, theirs, mapping) == abstract
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), theirs)
    assert weights.start(abstract, half, mapping) == abstract
    with pytest.raises(UsageError, match="7 missing|5 missing"):
        weights.start(abstract, theirs)
    compiled = jax.jit(lambda own, theirs: weights.start(own, theirs, mapping))
    assert values(compiled(model(), source("encoder"))) == ALL


def without(theirs, *names):
    return {name: array for name, array in theirs.items() if name not in names}


@pytest.mark.parametrize(
    ("theirs", "mapping", "said"),
    [
        (
            without(source(), "head/kernel", "head/bias"),
            "",
            "2 missing in the source (head/bias, head/kernel): say what to read (TARGET<-SOURCE) "
            "or keep the model's own start (head/.*<-)",
        ),
        (
            source("encoder"),
            "",
            "5 missing in the source (batch_stats/trunk/norm1/mean, batch_stats/trunk/norm1/var, "
            r"trunk/conv1/kernel, ...): say what to read (trunk/(.*)<-encoder/\1) or keep the "
            "model's own start (trunk/.*<-); "
            "5 left over in the source (batch_stats/encoder/norm1/mean, "
            "batch_stats/encoder/norm1/var, encoder/conv1/kernel, ...): leave them out "
            "(<-encoder/.*)",
        ),
        (
            source(),
            r"head/(.*)<-out/\1 <-head/.*",
            "2 missing in the source (out/bias for head/bias, out/kernel for head/kernel): say "
            "what to read (TARGET<-SOURCE) or keep the model's own start (head/bias<-)",
        ),
        (
            source() | {"temperature": full(0)},
            "",
            "1 left over in the source (temperature): leave them out (<-temperature)",
        ),
        (
            source() | {"head/kernel": full(0, 2, 10), "head/bias": full(0, 10)},
            "",
            "2 of another shape (head/bias is 4 here and 10 there, head/kernel is 2x4 here and "
            "2x10 there): keep the model's own start (head/bias<- <-head/bias)",
        ),
        (
            without(source(), "head/bias") | {"out.bias": full(0)},
            "head/bias<-out.bias",
            "1 of another shape (head/bias is 4 here and a scalar there): keep the model's own "
            r"start (head/bias<- <-out\.bias)",
        ),
        (
            source() | {"head/bias": full(0, 4, dtype=np.int32)},
            "",
            "1 of another type (head/bias is float32 here and int32 there), and only "
            "floating-point numbers are converted: keep the model's own start "
            "(head/bias<- <-head/bias)",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line_with_the_words_that_mend_it(theirs, mapping, said):
    with pytest.raises(UsageError) as refused:
        weights.start(model(), theirs, mapping)
    before = (
        "start_from: the weights do not fit the model; words in start_mapping can mend it, the "
        "first that matches counts: "
    )
    assert str(refused.value) == before + said


@pytest.mark.parametrize(
    "theirs",
    [
        without(source(), "head/kernel", "head/bias"),
        source("encoder"),
        source() | {"temperature": full(0), "batch_stats/old/mean": full(0, 2)},
        source() | {"head/kernel": full(0, 2, 10)},
        source() | {"batch_stats/trunk/norm1/mean": full(0, 3)},
        without(source("encoder"), "encoder/norm1/bias") | {"head/bias": full(0, 4, dtype=int)},
    ],
)
def test_the_words_that_are_said_do_mend_it(theirs):
    mapping = ""
    for _ in range(4):
        try:
            weights.start(model(), theirs, mapping)
        except UsageError as refused:
            words = re.findall(r"\((\S*<-\S*(?: <-\S+)?)\)(?=[;: ]|$)", str(refused))
            words = [word for word in words if word != "TARGET<-SOURCE"]
            assert words
            mapping = f"{words[0]} {mapping}"
        else:
            return
    pytest.fail(f"not mended by {mapping}")


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("hed/.*<-", "start_mapping=hed/.*<-: it matches nothing in the model: it has to match a"),
        ("head<-", "a whole path, such as batch_stats/trunk/norm1/mean"),
        ("<-classifier/.*", "start_mapping=<-classifier/.*: it matches nothing in the source"),
        ("<-head/.*", "nothing that it matches is left over: head/kernel, head/bias is read"),
        (
            "head/.*<- head/bias<-",
            "=head/bias<-: an earlier word has taken all .* (head/bias), and",
        ),
        ("(.*)<-\\1 (.*)<-\\1", "=(.*)<-\\1: an earlier word has taken all that it matches"),
        ("head/(.*<-", "start_mapping=head/(.*<-: it is not a regular expression: missing )"),
        ("head/.*<-out/\\1", "start_mapping=head/.*<-out/\\1: invalid group reference 1"),
        ("head/.*<-\\g<x>", "unknown group name 'x' behind the arrow"),
        ("head/.*", "start_mapping=head/.*: write TARGET<-SOURCE, TARGET<- for the model's own"),
        ("<-", "start_mapping=<-: write TARGET<-SOURCE"),
        ("a<-b<-c", "start_mapping=a<-b<-c: write TARGET<-SOURCE"),
        ("head/.* <- out/.*", "start_mapping=head/.*: write .* with spaces between"),
    ],
)
def test_a_mapping_that_does_nothing_or_does_not_parse_is_refused(mapping, said):
    with pytest.raises(UsageError) as refused:
        weights.start(model(), source(), mapping)
    assert re.search(".*".join(map(re.escape, said.split(" .* "))), str(refused.value))
    assert "\n" not in str(refused.value)
