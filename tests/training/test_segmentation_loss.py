"""The loss of stage 3: one sigmoid a class, weights of classes, ignored pixels."""

import pytest
import torch
import torch.nn.functional as F

from pyramid_tokenizer.training.segmentation import (
    class_weights,
    consistency_loss,
    sigmoid_loss,
)


class TestLoss:
    @pytest.mark.parametrize("classes", [1, 3, 7])
    def test_it_is_the_cross_entropy_of_one_sigmoid_a_class(self, classes):
        logits = torch.randn(2, classes, 4, 5) * 3
        labels = torch.randint(-1, classes + 1, (2, 4, 5))
        targets = torch.zeros(2, classes + 1, 4, 5).scatter_(1, labels.clamp(min=0)[:, None], 1.0)[:, :classes]
        each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
        torch.testing.assert_close(sigmoid_loss(logits, labels), each[labels >= 0].mean())

    def test_its_gradient_is_that_too_and_nothing_at_ignored_pixels(self):
        logits, labels = torch.randn(1, 3, 2, 3, requires_grad=True), torch.tensor([[[0, 3, -1], [2, 2, -1]]])
        sigmoid_loss(logits, labels).backward()
        targets = F.one_hot(labels.clamp(min=0), 4)[..., :3].permute(0, 3, 1, 2)
        wanted = (logits.detach().sigmoid() - targets) / 4 * (labels >= 0)
        torch.testing.assert_close(logits.grad, wanted)

    def test_without_a_pixel_that_counts_it_is_zero_and_moves_nothing(self):
        logits = torch.randn(1, 3, 2, 2, requires_grad=True)
        loss = sigmoid_loss(logits, torch.full((1, 2, 2), -1))
        loss.backward()
        assert float(loss.detach()) == 0
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_with_weights_a_pixel_counts_as_its_class_does(self):
        logits, labels = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 3], [2, -1]]])
        weights = torch.tensor([2.0, 5.0, 0.5, 0.25])  # of the classes, and of none
        alone = []
        for row, column in ((0, 0), (0, 1), (1, 0)):
            kept = torch.full_like(labels, -1)
            kept[0, row, column] = labels[0, row, column]
            alone.append(sigmoid_loss(logits, kept))
        wanted = (2.0 * alone[0] + 0.25 * alone[1] + 0.5 * alone[2]) / 3
        torch.testing.assert_close(sigmoid_loss(logits, labels, weights), wanted)

    @pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
    def test_class_weights_are_one_on_average_and_favour_the_rare(self, power):
        shares = torch.tensor([0.7, 0.25, 0.05, 0.0])
        weights = class_weights(shares, power)
        assert float((weights * shares).sum()) == pytest.approx(1)
        assert weights.tolist() == sorted(weights.tolist())
        torch.testing.assert_close(weights[2] / weights[0], torch.tensor(14.0) ** power)
        assert weights[3] == weights[2]  # of no pixel: as the rarest


class TestConsistency:
    def test_it_is_the_divergence_of_sigmoids_from_the_goals(self):
        logits, goal = torch.randn(2, 3, 4, 5) * 3, torch.randn(2, 3, 4, 5) * 3
        own, aim = (torch.distributions.Bernoulli(logits=values) for values in (logits, goal))
        each = torch.distributions.kl_divergence(aim, own).sum(1)
        torch.testing.assert_close(consistency_loss(logits, goal), each.mean())

    def test_it_is_least_at_the_goal(self):
        goal = torch.randn(1, 3, 2, 2)
        logits = goal.clone().requires_grad_()
        loss = consistency_loss(logits, goal)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(logits.grad, torch.zeros_like(goal))
