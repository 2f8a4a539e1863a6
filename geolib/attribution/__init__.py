"""Attribution: which pixels speak for a class (§3.2 of arXiv 2605.00912).

A method is a function ``method(classifier, images, targets, **options) -> raw maps [B, H, W]`` and
a line in :data:`METHODS`; :func:`attribute` checks its input and scales its maps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from geolib.attribution import blind, blocks, cams, gradients, perturbation
from geolib.attribution.passes import feature_maps, layer_of, min_max, ranks
from geolib.model.device import BatchSize, inference_precision, uses_bf16

__all__ = ["FLOAT32_METHODS", "METHODS", "attribute", "block_sizes", "combicam_layers"]


def attribute(
    classifier: nn.Module,
    images: Tensor,
    method: str = "gradcam++",
    targets: Tensor | Sequence[int] | None = None,
    *,
    scaling: str = "min-max",
    precision: str = "auto",
    batch_size: int | None = None,
    **options: object,
) -> Tensor:
    """Attribution maps of a batch of images (§3.2 of arXiv 2605.00912).

    The maps do not depend on batches, their order, the global random state or the caller's
    gradient mode. The classifier is evaluated in ``eval`` mode and left as it was found.

    Parameters
    ----------
    classifier : images in 0...1 to logits ``[B, N]``. The CAM methods read the feature map
        ``[B, K, h, w]`` that its attribute ``target_layer`` puts out.
    images : float32 ``[B, 3, H, W]``, RGB in 0...1, not normalised.
    method : a name in :data:`METHODS`; ``options`` are those of its docstring.
    targets : int ``[B]``, the class whose evidence is asked for; by default the predicted one.
    scaling : "min-max"; "rank" puts the ranks of a map's values in their place before.
    precision : "fp32"; "bf16", under autocast; "auto", bfloat16 where the processor computes in it
        and the method can bear it (see :data:`FLOAT32_METHODS`).
    batch_size : most images (also masked, noisy or interpolated ones) in one pass, by default as
        the device suggests; halved, with a warning, whenever memory runs out.

    Returns
    -------
    float32 ``[B, H, W]``, min-max scaled to 0...1 per image; a constant map is all zeros.

    Raises
    ------
    ValueError, TypeError
        For another type, shape or range, an unknown method or option, a classifier or map that is
        not finite, or a network without the layer or the blocks that the method needs.
    """
    if scaling not in ("min-max", "rank"):
        raise ValueError(f"scaling must be 'min-max' or 'rank', got {scaling!r}")
    settings = method, classifier, images, targets, precision, batch_size
    maps = min_max(_in_batches(_lookup(method, options), *settings, options))
    return (maps if scaling == "min-max" else min_max(ranks(maps))).to(images.device)


def combicam_layers(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | Sequence[int] | None = None,
    *,
    layers: Sequence[str] | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """What each block of the network adds to a Combi-CAM map (arXiv 2603.24117).

    Parameters
    ----------
    classifier, images, targets, precision, batch_size : as for :func:`attribute`.
    layers : names of modules whose maps are added; by default every block.

    Returns
    -------
    float32 ``[B, H, W]`` by the name of the block, in the network's order: its class activation map
    for the softmax probability, unscaled, up-sampled with aligned corners. :func:`attribute` scales
    their sum to 0...1.

    Raises
    ------
    ValueError, TypeError
        As :func:`attribute`; also for a network without known blocks or without one of ``layers``.
    """
    names = blocks.block_modules(classifier, layers)
    settings = "combicam", classifier, images, targets, precision, batch_size
    found = _in_batches(blocks.block_maps, *settings, {"layers": layers}, len(names))
    return dict(zip(names, found.to(images.device).unbind(dim=1), strict=True))


def block_sizes(
    classifier: nn.Module, images: Tensor, *, layers: Sequence[str] | None = None
) -> dict[str, tuple[int, int]]:
    """Height and width of the feature map of each block, by its name, in the network's order.

    Arguments and errors are those of :func:`combicam_layers`; only the first image is looked at.
    """
    modules = blocks.block_modules(classifier, layers)
    device = next((p.device for p in classifier.parameters()), images.device)
    with torch.no_grad(), _held_still(classifier):
        maps, _ = feature_maps(classifier, images[:1].to(device), modules)
    return {name: (one.shape[2], one.shape[3]) for name, one in maps.items()}


def _in_batches(
    function: Callable[..., Tensor],
    method: str,
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | Sequence[int] | None,
    precision: str,
    batch_size: int | None,
    options: Mapping[str, object],
    *n_maps: int,
) -> Tensor:
    """Raw maps ``[B, (N,) H, W]`` of the images, on the CPU; the classifier is left as it was."""
    _check_images(images)
    wanted = None if targets is None else _as_targets(targets, len(images))
    if precision == "auto" and method in FLOAT32_METHODS:
        precision = "fp32"
    device = next((p.device for p in classifier.parameters()), images.device)
    fitting = BatchSize(batch_size, device)
    portioned = "batch_size" in inspect.signature(function).parameters

    shape = *n_maps, *images.shape[-2:]

    def run(size: int) -> Tensor:
        found = [torch.empty(0, *shape)]
        portions = {"batch_size": size} if portioned else {}
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            # A copy, because autograd refuses tensors made under inference mode.
            inputs = images[part].detach().to(device, copy=True)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            classes = None if wanted is None else wanted[part].to(device)
            raw = function(classifier, inputs, classes, **portions, **options)
            expected = (len(inputs), *shape)
            if not isinstance(raw, Tensor) or raw.shape != expected:
                layer = options.get("target_layer", getattr(classifier, "target_layer_name", None))
                layer = type(layer).__name__ if isinstance(layer, nn.Module) else layer
                raise ValueError(
                    f"{method!r} (target_layer {layer}) gave {type(raw).__name__} "
                    f"{tuple(getattr(raw, 'shape', ()))}; expected a tensor {expected}"
                )
            found.append(raw.detach().float().cpu())
        return torch.cat(found)

    held = _held_still(classifier, uses_bf16(device, precision))
    cast = inference_precision(device, precision)
    with torch.inference_mode(False), torch.enable_grad(), held, cast:
        maps = fitting.run(run)
    if broken := [i for i, one in enumerate(maps) if not one.isfinite().all()]:
        raise ValueError(
            f"{method!r} gave NaN or infinite maps for images {broken[:10]}: check the weights"
        )
    return maps


@contextmanager
def _held_still(classifier: nn.Module, bf16: bool = False) -> Iterator[None]:
    """The classifier in eval mode with frozen parameters; all is put back afterwards.

    With ``bf16`` plain convolutions hold their kernels as autocast would make them in every pass;
    others (weight standardisation, for one) compute with theirs before.
    """
    training = [(module, module.training) for module in classifier.modules()]
    learning = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    convolutions = [m for m in classifier.modules() if bf16 and type(m) is nn.Conv2d]
    kernels = [(convolution, convolution.weight.data) for convolution in convolutions]
    try:
        classifier.eval().requires_grad_(False)
        for convolution, kernel in kernels:
            convolution.weight.data = kernel.to(torch.bfloat16, memory_format=torch.channels_last)
        yield
    finally:
        for convolution, kernel in kernels:
            convolution.weight.data = kernel
        for module, flag in training:
            module.training = flag
        for parameter, flag in learning:
            parameter.requires_grad_(flag)


def check(classifier: nn.Module, method: str) -> None:
    """ValueError for an unknown method, or a network without the layer or blocks that it needs."""
    options = inspect.signature(_lookup(method, {})).parameters
    if "target_layer" in options:
        layer_of(classifier, None)
    if "layers" in options:
        blocks.block_modules(classifier, None)


def _lookup(method: str, options: dict[str, object]) -> Callable[..., Tensor]:
    if method not in METHODS:
        raise ValueError(f"unknown attribution method {method!r}; known: {', '.join(METHODS)}")
    signature = inspect.signature(METHODS[method]).parameters.values()
    known = [p.name for p in signature if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(
            f"attribution method {method!r} has no option {', '.join(unknown)}; "
            f"it knows: {', '.join(known) or 'none'}"
        )
    return METHODS[method]


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be float32 in 0...1, got {got}: images.float() / 255")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape [B, 3, H, W], got {tuple(images.shape)}")
    low, high = (bound.item() for bound in images.aminmax()) if len(images) else (0, 1)
    # Resizing leaves rounding errors around 0 and 1; anything beyond is not an image in 0...1.
    if not (low >= -1e-5 and high <= 1 + 1e-5):
        raise ValueError(
            f"images must lie in 0...1, not normalised, without NaN; got {low:.4g} to {high:.4g}"
        )


def _as_targets(targets: Tensor | Sequence[int], n_images: int) -> Tensor:
    tensor = torch.as_tensor(targets)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"targets must be integers, got {tensor.dtype}")
    if tensor.shape != (n_images,):
        raise ValueError(f"targets must be ({n_images},), one per image, got {tuple(tensor.shape)}")
    if n_images and tensor.min() < 0:
        raise ValueError(f"targets must not be negative, got {int(tensor.min())}")
    return tensor.long()


METHODS: dict[str, Callable[..., Tensor]] = {
    "gradcam": cams.gradcam,
    "gradcam++": cams.gradcam_plusplus,
    "layercam": cams.layercam,
    "scorecam": cams.scorecam,
    "combicam": blocks.combicam,
    "smoothgrad": gradients.smoothgrad,
    "integrated_gradients": gradients.integrated_gradients,
    "integrated_gradients_squared": gradients.integrated_gradients_squared,
    "rise": perturbation.rise,
    "occlusion": perturbation.occlusion,
    "random": blind.random,
    "edges": blind.edges,
}

# Methods that "auto" keeps in float32: in bfloat16 their maps change by more than their own noise.
# (Maps averaged over noisy or masked copies change more from one seed to the next.)
FLOAT32_METHODS = frozenset({"integrated_gradients", "occlusion"})
