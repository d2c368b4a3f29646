"""The losses against their formulas written out for one group at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d4c.synthesis.objectives import pair_loss, prompt_loss, total_variation


@pytest.mark.parametrize("sizes", [[4], [4, 4], [4, 4, 1]], ids=str)
def test_groups_in_one_batch_equal_groups_alone(sizes: list[int]) -> None:
    n = sum(sizes)
    features, backgrounds = torch.randn(2, n, 8)
    texts = F.normalize(torch.randn(5, 8), dim=-1)
    targets = torch.randint(5, (n,))
    group = torch.cat([torch.full((size,), i) for i, size in enumerate(sizes)])
    together = prompt_loss(features, texts, targets, 0.1, backgrounds, group)
    f, b = F.normalize(features, dim=-1), F.normalize(backgrounds, dim=-1)
    for i in range(len(sizes)):
        rows = group == i
        logits = torch.cat([f[rows] @ texts.T, f[rows] @ b[rows].T], 1) / 0.1
        literal = -logits.log_softmax(-1)[torch.arange(len(logits)), targets[rows]]
        torch.testing.assert_close(together[rows], literal)


def test_without_backgrounds_only_prompts_compete() -> None:
    features, texts, targets = torch.randn(6, 8), F.normalize(torch.randn(5, 8), dim=-1), torch.arange(6) % 5
    ours = prompt_loss(features, texts, targets, 0.1, None, torch.zeros(6, dtype=torch.long))
    literal = F.cross_entropy(10 * F.normalize(features, dim=-1) @ texts.T, targets, reduction="none")
    torch.testing.assert_close(ours, literal)


def test_pairs_are_those_of_siglip_within_a_group() -> None:
    features, backgrounds = torch.randn(2, 6, 8)
    texts, targets, group = F.normalize(torch.randn(5, 8), dim=-1), torch.arange(6) % 5, torch.arange(6) // 4
    scale, bias = torch.tensor(7.0), torch.tensor(-3.0)
    ours = pair_loss(features, texts, targets, scale, bias, backgrounds, group)
    f, b = F.normalize(features, dim=-1), F.normalize(backgrounds, dim=-1)
    for i in range(6):
        own = scale * f[i] @ texts[targets[i]] + bias
        others = [scale * f[i] @ text + bias for j, text in enumerate(texts) if j != targets[i]]
        others += [scale * f[i] @ b[j] + bias for j in range(6) if group[j] == group[i]]
        torch.testing.assert_close(ours[i], -own.sigmoid().log() - sum((-x).sigmoid().log() for x in others))


def test_backgrounds_receive_a_gradient_of_their_own_group_only() -> None:
    backgrounds = torch.randn(4, 8, requires_grad=True)
    texts, targets, group = (
        F.normalize(torch.randn(3, 8), dim=-1),
        torch.zeros(4, dtype=torch.long),
        torch.arange(4) // 2,
    )
    prompt_loss(torch.randn(4, 8), texts, targets, 0.1, backgrounds, group)[:2].sum().backward()
    assert backgrounds.grad is not None
    assert (backgrounds.grad[:2] != 0).any(1).all()
    assert torch.equal(backgrounds.grad[2:], torch.zeros(2, 8))


def test_total_variation_of_a_ramp_is_its_slope_squared() -> None:
    ramp = 3.0 * torch.arange(6.0).expand(2, 3, 5, 6)
    assert total_variation(ramp).tolist() == [9, 9]
    assert total_variation(ramp.transpose(2, 3)).tolist() == [9, 9]


def test_total_variation_of_a_batch_is_the_mean_of_its_images() -> None:
    x = torch.randn(4, 3, 8, 8)
    literal = F.mse_loss(x[..., 1:], x[..., :-1]) + F.mse_loss(x[:, :, 1:], x[:, :, :-1])
    torch.testing.assert_close(total_variation(x).mean(), literal)
