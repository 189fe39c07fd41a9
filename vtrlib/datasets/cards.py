"""Data cards: for each real dataset what it is, where to get it, its licence as stated, and its files with sha256.

None of these data are part of this project. `book/data_cards.md` prints these cards; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtrlib.check import one_of

__all__ = ["CARDS", "Card", "File", "card", "markdown"]


@dataclass(frozen=True)
class File:
    """One file of a dataset: its name in the dataset's folder, and what it must hold."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Card:
    """What one must know about a dataset before using it.

    Attributes:
        name: its folder inside the data folder.
        title: what it is called.
        what: what it holds, counted from the files below.
        origin: where its files come from, as (repository, commit, path in it).
        licence: as stated at the origin, no more.
        files: what `vtrlib.datasets.verify` expects.
        recipe: how a file that is not downloaded as it stands was made; or "".
        caveats: what can mislead.
        read_by: functions and classes of vtrlib that read it, as dotted names; empty: none yet.
        commands: what uses it, from a shell with `VTRLIB_DATA` set.
    """

    name: str
    title: str
    what: str
    origin: tuple[tuple[str, str, str], ...]
    licence: str
    files: tuple[File, ...]
    recipe: str = ""
    caveats: tuple[str, ...] = ()
    read_by: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


def card(name: str) -> Card:
    """The card of a dataset.

    Raises:
        ValueError: there is none of that name; the message lists them.
    """
    return CARDS[one_of("name", name, CARDS)]


def markdown() -> str:
    """All cards as the sections of `book/data_cards.md`."""
    return "\n\n".join(_section(entry) for entry in CARDS.values())


def _section(entry: Card) -> str:
    origin = "; ".join(
        f"`{path}` of [{repository}](https://github.com/{repository}/tree/{commit}) at commit `{commit[:7]}`"
        for repository, commit, path in entry.origin
    )
    read_by = ", ".join(f"`{name}`" for name in entry.read_by) or "nothing yet"
    lines = [
        f"(data-{entry.name})=",
        f"## {entry.title}",
        "",
        entry.what,
        "",
        f"Folder\n: `{entry.name}`",
        "",
        f"Origin\n: {origin}",
        "",
        f"Licence as stated there\n: {entry.licence}",
        "",
        f"Read by\n: {read_by}",
        "",
    ]
    if entry.commands:
        lines += ["Used by\n: " + ", ".join(f"`{command}`" for command in entry.commands), ""]
    if entry.recipe:
        lines += [f"How it was made\n: {entry.recipe}", ""]
    lines += [f"- {caveat}" for caveat in entry.caveats] + [""] * bool(entry.caveats)
    lines += ["| file | bytes | sha256 |", "| --- | ---: | --- |"]
    lines += [f"| `{file.name}` | {file.bytes:,} | `{file.sha256}` |" for file in entry.files]
    return "\n".join(lines)


def _files(table: str) -> tuple[File, ...]:
    """Read lines of "sha256 bytes name"."""
    rows = (line.split() for line in table.split("\n") if line.strip())
    return tuple(File(name, int(size), digest) for digest, size, name in rows)


def _lines(text: str) -> tuple[str, ...]:
    """Paragraphs, each as one line."""
    return tuple(" ".join(part.split()) for part in text.split("\n\n") if part.strip())


_XPOOL = ("layer6ai-labs/xpool", "bc88718199007d395136adc99a3e69adbee874a0")
_VSLNET = ("26hzhang/VSLNet", "3793c625f2e251a5f19a0d59f0c83b12e386f808")
_XPOOL_LICENCE = "the repository has no licence file"
_VIDEO_TESTS = "pytest tests/test_datasets_video.py"
_RETRIEVAL_TESTS = "pytest tests/test_retrieval_data.py"

CARDS: dict[str, Card] = {
    entry.name: entry
    for entry in (
        Card(
            name="msrvtt-annotations",
            title="MSR-VTT: captions and splits",
            what="All 200,000 captions of MSR-VTT's 10,000 videos, 20 each, with source URL, start, end and category: "
            "6,513 videos for training, 497 for validation, 2,990 for test; and the lists of the 1k-A protocol: "
            "1,000 test videos with one sentence each, 9,000 or 7,010 training videos.",
            origin=(
                (
                    "WingsBrokenAngel/MSR-VTT-DataCleaning",
                    "f74c5712809535df60db5c56c3e81efb44f81d89",
                    "clean_process/*.zip",
                ),
                (*_XPOOL, "data/MSRVTT/*.csv"),
            ),
            licence="MIT for the first repository's code; the second has no licence file. The annotations are "
            "Microsoft's, whose own terms we did not find there.",
            files=_files(
                """
                e61144b312c8a2fc2126f96504c981f8c23c05b3ba9655a56e2af50ac8a4b16a 74475 MSRVTT_JSFUSION_test.csv
                ca0d04c34310168b620c90c67eaec702b37398943965f5e1f9f44af8f193da7d 68999 MSRVTT_train.7k.csv
                0a7ece2418e1f7ac5680555a04ddfef8950293ac3c4bdd6584fb0fa6cc0ff7d3 88899 MSRVTT_train.9k.csv
                0871bbe19dc9c13edeef4af5d7be39600a2e2b7d967e0206bb5911d633af24a0 1105940 test_videodatainfo.json.zip
                ce2d97dd82d03e018c6f9ee69c96eb784397d1c83f734fdb8c17aafa5e27da31 2594639 train_val_annotation.zip
                """
            ),
            caveats=_lines(
                """
                The 10,000 videos are cut from 7,180 sources. The official splits share none, but in the 1k-A
                protocol 372 of the 1,000 test videos come from a source that the 9,000 training videos also use.

                The 1k-A protocol has no validation videos: who selects a model on its test videos selects on the
                test set.

                35 of the 1,000 sentences of the 1k-A test are, to the letter, no caption of their video in the json.
                """
            ),
            read_by=("vtrlib.datasets.read_msrvtt", "vtrlib.datasets.msrvtt_protocol"),
            commands=("python -m vtrlib results ragme-captions", "pytest tests/test_datasets_msrvtt.py"),
        ),
        Card(
            name="msrvtt-vgg128-1k",
            title="MSR-VTT: VGG-16 features of the first 1,000 videos",
            what="A float32 array (1000, 50, 128): video0 to video999, 50 equally spaced frames each, VGG-16 features "
            "compressed to 128 numbers a frame by an autoencoder. All finite, no two videos alike.",
            origin=(
                (
                    "Hassaan-Elahi/Dense-Captioning",
                    "c121e9597ba445222905594293461037bfceb449",
                    "featuresBig/*.npy",
                ),
            ),
            licence="none stated",
            files=_files(
                """
                1fc0c8916a0a6b769c8fd2c9a366ea4825f687769a34e007ad3851c682c3c738 25600128 video0-999_vgg16ae_50x128_f32.npy
                """
            ),
            recipe="the 1,000 arrays of `featuresBig/` stacked unchanged, by "
            '`vtrlib.datasets.stack_features("featuresBig", "video0-999_vgg16ae_50x128_f32.npy", 1000)`',
            caveats=_lines(
                """
                46 pairs of these videos share a source URL. `msrvtt_features` splits by source, so that no source is
                in two splits; the official split does not help, since all 1,000 are training videos.

                We know of the autoencoder only what its README says; whether it saw these videos is unknown.

                949 of the 1,000 captions in that repository's `caption.txt` are word for word one of MSR-VTT's own
                for the same id, which is how we know that row i is video i.
                """
            ),
            read_by=("vtrlib.datasets.msrvtt_features", "vtrlib.datasets.load_features"),
            commands=(
                "python -m vtrlib results msrvtt-baseline",
                "pytest tests/test_datasets_features.py tests/test_datasets_words.py",
            ),
        ),
        Card(
            name="msvd-annotations",
            title="MSVD: captions",
            what="80,827 captions of 1,970 short videos; lists of 1,200 training, 100 validation and 670 test videos.",
            origin=((*_XPOOL, "data/MSVD/"),),
            licence=f"{_XPOOL_LICENCE}; MSVD itself is Microsoft Research's.",
            files=_files(
                """
                11bc68e8441438121c1c7321526ef1d1fc6553d3b801baef1cca1d3429e306b1 3099287 captions_msvd.json
                95eacd1fddb1d88cd7144267913ef02d0ecb8cc94a88bc484035433a2d8f9c7a 12186 test_list.txt
                abfb8ab5660b464cf547d63a37a369920ff92c5f547af80f07aedd709df335d3 21853 train_list.txt
                9527cf1ef6c8fe2fb1ecfda0e1856acc563fecef5ff0a409b5d908b65c1e6ed4 1795 val_list.txt
                """
            ),
            read_by=("vtrlib.datasets.retrieval.read_msvd",),
            commands=(_RETRIEVAL_TESTS,),
        ),
        Card(
            name="msvd-clips",
            title="MSVD: eleven real clips",
            what="Eleven clips of 91 to 421 frames (h264 in AVI, 320×240 to 1280×720), with their human captions.",
            origin=(
                (
                    "Shreyz-max/Video-Captioning",
                    "dc9abc252cf43fc60cb3c37bf178dd212d03875c",
                    "data/testing_data/video/*.avi (3qq…, UXs…, WTf…, j2D…, klt…)",
                ),
                (
                    "AdrianHsu/S2VT-seq2seq-video-captioning-attention",
                    "10998f24250de9cdd9e338d566c60b71f2083ded",
                    "raw_videos/*.avi (the other six)",
                ),
            ),
            licence="none stated in either; the clips are cut from YouTube videos",
            files=_files(
                """
                7b9d7529782ea9a9057117eeb3d01b109c5cd6d8fbf21c9a618157440f7e5f85 329960 0lh_UWF9ZP4_62_69.avi
                b39255e700dbbcdedadf4f850c39da53bae4a24c28249ee47cde5b5d1f3bc380 1135122 3qqEKTPxLNs_1_15.avi
                8bb27c0826008d00c054bf178055936908486c0e68be5c2828e8effce810697b 1254590 778mkceE0UQ_40_46.avi
                2e949746b5161fe8b319ffe4842b6002a57d22be036551728a197775e96f918a 259822 PeUHy0A1GF0_114_121.avi
                dd0b5707116db459a7f983833cd067107aa40466499b99d2a3f0bfc401f73a7f 307290 TZ860P4iTaM_15_28.avi
                179a1a1c5cef3a2036843044dbd9a5cb674ba1ebb206c59deb39ca33ad120f97 1202122 UXs3eq68ZjE_250_255.avi
                abc96130a453eeedbc6d099fb6b05753194eea4fe53e58b3e63ceadf39fe847a 165338 WTf5EgVY5uU_124_128.avi
                4d907320f4d716941b196a9957e9dd42d6c3ccf105c7942003b3a64c476f1c56 16307 captions.json
                8f5303d3905b6169e864ced56f4b931f87cc0240ae727ef64298933a14934eda 174530 j2Dhf-xFUxU_13_20.avi
                0370fc3f14b3f498755fc18a0121cf0d1d2ed5d6de7b6d1449ecaa009307b5e0 398806 klteYv1Uv9A_27_33.avi
                804001a3b6c73d5f5559c6f3b07780d31382a23b3adf08718bccbfa3fda71ecb 251488 qvg9eM4Hmzk_4_10.avi
                ceaed86101e847664040449813a4ce8f52227ff00dc4fb1cf0014cde5c192be6 810172 ufFT2BWh3BQ_0_8.avi
                """
            ),
            recipe="`captions.json` holds the eleven entries of MSVD's `captions_msvd.json`",
            caveats=("For checks of your own; do not publish frames of them without thought.",),
            read_by=(
                "vtrlib.datasets.read_frames",
                "vtrlib.datasets.retrieval.VideoFolder",
                "vtrlib.datasets.retrieval.read_captions",
            ),
            commands=("python -m vtrlib results msvd-clips", _VIDEO_TESTS, _RETRIEVAL_TESTS),
        ),
        Card(
            name="nasa-clip",
            title="A NASA clip",
            what="One clip of 325 frames (h264 in MP4, 320×180, 25 frames a second, with sound).",
            origin=(("pytorch/torchcodec", "c66da14b7ba4a22f42a6d8f690c4edb3441db65f", "test/resources/"),),
            licence="BSD-3 for the repository; by its name the footage is NASA's",
            files=_files(
                """
                53705221cac65086253367787e964e5d7d37beeba007646106a2c780d087c9e1 672981 nasa_13013.mp4
                """
            ),
            read_by=("vtrlib.datasets.read_frames",),
            commands=(_VIDEO_TESTS,),
        ),
        Card(
            name="charades-sta",
            title="Charades-STA: sentences with moments",
            what="12,408 sentences with start and end in 5,338 training videos, 3,720 in 1,334 test videos.",
            origin=((*_VSLNET, "data/dataset/charades/"),),
            licence="MIT for the repository. Charades itself has terms of its own (Allen Institute for AI), which we "
            "did not check.",
            files=_files(
                """
                42de4feae0ae2705d847776393637edafce6d8d47cfbf9ed19b8cd182d370155 1803980 charades.json
                fab341679c20b0917173dcffffde367a71113fe63f3a645558cef2ebfbfefb55 186686 charades_sta_test.txt
                e966fc1970cf6bc4cc73db2dd4fc10e148313810a372eef488defb0dd2ee359f 622487 charades_sta_train.txt
                """
            ),
        ),
        Card(
            name="activitynet-captions",
            title="ActivityNet Captions: sentences with moments",
            what="37,421 sentences with start and end in 10,009 training videos, 17,505 in 4,917 videos (val_1) and "
            "17,031 in 4,885 videos (val_2).",
            origin=((*_VSLNET, "data/dataset/activitynet/"),),
            licence="MIT for the repository",
            files=_files(
                """
                7e887dd0fc85bd173358caf2c1e9adb6f79a8aa28d129ada22d89e7c6b23d49d 4041275 train.json
                66834fea850b62fd69ec8c23295abae82f6a26518d0353ddd59d98778dbadb0a 1910765 val_1.json
                37df50829c22e913b369af18c0bfb82277257f037082df3781d4dfc20c35f80d 1727033 val_2.json
                """
            ),
            caveats=("All videos of val_2 are in val_1 too: these are two annotations, not two splits.",),
        ),
        Card(
            name="tvr",
            title="TVR: sentences with moments in TV shows",
            what="10,895 validation queries on 2,179 videos, 5,445 test queries without labels, and the videos' "
            "durations.",
            origin=(("jayleicn/TVRetrieval", "d99a9ea7e724249047d6357f2a607c7ae256f8c6", "data/"),),
            licence="MIT for the repository",
            files=_files(
                """
                6bd2e609e936501959b58bd8d088803a21fb02e28c5ec8c34b62624f678eda1f 531280 tvr_test_public_release.jsonl
                033d358632c5333cc5492ff308d4dd2c85f714f352bc92cd35fbae5797c5fbec 2088256 tvr_val_release.jsonl
                b2ce724dbd0e6be11226ec1e97ad358ce79e1df94856569cff4e65125f063ae5 990120 tvr_video2dur_idx.json
                """
            ),
            caveats=("The training queries (`tvr_train_release.jsonl`) are not among these files.",),
        ),
        Card(
            name="clip-bpe",
            title="CLIP's byte-pair vocabulary",
            what="The merges of CLIP's tokenizer, gzipped text.",
            origin=((*_XPOOL, "data/CLIP/"),),
            licence=f"{_XPOOL_LICENCE}; the file is that of openai/CLIP, MIT",
            files=_files(
                """
                924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a 1356917 bpe_simple_vocab_16e6.txt.gz
                """
            ),
        ),
    )
}
