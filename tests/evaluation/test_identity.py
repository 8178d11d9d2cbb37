import numpy as np
import torch

from vae.evaluation.identity import different_pairs, same_pairs, verification_auc


def test_pairs_are_of_one_person_or_of_two():
    people = np.array([7, 3, 7, 5, 7, 3])
    assert {tuple(sorted(pair)) for pair in same_pairs(people)} == {(0, 2), (0, 4), (2, 4), (1, 5)}
    assert len(same_pairs(people)) == 4
    assert len(same_pairs(np.arange(3))) == 0
    pairs = different_pairs(people, np.array([0, 1]), np.arange(6), count=300)
    assert set(pairs[:, 0]) == {0, 1}
    assert len(pairs) > 100
    assert (people[pairs[:, 0]] != people[pairs[:, 1]]).all()


def test_the_auc_counts_how_often_a_pair_of_one_person_is_more_similar_than_a_pair_of_two():
    unit = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    same, different = np.array([[0, 1], [0, 3]]), np.array([[0, 2], [1, 2]])
    # 0.8 is above 0 and 0.6, -1 is above neither
    assert verification_auc(unit, same, different) == 0.5


def test_without_pairs_of_one_kind_there_is_no_auc():
    unit, none = torch.eye(3), np.empty((0, 2), int)
    assert verification_auc(unit, none, np.array([[0, 1]])) is None
    assert verification_auc(unit, np.array([[0, 1]]), none) is None
