"""The scattering transform: Kymatio's numbers, what the mathematics promises, one record alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from privet.tasks.images import CHANNELS, scattering, scattering_features

# Kymatio 0.3.0: Scattering2D(J=2, shape=(28, 28)) of `texture()`, at places (0, 0), (3, 3), (6, 2).
KYMATIO = {
    0: (0.90478, 0.64602, 0.54368),
    1: (0.02833, 0.07634, 0.03246),
    6: (0.01524, 0.00724, 0.00547),
    9: (0.03526, 0.14499, 0.03754),
    14: (0.01441, 0.00141, 0.00821),
    17: (0.00557, 0.00459, 0.00577),
    30: (0.00190, 0.00423, 0.00183),
    55: (0.00290, 0.00047, 0.00044),
    80: (0.00309, 0.00104, 0.00539),
}


def texture() -> Tensor:
    y, x = np.mgrid[:28, :28]
    values = (np.sin(0.9 * x + 0.3 * y) + np.cos(0.05 * x * y) + 2.0) / 4
    return torch.from_numpy(values.astype(np.float32)).unsqueeze(0)


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 28, 28, generator=torch.Generator().manual_seed(seed))


def test_the_coefficients_are_those_of_kymatio() -> None:
    found = scattering(texture())[0]
    assert found.shape == (CHANNELS, 7, 7)
    for channel, expected in KYMATIO.items():
        values = [found[channel, y, x].item() for y, x in ((0, 0), (3, 3), (6, 2))]
        # Half of the last digit that is given, and what Kymatio's pi of 3.1415 makes of it.
        assert values == pytest.approx(expected, abs=6e-6, rel=1e-4), channel


def test_a_flat_image_has_an_average_and_nothing_else() -> None:
    found = scattering(torch.full((1, 28, 28), 0.7))[0]
    torch.testing.assert_close(found[0], torch.full((7, 7), 0.7), atol=1e-5, rtol=0)
    assert found[1:].abs().max() < 1e-5


def test_brightness_moves_the_average_alone_and_contrast_scales_everything() -> None:
    images = noise(2)
    plain, changed = scattering(images), scattering(3 * images + 0.5)
    torch.testing.assert_close(changed[:, 1:], 3 * plain[:, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(changed[:, 0], 3 * plain[:, 0] + 0.5, atol=1e-5, rtol=1e-4)


def test_an_image_moved_by_four_pixels_moves_its_features_by_one() -> None:
    image = torch.zeros(1, 28, 28)
    image[:, 8:16, 8:16] = noise(1)[:, :8, :8]
    found, moved = scattering(image), scattering(torch.roll(image, (4, 4), dims=(1, 2)))
    # The border is at least eight pixels away from the patch, five deviations of the average.
    torch.testing.assert_close(moved[:, :, 1:, 1:], found[:, :, :-1, :-1], atol=1e-3, rtol=0)
    assert (moved - found).abs().max() > 0.1


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("scale", [0, 1])
def test_a_wave_is_found_by_the_wavelet_of_its_scale_and_direction(scale: int, turn: int) -> None:
    angle = (3 - turn) * np.pi / 8
    frequency = 0.75 * np.pi / 2**scale
    x, y = np.mgrid[:28, :28]
    wave = np.cos(frequency * (x * np.cos(angle) + y * np.sin(angle)))
    middle = scattering(torch.from_numpy(wave).float().unsqueeze(0))[0, :, 3, 3]
    assert int(middle[1:17].argmax()) == 8 * scale + turn


def test_images_that_are_close_have_features_that_are_close() -> None:
    """The transform is nearly non-expansive (Bruna and Mallat 2013, section 2.3)."""
    for seed in range(5):
        first, second = noise(1, seed), noise(1, seed + 100)
        between = 0.9 * first + 0.1 * second
        moved = 4 * (scattering(first) - scattering(between)).norm()
        assert moved <= 1.1 * (first - between).norm()


def test_features_of_a_record_depend_on_that_record_alone() -> None:
    images = noise(37)
    together = scattering_features(images)
    alone = torch.cat([scattering_features(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    others = torch.cat([images[:20], noise(17, seed=1)])
    torch.testing.assert_close(scattering_features(others)[:20], together[:20], atol=1e-4, rtol=0)


def test_features_have_mean_0_and_variance_1_in_groups_of_three_channels() -> None:
    images = noise(3)
    before = scattering(images).reshape(3, 27, -1)
    groups = scattering_features(images).reshape(3, 27, -1)
    torch.testing.assert_close(groups.mean(dim=2), torch.zeros(3, 27), atol=1e-5, rtol=0)
    spread = before.var(dim=2, correction=0)
    # Less where there is hardly anything to see, which is not blown up.
    expected = spread / (spread + 1e-5)
    torch.testing.assert_close(groups.var(dim=2, correction=0), expected, atol=1e-3, rtol=0)
    assert expected[:, 0].min() > 0.99


def test_features_of_a_blank_image_are_numbers() -> None:
    assert scattering_features(torch.zeros(1, 28, 28)).isfinite().all()


def test_other_sizes_than_28_are_possible() -> None:
    images = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    assert scattering_features(images).shape == (2, CHANNELS, 8, 8)


def test_no_images_have_no_features() -> None:
    assert scattering_features(torch.zeros(0, 28, 28)).shape == (0, CHANNELS, 7, 7)
