"""Metrics: against all orders of tied scores, torchmetrics, numbers of the released evaluations, and themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalRecall

from vtrlib.metrics import (
    Standing,
    dual_softmax,
    evaluate,
    evaluate_both,
    locate,
    query_bootstrap,
    querybank_norm,
    ranks,
    standing,
)
from vtrlib.metrics.standing import TIES
from vtrlib.world.ceilings import expected_recall

GOLDEN = torch.load(Path(__file__).parent / "golden" / "metrics.pt", weights_only=True)
ACCELERATORS = [
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device here")),
]
Q, V = 23, 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tied_scores(seed: int = 0, queries: int = Q, videos: int = V) -> Tensor:
    return torch.randint(0, 3, (queries, videos), generator=generator(seed)).double()


def some_relevant(seed: int = 1, queries: int = Q, videos: int = V) -> Tensor:
    mask = torch.rand(queries, videos, generator=generator(seed)) < 0.3
    mask[torch.arange(queries), torch.randint(videos, (queries,), generator=generator(seed))] = True
    return mask


def all_ranks(scores: Tensor, relevant: Tensor) -> list[int]:
    """The best relevant rank in every order of the videos that the scores allow, one per permutation."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        ranking = sorted(order, key=lambda v: -scores[v].item())
        found.append(1 + next(place for place, v in enumerate(ranking) if relevant[v]))
    return found


@pytest.fixture(scope="module")
def enumerated() -> list[list[int]]:
    return [all_ranks(s, r) for s, r in zip(tied_scores(), some_relevant(), strict=True)]


# --- ties ---


def test_ranks_are_those_of_all_orders_of_tied_scores(enumerated: list[list[int]]) -> None:
    scores, relevant = tied_scores(), some_relevant()
    assert max(map(len, map(set, enumerated))) > 3, "no ties, nothing tested"
    expected = torch.tensor([mean(found) for found in enumerated], dtype=torch.float64)
    torch.testing.assert_close(ranks(scores, relevant), expected, rtol=1e-12, atol=0)
    assert ranks(scores, relevant, ties="optimistic").tolist() == [min(found) for found in enumerated]
    assert ranks(scores, relevant, ties="pessimistic").tolist() == [max(found) for found in enumerated]
    order = scores.argsort(dim=1, descending=True, stable=True)
    first = relevant.gather(1, order).int().argmax(1) + 1
    assert ranks(scores, relevant, ties="stable").tolist() == first.tolist()
    assert len({tuple(ranks(scores, relevant, ties=rule).tolist()) for rule in TIES[:4]}) == 4


@pytest.mark.parametrize("k", [1, 2, 4, 6, 50])
def test_recall_is_the_mean_over_all_orders(enumerated: list[list[int]], k: int) -> None:
    scores, relevant = tied_scores(), some_relevant()
    hits = 100 * mean(mean(rank <= k for rank in found) for found in enumerated)
    assert evaluate(scores, relevant).recall(k) == pytest.approx(hits, abs=1e-12)
    assert expected_recall(scores.numpy(), relevant.numpy(), k) == pytest.approx(hits / 100, abs=1e-12)
    low = 100 * mean(max(found) <= k for found in enumerated)
    assert evaluate(scores, relevant, ties="pessimistic").recall(k) == pytest.approx(low)


def test_an_unstable_sort_lands_between_optimistic_and_pessimistic() -> None:
    """DreamPRVR's evaluation takes the place in torch.argsort(−score), which promises nothing about ties."""
    scores = tied_scores(3, 67, 41)
    relevant = torch.randint(41, (67,), generator=generator(4))
    place = ((-scores).argsort(dim=1) == relevant[:, None]).int().argmax(1) + 1
    found = standing(scores, relevant)
    assert (found.ranks("optimistic") <= place).all() and (place <= found.ranks("pessimistic")).all()
    assert (found.ranks("optimistic") < found.ranks("pessimistic")).any()


def reference(scores: np.ndarray[Any, Any]) -> dict[str, float]:
    """The rule of CLIP4Clip's evaluation, in our words: every place of the sorted row that holds the right score."""
    places = []
    for query, row in enumerate(scores):
        places += [place + 1 for place, s in enumerate(sorted(row, reverse=True)) if s == row[query]]
    recalls = {f"R@{k}": 100 * mean(p <= k for p in places) for k in (1, 5, 10)}
    return {**recalls, "SumR": sum(recalls.values()), "MdR": median(places), "MnR": mean(places)}


def test_reference_ties_are_counted_once_per_column() -> None:
    scores = tied_scores(5, 11, 11)
    report = evaluate(scores, torch.arange(11), ties="reference")
    assert len(report.ranks) > 20
    assert report.metrics() == pytest.approx(reference(scores.numpy()), abs=1e-12)
    untied = torch.randn(11, 11, generator=generator())
    assert evaluate(untied, torch.arange(11), ties="reference").ranks.tolist() == ranks(untied, range(11)).tolist()


def test_reference_ties_are_defined_for_one_relevant_video() -> None:
    with pytest.raises(ValueError, match="ties='reference': query 1 ties 2 relevant videos, expected one"):
        evaluate(torch.ones(2, 3), [[0], [1, 2]], ties="reference")
    assert evaluate(torch.ones(2, 3), [0, 1], ties="reference").ranks.tolist() == [1, 2, 3, 1, 2, 3]


def test_a_collapsed_model_scores_as_chance_does() -> None:
    report = evaluate(torch.zeros(7, 50), [3] * 7, ks=(1, 5, 10, 100))
    assert report.metrics() == pytest.approx(
        {"R@1": 2, "R@5": 10, "R@10": 20, "R@100": 100, "SumR": 132, "MdR": 25.5, "MnR": 25.5}
    )
    assert evaluate(torch.zeros(7, 50), [3] * 7, ties="optimistic").recall(1) == 100


# --- other libraries and released numbers ---


@pytest.mark.parametrize("k", [1, 3, 10])
def test_torchmetrics_agrees(k: int) -> None:
    scores = torch.randn(37, 13, generator=generator()).sigmoid()
    several, one = some_relevant(6, 37, 13), torch.eye(13, dtype=torch.bool).repeat(3, 1)[:37]
    for metric, relevant in ((RetrievalHitRate, several), (RetrievalRecall, one)):
        theirs = metric(top_k=k)(scores.flatten(), relevant.flatten(), torch.arange(37).repeat_interleave(13))
        assert evaluate(scores, relevant).recall(k) == pytest.approx(100 * theirs.item(), abs=1e-4)


def test_torchmetrics_agrees_on_ranks_of_positive_scores() -> None:
    scores, relevant = torch.randn(37, 13, generator=generator()), some_relevant(6, 37, 13)

    def theirs(scores: Tensor) -> float:
        found: Tensor = RetrievalMRR()(scores.flatten(), relevant.flatten(), torch.arange(37).repeat_interleave(13))
        return found.item()

    ours = (1 / ranks(scores, relevant)).mean().item()
    assert ours == pytest.approx(theirs(scores.sigmoid()), abs=1e-6)
    assert ours > theirs(scores) + 0.01, "torchmetrics expects probabilities: at a score ≤ 0 nothing is relevant to it"


@pytest.mark.parametrize("ties", TIES)
def test_dreamprvr_released_ranks(ties: str) -> None:
    golden = GOLDEN["dreamprvr"]
    relevant = locate([name.split("#")[0] for name in golden["query_ids"]], golden["video_ids"])
    report = evaluate(golden["scores"], relevant, ks=(1, 5, 10, 100), ties=ties)
    assert report.ranks.tolist() == golden["ranks"].tolist()
    found = report.metrics()
    assert [found[name] for name in ("R@1", "R@5", "R@10", "R@100", "SumR")] == pytest.approx(
        golden["metrics"], abs=1e-9
    )


def assert_metrics(report: Any, golden: list[float]) -> None:
    found = report.metrics()
    names = ("R@1", "R@5", "R@10", "MdR", "MnR")
    expected = [100 * golden[0], 100 * golden[1], 100 * golden[2], golden[3], golden[4]]
    assert [found[name] for name in names] == pytest.approx(expected, abs=1e-9)


def test_pig_released_metrics() -> None:
    golden = GOLDEN["pig"]
    both = evaluate_both(golden["sim"], range(40))
    assert_metrics(both[0], golden["metrics_t2v"])
    assert_metrics(both[1], golden["metrics_v2t"])
    tied = golden["sim_tied"]
    assert_metrics(evaluate(tied, range(40), ties="reference"), golden["metrics_tied_t2v"])
    fair = evaluate(tied, range(40))
    assert len(fair.ranks) == 40 and fair.recall(1) != pytest.approx(100 * golden["metrics_tied_t2v"][0], abs=1)


def test_pig_released_dual_softmax_loses_most_scores_to_float32() -> None:
    golden = GOLDEN["pig"]
    released = dual_softmax(golden["sim"], dtype=torch.float32)
    assert_metrics(evaluate(released, range(40), ties="reference"), golden["metrics_dsl_t2v"])
    assert (released == 0).float().mean() > 0.1
    assert not (dual_softmax(golden["sim"]) == 0).any()


def test_pig_released_multi_caption_metrics() -> None:
    golden = GOLDEN["pig"]
    counts = golden["caption_counts"]
    scores = torch.cat([golden["sim_multi"][v, :n] for v, n in enumerate(counts)])
    owner = [v for v, n in enumerate(counts) for _ in range(n)]
    text_to_video, video_to_text = evaluate_both(scores, owner, gallery="videos")
    released = golden["multi_t2v"]
    for k in (1, 5, 10):
        assert text_to_video.recall(k) == pytest.approx(100 * released[f"R{k}"], abs=1e-4)
    assert text_to_video.mean_rank == pytest.approx(released["MeanR"], abs=1e-6)
    assert text_to_video.ranks.sort().values[len(owner) // 2 - 1] == released["MedianR"]  # theirs is the lower median
    assert_metrics(video_to_text, golden["multi_v2t"])


# --- directions, forms of relevance, chunks, dtypes ---


def test_both_directions_with_many_captions() -> None:
    scores = tied_scores(7, 19, 5)
    owner = [0, 3, 1, 1, 4, 2, 2, 0, 0, 3, 1, 1, 4, 2, 2, 0, 0, 3, 1]
    text_to_video, video_to_text = evaluate_both(scores, torch.tensor(owner))
    assert text_to_video.ranks.tolist() == ranks(scores, owner).tolist()
    mask = torch.tensor([[one == v for one in owner] for v in range(5)])
    assert video_to_text.ranks.tolist() == ranks(scores.mT.contiguous(), mask).tolist()
    grouped = torch.tensor(
        [[max(scores[q, v].item() for q in range(19) if owner[q] == g) for g in range(5)] for v in range(5)]
    )
    found = evaluate_both(scores, owner, gallery="videos")[1]
    assert found.ranks.tolist() == ranks(grouped, range(5)).tolist()
    assert found.ranks.tolist() != video_to_text.ranks.tolist()


@pytest.mark.parametrize("gallery", ["captions", "videos"])
def test_both_directions_follow_the_settings(gallery: str) -> None:
    for report in evaluate_both(
        tied_scores(7, 10, 5), [0, 1, 2, 3, 4] * 2, gallery=gallery, ks=(3, 1), ties="pessimistic"
    ):
        assert (report.ks, report.ties) == ((1, 3), "pessimistic")


def test_forms_of_relevance() -> None:
    scores = tied_scores()
    mask = some_relevant()
    lists = [row.nonzero().flatten() for row in mask]
    expected = ranks(scores, mask).tolist()
    padded = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=-1)
    for relevant in (lists, [row.tolist() for row in lists], padded, torch.cat([padded, padded], 1)):
        assert ranks(scores, relevant).tolist() == expected, "a repeated index must count once"
    index = mask.int().argmax(1)
    for one in (index, index.tolist(), list(index.numpy()), index[:, None].int()):
        assert ranks(scores, one).tolist() == ranks(scores, [[i] for i in index.tolist()]).tolist()


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the size of the largest tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_odd_layouts_make_no_difference(dtype: torch.dtype) -> None:
    """Scores that need a gradient, are transposed, strided or expanded, chunked by far too many, or relevance of NumPy."""
    scores = torch.randn(7, 5, generator=generator()).to(dtype)
    wanted = torch.tensor([0, 3, 1, 4, 2, 2, 0])
    expected = ranks(scores, wanted)
    wide = torch.zeros(14, 15, dtype=dtype)
    wide[::2, ::3] = scores
    for same in (
        scores.mT.contiguous().mT,
        wide[::2, ::3],
        scores.clone().requires_grad_(),
        torch.nn.Parameter(scores),
    ):
        assert torch.equal(ranks(same, wanted, chunk=10**18), expected)
        assert torch.equal(ranks(same, wanted.numpy()), expected)
    assert torch.equal(ranks(scores, torch.eye(5)[wanted].bool().numpy()), expected)
    assert ranks(scores[:1].expand(7, 5), [2] * 7).unique().numel() == 1
    assert evaluate(scores[:1], [2]).recall(5) == evaluate(scores[:, :1], [0] * 7).recall(1) == 100
    for level in (0.0, -torch.inf):
        assert evaluate(torch.full_like(scores, level), wanted).recall(1) == pytest.approx(20)


@pytest.mark.parametrize("chunk", [1, 4, 7, 1000])
def test_chunks_make_no_difference(chunk: int) -> None:
    scores, relevant = tied_scores(8, 29, 11), some_relevant(9, 29, 11)
    full = standing(scores, relevant)
    calls = []

    def rows(start: int, stop: int) -> Tensor:
        calls.append((start, stop))
        return scores[start:stop].clone()

    for given in (scores, rows):
        for a, b in zip(vars(standing(given, relevant, chunk=chunk)).values(), vars(full).values(), strict=True):
            assert a.tolist() == b.tolist()
    assert calls == [(start, min(start + chunk, 29)) for start in range(0, 29, chunk)]


def test_a_score_function_never_needs_the_matrix() -> None:
    texts, videos = torch.randn(210, 3, generator=generator()), torch.randn(190, 3, generator=generator(1))
    with Largest() as seen:
        found = ranks(lambda start, stop: texts[start:stop] @ videos.mT, [5] * 210, chunk=16)
    assert 16 * 190 <= seen.numel <= 17 * 191
    assert found.tolist() == ranks(texts @ videos.mT, [5] * 210).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_tie_in_their_own_precision(dtype: torch.dtype) -> None:
    exact = torch.rand(13, 400, generator=generator(), dtype=torch.float64)
    scores = exact.to(dtype)
    found = standing(scores, range(13))
    same = standing(scores.double(), range(13))
    assert found.above.tolist() == same.above.tolist() and found.tied.tolist() == same.tied.tolist()
    assert (found.tied > 1).any() == (dtype in (torch.float16, torch.bfloat16))
    assert ((found.ranks() - standing(exact, range(13)).ranks()).abs() <= found.tied + 1).all()


def test_counts_are_exact_where_half_precision_cannot_count() -> None:
    scores = torch.zeros(1, 5000, dtype=torch.float16)
    found = standing(scores, [4999])
    assert (found.tied.item(), found.before.item()) == (5000, 4999)


def test_minus_infinity_is_the_lowest_score() -> None:
    low = -torch.inf
    assert ranks(torch.tensor([[0.0, low, low, 1.0]]), [0]).tolist() == [2]
    assert ranks(torch.tensor([[0.0, low, low, 1.0]]), [1]).tolist() == [3.5]
    assert ranks(torch.tensor([[low, low, low]]), [2], ties="stable").tolist() == [3]


@pytest.mark.parametrize("device", ACCELERATORS)
@pytest.mark.parametrize("ties", TIES)
def test_an_accelerator_gives_the_same(device: str, ties: str) -> None:
    scores = torch.randint(0, 9, (13, 31), generator=generator()).float()
    on_it = ranks(scores.to(device), torch.arange(13, device=device), ties=ties)
    assert on_it.tolist() == ranks(scores, range(13), ties=ties).tolist()


# --- summaries ---


def test_report_against_a_list_of_ranks() -> None:
    scores, relevant = torch.randn(24, 17, generator=generator()), torch.randint(17, (24,), generator=generator())
    report = evaluate(scores, relevant, ks=(1, 7))
    plain = [1 + sum(s > row[i] for s in row).item() for row, i in zip(scores, relevant, strict=True)]
    assert report.ranks.tolist() == plain
    expected = {f"R@{k}": 100 * mean(r <= k for r in plain) for k in (1, 7)}
    expected |= {"SumR": sum(expected.values()), "MdR": np.median(plain), "MnR": mean(plain)}
    assert report.metrics() == pytest.approx(expected)
    assert list(report.metrics()) == ["R@1", "R@7", "SumR", "MdR", "MnR"]
    assert str(report).startswith(f"R@1 {expected['R@1']:.1f}  R@7 ")


def test_locate_names_what_does_not_match() -> None:
    assert locate(["b", ["a", "c"]], ["a", "b", "c"]) == [[1], [0, 2]]
    with pytest.raises(
        ValueError,
        match=r"found 2 ids that the gallery lacks, the first is 'video71' of query 1; expected one of .*video7",
    ):
        locate(["video7", "video71", "x"], ["video7", "video8"])
    with pytest.raises(ValueError, match="gallery: found 'a' at 0 and at 2, expected every id once"):
        locate(["a"], ["a", "b", "a"])


# --- bootstrap ---


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    values = (torch.rand(900, generator=generator()) < 0.3).double()
    found = query_bootstrap(values, generator(1), resamples=4000)
    half = 1.96 * (values.var() / 900).sqrt().item()
    assert found.mean == values.mean().item()
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)
    assert found == query_bootstrap(values, generator(1), resamples=4000)
    assert found != query_bootstrap(values, generator(2), resamples=4000)
    wide = query_bootstrap(values, generator(1), resamples=4000, level=0.99)
    assert (wide.high - wide.low) / (found.high - found.low) == pytest.approx(2.576 / 1.96, rel=0.1)


def test_bootstrap_draws_groups_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(53, generator=generator(), dtype=torch.float64)
    alone = query_bootstrap(values, generator(1))
    copies = values.repeat_interleave(4)
    numbers = 10 * torch.arange(53).repeat_interleave(4)
    grouped = query_bootstrap(copies, generator(1), groups=numbers)
    assert grouped == pytest.approx(alone, abs=1e-12), "four copies of a query tell no more than one"
    apart = query_bootstrap(copies, generator(1))
    assert apart.high - apart.low < 0.6 * (grouped.high - grouped.low)
    level = query_bootstrap(torch.full((7,), 3.25), generator(1), groups=[0, 0, 0, 0, 1, 2, 2])
    assert level == (3.25, 3.25, 3.25), "groups of unequal size still give a mean over queries"
    monkeypatch.setattr("vtrlib.metrics.bootstrap._DRAWS", 53 * 7)
    assert query_bootstrap(values, generator(1)) == pytest.approx(alone, abs=1e-12), "drawn in parts"


@pytest.mark.parametrize("metric", ["R@1", "R@3", "SumR", "MnR"])
def test_interval_of_a_report_surrounds_its_number(metric: str) -> None:
    report = evaluate(tied_scores(0, 200, 9), [4] * 200, ks=(1, 2))
    found = report.interval(metric, generator())
    value = report.recall(3) if metric == "R@3" else report.metrics()[metric]
    assert found.mean == pytest.approx(value) and found.low < value < found.high
    assert report.interval(metric, generator(), groups=torch.arange(200) // 2) != found


# --- scores changed after the fact ---


def test_dual_softmax_against_loops() -> None:
    scores = torch.randn(5, 3, generator=generator(), dtype=torch.float64) / 10
    found = dual_softmax(scores, scale=30.0)
    for i, j in itertools.product(range(5), range(3)):
        total = sum(math.exp(30 * scores[n, j]) for n in range(5))
        assert found[i, j].item() == pytest.approx(scores[i, j].item() * math.exp(30 * scores[i, j]) / total, abs=1e-14)
    padded = scores.clone()
    padded[:, 1] = padded[2, 0] = -torch.inf
    again = dual_softmax(padded, scale=30.0)
    assert (again[:, 1] == -torch.inf).all() and again[2, 0] == -torch.inf
    torch.testing.assert_close(again[:, 2], found[:, 2])


@pytest.mark.parametrize("top", [1, 2])
def test_querybank_norm_against_loops(top: int) -> None:
    scores = torch.randn(31, 7, generator=generator(), dtype=torch.float64)
    bank = torch.randn(3, 7, generator=generator(1), dtype=torch.float64)
    found = querybank_norm(scores, bank, scale=4.0, top=top)
    hubs = {v for row in bank.tolist() for v in sorted(range(7), key=lambda v: -row[v])[:top]}
    changed = 0
    for row, new in zip(scores.tolist(), found.tolist(), strict=True):
        expected = row
        if row.index(max(row)) in hubs:
            changed += 1
            crowd = [sum(math.exp(4 * b[v]) for b in bank.tolist()) for v in range(7)]
            expected = [math.log(math.exp(4 * s) / c) for s, c in zip(row, crowd, strict=True)]
        assert new == pytest.approx(expected, abs=1e-12)
    assert 0 < changed < 31


def test_rescoring_takes_a_hub_down() -> None:
    texts = torch.nn.functional.normalize(torch.randn(300, 16, generator=generator()), dim=1)
    scores = texts[:100] @ texts[:100].mT * 0.5 + 0.2 * torch.randn(100, 100, generator=generator(1))
    scores[:, 7] += 0.5  # near to every query
    bank = texts[100:] @ texts[:100].mT * 0.5
    bank[:, 7] += 0.5
    plain = evaluate(scores, range(100)).recall(1)
    assert evaluate(dual_softmax(scores, scale=20.0), range(100)).recall(1) > plain + 5
    assert evaluate(querybank_norm(scores, bank), range(100)).recall(1) > plain + 5


def test_querybank_norm_does_not_overflow() -> None:
    scores = torch.tensor([[900.0, 800.0], [700.0, -torch.inf]])
    found = querybank_norm(scores, scores, scale=20.0)
    assert found[0].isfinite().all() and found[1, 1] == -torch.inf
    evaluate(found, [0, 0])


# --- bad input ---

ONE = torch.ones(2, 3)
NAN = torch.ones(9, 4)
NAN[5, 2], NAN[7, 1] = torch.nan, torch.inf
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: evaluate(NAN, [0] * 9), r"scores: found 2 NaN or \+inf among queries 0 to 8, the first at query 5, video 2: nan"),
    (lambda: evaluate(NAN, [0] * 9, chunk=3), "found 1 NaN .* among queries 3 to 5, the first at query 5, video 2"),
    (lambda: evaluate_both(NAN[:, :2], [0, 1] * 4 + [0], gallery="videos"), "the first at query 7, video 1: inf"),
    (lambda: evaluate(ONE[:0], []), r"relevant: found shape \(0,\)"),
    (lambda: evaluate(ONE[:0], ONE[:0].bool()), r"relevant: found shape \(0, 3\), expected \(Q, V\), no axis empty"),
    (lambda: evaluate(ONE[:, :0], [0, 0]), r"scores: found shape \(2, 0\), expected \(Q, V\)"),
    (lambda: evaluate(ONE[0], [0, 0]), r"scores: found shape \(3,\), expected \(Q, V\)"),
    (lambda: evaluate(ONE.long(), [0, 0]), "scores: found torch.int64, expected a floating-point dtype"),
    (lambda: evaluate(lambda a, b: ONE[a:b, : 3 - a], [0, 1], chunk=1), r"scores\(1, 2\): found shape \(1, 2\), .* \(q=1, V=3\)"),
    (lambda: evaluate_both(ONE, ONE > 1), r"video_of: found shape \(2, 3\), expected \(Q=2\)"),
    (lambda: evaluate_both(ONE, [0, 1, 2]), r"video_of: found shape \(3,\), expected \(Q=2\)"),
    (lambda: evaluate(ONE, [0, 1, 2]), "relevant: found 3 queries, expected 2, one per row of scores"),
    (lambda: evaluate(ONE, [0, 3]), r"relevant\[1\]: found \[3\], expected indices from 0 to 2"),
    (lambda: evaluate(ONE, [0, -2], chunk=1), r"relevant\[1\]: found \[-2\], expected indices"),
    (lambda: evaluate(ONE, [[0], []]), r"relevant\[1\]: found no video, expected at least one"),
    (lambda: evaluate(ONE, ONE > 1), r"relevant\[0\]: found no video"),
    (lambda: evaluate(ONE, ONE), "relevant: found torch.float32, expected integers"),
    (lambda: evaluate(ONE, torch.ones(2, 4) > 0), "relevant: found a mask of 4 videos, expected 3"),
    (lambda: evaluate(lambda a, b: ONE[:1], [0, 1]), r"scores\(0, 2\): found shape \(1, 3\), expected \(q=2, V\)"),
    (lambda: evaluate(ONE, [0, 1], ties="optimist"), "ties='optimist': expected one of .* Did you mean 'optimistic'"),
    (lambda: evaluate(ONE, [0, 1], ks=(1, 0)), "ks=0: expected at least 1"),
    (lambda: evaluate(ONE, [0, 1], ks=()), "expected one or more different integers"),
    (lambda: evaluate(ONE, [0, 1], ks=(5, 5)), r"ks=\(5, 5\): expected one or more different integers"),
    (lambda: evaluate(ONE, [0, 1], chunk=0), "chunk=0: expected at least 1"),
    (lambda: evaluate_both(ONE, [0, 2]), "video_of: found no caption of 1 videos, the first is 1"),
    (lambda: evaluate_both(ONE, [0, 2], gallery="groups"), "gallery='groups': expected one of"),
    (lambda: Standing(*[torch.ones(2)] * 4).found(0), "k=0: expected at least 1"),
    (lambda: evaluate(ONE, [0, 1], ties="reference").interval("R@1", generator()), "ties='reference': counts places"),
    (lambda: evaluate(ONE, [0, 1]).interval("recall", generator()), "metric='recall': expected 'SumR'"),
    (lambda: query_bootstrap(torch.tensor([1.0, torch.nan]), generator()), "values: found 1 that are not finite"),
    (lambda: query_bootstrap(torch.ones(0), generator()), r"values: found shape \(0,\)"),
    (lambda: query_bootstrap(torch.ones(2), generator(), level=95), "level=95: expected a number between 0 and 1"),
    (lambda: query_bootstrap(torch.ones(2), generator(), groups=[1]), r"groups: found shape \(1,\), expected \(Q=2\)"),
    (lambda: dual_softmax(ONE * torch.nan), "scores: found 6 NaN"),
    (lambda: dual_softmax(ONE, scale=0), "scale=0: expected a positive number"),
    (lambda: querybank_norm(ONE, torch.ones(4, 2)), r"bank: found shape \(4, 2\), expected \(B, V=3\)"),
    (lambda: querybank_norm(ONE, ONE * torch.inf), "bank: found 6 NaN or"),
    (lambda: querybank_norm(ONE, ONE, top=4), "top=4: expected between 1 and 3"),
]  # fmt: skip


ODD: list[tuple[Callable[[], object], str]] = [
    (lambda: evaluate(ONE.numpy(), [0, 1]), r"scores: found ndarray, expected a tensor. Convert it with torch.as_tensor"),
    (lambda: evaluate(ONE.tolist(), [0, 1]), r"scores: found list, expected a tensor \(Q, V\)"),
    (lambda: evaluate(lambda a, b: ONE[a:b].numpy(), [0, 1]), "scores: found ndarray, expected a tensor"),
    (lambda: evaluate(lambda a, b: None, [0, 1]), r"scores\(0, 2\): found NoneType, expected a tensor \(q, V\)"),
    (lambda: evaluate_both(lambda a, b: ONE, [0, 1]), r"scores: found function, expected a tensor \(Q, V\)"),
    (lambda: evaluate(ONE, None), "relevant: found None, expected for each query the index of its video"),
    (lambda: evaluate(ONE, 1), "relevant: found 1, expected for each query"),
    (lambda: evaluate(ONE, "01"), "relevant: found '01', expected for each query"),
    (lambda: evaluate(ONE, ["video0", "video1"]), "relevant.0.='v' .str.: expected an integer"),
    (lambda: evaluate(ONE, [0, 1], ks=(1.5,)), "ks=1.5 .float.: expected an integer"),
]  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), ODD)
def test_input_of_another_kind_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
