"""Cosine and maximum similarity: against loops, torch's own gradient, released numbers, and a bound on memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vtrlib.similarity import cosine, max_similarity, unit
from vtrlib.studies.similarity import maximum

GOLDEN = torch.load(Path(__file__).parent / "golden" / "losses.pt", weights_only=True)["dreamprvr"]
ACCELERATORS = [
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device here")),
]
Q, V, F, D = 11, 7, 5, 3


def embeddings(dtype: torch.dtype = torch.float64, queries: int = Q) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, frames and a mask whose padding would win every maximum; one video is full, one has one frame."""
    generator = torch.Generator().manual_seed(queries)
    texts = torch.randn(queries, D, generator=generator, dtype=torch.float64)
    frames = torch.randn(V, F, D, generator=generator, dtype=torch.float64)
    mask = torch.rand(V, F, generator=generator) < 0.6
    mask[0], mask[1] = True, torch.arange(F) == 3
    mask[2:, 1] = True
    assert not mask[:, 0].all(), "some video must begin with padding"
    frames[~mask] *= 100
    return texts.to(dtype), frames.to(dtype), mask


def naive(texts: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """One query, one video and one frame at a time."""
    rows = [
        [max(float(q @ f) for f, m in zip(v, there, strict=True) if m) for v, there in zip(frames, mask, strict=True)]
        for q in texts
    ]
    return torch.tensor(rows, dtype=torch.float64)


def dense(texts: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
    """All products at once, as torch differentiates them."""
    products = torch.einsum("qd,vfd->qvf", texts, frames)
    return products.masked_fill(~mask, -torch.inf).max(2).values


TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("memory", [1, 2, 3, 8, 40, None])
def test_maximum_against_loops(dtype: torch.dtype, memory: int | None) -> None:
    texts, frames, mask = embeddings(dtype)
    given = None if memory is None else memory * F * texts.element_size()
    for there in (mask, torch.ones_like(mask)):
        found = max_similarity(texts, frames, None if there.all() else there, memory=given)
        expected = naive(texts.double(), frames.double(), there)
        assert found.dtype == dtype and found.shape == (Q, V) and found.is_contiguous()
        torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("queries", [1, 511, 512, 513, 1200])
def test_any_number_of_queries(queries: int) -> None:
    texts, frames, mask = embeddings(queries=queries)
    torch.testing.assert_close(max_similarity(texts, frames, mask), dense(texts, frames, mask))
    strided = frames.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(max_similarity(texts, strided, mask, memory=5000), dense(texts, frames, mask))


def test_released_maxima() -> None:
    """DreamPRVR's: cosines for the evaluation, plain products for its contrastive loss; frames with zeros at the end."""
    q = GOLDEN["query_emb"]
    for branch in ("clip", "frame"):
        golden = GOLDEN[branch]
        cosines = max_similarity(unit(q), unit(golden["encoding"]))
        torch.testing.assert_close(cosines, golden["cosines"], rtol=0, atol=1e-6)
        torch.testing.assert_close(max_similarity(q, golden["encoding"]), golden["products"], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("grad", [False, True])
def test_padding_never_matters(rubbish: float, grad: bool) -> None:
    texts, frames, mask = embeddings()
    spoiled = frames.clone()
    spoiled[~mask] = rubbish
    if grad:
        frames, spoiled = frames.requires_grad_(), spoiled.requires_grad_()
    clean, found = (max_similarity(texts.clone().requires_grad_(grad), f, mask) for f in (frames, spoiled))
    assert torch.equal(clean, found)
    if grad:
        given = [torch.autograd.grad(s.sum(), f)[0] for s, f in ((clean, frames), (found, spoiled))]
        assert torch.equal(*given) and (given[0][~mask] == 0).all()


def test_a_nan_in_a_frame_is_seen() -> None:
    texts, frames, mask = embeddings()
    frames[4, 1, 0] = torch.nan
    assert max_similarity(texts, frames, mask).isnan().any(0).tolist() == [v == 4 for v in range(V)]


def test_a_video_of_padding_alone_scores_minus_infinity() -> None:
    texts, frames, mask = embeddings()
    mask[3] = False
    frames[3] = torch.nan
    leaves = texts.requires_grad_(), frames.requires_grad_()
    for found in (max_similarity(texts.detach(), frames.detach(), mask), max_similarity(*leaves, mask)):
        assert (found[:, 3] == -torch.inf).all() and found[:, [0, 1, 2, 4, 5, 6]].isfinite().all()
    for gradient in torch.autograd.grad(found.clamp(min=-9).sum() + found.sum(), leaves):
        assert gradient.isfinite().all()
    assert (gradient[3] == 0).all() and (gradient[4] != 0).any()


# --- gradient ---


@pytest.mark.parametrize("memory", [F * 8, 3 * F * 8, None])
def test_gradient_is_that_of_the_dense_maximum(memory: int | None) -> None:
    texts, frames, mask = embeddings()
    leaves = texts.requires_grad_(), frames.requires_grad_()
    weight = torch.randn(Q, V, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    ours, theirs = max_similarity(*leaves, mask, memory=memory), dense(*leaves, mask)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad((s * weight).sum(), leaves) for s in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    texts, frames, mask = embeddings()
    leaves = texts[:3].detach().requires_grad_(), frames.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, f: max_similarity(q, f, mask, memory=2 * F * 8), leaves)
    assert torch.autograd.gradcheck(
        cosine, (texts[:3].detach().requires_grad_(), frames[:, 0].detach().requires_grad_())
    )


@pytest.mark.parametrize("which", [0, 1])
def test_a_gradient_for_one_argument_alone(which: int) -> None:
    texts, frames, mask = embeddings()
    leaf = (texts, frames)[which].requires_grad_()
    ours, theirs = (torch.autograd.grad(f(texts, frames, mask).sum(), leaf)[0] for f in (max_similarity, dense))
    torch.testing.assert_close(ours, theirs)


def test_half_precision_gradients_are_summed_in_single() -> None:
    texts, frames = torch.ones(1000, 1), torch.ones(3, 2, 1)
    frames[:, 1] = -1
    leaves = texts.bfloat16(), frames.bfloat16().requires_grad_()
    gradient = torch.autograd.grad(max_similarity(*leaves, memory=4).sum(), leaves[1])[0]
    assert gradient[:, 0].flatten().tolist() == [1000.0] * 3  # a bfloat16 sum of ones stops at 256


# --- memory ---


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the most bytes that one storage made here has."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "view" not in str(func) and not func.is_view:
            for one in out if isinstance(out, tuple | list) else [out]:
                if isinstance(one, Tensor):
                    self.bytes = max(self.bytes, one.numel() * one.element_size())
        return out


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_memory_is_bounded(grad: bool, padded: bool) -> None:
    queries, videos, length, width, memory = 97, 89, 41, 2, 50_000
    texts = torch.randn(queries, width, requires_grad=grad)
    frames = torch.randn(videos, length, width, requires_grad=grad)
    mask = torch.ones(videos, length, dtype=torch.bool) if padded else None
    with Largest() as seen:
        scores = max_similarity(texts, frames, mask, memory=memory)
        if grad:
            torch.autograd.backward(scores.sum())
    assert 4 * queries * videos * length > 20 * memory
    allowed = max(memory, queries * videos * (8 if grad else 4))  # a block; the result, or with it an index each
    assert memory / 2 < seen.bytes <= allowed


# --- cosine ---


def test_cosine_against_loops() -> None:
    texts, frames, _ = embeddings()
    videos = frames[:, 0]
    found = cosine(texts, videos)
    assert found.shape == (Q, V)
    for i, q in enumerate(texts):
        for j, v in enumerate(videos):
            assert found[i, j].item() == pytest.approx(float(q @ v) / (float(q @ q) * float(v @ v)) ** 0.5, abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4])
def test_unit_in_half_precision(dtype: torch.dtype, size: float) -> None:
    x = (size * torch.ones(2, 3, 48)).to(dtype)
    x[0, 0] = 0
    found = unit(x)
    assert found.dtype == dtype and (found[0, 0] == 0).all()
    torch.testing.assert_close(found[1].double().norm(dim=-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=4e-3)
    exact = torch.nn.functional.normalize(x.double(), dim=-1)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-3)


def test_unit_is_torchs_normalize() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    x[1, 1] = 0
    torch.testing.assert_close(unit(x), torch.nn.functional.normalize(x, dim=-1))


# --- devices, autocast, bad input, the study ---


@pytest.mark.parametrize("device", ACCELERATORS)
def test_an_accelerator_gives_the_same(device: str) -> None:
    texts, frames, mask = (x.to(device) for x in embeddings(torch.float32))
    leaves = texts.requires_grad_(), frames.requires_grad_()
    ours, theirs = max_similarity(*leaves, mask, memory=400), dense(*leaves, mask)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(s.sum(), leaves) for s in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("grad", [False, True])
def test_an_accelerator_is_never_waited_for(grad: bool) -> None:
    """The meta device has shapes and no values, so that reading one fails."""
    texts, frames, mask = (x.to("meta") for x in embeddings())
    leaves = texts.requires_grad_(grad), frames.requires_grad_(grad)
    found = max_similarity(*leaves, mask, memory=400)
    assert found.shape == (Q, V) and found.is_meta
    if grad:
        assert [x.shape for x in torch.autograd.grad(found.sum(), leaves)] == [texts.shape, frames.shape]


def test_compiles_without_a_break() -> None:
    texts, frames, mask = embeddings()
    leaves = texts.requires_grad_(), frames.requires_grad_()
    compiled = torch.compile(max_similarity, fullgraph=True, backend="eager")
    ours, theirs = compiled(*leaves, mask, memory=400), max_similarity(*leaves, mask)
    for a, b in zip(
        (ours, *torch.autograd.grad(ours.sum(), leaves)),
        (theirs, *torch.autograd.grad(theirs.sum(), leaves)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_autocast() -> None:
    texts, frames, mask = embeddings(torch.float32)
    texts.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = max_similarity(texts, frames.bfloat16(), mask)
        assert found.dtype == torch.bfloat16 and cosine(texts, frames[:, 0]).dtype == torch.bfloat16
    torch.autograd.backward(found.sum())
    assert texts.grad is not None and texts.grad.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), naive(texts.detach().double(), frames.double(), mask), rtol=3e-2, atol=3e-2
    )


A, B, M = torch.ones(2, 3), torch.ones(4, 5, 3), torch.ones(4, 5) > 0
BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: max_similarity(A[0], B), r"queries: found shape \(3,\), expected \(Q, D\)"),
    (lambda: max_similarity(A[:0], B), r"queries: found shape \(0, 3\), expected \(Q, D\), no axis empty"),
    (lambda: max_similarity(A, B[..., :2]), r"frames: found shape \(4, 5, 2\), expected \(V, F, D=3\)"),
    (lambda: max_similarity(A, B[:, :0]), r"frames: found shape \(4, 0, 3\)"),
    (lambda: max_similarity(A, B, M[:3]), r"mask: found shape \(3, 5\), expected \(V=4, F=5\)"),
    (lambda: max_similarity(A, B, M.int()), "mask: found torch.int32, expected torch.bool"),
    (lambda: max_similarity(A, B.double()), "frames: found torch.float64, expected torch.float32, like queries"),
    (lambda: max_similarity(A.long(), B.long()), "queries: found torch.int64, expected floating-point"),
    (lambda: max_similarity(A, B, memory=19), "memory=19: expected at least 20 bytes, the F=5 products of one"),
    (lambda: cosine(A, B), r"videos: found shape \(4, 5, 3\), expected \(V, D=3\)"),
    (lambda: cosine(A, B[0].double()), "videos: found torch.float64, expected torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_study_measures_a_share() -> None:
    found = maximum(0, queries=7, videos=3, vectors=5, width=11, matrix=64, tries=1)
    for name in ("all frames", "padded"):
        share = found[f"{name}/GFLOP/s"] / found["sgemm/GFLOP/s"]
        assert found[f"{name}/share of sgemm"] == pytest.approx(share) and share > 0
