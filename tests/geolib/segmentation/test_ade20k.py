"""Semantic maps of photographs: a small random network with ADE20K's kind of names."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import changed, lively, picture
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from geolib.segmentation.networks import ade20k
from geolib.segmentation.networks.ade20k import SemanticNetwork

pytestmark = pytest.mark.usefixtures("own_cache")

LABELS = ["wall", "building, edifice", "sky", "bed ", "signboard;sign"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random SegFormer with names of ADE20K."""
    folder = tmp_path_factory.mktemp("ade20k")
    torch.manual_seed(0)
    stages = {"num_encoder_blocks": 2, "depths": [1, 1], "strides": [4, 2], "patch_sizes": [7, 3]}
    stages |= {"hidden_sizes": [8, 16], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]}
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {n: i for i, n in enumerate(LABELS)}}
    config = SegformerConfig(sr_ratios=[2, 1], decoder_hidden_size=16, **stages, **names)
    lively(SegformerForSemanticSegmentation(config)).save_pretrained(folder)
    processor = SegformerImageProcessor(size={"height": 32, "width": 32}, do_reduce_labels=True)
    processor.save_pretrained(folder)
    return folder


def test_maps_are_the_networks_largest_scores(folder):
    network = SemanticNetwork(folder, device="cpu")
    assert network.names == ("wall", "building", "sky", "bed", "signboard")
    image = picture(32, 32)
    pixels = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        logits = network.model(pixel_values=pixels).logits
    assert logits.shape[-2:] == (8, 8)
    for size in (None, (24, 40)):
        expected = F.interpolate(logits, size or (32, 32), mode="bilinear").argmax(1)[0]
        found = network(image, size)
        assert (found == expected.numpy()).mean() > 0.995
        assert len(np.unique(found)) > 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"config": {"model_type": "sam2"}}, "model_type is 'sam2'"),
        ({"preprocessor_config": {"do_center_crop": True}}, "do_center_crop"),
    ],
)
def test_another_network_is_refused(folder, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        SemanticNetwork(changed(folder, tmp_path / "network", **change))


def test_a_missing_network_says_where_there_is_one(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"no checkpoint at .*openmmlab/upernet"):
        SemanticNetwork(tmp_path)
    with pytest.raises(ValueError, match="geolib fetch ade20k-upernet"):
        SemanticNetwork()


def test_a_name_of_the_hub_is_looked_up_there(folder, monkeypatch):
    download = mock.Mock(return_value=str(folder))
    monkeypatch.setattr(ade20k, "snapshot_download", download)
    network = SemanticNetwork("someone/some-network", device="cpu")
    assert download.call_args.args == ("someone/some-network",)
    assert network.key == SemanticNetwork(folder, device="cpu").key
