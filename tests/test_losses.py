"""Losses: against loops in float64, torch's cross-entropy, released numbers, and their own gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from vtrlib.losses import info_nce, similarity_kl, triplet
from vtrlib.similarity import cosine

GOLDEN = torch.load(Path(__file__).parent / "golden" / "losses.pt", weights_only=True)
Q, V = 7, 5


def matrix(seed: int = 0, rows: int = Q, columns: int = V, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def several() -> Tensor:
    """Positives of 7 texts and 5 videos: up to 3 a video and 2 a text; text 4 and video 3 have none."""
    pairs = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 2), (5, 4), (6, 4), (6, 1)]
    mask = torch.zeros(Q, V, dtype=torch.bool)
    mask[tuple(zip(*pairs, strict=True))] = True
    return mask


def naive_nce(scores: Tensor, positives: Tensor, scale: float, form: str) -> float:
    """The formulas of the docstring, with exponentials as they stand there."""
    rows = []
    for row, good in zip((scale * scores).tolist(), positives.tolist(), strict=True):
        mine = [math.exp(z) for z, p in zip(row, good, strict=True) if p]
        rest = sum(math.exp(z) for z, p in zip(row, good, strict=True) if not p)
        if not mine:
            continue
        if form == "each":
            rows += [-math.log(m / (m + rest)) for m in mine]
        elif form == "summed":
            rows.append(-math.log(sum(mine) / (sum(mine) + rest)))
        elif form == "averaged":
            rows.append(-sum(math.log(m / (sum(mine) + rest)) for m in mine) / len(mine))
        else:
            rows.append(-sum(math.log(m / (m + rest)) for m in mine) / len(mine))
    return sum(rows) / len(rows)


FORMS = ("summed", "averaged", "apart", "each")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1.0, 3.7])
def test_nce_with_several_positives_against_loops(form: str, scale: float) -> None:
    scores, positives = matrix(), several()
    rows, columns = naive_nce(scores, positives, scale, form), naive_nce(scores.mT, positives.mT, scale, form)
    expected = {"rows": rows, "columns": columns, "sum": rows + columns, "mean": (rows + columns) / 2}
    for directions, value in expected.items():
        found = info_nce(scores, positives, scale=scale, several=form, directions=directions)
        assert found.item() == pytest.approx(value, abs=1e-13)
    assert info_nce(scores, positives, scale=scale, several=form).item() == pytest.approx(expected["mean"])
    assert abs(rows - columns) > 0.1


def test_forms_differ_where_positives_are_several_and_only_there() -> None:
    values = [info_nce(matrix(), several(), several=form).item() for form in FORMS]
    assert min(abs(a - b) for a, b in zip(values, [*values[1:], values[0]], strict=True)) > 0.1
    one = torch.eye(V, dtype=torch.bool)[torch.tensor([3, 1, 4, 0, 2, 2, 2])]
    rows = [info_nce(matrix(), one, several=form, directions="rows").item() for form in FORMS]
    assert rows == pytest.approx([rows[0]] * len(FORMS), abs=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_nce_of_pairs_is_cross_entropy(form: str) -> None:
    scores, labels = matrix(1, 6, 6), torch.arange(6)
    rows, columns = cross_entropy(20 * scores, labels), cross_entropy(20 * scores.mT, labels)
    found = info_nce(scores, scale=20.0, several=form)
    torch.testing.assert_close(found, (rows + columns) / 2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(info_nce(scores, scale=20.0, several=form, directions="sum"), rows + columns)


@pytest.mark.parametrize("tau", [0.01, 0.2])
def test_with_the_brackets_as_discovla_prints_them_the_temperature_cancels(tau: float) -> None:
    """Its Eq. 2 and 3: exp(Sim) / τ in the numerator and in each term of the denominator."""
    scores = matrix(1, 6, 6)
    odds = scores.exp() / tau
    printed = -((odds.diag() / odds.sum(1)).log().mean() + (odds.diag() / odds.sum(0)).log().mean()) / 2
    torch.testing.assert_close(info_nce(scores, scale=1.0), printed, rtol=1e-12, atol=1e-12)
    assert not torch.isclose(info_nce(scores, scale=1 / tau), printed, rtol=1e-2)


def test_released_nce() -> None:
    """DreamPRVR sums over a video's queries, takes plain products without a temperature, and adds the directions."""
    golden = GOLDEN["dreamprvr"]
    positives = torch.tensor(golden["text_labels"])[:, None] == torch.arange(3)
    for branch in ("clip", "frame"):
        found = info_nce(golden[branch]["products"], positives, directions="sum")
        assert found.item() == pytest.approx(golden[branch]["nce"], rel=1e-6)
        assert info_nce(golden[branch]["products"], positives, directions="sum", several="apart") > found + 0.01


def test_released_query_similarity_preservation() -> None:
    """DreamPRVR Eq. 4: other queries of the video are positives, a query does not compete with itself."""
    golden = GOLDEN["dreamprvr"]
    label = torch.tensor(golden["text_labels"])
    itself = torch.eye(len(label), dtype=torch.bool)
    positives = (label[:, None] == label) & ~itself
    assert not positives.any(1).all(), "an anchor without a positive must be dropped"
    similarity = cosine(golden["query_emb"], golden["query_emb"]).masked_fill(itself, -torch.inf)
    scale = 1 / golden["qsp_tau"]
    found = info_nce(similarity, positives, scale=scale, several="averaged", directions="rows")
    assert found.item() == pytest.approx(golden["qsp"], rel=1e-6)


@pytest.mark.parametrize("model", ["tiny", "tiny_2heads"])
@pytest.mark.parametrize("aggregation", ["mean", "softmax"])
def test_released_alignment_and_distillation(model: str, aggregation: str) -> None:
    golden = GOLDEN["discovla"][model]
    scale = math.exp(golden["logit_scale"])
    video, image = golden["sim_vid"], golden[f"sim_img_{aggregation}"]
    pairs = [
        (info_nce(video, scale=scale), "L_A_vid"),
        (info_nce(image, scale=scale), f"L_A_img_{aggregation}"),
        (similarity_kl(video, image, scale=scale), f"KL_{aggregation}_batchmean"),
        (similarity_kl(video, image, scale=scale, reduction="numel100"), f"KL_{aggregation}_numel100"),
        (similarity_kl(image, video, scale=scale), f"KLrev_{aggregation}_batchmean"),
    ]
    for found, name in pairs:
        torch.testing.assert_close(found, golden[name], rtol=1e-5, atol=1e-6)


def test_released_sum_of_directions() -> None:
    """PIG's paper halves the contrastive loss, its code does not."""
    golden = GOLDEN["pig"]
    for directions, name in (
        ("sum", "contrastive_code"), ("mean", "contrastive_paper"), ("rows", "t2v_ce"), ("columns", "v2t_ce"),
    ):  # fmt: skip
        found = info_nce(golden["sim_t2v"], scale=golden["logit_scale_exp"], directions=directions)
        assert found.item() == pytest.approx(golden[name], rel=1e-5)


def test_minus_infinity_takes_an_item_out() -> None:
    scores, positives = matrix(), several()
    keep = [0, 1, 2, 4]
    masked = scores.clone()
    masked[:, 3] = -torch.inf
    for form in FORMS:
        found = info_nce(masked, positives, several=form, directions="rows")
        assert found.item() == pytest.approx(
            info_nce(scores[:, keep], positives[:, keep], several=form, directions="rows").item()
        )


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_a_positive_or_a_competitor_give_finite_gradients(form: str) -> None:
    scores = matrix()
    scores[4] = scores[:, 3] = -torch.inf
    logit_scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    leaves = scores.requires_grad_(), logit_scale
    loss = info_nce(scores, several(), scale=logit_scale.exp(), several=form)
    for gradient in (
        *torch.autograd.grad(loss, leaves),
        *torch.autograd.grad(info_nce(scores, several() & False, several=form), scores),
    ):
        assert gradient.isfinite().all()
    assert info_nce(matrix(), torch.zeros(Q, V, dtype=torch.bool), several=form).item() == 0
    assert info_nce(matrix(0, 3, 2), torch.ones(3, 2, dtype=torch.bool), several="apart").item() == 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("directions", ["mean", "rows", "columns"])
def test_nce_gradcheck(form: str, directions: str) -> None:
    def loss(scores: Tensor, scale: Tensor) -> Tensor:
        return info_nce(scores, several(), scale=scale, several=form, directions=directions)

    leaves = matrix().requires_grad_(), torch.tensor(2.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, leaves)


# --- large logits, half precision, devices ---

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "summed": lambda s: info_nce(s, several()),
    "averaged": lambda s: info_nce(s, several(), several="averaged"),
    "apart": lambda s: info_nce(s, several(), several="apart"),
    "triplet": lambda s: triplet(s, several(), margin=0.3, hardest=1),
    "kl": lambda s: similarity_kl(s, s.flip(0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_stable_for_logits_of_ten_thousand(name: str) -> None:
    scores = (1e4 * matrix().sign() + matrix(2)).float().requires_grad_()
    found = LOSSES[name](scores)
    torch.testing.assert_close(found.double(), LOSSES[name](scores.detach().double()), rtol=1e-5, atol=1e-3)
    assert torch.autograd.grad(found, scores)[0].isfinite().all() and found > 1


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(name: str, dtype: torch.dtype) -> None:
    scores = matrix().to(dtype)
    found = LOSSES[name](scores)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), LOSSES[name](scores.double()), rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(LOSSES[name](scores), found)


@pytest.mark.parametrize("name", LOSSES)
def test_an_accelerator_is_never_waited_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has shapes and no values, so that reading one fails."""
    mask = several().to("meta")
    monkeypatch.setattr(f"{__name__}.several", lambda: mask)
    scores = matrix().to("meta").requires_grad_()
    assert torch.autograd.grad(LOSSES[name](scores), scores)[0].shape == (Q, V)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = LOSSES[name](matrix())
    mask = several().cuda()
    monkeypatch.setattr(f"{__name__}.several", lambda: mask)
    torch.testing.assert_close(LOSSES[name](matrix().cuda()).cpu(), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_compiles_without_a_break(name: str) -> None:
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(matrix()), LOSSES[name](matrix()))


# --- triplet ---


def naive_triplet(scores: Tensor, positives: Tensor, margin: float, draws: list[int], form: str) -> float:
    terms: list[float] = []
    for row, good, draw in zip(scores.tolist(), positives.tolist(), draws, strict=True):
        wrong = sorted((s for s, p in zip(row, good, strict=True) if not p), reverse=True)
        right = [s for s, p in zip(row, good, strict=True) if p]
        if not right or draw >= len(wrong):
            continue
        right = [sum(right) / len(right)] if form == "averaged" else right
        terms += [max(0.0, margin + wrong[draw] - s) for s in right]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("form", ["averaged", "each"])
@pytest.mark.parametrize("draws", [[0] * Q, [2, 0, 1, 3, 0, 2, 1], [1, 4, 9, 0, 2, 3, 1]])
def test_triplet_against_loops(form: str, draws: list[int]) -> None:
    scores, positives = matrix(), several()
    found = triplet(scores, positives, margin=0.7, several=form, draws=torch.tensor(draws))
    assert found.item() == pytest.approx(naive_triplet(scores, positives, 0.7, draws, form), abs=1e-13)


def test_released_triplets() -> None:
    """Random negatives, hard ones among 20, the hardest; text to video and video to text together."""
    golden = GOLDEN["dreamprvr"]
    positives = torch.tensor(golden["text_labels"])[:, None] == torch.arange(3)
    for branch in ("clip", "frame"):
        cosines = golden[branch]["cosines"]
        for mode, drawn in golden[branch]["triplet"].items():
            # Its text-to-video places count from the positive, which is put first.
            rows = triplet(cosines, positives, margin=golden["margin"], draws=drawn["text_to_video"] - 1)
            other = {"hardest": 1} if drawn["video_to_text"] is None else {"draws": drawn["video_to_text"]}
            columns = triplet(cosines.mT, positives.mT, margin=golden["margin"], **other)
            assert (rows + columns).item() == pytest.approx(drawn["loss"], rel=1e-6), mode


@pytest.mark.parametrize("hardest", [None, 1, 2, 3, 50])
def test_negatives_are_drawn_uniformly_from_the_hardest(hardest: int | None) -> None:
    """The gradient shows which negative was drawn."""
    rows = 4000
    scores = matrix(3, 1, 6).expand(rows, 6).clone().requires_grad_()
    positives = torch.zeros(rows, 6, dtype=torch.bool)
    positives[:, 2] = True
    generator = torch.Generator().manual_seed(0)
    loss = triplet(scores, positives, margin=100.0, hardest=hardest, generator=generator)
    drawn = (rows * torch.autograd.grad(loss, scores)[0]).round()
    assert (drawn[:, 2] == -1).all() and (drawn.sum(1) == 0).all()
    ranking = [v for v in scores[0].argsort(descending=True).tolist() if v != 2]
    share = drawn[:, ranking].mean(0)
    pool = min(hardest or 5, 5)
    torch.testing.assert_close(share[:pool], torch.full((pool,), 1 / pool, dtype=share.dtype), rtol=0, atol=0.03)
    assert (share[pool:] == 0).all()


def test_draws_follow_the_generator() -> None:
    def loss(seed: int) -> float:
        return float(triplet(matrix(0, 31, 31), margin=3.0, generator=torch.Generator().manual_seed(seed)))

    assert loss(0) == loss(0) != loss(1)


def test_a_row_without_negatives_or_positives_is_left_out() -> None:
    scores, positives = matrix(0, 4, 3), torch.tensor([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 0]]) > 0
    kept = [0, 3]
    expected = triplet(scores[kept], positives[kept], margin=5.0, hardest=1).item()
    for draws in (None, torch.tensor([0, 0, 0, 0])):
        found = triplet(scores, positives, margin=5.0, hardest=1, draws=draws)
        assert found.item() == pytest.approx(expected)
    assert triplet(scores, torch.ones(4, 3) > 0, generator=torch.Generator()).item() == 0


@pytest.mark.parametrize("form", ["averaged", "each"])
def test_triplet_gradcheck(form: str) -> None:
    draws = torch.tensor([2, 0, 1, 3, 0, 2, 1])
    assert torch.autograd.gradcheck(
        lambda s: triplet(s, several(), margin=0.7, several=form, draws=draws), matrix().requires_grad_()
    )


# --- divergence ---


def naive_kl(teacher: Tensor, student: Tensor, scale: float) -> float:
    total = 0.0
    for a, b in zip((scale * teacher).tolist(), (scale * student).tolist(), strict=True):
        p, q = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (a, b))
        total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    return total


def test_kl_against_loops_and_torch() -> None:
    student, teacher = matrix(), matrix(1)
    rows, columns = naive_kl(teacher, student, 2.5), naive_kl(teacher.mT, student.mT, 2.5)
    expected = {
        ("sum", "rows"): rows, ("batchmean", "rows"): rows / Q, ("batchmean", "columns"): columns / V,
        ("numel100", "rows"): 100 * rows / (Q * V), ("batchmean", "mean"): (rows / Q + columns / V) / 2,
        ("sum", "sum"): rows + columns,
    }  # fmt: skip
    for (reduction, directions), value in expected.items():
        found = similarity_kl(student, teacher, scale=2.5, reduction=reduction, directions=directions)
        assert found.item() == pytest.approx(value, abs=1e-12), (reduction, directions)
    logs = [(2.5 * x).log_softmax(1) for x in (student, teacher)]
    theirs = kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)
    assert similarity_kl(student, teacher, scale=2.5, directions="rows").item() == pytest.approx(theirs.item())
    assert similarity_kl(student, student).item() == 0 < similarity_kl(student, teacher).item()


def test_numel100_makes_the_weight_depend_on_the_batch() -> None:
    for size in (3, 8):
        student, teacher = matrix(0, size, size), matrix(1, size, size)
        ratio = similarity_kl(student, teacher, reduction="numel100") / similarity_kl(student, teacher)
        assert ratio.item() == pytest.approx(100 / size)


def test_kl_gradient_reaches_the_teacher_unless_told_not_to() -> None:
    student, teacher = matrix().requires_grad_(), matrix(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: similarity_kl(s, t, scale=1.7), (student, teacher))
    kept, cut = (similarity_kl(student, teacher, detach_teacher=detach) for detach in (False, True))
    assert kept.item() == cut.item()
    assert (torch.autograd.grad(kept, teacher)[0] != 0).all()
    gradients = torch.autograd.grad(cut, (student, teacher), allow_unused=True)
    assert (gradients[0] != 0).all() and gradients[1] is None


# --- bad input ---

S, P = matrix(), several()
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: info_nce(S[:0]), r"scores: found shape \(0, 5\), expected \(Q, V\), no axis empty"),
    (lambda: info_nce(S[0]), r"scores: found shape \(5,\), expected \(Q, V\)"),
    (lambda: info_nce(S), r"positives=None: scores are \(7, 5\), whose diagonal pairs nothing"),
    (lambda: info_nce(S, P.mT), r"positives: found shape \(5, 7\), expected \(Q=7, V=5\)"),
    (lambda: info_nce(S, P.int()), "positives: found torch.int32, expected torch.bool"),
    (lambda: info_nce(S.long(), P), "scores: found torch.int64, expected a floating-point dtype"),
    (lambda: info_nce(S, P, several="sum"), "several='sum': expected one of 'summed', 'averaged', 'apart', 'each'"),
    (lambda: info_nce(S, P, directions="both"), "directions='both': expected one of 'mean', 'sum', 'rows', 'columns'"),
    (lambda: triplet(S, P), "generator=None: expected a torch.Generator, or draws, or hardest=1"),
    (lambda: triplet(S, P, hardest=0), "hardest=0: expected at least 1"),
    (lambda: triplet(S, P, draws=torch.zeros(5)), r"draws: found shape \(5,\), expected \(Q=7\)"),
    (lambda: triplet(S, P, draws=torch.zeros(7)), "draws: found torch.float32, expected integers"),
    (lambda: triplet(S, P, several="summed"), "several='summed': expected one of 'averaged', 'each'"),
    (lambda: triplet(S[:, :0], P[:, :0]), r"scores: found shape \(7, 0\)"),
    (lambda: similarity_kl(S, S.mT), r"teacher: found shape \(5, 7\), expected \(Q=7, V=5\)"),
    (lambda: similarity_kl(S, S, reduction="mean"), "reduction='mean': expected one of 'batchmean', 'sum', 'numel100'"),
    (lambda: similarity_kl(S, S, directions="row"), "directions='row': .* Did you mean 'rows'"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_makes_the_loss_nan(name: str) -> None:
    scores = matrix()
    scores[2, 0] = torch.nan
    assert LOSSES[name](scores).isnan()
