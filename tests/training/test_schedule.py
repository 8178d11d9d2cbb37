import numpy as np
import pytest
import torch

from vae.training.schedule import epoch_order, learning_rate_at, seed_generators


def test_an_epoch_contains_each_training_face_once_in_an_order_of_its_own():
    rows = np.arange(3, 50)
    orders = [epoch_order(rows, seed=1, epoch=epoch, flip=True) for epoch in (1, 2)]
    for order, mirrored in orders:
        assert sorted(order) == list(rows)
        assert 0 < mirrored.sum() < len(rows)
    assert list(orders[0][0]) != list(orders[1][0])
    again, mirrored = epoch_order(rows, seed=1, epoch=1, flip=False)
    assert list(again) == list(orders[0][0])
    assert not mirrored.any()


def test_half_of_the_faces_are_mirrored():
    _, mirrored = epoch_order(np.arange(10_000), seed=2, epoch=1, flip=True)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.02)


def test_the_noise_depends_on_seed_step_and_rank():
    places = [(4, 1, 0), (5, 1, 0), (4, 2, 0), (4, 1, 1)]
    draws = []
    for place in places + places[:1]:
        seed_generators(*place)
        draws.append(torch.randn(3))
    assert torch.equal(draws[0], draws[-1])
    assert torch.cdist(torch.stack(draws[:-1]), torch.stack(draws[:-1])).fill_diagonal_(9).min() > 0


@pytest.mark.parametrize("steps", [7, 10, 1100])
def test_one_cycle_equals_that_of_torch(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        rate = learning_rate_at(step, steps, 2e-3, "one-cycle")
        assert rate == pytest.approx(oracle.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            oracle.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_stays_in_range_in_the_shortest_runs_and_after_the_end(steps):
    rates = [learning_rate_at(step, steps, 1.0, "one-cycle") for step in range(steps + 2)]
    assert all(0 < rate <= 1 for rate in rates)


def test_a_constant_learning_rate_does_not_change():
    assert {learning_rate_at(step, 9, 3e-4, "constant") for step in range(9)} == {3e-4}
