import numpy as np
import pytest
import torch

from vae.schedule import beta_at, epoch_order, learning_rate_at


def test_an_epoch_sees_each_training_face_once_in_an_order_of_its_own():
    rows = np.arange(3, 50)
    orders = [epoch_order(rows, seed=1, epoch=epoch, flip=True) for epoch in (1, 2)]
    for order, mirrored in orders:
        assert sorted(order) == list(rows)
        assert 0 < mirrored.sum() < len(rows)
    assert list(orders[0][0]) != list(orders[1][0])
    again, mirrored = epoch_order(rows, seed=1, epoch=1, flip=False)
    assert list(again) == list(orders[0][0])
    assert not mirrored.any()


@pytest.mark.parametrize("steps", [7, 10, 1100])
def test_one_cycle_equals_torchs(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        rate = learning_rate_at(step, steps, 2e-3, "one-cycle")
        assert rate == pytest.approx(oracle.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            oracle.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_has_a_rate_in_range_in_the_shortest_runs_and_past_the_end(steps):
    rates = [learning_rate_at(step, steps, 1.0, "one-cycle") for step in range(steps + 2)]
    assert all(0 < rate <= 1 for rate in rates)


def test_a_constant_rate_stays():
    assert {learning_rate_at(step, 9, 3e-4, "constant") for step in range(9)} == {3e-4}


def test_beta_rises_in_a_line_and_stays():
    assert [beta_at(step, 2.0, 4) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert beta_at(0, 2.0, 0) == 2.0
