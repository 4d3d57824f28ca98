"""rvlib.profiles: every name in them exists, and every number can be measured."""

import pytest

from rvlib.profiles import DEFENCES, PROFILES, SEEDS, find_profile
from rvlib.recipes import ALPHA, ATTACKS, RECIPES, REPORT_ATTACKS, SIGMA, gaussian_name
from rvlib.smoothing.certificate import smallest_n_to_certify, smallest_n_to_predict

profiles = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def test_there_are_three_under_their_own_names():
    assert list(PROFILES) == ["smoke", "course", "full"]
    for name, profile in PROFILES.items():
        assert find_profile(name) is profile
        assert profile.name == name


def test_an_unknown_profile_is_refused_with_the_choice():
    with pytest.raises(
        ValueError, match=r"^unknown profile 'fast': choose from smoke, course, ful"
    ):
        find_profile("fast")


def test_full_is_the_report():
    full = PROFILES["full"]
    assert full.trains
    assert (full.heldout, full.certified, full.test) == (1024, 1024, 10_000)
    assert full.ns == (100, 1000, 10_000, 100_000)
    assert not PROFILES["smoke"].trains
    assert not PROFILES["course"].trains


@profiles
def test_its_attacks_exist_and_hold_those_of_the_report(profile):
    assert set(profile.attacks) <= set(ATTACKS)
    assert profile.attacks[: len(REPORT_ATTACKS)] == REPORT_ATTACKS
    assert len(set(profile.attacks)) == len(profile.attacks)


@profiles
def test_its_images_exist(profile):
    assert 0 < profile.certified <= profile.heldout <= 1024
    assert 0 <= profile.test <= 10_000


@profiles
def test_its_votes_can_answer_and_certify(profile):
    assert list(profile.ns) == sorted(set(profile.ns))
    assert all(n % 100 == 0 for n in (*profile.ns, profile.votes))
    assert min(profile.ns) >= smallest_n_to_certify(ALPHA)
    assert profile.votes >= smallest_n_to_predict(ALPHA)


@profiles
def test_its_seeds_are_shipped(profile):
    assert set(profile.seeds) <= set(RECIPES)
    assert all(1 <= count <= SEEDS[name] for name, count in profile.seeds.items())


@profiles
def test_its_models_are_all_recipes_and_then_further_seeds(profile):
    models = profile.models()
    assert models[: len(RECIPES)] == [(name, 0) for name in RECIPES]
    assert (
        len(set(models))
        == len(models)
        == len(RECIPES) - len(profile.seeds) + sum(profile.seeds.values())
    )
    for name, count in profile.seeds.items():
        assert [seed for other, seed in models if other == name] == list(range(count))


def test_the_defences_are_recipes():
    assert set(DEFENCES) <= set(RECIPES)
    assert len(set(DEFENCES)) == len(DEFENCES)
    assert gaussian_name(SIGMA) in DEFENCES
