import torch
from torch.nn import functional

from vae.models.build import build
from vae.models.judge import Judge, identify, look, predict

NAMES = ("Hat", "Red hair", "Smiling")


def make_judge():
    torch.manual_seed(0)
    return Judge((4, 7), NAMES).eval()


def test_there_is_a_logit_for_each_attribute_of_a_table_of_three():
    judge = make_judge()
    assert judge(torch.rand(5, 3, 32, 32)).shape == (5, 3)
    assert judge.features(torch.rand(5, 3, 32, 32)).shape == (5, 7)
    assert judge.attribute_std.shape == (3,)


def test_arch_rebuilds_the_network_with_its_names():
    judge = make_judge()
    rebuilt = build(judge.arch).eval()
    rebuilt.load_state_dict(judge.state_dict())
    assert rebuilt.arch["attribute_names"] == list(NAMES)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(rebuilt(x), judge(x))


def test_each_stage_halves_the_side():
    x = torch.rand(1, 3, 32, 32)
    assert make_judge().stages(x).shape == (1, 7, 8, 8)
    assert Judge((4, 5, 6), NAMES).stages(x).shape == (1, 6, 4, 4)


def test_look_gives_the_same_as_forward_and_does_not_depend_on_the_batches():
    judge, x = make_judge(), torch.rand(6, 3, 32, 32)
    logits, features = look(judge, x.split(4))
    torch.testing.assert_close(logits, judge(x).detach())
    torch.testing.assert_close(features, judge.features(x).detach())
    torch.testing.assert_close(predict(judge, x), logits)


def test_looking_switches_dropout_and_batch_statistics_off():
    judge, x = make_judge(), torch.rand(6, 3, 32, 32)
    expected = predict(judge, x)
    judge.train()
    assert torch.equal(predict(judge, x), expected)


def test_a_gradient_reaches_the_pixels():
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    make_judge()(x)[:, 1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_identity_vectors_have_norm_one_and_their_dot_product_is_the_cosine_of_the_features():
    features = torch.rand(3, 7)
    unit = identify(features)
    assert unit.shape == (3, 7)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
    cosine = functional.cosine_similarity(features[0], features[2], dim=0)
    torch.testing.assert_close(unit[0] @ unit[2], cosine)
