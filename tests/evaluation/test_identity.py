import numpy as np
import pytest
import torch

from vae.evaluation.identity import same_pairs, verify


def test_pairs_are_of_one_person_and_each_stands_once():
    people = np.array([7, 3, 7, 5, 7, 3])
    assert {tuple(sorted(pair)) for pair in same_pairs(people)} == {(0, 2), (0, 4), (2, 4), (1, 5)}
    assert len(same_pairs(people)) == 4
    assert len(same_pairs(np.arange(3))) == 0


def test_the_auc_counts_how_often_a_pair_of_one_person_is_more_similar_than_a_pair_of_two():
    unit = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    people = np.array([1, 1, 2, 2])
    found = verify(unit, people)
    similarity = (unit @ unit.T).numpy()
    same, different = [similarity[0, 1], similarity[2, 3]], similarity[:2, 2:].ravel()
    expected = np.mean([(different < one).mean() + (different == one).mean() / 2 for one in same])
    assert found["auc"] == pytest.approx(expected, abs=0.01)
    assert found["same"] == 2
    # half of the pairs drawn from four faces are of two people
    assert found["different"] == pytest.approx(100_000, rel=0.02)


@pytest.mark.parametrize("people", [[1, 2, 3], [1, 1, 1]])
def test_without_pairs_of_one_kind_there_is_no_auc(people):
    assert verify(torch.eye(3), np.array(people)) is None
