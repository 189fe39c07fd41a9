"""Where the files of a collection lie, as MS-SL and its successors lay them out.

    <root>/<collection>/FeatureData/<feature>/feature.bin, id.txt, shape.txt,
                                              video2frames.txt [, feature.hdf5]
    <root>/<collection>/TextData/<collection><split>.caption.txt
                                 roberta_<collection>_query_feat.hdf5

Dong et al., Partially Relevant Video Retrieval, MM 2022; GMMFormer, HLFormer and
DreamPRVR read the same. This library adds <collection><split>.truth.json, which they
ignore: see `vtrlib.datasets.prvr.captions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vtrlib.check import listed, nearest

__all__ = ["AGAIN", "Layout"]

AGAIN = "Get or make the file again."
_CAPTIONS = ".caption.txt"


@dataclass(frozen=True)
class Layout:
    """Paths of one collection, such as "charades", with one kind of frame features."""

    root: Path
    collection: str
    feature: str

    @classmethod
    def find(
        cls, root: str | Path, collection: str, feature: str | None = None
    ) -> Layout:
        """The layout at `root`; `feature` may be left out where there is only one.

        Raises:
            FileNotFoundError: no such collection or kind of features there.
            ValueError: several kinds of features and none is named.
        """
        root = Path(root)
        if not (root / collection).is_dir():
            near = nearest(collection, _folders(root), "one of these")
            raise FileNotFoundError(
                f"{root / collection}: there is no such folder; expected {near}. "
                "root is the folder above the collection."
            )
        kinds = _folders(root / collection / "FeatureData")
        if feature is None and len(kinds) > 1:
            raise ValueError(
                f"feature: {root / collection}/FeatureData holds {listed(kinds)}; "
                "expected the name of one."
            )
        if not kinds or (feature or kinds[0]) not in kinds:
            raise FileNotFoundError(
                f"{root / collection}/FeatureData: holds {listed(kinds) or 'nothing'}, "
                f"expected {feature or 'a folder with frame features'}."
            )
        return cls(root, collection, feature or kinds[0])

    @property
    def folder(self) -> Path:
        """The collection's own folder."""
        return self.root / self.collection

    @property
    def features(self) -> Path:
        """The folder of the frame features."""
        return self.folder / "FeatureData" / self.feature

    @property
    def texts(self) -> Path:
        """The folder of captions and query features."""
        return self.folder / "TextData"

    @property
    def words(self) -> Path:
        """Query features, one dataset (L, D) for each caption id."""
        return self.texts / f"roberta_{self.collection}_query_feat.hdf5"

    def captions(self, split: str) -> Path:
        """The captions of a split, one a line."""
        return self.texts / f"{self.collection}{split}{_CAPTIONS}"

    def truth(self, split: str) -> Path:
        """What is known of the captions of a split beyond the video of each."""
        return self.texts / f"{self.collection}{split}.truth.json"

    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have a caption file."""
        found = self.texts.glob(f"{self.collection}*{_CAPTIONS}")
        start = len(self.collection)
        return tuple(sorted(p.name[start : -len(_CAPTIONS)] for p in found))


def _folders(place: Path) -> list[str]:
    if not place.is_dir():
        return []
    names = (path.name for path in place.iterdir() if path.is_dir())
    return sorted(name for name in names if not name.startswith("."))
