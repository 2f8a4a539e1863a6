"""Attribution: which pixels speak for a class (§3.2 of arXiv 2605.00912).

:func:`attribute` is the one verb and :data:`METHODS` the registry. A method is a function
``method(classifier, images, targets, **options) -> raw maps [B, H, W]``; :func:`attribute` checks
the input, holds the classifier still, and scales the maps. A new method is one such function and
one line in the registry.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from captum.attr import IntegratedGradients, Saliency
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM
from pytorch_grad_cam.base_cam import BaseCAM
from skimage.color import rgb2gray
from skimage.filters import sobel
from torch import Tensor, nn
from torch.nn import functional as F

from geolib.model.classifier import IMAGENET_MEAN
from geolib.model.precision import BatchSize, choose_batch_size, uses_bf16

Output = Literal["logit", "probability"]

# Resizing leaves rounding errors around 0 and 1; anything beyond is not an image in 0...1.
RANGE_TOLERANCE = 1e-5


def attribute(
    classifier: nn.Module,
    images: Tensor,
    method: str = "gradcam++",
    targets: Tensor | Sequence[int] | None = None,
    *,
    precision: str = "auto",
    batch_size: int | None = None,
    **options: object,
) -> Tensor:
    """Attribution maps of a batch of images (§3.2 of arXiv 2605.00912).

    The result does not depend on how images are batched or ordered, on the global random state,
    or on the caller's gradient mode; the classifier is evaluated in ``eval`` mode and left as it
    was found, without hooks or gradients.

    Parameters
    ----------
    classifier : nn.Module
        Maps images in 0...1 to logits ``[B, N]``. The CAM methods read the feature map
        ``[B, K, h, w]`` that its attribute ``target_layer`` puts out.
    images : Tensor, float32, ``[B, 3, H, W]``
        RGB in 0...1, not normalised.
    method : str
        A name in :data:`METHODS`.
    targets : int Tensor or sequence of int, ``[B]``, optional
        The class whose evidence is asked for; the predicted class by default.
    precision : {"auto", "fp32", "bf16"}
        ``"bf16"`` computes under autocast; ``"auto"`` does so where the processor has native
        bfloat16 arithmetic and the method can bear it (see :data:`FLOAT32_METHODS`).
    batch_size : int
        Most images (masked, noisy or interpolated ones where the method makes such) that go
        through the classifier at once; by default as the device suggests. Bounds the memory, does
        not change the maps. Halved, with a warning, whenever memory runs out.
    **options
        Options of the method: see its docstring in :data:`METHODS`.

    Returns
    -------
    Tensor, float32, ``[B, H, W]``
        Min-max scaled to 0...1 per image; a constant map is all zeros.

    Raises
    ------
    TypeError
        If ``images`` or ``targets`` has the wrong type, or the method has no such option.
    ValueError
        If an argument is out of range, or the classifier or a map is not finite.
    """
    function = _lookup(method, options)
    _check_images(images)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if targets is not None:
        targets = _as_targets(targets, len(images))
    chunked = "batch_size" in inspect.signature(function).parameters
    if precision == "auto" and method in FLOAT32_METHODS:
        precision = "fp32"
    device = next((p.device for p in classifier.parameters()), images.device)

    def maps(size: int) -> Tensor:
        found = [torch.empty(0, *images.shape[-2:])]
        chunks = {"batch_size": size} if chunked else {}
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            # A copy, because autograd refuses tensors made under inference mode.
            inputs = images[part].detach().to(device, copy=True)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            wanted = None if targets is None else targets[part].to(device)
            raw = function(classifier, inputs, wanted, **chunks, **options)
            found.append(raw.detach().float().cpu())
        return torch.cat(found)

    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _held_still(classifier),
        torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(device, precision)),
    ):
        raw = BatchSize(batch_size or choose_batch_size(device)).run(maps)
    broken = (~raw.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"method {method!r} gave NaN or infinite maps for images {broken[:10]}: "
            "check the classifier's weights for such values"
        )
    return _min_max(raw).to(images.device)


# --- Class activation maps -------------------------------------------------------------------


def gradcam(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    target_layer: nn.Module | str | None = None,
    output: Output = "logit",
) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient (Selvaraju et al., ICCV 2017, eq. 1-2).

    ``target_layer``, a module or its name, overrides ``classifier.target_layer``; ``output`` is
    what is differentiated: "logit" or "probability".
    """
    return _cam(GradCAM, classifier, images, targets, target_layer, output)


def gradcam_plusplus(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    target_layer: nn.Module | str | None = None,
    output: Output = "logit",
) -> Tensor:
    """Grad-CAM++: pixel-wise gradient weights (Chattopadhay et al., WACV 2018, eq. 19).

    ``target_layer``, a module or its name, overrides ``classifier.target_layer``; ``output`` is
    what is differentiated: "logit" or "probability".
    """
    return _cam(GradCAMPlusPlus, classifier, images, targets, target_layer, output)


def layercam(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    target_layer: nn.Module | str | None = None,
    output: Output = "logit",
) -> Tensor:
    """LayerCAM: each position weighted by its own positive gradient (Jiang et al., TIP 2021).

    ``target_layer``, a module or its name, overrides ``classifier.target_layer``; ``output`` is
    what is differentiated: "logit" or "probability".
    """
    return _cam(LayerCAM, classifier, images, targets, target_layer, output)


def scorecam(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    target_layer: nn.Module | str | None = None,
    output: Output = "logit",
    n_channels: int | None = None,
    batch_size: int = 32,
) -> Tensor:
    """Score-CAM: channels weighted by the score of what they show (Wang et al., CVPRW 2020).

    Channel k, up-sampled and min-max scaled, is a mask m; the classifier sees
    ``m * x + (1 - m) * mean``, which is ``m`` times the input in normalised space, and the
    weights are the softmax over the channels of the target's score. The paper scores the increase
    over a baseline input (its "CIC"): one number for all channels, which the softmax cancels.

    A constant channel, such as one that its ReLU silences, has an empty mask. All of them share
    one score, computed once.

    ``target_layer``, a module or its name, overrides ``classifier.target_layer``; ``output`` is
    the score: "logit" or "probability"; ``n_channels`` keeps only the channels with the largest
    range (all by default).
    """
    with torch.no_grad():
        activations, scores = _forward(classifier, images, _target_layer(classifier, target_layer))
        targets = _resolve(targets, scores)
        size = images.shape[-2:]
        low, high = activations.aminmax(dim=3)
        spread = high.amax(dim=2) - low.amin(dim=2)
        kept = torch.ones_like(spread, dtype=torch.bool)
        if n_channels is not None:
            if n_channels < 1:
                raise ValueError(f"n_channels must be at least 1 (None: all), got {n_channels}")
            best = spread.argsort(dim=1, descending=True, stable=True)[:, :n_channels]
            kept = torch.zeros_like(kept).scatter(1, best, True)

        # The colour that the classifier normalises to zero.
        mean = getattr(classifier, "mean", _colour(IMAGENET_MEAN, images))
        empty = _scores(classifier(mean.expand(1, 3, *size)), output)[0]
        weights = empty[targets][:, None].repeat(1, spread.shape[1])
        contrast = images - mean
        for pairs in ((spread > 0) & kept).nonzero().split(batch_size):
            image, channel = pairs.unbind(dim=1)
            masks = _min_max(_upsample(activations[image, channel], size))
            masked = torch.addcmul(mean, masks[:, None], contrast[image])
            masked = masked.contiguous(memory_format=torch.channels_last)
            masked_scores = _scores(classifier(masked), output)
            weights[image, channel] = masked_scores.gather(1, targets[image][:, None])[:, 0]
        weights = weights.masked_fill(~kept, -torch.inf).softmax(dim=1)
        return _upsample(torch.einsum("bk,bkhw->bhw", weights, activations).relu(), size)


def _cam(
    formula: type[BaseCAM],
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    target_layer: nn.Module | str | None,
    output: Output,
) -> Tensor:
    """ReLU of the library's weighted feature maps, from one forward pass and a partial backward.

    Only the formula is the library's. Its driver scales maps with an additive epsilon, clears the
    classifier's gradients and runs backward to the input.
    """
    layer = _target_layer(classifier, target_layer)
    activations, logits = _forward(classifier, images, layer)
    scores = _scores(logits, output)
    selected = scores.gather(1, _resolve(targets, scores)[:, None]).sum()
    if not selected.requires_grad:
        raise ValueError(f"target_layer {layer.__class__.__name__} does not lead to the logits")
    (gradients,) = torch.autograd.grad(selected, activations)
    # The library asks for a module with parameters; it is not used.
    cam = formula(nn.LayerNorm(1), []).get_cam_image(
        images,
        layer,
        None,
        activations.detach().cpu().numpy(),
        gradients.cpu().numpy(),
        eigen_smooth=False,
    )
    return _upsample(torch.from_numpy(cam).relu(), images.shape[-2:])


def _forward(classifier: nn.Module, images: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """The layer's output (float32; a leaf when gradients are on) and the logits, in one pass."""
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: object, activations: object) -> Tensor:
        if not isinstance(activations, Tensor) or activations.ndim != 4:
            shape = tuple(getattr(activations, "shape", ()))
            raise ValueError(
                f"target_layer {layer.__class__.__name__} puts out "
                f"{type(activations).__name__} {shape}; expected a feature map [B, K, h, w]"
            )
        seen.append(activations.detach().float().requires_grad_(torch.is_grad_enabled()))
        # What follows may work in place (ReLU): it gets a copy.
        return seen[-1].to(activations.dtype, copy=True)

    handle = layer.register_forward_hook(hook)
    try:
        logits = classifier(images)
    finally:
        handle.remove()
    if len(seen) != 1:
        raise ValueError(
            f"target_layer {layer.__class__.__name__} ran {len(seen)} times in one forward pass; "
            "expected a module of the classifier that runs once"
        )
    return seen[0], logits


def _target_layer(classifier: nn.Module, override: nn.Module | str | None) -> nn.Module:
    layer = getattr(classifier, "target_layer", None) if override is None else override
    if isinstance(layer, str):
        try:
            return classifier.get_submodule(layer)
        except AttributeError as error:
            names = [name for name, _ in classifier.named_modules() if name]
            close = difflib.get_close_matches(layer, names) or names[:10]
            raise ValueError(
                f"target_layer {layer!r} is no module of the classifier; close: {', '.join(close)}"
            ) from error
    if not isinstance(layer, nn.Module):
        raise TypeError(
            f"target_layer must be a module or its name, got {type(layer).__name__}: set the "
            "classifier's attribute target_layer, or pass target_layer="
        )
    return layer


# --- Input gradients -------------------------------------------------------------------------


def smoothgrad(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    sigma: float = 0.15,
    n_samples: int = 50,
    squared: bool = False,
    seed: int = 0,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """SmoothGrad: the input gradient averaged over noisy copies (arXiv 1706.03825, §2).

    Gradients keep their sign in the average; the map is its absolute value, the largest over the
    colour channels. With ``squared``, squares are averaged instead (SmoothGrad²,
    arXiv 1806.10758). ``sigma`` is the noise's standard deviation on the input scale 0...1. One
    noise sequence, fixed by ``seed``, serves all images. ``output``, "logit" or "probability", is
    what is differentiated.
    """
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got {n_samples}")
    if sigma < 0:
        raise ValueError(f"sigma must not be negative, got {sigma}")
    targets = _ask(classifier, images, targets)
    saliency = Saliency(lambda inputs: _scores(classifier(inputs), output))
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(images)
    together = max(1, batch_size // len(images))
    for start in range(0, n_samples, together):
        # One draw per sample, so that the sequence does not depend on how many go together.
        draws = range(start, min(start + together, n_samples))
        noise = torch.stack([torch.randn(images.shape[1:], generator=generator) for _ in draws])
        noisy = (images + sigma * noise[:, None].to(images.device)).flatten(0, 1)
        noisy = noisy.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradients = saliency.attribute(noisy, target=targets.repeat(len(noise)), abs=False)
        if squared:
            gradients = gradients.square()
        total += gradients.unflatten(0, (len(noise), len(images))).sum(dim=0)
    return (total / n_samples).abs().amax(dim=1)


def integrated_gradients(
    classifier: nn.Module,
    images: Tensor,
    targets: Tensor | None,
    *,
    steps: int = 32,
    baseline: tuple[float, float, float] = IMAGENET_MEAN,
    output: Output = "logit",
    batch_size: int = 32,
) -> Tensor:
    """Integrated Gradients along the straight path from a plain colour (arXiv 1703.01365, §3).

    The contributions of a pixel's three channels are added, which keeps completeness (over all
    pixels they sum to the score's change from baseline to image); the map is the absolute value
    of the sum. ``steps`` is the number of Gauss-Legendre points, ``baseline`` an RGB colour in
    0...1, ``output``, "logit" or "probability", what is differentiated.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    targets = _ask(classifier, images, targets)
    path = IntegratedGradients(lambda inputs: _scores(classifier(inputs), output))
    contributions = path.attribute(
        images,
        baselines=_colour(baseline, images).expand_as(images),
        target=targets,
        n_steps=steps,
        internal_batch_size=max(batch_size, len(images)),
    )
    return contributions.sum(dim=1).abs()


# --- Controls: maps that do not look at the classifier ---------------------------------------


def random(
    _classifier: nn.Module,
    images: Tensor,
    _targets: Tensor | None,
    *,
    seed: int = 0,
    grid: int = 7,
) -> Tensor:
    """Uniform noise on a ``grid`` x ``grid`` lattice, up-sampled like a CAM of that size.

    The noise is seeded by ``seed`` and the image's content, so an image keeps its map in any
    batch.
    """
    if grid < 2:
        raise ValueError(f"grid must be at least 2, got {grid}")
    maps = []
    for image in images.cpu():
        content = image.contiguous().numpy().tobytes()
        digest = hashlib.sha256(f"{seed}:{tuple(image.shape)}:".encode() + content).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        maps.append(torch.rand(grid, grid, generator=generator))
    return _upsample(torch.stack(maps), images.shape[-2:])


def edges(_classifier: nn.Module, images: Tensor, _targets: Tensor | None) -> Tensor:
    """Gradient magnitude of the luminance (Sobel)."""
    grey = rgb2gray(images.cpu().numpy(), channel_axis=1)
    return torch.stack([torch.from_numpy(sobel(image)) for image in grey])


# --- Shared pieces ---------------------------------------------------------------------------


def _ask(classifier: nn.Module, images: Tensor, targets: Tensor | None) -> Tensor:
    """The targets, checked against the classifier's outputs, or its predictions."""
    with torch.no_grad():
        return _resolve(targets, _scores(classifier(images), "logit"))


def _scores(logits: Tensor, output: Output) -> Tensor:
    """Logits ``[B, N]`` as the quantity to attribute."""
    if not logits.isfinite().all():
        raise ValueError(
            "classifier gave NaN or infinite logits: check its weights for such values"
        )
    if output == "logit":
        return logits.float()
    if output == "probability":
        return logits.float().softmax(dim=1)
    raise ValueError(f"output must be 'logit' or 'probability', got {output!r}")


def _resolve(targets: Tensor | None, scores: Tensor) -> Tensor:
    """The targets, or the predicted class."""
    if targets is None:
        return scores.argmax(dim=1)
    if targets.max() >= scores.shape[1]:
        raise ValueError(
            f"targets must lie in 0...{scores.shape[1] - 1} for a classifier of "
            f"{scores.shape[1]} classes, got {int(targets.max())}"
        )
    return targets


def _colour(colour: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(colour, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)


def _upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
    """``[B, h, w]`` to ``[B, H, W]``, bilinear between pixel centres."""
    return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[
        :, 0
    ]


def _min_max(maps: Tensor) -> Tensor:
    """Each map of ``[B, H, W]`` scaled to 0...1; a map that varies by rounding only is zero."""
    flat = maps.flatten(1)
    low, high = flat.aminmax(dim=1, keepdim=True)
    span = high - low
    rounding = 8 * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    scaled = (flat - low) / span
    return scaled.where(span > rounding, 0).view_as(maps)


@contextmanager
def _held_still(classifier: nn.Module) -> Iterator[None]:
    """The classifier in eval mode with frozen parameters; every flag is put back afterwards."""
    training = {module: module.training for module in classifier.modules()}
    learning = {parameter: parameter.requires_grad for parameter in classifier.parameters()}
    try:
        classifier.eval()
        classifier.requires_grad_(False)
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in learning.items():
            parameter.requires_grad_(flag)


def _lookup(method: str, options: dict[str, object]) -> Callable[..., Tensor]:
    if method not in METHODS:
        raise ValueError(f"unknown attribution method {method!r}; known: {', '.join(METHODS)}")
    signature = inspect.signature(METHODS[method]).parameters.values()
    known = [p.name for p in signature if p.kind is p.KEYWORD_ONLY]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(
            f"attribution method {method!r} has no option {', '.join(unknown)}; "
            f"it knows: {', '.join(known) or 'none'}"
        )
    return METHODS[method]


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"images must be a float32 tensor in 0...1, got {got}: convert bytes with "
            "images.float() / 255"
        )
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must have shape [B, 3, H, W], got {tuple(images.shape)}")
    if len(images) == 0:
        return
    low, high = images.min().item(), images.max().item()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f"images must lie in 0...1 without NaN, got {low:.4g} to {high:.4g}: give them "
            "un-normalised; the classifier normalises"
        )


def _as_targets(targets: Tensor | Sequence[int], n_images: int) -> Tensor:
    tensor = torch.as_tensor(targets)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"targets must be integers, got {tensor.dtype}")
    if tensor.shape != (n_images,):
        raise ValueError(
            f"targets must have one class per image, shape ({n_images},), got {tuple(tensor.shape)}"
        )
    if n_images and tensor.min() < 0:
        raise ValueError(f"targets must not be negative, got {int(tensor.min())}")
    return tensor.long()


METHODS: dict[str, Callable[..., Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plusplus,
    "layercam": layercam,
    "scorecam": scorecam,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "random": random,
    "edges": edges,
}

# Methods that "auto" keeps in float32: in bfloat16 their maps change by more than their own noise.
# (A SmoothGrad map changes more from one noise seed to the next.)
FLOAT32_METHODS = frozenset({"integrated_gradients"})
