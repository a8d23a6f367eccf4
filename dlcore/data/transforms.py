"""What is done to a batch on the device: units, padding, augmentation, crops, normalization."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlcore import parallel
from dlcore.data import augmentation, crops
from dlcore.data import features as kinds
from dlcore.data.augmentation.moves import Cut, Move, Size, moved, picture_size
from dlcore.data.features import Feature
from dlcore.data.options import ExampleOptions
from dlcore.data.statistics import unit

Statistics = Mapping[str, Mapping[str, np.ndarray]]
Batch = dict[str, jax.Array]


def transform(
    batch: Mapping[str, Any],
    key: jax.Array | None,
    features: Mapping[str, Feature],
    options: ExampleOptions,
    statistics: Callable[[], Statistics],
    *,
    train: bool,
    varies: bool,
) -> Batch:
    """A batch of examples as a model sees it; keys that it lacks are left out.

    Padding and whatever augmentation uncovers are zero before the normalization: background. A test
    of several crops adds all of them: `views`, float32 `[batch, crops, height, width, channels]`,
    beside the one in the center.

    Args:
      batch: from the host.
      key: random; each example has its own, by its place in the global batch.
      features: of the batch.
      options: what is done.
      statistics: of the training split, where they are needed.
      train: whether it is trained on; a batch that is not may have several crops.
      varies: whether training examples are augmented and cut out at random.
    """
    present = {name: feature for name, feature in features.items() if name in batch}
    result = {**batch, **{name: _number(batch[name], present[name]) for name in present}}
    images = [name for name, feature in present.items() if isinstance(feature, kinds.Image)]
    if images and options.pad:
        height, width = picture_size(_first(result), present)
        padded = (height + 2 * options.pad, width + 2 * options.pad)
        nowhere = jnp.zeros(2, jnp.int32)
        result = _moved(result, present, Cut((height, width), options.pad, nowhere, padded))
    if train and varies:
        result = _varied(result, key, present, options, statistics)
    elif images and options.crop_size:
        if options.test_crops > 1 and not train:
            views = crops.views(result[images[0]], options.crop_size, options.test_crops)
            views = _normalized(images[0], views, options.normalize, statistics)
            result["views"] = _in_color(views) if options.color else views
        size = picture_size(_first(result), present)
        result = _moved(result, present, crops.center(size, options.crop_size))
    for name, feature in present.items():
        if isinstance(feature, (*kinds.INPUTS, kinds.Images)):
            array = _normalized(name, result[name], options.normalize, statistics)
            result[name] = _without_padding(result, name, array)
    if options.color:
        result |= {name: _in_color(result[name]) for name in images}
    return result


def _number(array: Any, feature: Feature) -> Any:
    """What is stored in some unit, float32 in units of 1."""
    if isinstance(feature, kinds.Segmentation):
        return array.astype(jnp.int32)
    scale = unit(feature, array.dtype)
    if array.dtype == jnp.float32:
        return array if scale == 1 else array / scale
    if isinstance(feature, (*kinds.INPUTS, kinds.Images)):
        return array.astype(jnp.float32) / scale
    return array


def _first(batch: Batch) -> Batch:
    return {name: array[0] for name, array in batch.items()}


def _moved(batch: Batch, features: Mapping[str, Feature], move: Move) -> Batch:
    return jax.vmap(lambda example: moved(example, features, move))(batch)


def _varied(
    batch: Batch,
    key: jax.Array | None,
    features: Mapping[str, Feature],
    options: ExampleOptions,
    statistics: Callable[[], Statistics],
) -> Batch:
    choices, side = augmentation.parse(options.augment), options.crop_size
    if not choices and not side:
        return batch
    if key is None:
        raise ValueError("a training batch is changed at random: it needs a key")
    colored = augmentation.needs_colors(choices)
    change = augmentation.compose(choices, features, statistics() if colored else None)

    def vary(key: jax.Array, example: Batch) -> Batch:
        example = change(key, example)
        if not side:
            return example
        # The augmentations' keys have the numbers before.
        last_key = jax.random.fold_in(key, len(choices))
        size = picture_size(example, features)
        return moved(example, features, _random_crop(last_key, size, options))

    count = batch[next(iter(features))].shape[0]
    return jax.vmap(vary)(parallel.example_keys(key, count), batch)


def _random_crop(key: jax.Array, size: Size, options: ExampleOptions) -> Move:
    if options.crop_scales:
        return crops.of_scales(key, size, options.crop_size, options.crop_scales)
    if options.crop_area:
        return crops.of_areas(key, size, options.crop_size, options.crop_area)
    return crops.random(key, size, options.crop_size)


def _normalized(
    name: str, array: jax.Array, how: str, statistics: Callable[[], Statistics]
) -> jax.Array:
    match how:
        case "mean_std":
            measured = statistics()[name]
            return (array - measured["mean"]) / measured["standard_deviation"]
        case "symmetric":
            return array * 2 - 1
        case "lenet":
            return array * 1.275 - 0.1
        case _:
            return array


def _in_color(images: jax.Array) -> jax.Array:
    """Three channels, equal where there was one."""
    return jnp.broadcast_to(images, (*images.shape[:-1], 3))


def _without_padding(batch: Batch, name: str, array: jax.Array) -> jax.Array:
    """Steps that are padding are 0, whatever 0 was normalized to."""
    if f"{name}_length" not in batch:
        return array
    real = jnp.arange(array.shape[1]) < batch[f"{name}_length"][:, None]
    return jnp.where(real.reshape(*real.shape, *(1,) * (array.ndim - 2)), array, 0)
