"""Settings of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Schedule = Literal["constant", "one_cycle", "halving", "warm_restarts"]


class TrainConfig(BaseModel):
    """Settings of a training; the defaults are the paper's, or plain where it is silent.

    The paper gives the network and its start (``arch``, ``weights``), the loss
    (``label_smoothing``), the optimiser AdamW (``learning_rate``, ``weight_decay``), flips and
    colour jitter, ``max_epochs``, early stopping on the validation loss (``patience``) and the
    ``image_size``. It is silent on batch size, learning rate schedule and strength of the jitter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arch: str = Field("resnet50", description="network of torchvision or timm, or a checkpoint")
    weights: str | None = Field("imagenet", description="file, 'imagenet' or 'random'")
    image_size: int = Field(224, ge=16, description="side in pixels")
    batch_size: int = Field(64, ge=1, description="images per step, of all processes together")
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(3e-4, gt=0, description="the highest of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.02, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    schedule: Schedule = Field(
        "constant",
        description="warm_restarts: three cosine cycles per epoch; halving: after every three "
        "epochs, from the twelfth on after each",
    )
    max_epochs: int = Field(300, ge=1)
    patience: int = Field(30, ge=1, description="epochs without a lower validation loss")
    horizontal_flip: bool = Field(True, description="mirror every second image, drawn at random")
    crops: bool = Field(
        False, description="random parts of photographs instead of whole ones, see training.crops"
    )
    color_jitter: float = Field(
        0.2, ge=0, lt=1, description="brightness, contrast and saturation vary by this share"
    )
    box_masks: float = Field(
        0.0, ge=0, le=1, description="share of images with random boxes masked, see mask_boxes"
    )
    freeze_batch_norm: bool | None = Field(
        None, description="keep batch norm's statistics; None: where they are the identity"
    )
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    seed: int = Field(0, ge=0)


PAPER = TrainConfig()
