"""Film strips, players and time-lines: what the markup promises to eyes, keyboards, screen readers and nbval."""

from __future__ import annotations

import dataclasses
import io
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup, Tag
from PIL import Image

from vtrlib import show
from vtrlib.show import style
from vtrlib.show.html import Html
from vtrlib.show.sheet import fingerprint
from vtrlib.world.video import Event, Moment, Video

matplotlib.use("Agg")

NASTY = """"><script>alert('1')</script>&amp; <b>it's</b>"""
URI = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def noise(frames: int = 5, height: int = 7, width: int = 11, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def make_video(frames: int = 20, caption: str = "a red one moves left") -> Video:
    def moment(start: int, end: int, captions: tuple[str, ...], degradation: str | None = None) -> Moment:
        return Moment(start, end, Event(1, 0, 0), captions, None, degradation)

    pixels = noise(frames)
    return Video(
        index=3, split="val", view="untrimmed", scene=2, frames=pixels, mask=pixels[:, 0] > 99,
        moments=(
            moment(0, 3, (caption, "another wording")),
            moment(5, 9, ()),
            moment(9, 10, ("a blue two grows",), "blur"),
            moment(13, 20, ("a red one moves left",)),
        ),
        frame_captions=tuple(f"a one in step {k // 3}" for k in range(frames)), duplicate_of=None,
    )  # fmt: skip


PIECES: dict[str, Callable[[], Html]] = {
    "film_strip": lambda: show.film_strip(noise(), alt="five frames", labels=range(5)),
    "strips": lambda: show.strips({"there": noise(), "back": noise().flip(0)}, alt="there and back", labels=range(5)),
    "player": lambda: show.player(noise(), alt="five frames", captions=["a", "a", "b", "b", "a"]),
    "timeline": lambda: show.timeline(make_video()),
}


def soup(piece: Html) -> BeautifulSoup:
    return BeautifulSoup(piece.html, "html.parser")


def one(piece: Html, selector: str) -> Tag:
    (found,) = soup(piece).select(selector)
    return found


def sheet(piece: Html) -> np.ndarray:
    """The pixels that travel in the page, (H, F·W, 3)."""
    (data,) = URI.findall(piece.html)
    return np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("RGB"))


def side_by_side(frames: torch.Tensor) -> np.ndarray:
    return torch.cat(list(frames), dim=2).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", PIECES)
def test_every_piece_stands_alone_and_says_what_it_shows(name: str) -> None:
    piece = PIECES[name]()
    page = soup(piece)
    assert not page.select("script, link, iframe, [id], [autoplay], [autofocus]")
    assert "http:" not in piece.html and "https:" not in piece.html and "@import" not in piece.html
    assert len(URI.findall(piece.html)) == 1
    (picture,) = page.select("[data-pixels]")
    assert picture.name == "img" or picture["role"] == "img"
    assert piece.alt in (picture.get("alt") or picture["aria-label"])
    assert all(button["type"] == "button" and button.get_text(strip=True) for button in page.select("button"))
    assert piece._repr_html_() == piece.html
    assert piece.alt in repr(piece) and "\n" not in repr(piece)
    with pytest.raises(dataclasses.FrozenInstanceError):
        piece.alt = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", PIECES)
def test_a_second_run_gives_the_same_bytes(name: str) -> None:
    assert PIECES[name]() == PIECES[name]()


def test_the_scripts_find_every_part_they_ask_for() -> None:
    page = soup(PIECES["timeline"]())
    (root,) = page.select(".vtr-player")
    asked = re.findall(r"querySelector(?:All)?\('([^']+)'\)", root["oninput"] + root["onclick"])
    assert len(asked) >= 6
    assert all(root.select(selector) for selector in asked)
    assert [tag["class"] for tag in page.select("[onclick], [oninput]")] == [["vtr", "vtr-player"]]


def test_style_and_markup_know_the_same_classes() -> None:
    used = {name for build in PIECES.values() for tag in soup(build()).select("[class]") for name in tag["class"]}
    css = style.sheet(style.FILM, style.PLAYER, style.TIMELINE)
    assert set(re.findall(r"\.(vtr[a-z-]*)", css)) | {"dark-light"} == used | {"vtr-scroll"}
    assert css.count("{") == css.count("}") and "\n" not in css
    assert not re.search(r"(?<![-\w])color:(?!inherit)", css)  # letters take the colour of the page, light or dark


@pytest.mark.parametrize("colours", [256, 257], ids=["palette", "true colour"])
def test_pixels_travel_without_loss(colours: int) -> None:
    codes = torch.arange(5 * 7 * 11).remainder(colours).mul(7919).reshape(5, 7, 11)
    frames = torch.stack([codes % 256, codes // 256 % 256, codes // 65536], dim=1).to(torch.uint8)
    for piece in (show.player(frames, alt="x"), show.film_strip(frames, alt="x")):
        np.testing.assert_array_equal(sheet(piece), side_by_side(frames))


def test_every_and_strips_choose_frames() -> None:
    frames = noise(7)
    thinned = show.film_strip(frames, alt="x", every=3, labels="abcdefg".__iter__())
    np.testing.assert_array_equal(sheet(thinned), side_by_side(frames[::3]))
    assert [cell.get_text() for cell in soup(thinned).select(".vtr-cell")] == ["a", "d", "g"]
    both = show.strips({"long": frames, "short": noise(4, seed=1)}, alt="x", every=2, labels=range(7))
    np.testing.assert_array_equal(sheet(both), side_by_side(torch.cat([frames[::2], noise(4, seed=1)[::2]])))
    rows = one(both, ".vtr-rows")
    assert "repeat(4," in rows["style"]
    assert [name.get_text() for name in rows.select(".vtr-name")] == ["long", "short"]
    assert [part.get_text() for part in rows.select(":scope > span:not([class], [style])")] == ["0", "2", "4", "6"]
    assert one(both, "[role=img]")["aria-label"] == "x Labels: long; short; 0; 2; 4; 6."


@pytest.mark.parametrize("name", ["film_strip", "strips"])
def test_each_window_shows_its_own_frame(name: str) -> None:
    windows = soup(PIECES[name]()).select(".vtr-frame")
    count = {"film_strip": 5, "strips": 10}[name]
    assert len(windows) == count
    for k, window in enumerate(windows):
        size, place = re.findall(r"background-(?:size|position):([\d.]+)%", window["style"])
        assert float(size) == 100 * count
        assert float(place) / 100 * (count - 1) == pytest.approx(k, abs=1e-4)


def test_numpy_torch_and_strided_frames_are_the_same() -> None:
    frames = noise()
    strided = frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    assert show.player(frames, alt="x") == show.player(frames.numpy(), alt="x") == show.player(strided, alt="x")


def test_the_fingerprint_follows_every_pixel_and_the_shape() -> None:
    pixels = noise().numpy()
    prints = {fingerprint(pixels), fingerprint(pixels.reshape(5, 3, 11, 7))}
    for place in np.ndindex(2, 3, 7, 11):
        changed = pixels.copy()
        changed[place] ^= 1
        prints.add(fingerprint(changed))
    assert len(prints) == 2 + 2 * 3 * 7 * 11
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in prints)
    # What nbval compares, once it has masked the PNG, still differs.
    other = noise()
    other[4, 2, 6, 10] ^= 1
    masked = [URI.sub("PNG", show.player(frames, alt="x").html) for frames in (noise(), noise(), other)]
    assert masked[0] == masked[1] != masked[2]


def test_texts_are_escaped_everywhere() -> None:
    pieces = [
        show.film_strip(noise(), alt=NASTY, labels=[NASTY] * 5),
        show.strips({NASTY: noise()}, alt=NASTY, labels=[NASTY] * 5),
        show.player(noise(), alt=NASTY, captions=[NASTY] * 5),
        show.timeline(make_video(caption=NASTY)),
    ]
    assert all(not soup(piece).select("script, b") for piece in pieces)
    film, rows, clip, line = pieces
    assert [cell.get_text() for cell in soup(film).select(".vtr-cell")] == [NASTY] * 5
    assert one(rows, ".vtr-name").get_text() == NASTY
    assert one(clip, "img")["alt"] == NASTY
    assert one(clip, "li [class] + span").get_text() == NASTY
    assert one(clip, "input")["aria-valuetext"] == f"frame 1 of 5: {NASTY}" == one(clip, ".vtr-now").get_text()
    assert soup(line).select(".vtr-moment")[0]["title"] == NASTY


def test_player_controls() -> None:
    piece = show.player(noise(), alt="five frames", captions=["a", "a", "b", "b", "a"], fps=4, scale=2)
    slider = one(piece, "input[type=range]")
    assert [slider[name] for name in ("min", "max", "value", "step")] == ["1", "5", "1", "1"]
    assert slider["aria-label"] == "frame" and slider["aria-valuetext"] == "frame 1 of 5: a"
    assert slider["autocomplete"] == "off"  # else Firefox keeps the slider where it was, over the first frame
    assert one(piece, "button").get_text() == "Play"
    assert one(piece, "[aria-live]")["aria-live"] == "polite"
    root = one(piece, "[role=group]")
    assert root["data-fps"] == "4" and root["aria-label"] == "clip player"
    assert "width:22px" in one(piece, "img")["style"] and "aspect-ratio:11/7" in one(piece, "img")["style"]
    lines = soup(piece).select("li[data-from]")
    assert [line["data-from"] for line in lines] == ["1", "3", "5"]
    assert [line.get_text() for line in lines] == ["frames 1–2: a", "frames 3–4: b", "frame 5: a"]
    # JupyterLab would take arrow keys and Enter; it looks for this on the very element that has the focus.
    assert all(tag["data-lm-suppress-shortcuts"] == "true" for tag in soup(piece).select("button, input"))


def test_player_without_captions_and_with_one_frame() -> None:
    piece = show.player(noise(1), alt="one frame")
    assert one(piece, ".vtr-now").get_text() == "frame 1 of 1"
    assert not soup(piece).select("details")
    np.testing.assert_array_equal(sheet(piece), side_by_side(noise(1)))


def test_timeline_places_its_moments() -> None:
    buttons = soup(PIECES["timeline"]()).select(".vtr-bar button")
    places = [re.findall(r"(?:left|width):([\d.]+)%", button["style"]) for button in buttons]
    assert [[float(number) for number in place] for place in places] == [[0, 15], [25, 20], [45, 5], [65, 35]]
    assert [(button["data-first"], button["data-last"]) for button in buttons] == [
        ("1", "3"), ("6", "9"), ("10", "10"), ("14", "20")
    ]  # fmt: skip
    assert [button.get_text() for button in buttons] == ["1", "2", "3", "4"]
    assert [button.get("aria-current") for button in buttons] == ["true", None, None, None]
    assert len({re.search(r"--vtr-hue:#\w{6}", button["style"]).group() for button in buttons}) == 4  # type: ignore[union-attr]


def test_timeline_says_everything_in_words() -> None:
    page = soup(PIECES["timeline"]())
    assert [button["aria-label"] for button in page.select(".vtr-bar button")] == [
        "1, frames 1–3: a red one moves left",
        "2, frames 6–9: not captioned: red one moves left",
        "3, frame 10: a blue two grows (blur)",
        "4, frames 14–20: a red one moves left",
    ]
    assert [line.get_text() for line in page.select("ol.vtr-moments > li")] == [
        "frames 1–3: “a red one moves left”",
        "frames 6–9: red one moves left [dashed: not captioned]",
        "frame 10: “a blue two grows” [hatched: blur]",
        "frames 14–20: “a red one moves left”",
    ]
    assert [line.get("aria-current") for line in page.select("ol.vtr-moments > li")] == ["true", None, None, None]
    (paraphrase,) = page.select("details > ol > li")
    assert paraphrase["value"] == "1" and paraphrase.get_text() == "“another wording”"
    (distractor,) = page.select("button.vtr-distractor")
    (spoiled,) = page.select("button.vtr-spoiled")
    assert (distractor.get_text(), spoiled.get_text()) == ("2", "3")
    assert "3 captioned moments and 1 without" in PIECES["timeline"]().alt


def test_pages_stay_small() -> None:
    """A still grainy scene with a digit-sized patch moving over it, as in Moving Digits."""
    generator = torch.Generator().manual_seed(1)
    scene = torch.randint(60, 71, (3, 32, 32), dtype=torch.uint8, generator=generator)
    patch = torch.randint(0, 256, (3, 14, 9), dtype=torch.uint8, generator=generator)
    frames = scene.repeat(64, 1, 1, 1)
    for k in range(64):
        frames[k, :, k % 18 : k % 18 + 14, k // 3 : k // 3 + 9] = patch
    long = show.player(frames, alt="x", captions=[f"a red seven, step {k}" for k in range(64)])
    assert len(long.html.encode()) < 60_000
    assert len(show.player(frames[:8], alt="x", captions=["a red seven at the left"] * 8).html.encode()) < 12_000
    assert len(show.film_strip(frames[:8], alt="x").html.encode()) < 10_000


FRAMES = noise()
BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: show.player(FRAMES.float() / 255, alt="x"), TypeError, r"^frames: found torch.float32.*\(torch\.uint8\)"),
    (lambda: show.player(FRAMES.numpy() / 255, alt="x"), TypeError, r"^frames: found float64.*astype\(numpy\.uint8\)"),
    (lambda: show.player(FRAMES.to(torch.int8), alt="x"), TypeError, "^frames: found torch.int8.*uint8"),
    (lambda: show.player(FRAMES.tolist(), alt="x"), TypeError, r"^frames \(list\).*\(F, 3, H, W\)"),  # type: ignore[arg-type]
    (lambda: show.player(FRAMES[0], alt="x"), ValueError, r"\(3, 7, 11\).*frames\[None\]"),
    (lambda: show.player(FRAMES.permute(0, 2, 3, 1), alt="x"), ValueError, r"\(5, 7, 11, 3\).*permute\(0, 3, 1, 2\)"),
    (lambda: show.player(FRAMES[:0], alt="x"), ValueError, r"\(0, 3, 7, 11\); expected \(F, 3, H, W\), none of them 0"),
    (lambda: show.player(FRAMES.expand(5, 3, 7, 11).repeat(600, 1, 1, 1), alt="x"), ValueError, "33000 pixels wide"),
    (lambda: show.player(FRAMES, alt=" "), ValueError, "^alt is empty"),
    (lambda: show.film_strip(FRAMES, alt=None), TypeError, "^alt=None"),  # type: ignore[arg-type]
    (lambda: show.player(FRAMES, alt="x", captions=["a"]), ValueError, "^captions: found 1 entries for 5 frames"),
    (lambda: show.player(FRAMES, alt="x", captions="abcde"), TypeError, "^captions='abcde'.*sequence"),
    (lambda: show.player(FRAMES, alt="x", fps=0), ValueError, "^fps=0: expected between 1 and 60"),
    (lambda: show.player(FRAMES, alt="x", scale=1.5), TypeError, "^scale=1.5"),  # type: ignore[arg-type]
    (lambda: show.film_strip(FRAMES, alt="x", every=0), ValueError, "^every=0"),
    (lambda: show.film_strip(FRAMES, alt="x", labels=range(4)), ValueError, "^labels: found 4 entries for 5"),
    (lambda: show.strips({}, alt="x"), ValueError, "^rows is empty"),
    (lambda: show.strips([FRAMES], alt="x"), TypeError, r"^rows \(list\)"),  # type: ignore[arg-type]
    (lambda: show.strips({"a": FRAMES, "b": noise(5, 7, 12)}, alt="x"), ValueError, r"rows\['b'\]: .*7×12.*7×11"),
    (lambda: show.tile([]), ValueError, "^clips is empty"),
    (lambda: show.tile([FRAMES, FRAMES[:4]]), ValueError, r"clips\[1\]: found shape \(4, .*expected \(5, "),
    (lambda: show.timeline(make_video(19)), ValueError, "start 13, end 20; expected 0 ≤ start < end ≤ 19"),
    (lambda: show.figure(width=0), ValueError, "^width=0"),
    (lambda: show.save_gif(FRAMES, "clip.png"), ValueError, "^path='clip.png': found suffix '.png'; expected '.gif'"),
    (lambda: show.save_strip(FRAMES, Path("no/such/a.png")), FileNotFoundError, "there is no folder 'no/such'. Create"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input_is_named(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_tile_keeps_every_pixel() -> None:
    clips = [noise(seed=k) for k in range(3)]
    grid = show.tile(clips, columns=2, gap=1)
    assert grid.shape == (5, 3, 15, 23)
    np.testing.assert_array_equal(grid[:, :, :7, 12:], clips[1].numpy())
    np.testing.assert_array_equal(grid[:, :, 8:, :11], clips[2].numpy())
    assert (grid[:, :, 7] == 255).all() and (grid[:, :, 8:, 11:] == 255).all()
    assert show.tile(clips).shape == (5, 3, 15, 23)  # about square by default


def test_gif_is_exact_up_to_256_colours(tmp_path: Path) -> None:
    frames = noise() // 64 * 64  # 64 colours
    show.save_gif(frames, tmp_path / "clip.gif", fps=8, scale=2)
    with Image.open(tmp_path / "clip.gif") as movie:
        assert (movie.n_frames, movie.info["loop"], movie.info["duration"]) == (5, 0, 120)
        for k in range(5):
            movie.seek(k)
            expected = frames[k].permute(1, 2, 0).numpy().repeat(2, axis=0).repeat(2, axis=1)
            np.testing.assert_array_equal(np.asarray(movie.convert("RGB")), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.gif"]


def test_gif_of_more_colours_stays_close(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 255, 5 * 16 * 20).reshape(5, 1, 16, 20)
    frames = torch.cat([ramp, 255 - ramp, ramp / 2], dim=1).to(torch.uint8)
    assert len(frames.permute(0, 2, 3, 1).reshape(-1, 3).unique(dim=0)) > 256
    show.save_gif(frames, tmp_path / "clip.gif", scale=1)
    with Image.open(tmp_path / "clip.gif") as movie:
        for k in range(5):
            movie.seek(k)
            error = np.abs(np.asarray(movie.convert("RGB")).astype(int) - frames[k].permute(1, 2, 0).numpy())
            assert error.max() <= 8


def test_strip_file_has_transparent_gaps(tmp_path: Path) -> None:
    show.save_strip(noise(), tmp_path / "strip.png", scale=2, every=2, gap=3)
    strip = np.asarray(Image.open(tmp_path / "strip.png"))
    assert strip.shape == (14, 3 * 22 + 2 * 3, 4)
    np.testing.assert_array_equal(strip[::2, 25:47:2, :3], noise()[2].permute(1, 2, 0).numpy())
    assert (strip[:, 22:25, 3] == 0).all() and (strip[:, 25:47, 3] == 255).all()


def test_a_failed_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "strip.png"
    target.write_bytes(b"precious")

    def full_disk(self: Image.Image, path: Path, *args: object, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        show.save_strip(noise(), target)
    assert target.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [target]


def test_figures_are_white_and_told_apart_in_grey() -> None:
    import matplotlib.pyplot as plt

    with plt.style.context("dark_background"):
        before = dict(plt.rcParams)
        fig, ax = show.figure()
        assert dict(plt.rcParams) == before
        lines = [ax.plot([0, 1], [k, k])[0] for k in range(len(show.PALETTE))]
        ax.set(title="T", xlabel="x", ylabel="y")
    fig.canvas.draw()
    white, black = (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 1.0)
    assert fig.get_facecolor() == ax.get_facecolor() == white
    letters = [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.get_xticklabels()]
    assert all(text.get_fontsize() >= 11 and matplotlib.colors.to_rgba(text.get_color()) == black for text in letters)
    assert [line.get_color() for line in lines] == list(show.PALETTE)
    assert len({line.get_marker() for line in lines}) == len(lines)
    assert len({str(line._dash_pattern) for line in lines}) == len(lines)  # type: ignore[attr-defined]
    assert len(set(show.HATCHES)) == len(show.PALETTE)
    plt.close(fig)
    fig, axes = show.figure(5, 3, rows=2, columns=3, sharey=True)
    assert axes.shape == (2, 3) and tuple(fig.get_size_inches()) == (5, 3)
    plt.close(fig)
