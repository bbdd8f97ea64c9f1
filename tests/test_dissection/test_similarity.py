"""The similarity functions against the oracle: any small problem in float64, sizeable ones in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.dissection.similarity import (
    SIMILARITIES,
    Scores,
    Variant,
    cos,
    cos_cubed,
    membership,
    rank_reorder,
    soft_wpmi,
    wpmi,
)
from tests import reference
from tests.test_dissection.strategies import QUICK, Problem, problems

VARIANTS: tuple[Variant, ...] = ("paper", "reference")
INFORMATION: dict[str, tuple[Callable[..., Scores], Callable[..., reference.Pmi]]] = {
    "wpmi": (wpmi, reference.wpmi),
    "soft_wpmi": (soft_wpmi, reference.soft_wpmi),
}

information = pytest.mark.parametrize("name", INFORMATION)
variants = pytest.mark.parametrize("variant", VARIANTS)


def sizeable(seed: int, num_images: int = 120, num_concepts: int = 40, num_neurons: int = 18) -> Problem:
    """Float32, of CLIP's size: similarities of 0.15 to 0.35, activations after a ReLU."""
    rng = np.random.default_rng(seed)
    P = rng.uniform(0.15, 0.35, (num_images, num_concepts))
    A = rng.normal(0.5, 1.0, (num_images, num_neurons)).clip(min=0.0)
    return Problem(P.astype(np.float32), A.astype(np.float32))


def drawn_orders(num_neurons: int, num_top: int, num_permutations: int = 5, seed: int = 0) -> list[list[list[int]]]:
    """The same orders for every neuron, so that a neuron's score does not depend on the others."""
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(num_top, generator=generator).tolist() for _ in range(num_permutations)]
    return [orders] * num_neurons


def assert_pmi(scores: Scores, expected: reference.Pmi, *, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    assert scores.log_likelihood is not None
    assert scores.log_prior is not None
    np.testing.assert_allclose(scores.log_likelihood, expected.log_likelihood, rtol, atol)
    np.testing.assert_allclose(scores.log_prior, expected.log_prior, rtol, atol)
    np.testing.assert_allclose(scores.similarity, expected.similarity, rtol, atol)


class TestEquations:
    """Float64 against the oracle, to rounding: every term of every equation is there."""

    @given(problems())
    @QUICK
    def test_cos_is_equation_1(self, problem: Problem) -> None:
        np.testing.assert_allclose(cos(*problem.tensors).similarity, reference.cos(*problem), 1e-9, 1e-9)

    @given(problems(), st.sampled_from([1e-3, 1e-6, 0.5]))
    @QUICK
    def test_cos_cubed_is_the_published_cosine(self, problem: Problem, min_norm: float) -> None:
        scores = cos_cubed(*problem.tensors, min_norm=min_norm).similarity
        np.testing.assert_allclose(scores, reference.cos_cubed(*problem, min_norm), 1e-9, 1e-9)

    @given(problems(), st.integers(1, 12), st.sampled_from([1.0, 2.0, 3.0]))
    @QUICK
    def test_rank_reorder_is_equation_2(self, problem: Problem, top_k: int, p: float) -> None:
        scores = rank_reorder(*problem.tensors, top_k=top_k, p=p).similarity
        np.testing.assert_allclose(scores, reference.rank_reorder(*problem, top_k, p), 1e-9, 1e-9)

    def test_rank_reorder_of_many_equal_similarities_favours_the_more_activating_image(self) -> None:
        problem = sizeable(4)
        coarse = Problem(problem.P.round(1), problem.A)  # 0.2 and 0.3 only: images tie by the dozen
        scores = rank_reorder(*coarse.tensors, top_k=60).similarity
        np.testing.assert_allclose(scores, reference.rank_reorder(*coarse, 60), 1e-5)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_rank_reorder_as_published_divides_by_chance_and_by_the_mean_similarity(self, seed: int) -> None:
        P, A = (array.astype(np.float64) for array in sizeable(seed, 20, 6, 4))
        scores = rank_reorder(torch.from_numpy(P), torch.from_numpy(A), top_k=8, seed=seed, variant="reference")
        expected = reference.rank_reorder_published(P, A, 8, drawn_orders(4, 8, seed=seed))
        np.testing.assert_allclose(scores.similarity, expected, 1e-9)

    def test_a_negative_mean_similarity_has_no_power_and_the_concept_ranks_last(self) -> None:
        P, A = (torch.from_numpy(array) for array in sizeable(0))
        P[:, 3] *= -1
        scores = rank_reorder(P, A, top_k=30, variant="reference").similarity
        assert (scores[:, 3] == -torch.inf).all()
        assert scores[:, :3].isfinite().all()

    def test_equal_activations_have_no_order_that_is_better(self) -> None:
        P, A = (torch.from_numpy(array) for array in sizeable(0))
        A[:60, 2] = 6.0  # saturated on more images than are looked at
        for variant in VARIANTS:
            assert (rank_reorder(P, A, top_k=30, variant=variant).similarity[2] == 0).all()

    @variants
    @given(problem=problems(), top_k=st.integers(1, 12), a=st.sampled_from([1.0, 2.0]), lam=st.floats(0.0, 1.5))
    @QUICK
    def test_wpmi_is_equation_8(self, variant: Variant, problem: Problem, top_k: int, a: float, lam: float) -> None:
        scores = wpmi(*problem.tensors, top_k=top_k, a=a, lam=lam, variant=variant)
        assert_pmi(scores, reference.wpmi(*problem, top_k, a, lam, published=variant == "reference"))

    @variants
    @given(problem=problems(), top_k=st.integers(1, 10), a=st.sampled_from([2.0, 10.0]), lam=st.floats(0.0, 1.5))
    @QUICK
    def test_soft_wpmi_is_equation_14(
        self, variant: Variant, problem: Problem, top_k: int, a: float, lam: float
    ) -> None:
        top_k = min(top_k, len(problem.P))
        scores = soft_wpmi(*problem.tensors, top_k=top_k, a=a, lam=lam, variant=variant)
        assert_pmi(scores, reference.soft_wpmi(*problem, top_k, a, lam, published=variant == "reference"))

    @variants
    @pytest.mark.parametrize("num_images", [1, 2, 100])
    def test_membership_falls_linearly_with_the_rank(self, num_images: int, variant: Variant) -> None:
        expected = reference.membership(num_images, 0.998, 0.97, published=variant == "reference")
        np.testing.assert_allclose(membership(num_images, 0.998, 0.97, variant), expected, rtol=1e-15)

    def test_the_published_hundredth_image_stops_short_of_the_papers(self) -> None:
        last = [float(membership(100, 0.998, 0.97, variant)[-1]) for variant in VARIANTS]
        assert last == pytest.approx([0.97, 0.97028], abs=1e-12)


class TestSinglePrecision:
    """Float32 as the pipeline runs it. Likelihoods are sums near -430, so that 1e-5 of them is 4e-3; their
    differences, the similarities, keep 1e-4."""

    @pytest.mark.parametrize("seed", [0, 1])
    def test_the_cosines_keep_five_digits(self, seed: int) -> None:
        problem = sizeable(seed)
        np.testing.assert_allclose(cos(*problem.tensors).similarity, reference.cos(*problem), 1e-5, 1e-6)
        np.testing.assert_allclose(cos_cubed(*problem.tensors).similarity, reference.cos_cubed(*problem), 1e-5, 1e-5)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_rank_reorder_keeps_five_digits(self, seed: int) -> None:
        problem = sizeable(seed)
        scores = rank_reorder(*problem.tensors, top_k=30).similarity
        np.testing.assert_allclose(scores, reference.rank_reorder(*problem, 30), 1e-5)
        scores = rank_reorder(*problem.tensors, top_k=30, variant="reference").similarity
        expected = reference.rank_reorder_published(*problem, 30, drawn_orders(18, 30))
        np.testing.assert_allclose(scores, expected, 1e-5)

    @information
    @variants
    def test_information_keeps_five_digits(self, name: str, variant: Variant) -> None:
        ours, oracle = INFORMATION[name]
        problem = sizeable(3)
        scores, expected = ours(*problem.tensors, variant=variant), oracle(*problem, published=variant == "reference")
        np.testing.assert_allclose(scores.log_likelihood, expected.log_likelihood, 1e-5)
        np.testing.assert_allclose(scores.log_prior, expected.log_prior, 1e-5)
        np.testing.assert_allclose(scores.similarity, expected.similarity, 1e-5, 1e-4)


class TestMeaning:
    """What the equations imply, whatever the numbers."""

    @given(problems())
    @QUICK
    def test_a_dead_neuron_is_like_no_concept(self, problem: Problem) -> None:
        P, A = problem.tensors
        assert (cos(P, torch.zeros_like(A)).similarity == 0).all()

    @given(problems(), st.sampled_from([0.25, 3.0, 1e6]))
    @QUICK
    def test_cosine_does_not_depend_on_the_scale_of_activations(self, problem: Problem, scale: float) -> None:
        P, A = problem.tensors
        np.testing.assert_allclose(cos(P, A * scale).similarity, cos(P, A).similarity, 1e-9, 1e-12)

    @pytest.mark.parametrize("scale", [1e-15, 1e-20, 1e-25, 1e-30])
    def test_cosine_of_tiny_activations_is_that_of_larger_ones(self, scale: float) -> None:
        # Probabilities of a class that the network never predicts are as small as this.
        P, A = sizeable(5).tensors
        np.testing.assert_allclose(cos(P, A * scale).similarity, cos(P, A).similarity, rtol=1e-4)

    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_cos_cubed_does_not_see_an_offset(self, seed: int) -> None:
        P, A = (tensor.double() for tensor in sizeable(seed).tensors)
        np.testing.assert_allclose(cos_cubed(P, A + 7.0).similarity, cos_cubed(P, A).similarity, 1e-8, 1e-10)

    @given(problems())
    @QUICK
    def test_an_activation_that_does_not_count_is_0_to_cos_and_the_mean_to_cos_cubed(self, problem: Problem) -> None:
        P, A = problem.tensors
        mean = A[1:].mean(0, keepdim=True) if len(A) > 1 else torch.zeros_like(A)
        ignored, zero, filled = (torch.cat([row, A[1:]]) for row in (-torch.inf + 0 * mean, 0 * mean, mean))
        np.testing.assert_allclose(cos(P, ignored).similarity, cos(P, zero).similarity, 1e-9, 1e-12)
        np.testing.assert_allclose(cos_cubed(P, ignored).similarity, cos_cubed(P, filled).similarity, 1e-6, 1e-9)

    def test_cos_cubed_is_small_for_a_neuron_that_hardly_moves(self) -> None:
        P, A = sizeable(1)
        faint = Problem(P, A * np.float32(1e-3))  # cubes of norm 1e-8, counted as 1e-3
        scores = cos_cubed(*faint.tensors).similarity
        assert scores.abs().max() < 1e-4
        np.testing.assert_allclose(scores, reference.cos_cubed(*faint), 1e-4, 1e-9)

    @given(problems(), st.integers(1, 12))
    @QUICK
    def test_rank_reorder_is_0_at_best_and_there_for_the_neurons_own_order(
        self, problem: Problem, top_k: int
    ) -> None:
        P, A = problem.tensors
        assert (rank_reorder(P, A, top_k=top_k).similarity <= 0).all()
        own = rank_reorder(A, A, top_k=top_k).similarity.diagonal()  # neurons as concepts
        assert (own == 0).all()

    @given(problems(), st.integers(1, 12))
    @QUICK
    def test_rank_reorder_sees_only_the_order_of_the_concept(self, problem: Problem, top_k: int) -> None:
        P, A = problem.tensors
        ranks = torch.stack([torch.unique(column, return_inverse=True)[1] for column in P.T], dim=1)  # ties stay
        scores = rank_reorder(P, A, top_k=top_k).similarity
        assert torch.equal(rank_reorder(ranks.double(), A, top_k=top_k).similarity, scores)

    def test_the_seed_of_chance_changes_scores_and_no_order_of_concepts(self) -> None:
        P, A = sizeable(6).tensors
        scores = [rank_reorder(P, A, top_k=30, seed=seed, variant="reference").similarity for seed in (0, 1, 0)]
        assert torch.equal(scores[0], scores[2])
        ratio = scores[0] / scores[1]  # [N, C], the same along a row
        np.testing.assert_allclose(ratio, ratio[:, :1].expand_as(ratio), 1e-5)
        assert (ratio[:, 0] - 1).abs().max() > 1e-3

    @information
    @given(problem=problems(), top_k=st.integers(1, 12))
    @QUICK
    def test_information_averages_to_nothing_over_the_layer(self, name: str, problem: Problem, top_k: int) -> None:
        # With λ = 1 the prior is the mean likelihood, so the mean of exp(similarity) over neurons is 1.
        scores = INFORMATION[name][0](*problem.tensors, top_k=top_k, lam=1.0)
        np.testing.assert_allclose(scores.similarity.exp().mean(0), 1.0, 1e-9)

    @information
    @given(problem=problems(), shift=st.floats(-3.0, 3.0))
    @QUICK
    def test_a_constant_added_to_an_image_says_nothing(self, name: str, problem: Problem, shift: float) -> None:
        P, A = problem.tensors
        brighter = P.clone()
        brighter[0] += shift
        ours = INFORMATION[name][0]
        np.testing.assert_allclose(ours(brighter, A).similarity, ours(P, A).similarity, 1e-8, 1e-8)

    @information
    @variants
    def test_a_repeated_concept_gets_the_same_score_and_takes_part_in_the_softmax(
        self, name: str, variant: Variant
    ) -> None:
        ours = INFORMATION[name][0]
        P, A = (tensor.double() for tensor in sizeable(7).tensors)
        once, twice = (ours(X, A, variant=variant).similarity for X in (P, torch.cat([P, P[:, :1]], dim=1)))
        assert torch.equal(twice[:, 0], twice[:, -1])
        assert not torch.allclose(twice[:, :-1], once, rtol=0.0, atol=1e-6)

    @pytest.mark.parametrize("certain", [1 - 1e-6, 1 - 1e-9])
    @given(problem=problems(), top_k=st.integers(1, 10))
    @QUICK
    def test_soft_wpmi_with_certain_membership_is_wpmi(self, certain: float, problem: Problem, top_k: int) -> None:
        # Appendix A.1: equation 12 reduces to equation 6 where every p(x∈B_k) is 0 or 1.
        soft = soft_wpmi(*problem.tensors, top_k=top_k, a=2.0, lam=0.6, p_start=certain, p_end=certain)
        hard = wpmi(*problem.tensors, top_k=top_k, a=2.0, lam=0.6)
        # One image of s = e^-4 / 5 differs by (1 - p) / s.
        np.testing.assert_allclose(soft.similarity, hard.similarity, rtol=0.0, atol=1e4 * (1 - certain))

    @pytest.mark.parametrize("name", sorted(SIMILARITIES))
    @variants
    def test_the_order_of_images_does_not_matter(self, name: str, variant: Variant) -> None:
        P, A = (tensor.double() for tensor in sizeable(8).tensors)
        A += torch.linspace(0.0, 1e-3, len(A))[:, None]  # no ties, which go by row
        extra = {"top_k": 30} if name == "rank_reorder" else {}
        shuffled = torch.randperm(len(P), generator=torch.Generator().manual_seed(0))
        scores = [
            SIMILARITIES[name](p, a, variant=variant, **extra).similarity
            for p, a in ((P, A), (P[shuffled], A[shuffled]))
        ]
        np.testing.assert_allclose(scores[0], scores[1], 1e-9, 1e-9)


class TestTopRows:
    @pytest.mark.parametrize("name", ["wpmi", "soft_wpmi", "rank_reorder"])
    @given(problem=problems(), top_k=st.integers(1, 5))
    @QUICK
    def test_only_rows_that_are_a_top_image_count(self, name: str, problem: Problem, top_k: int) -> None:
        P, A = problem.tensors
        tops = [reference.top_images(q, top_k) for q in problem.A.T]
        union = sorted({row for rows in tops for row in rows})
        whole, cut = (SIMILARITIES[name](p, a, top_k=top_k).similarity for p, a in ((P, A), (P[union], A[union])))
        np.testing.assert_allclose(cut, whole, 1e-12, 1e-12)

    @variants
    @pytest.mark.parametrize("name", ["wpmi", "rank_reorder"])
    def test_more_top_images_than_images_means_all(self, name: str, variant: Variant) -> None:
        P, A = sizeable(9, num_images=20).tensors
        scores = [SIMILARITIES[name](P, A, top_k=top_k, variant=variant).similarity for top_k in (20, 21, 1000)]
        assert torch.equal(scores[0], scores[1])
        assert torch.equal(scores[0], scores[2])

    @variants
    def test_membership_goes_by_rank_also_where_images_are_few(self, variant: Variant) -> None:
        # A.1: 0.97 is the 100th image's, so that the 20th of 20 has 0.9926, as it has among 50,000.
        problem = sizeable(9, num_images=20)
        P, A = (tensor.double() for tensor in problem.tensors)
        scores = soft_wpmi(P, A, top_k=100, variant=variant)
        assert_pmi(scores, reference.soft_wpmi(*problem, top_k=100, published=variant == "reference"))


class TestLive:
    @information
    @variants
    def test_dead_neurons_are_scored_and_left_out_of_the_prior(self, name: str, variant: Variant) -> None:
        ours, oracle = INFORMATION[name]
        problem = sizeable(10, 30, 6, 5)
        P, A = (tensor.double() for tensor in problem.tensors)
        live = [True, False, True, True, False]
        scores = ours(P, A, top_k=7, live=torch.tensor(live), variant=variant)
        assert_pmi(scores, oracle(*problem, top_k=7, live=live, published=variant == "reference"))

    @information
    def test_without_a_live_neuron_all_make_the_prior(self, name: str) -> None:
        P, A = sizeable(11, 30, 6, 5).tensors
        ours = INFORMATION[name][0]
        none_live = ours(P, A, live=torch.zeros(5, dtype=torch.bool))
        assert torch.equal(none_live.similarity, ours(P, A).similarity)


class TestProductsOfTerms:
    """SoftWPMI multiplies terms before it takes their logarithm, tile by tile."""

    @pytest.mark.parametrize("p_start", [0.998, 0.99999, 0.999999])
    def test_products_of_sure_images_do_not_overflow(self, p_start: float) -> None:
        # One concept fits every image (s = 1), so every term is as large as terms get: 1 / (1 - p).
        P, A = sizeable(13, num_images=100, num_concepts=4, num_neurons=3)
        P[:, 0] = 3.0
        scores = soft_wpmi(torch.from_numpy(P), torch.from_numpy(A), p_start=p_start, p_end=p_start)
        assert scores.log_likelihood is not None
        expected = reference.soft_wpmi(P, A, p_start=p_start, p_end=p_start).log_likelihood
        assert expected[0, 0] > -1.0  # likely, though its product of 100 terms is up to 1e600
        # Float32 holds 1 - p of a p near 1 to no more than 6e-8 / (1 - p).
        np.testing.assert_allclose(scores.log_likelihood, expected, rtol=1e-5, atol=100 * 6e-8 / (1 - p_start))

    def test_membership_that_float32_would_round_to_1_stays_finite(self) -> None:
        problem = sizeable(14, num_images=100, num_concepts=4, num_neurons=3)
        scores = soft_wpmi(*problem.tensors, p_start=1 - 1e-8)
        expected = reference.soft_wpmi(*problem, p_start=1 - 1e-8)
        np.testing.assert_allclose(scores.similarity, expected.similarity, 1e-5, 1e-4)
