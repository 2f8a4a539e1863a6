"""A network and images that every test of maps may use."""

import pytest
from toys import small_network, smooth_images


@pytest.fixture(scope="module")
def images():
    return smooth_images(3)


@pytest.fixture(scope="module", params=["resnet", "mobilenet", "convnext"])
def network(request):
    return small_network(request.param)


@pytest.fixture(scope="module")
def resnet():
    return small_network("resnet")
