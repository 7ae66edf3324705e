"""Rows of Parquet files, on the hub or on this disk, of which only the row groups that hold wanted rows are read.

What is fetched from the hub, footers and row groups, is kept in the cache of `datasets` as it arrives, each in a file
of its own. So it is fetched once, and what a broken connection has stopped goes on from there.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

from autoreap.errors import InputError, first_line, one_line
from autoreap.files import atomic_write
from autoreap.reading import MAX_JSON_BYTES, parse_json, read_text

_ON_HUB = "hf://"
# `huggingface_hub` asks six times within 23 seconds; after these seconds it begins anew.
_WAITS = (10.0, 60.0)
_BUSY = (408, 429, 500, 502, 503, 504)
_CAST_ERRORS = (ValueError, TypeError, NotImplementedError)  # PyArrow's are these, too

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Piece:
    """The rows from `first` up to before `last` of one row group."""

    file: str
    group: int
    first: int
    last: int


@dataclass(frozen=True)
class ParquetRows:
    """The rows of a split, or of a slice of one.

    Attributes:
        where: what messages call it.
        features: the type of each column.
        pieces: where the rows lie, in their order.
    """

    where: str
    features: Mapping[str, Any]
    pieces: tuple[_Piece, ...]

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return sum(piece.last - piece.first for piece in self.pieces)

    @property
    def column_names(self) -> list[str]:
        """The names of all columns."""
        return list(self.features)

    def read(self, numbers: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[list[int], Any]]:
        """The rows of these numbers, which must rise, with these columns: of each row group a `datasets.Dataset`.

        Raises:
            InputError: the connection broke for good, or a file holds what the data set's card does not say.
        """
        import datasets

        features = datasets.Features({name: self.features[name] for name in columns})
        wanted = self._wanted(numbers)
        num_missing = 0
        for piece in wanted:
            if piece.file.startswith(_ON_HUB) and not _kept_group(piece, columns).exists():
                num_missing += 1
        if num_missing:
            logger.info("%s: %d of %d row groups are to be fetched", self.where, num_missing, len(wanted))
        left = iter(numbers)
        # Pieces come file by file, so each footer is parsed once: those of large files take long.
        file, footer = "", None
        for place, (piece, rows) in enumerate(wanted.items()):
            with _counted(self.where, f"{place} of {len(wanted)} row groups"):
                if piece.file != file:
                    file, footer = piece.file, _read_footer(piece.file)
                table = _read_group(piece, columns, footer)
            table = _cast(table.take(rows), features, f"{self.where}: {piece.file}")
            yield list(islice(left, len(rows))), datasets.Dataset(table, info=datasets.DatasetInfo(features=features))

    def _wanted(self, numbers: Sequence[int]) -> dict[_Piece, list[int]]:
        """The pieces that hold these rows, each with their places in its row group."""
        wanted: dict[_Piece, list[int]] = {}
        ends = list(accumulate(piece.last - piece.first for piece in self.pieces))
        place = 0
        for number in numbers:
            while number >= ends[place]:
                place += 1
            piece = self.pieces[place]
            wanted.setdefault(piece, []).append(piece.last - (ends[place] - number))
        return wanted


def open_parquet_file(path: str) -> ParquetRows:
    """The rows of one file on this disk, all of them one split."""
    return ParquetRows(path, _features_of(path), tuple(_pieces([path], None, path)))


def open_parquet_split(path: str, name: str | None, split: str, where: str, enough: int | None) -> ParquetRows | None:
    """The rows of a split or a slice of one, such as `test[:10%]`; None where the set does not lie in Parquet files.

    Args:
        path, name: as `datasets.load_dataset` takes them.
        split: of a set whose hub is out of reach, it must have been opened before.
        where: what messages call it.
        enough: the footers of files whose rows come after so many are not read; None reads all.

    Raises:
        InputError: there is no such split.
    """
    import datasets

    found = _find_files(path, name)
    if found is None:
        return None
    files, features = found
    names = []
    for part in split.split("+"):
        one = part.partition("[")[0].strip()
        if one not in files:
            raise InputError(f"has no split {one!r}; it has {', '.join(files)}", where=where, fix="name one of these")
        names.append(one)
    if split != names[0]:  # where a slice lies may depend on how long all of its split is
        enough = None
    of_splits: dict[str, list[_Piece]] = {}
    lengths: dict[str, int] = {}
    for one in names:
        if one not in of_splits:
            of_splits[one] = _pieces(files[one], enough, where)
            lengths[one] = sum(piece.last for piece in of_splits[one])
    pieces: list[_Piece] = []
    for instruction in datasets.ReadInstruction.from_spec(split).to_absolute(lengths):
        first, last = instruction.from_, instruction.to
        if first is None:
            first = 0
        if last is None:
            last = lengths[instruction.splitname]
        pieces += _cut(of_splits[instruction.splitname], first, last)
    # Where no card names the types of the columns, the first file does, and the others are cast to them.
    if features is None:
        features = _features_of(files[names[0]][0])
    return ParquetRows(where, features, tuple(pieces))


def _find_files(path: str, name: str | None) -> tuple[dict[str, list[str]], Mapping[str, Any] | None] | None:
    """The Parquet files of each split, and the features that the card of the data set names, if it does.

    What the hub has said is kept, for the day that it is out of reach.
    """
    import datasets
    import httpx2
    from datasets.packaged_modules.parquet.parquet import Parquet

    kept = _cache() / f"{_digest('files', path, name)}.json"
    try:
        builder = datasets.load_dataset_builder(path, name)
    except (OSError, httpx2.TransportError) as error:
        if not kept.exists():
            raise
        logger.warning("%s: read from what was kept, since the hub does not answer: %s", path, first_line(error))
        builder = None
    if not isinstance(builder, Parquet):
        # What the hub does not give, `datasets` may find in its own cache; what was kept here comes first.
        if not kept.exists() or Path(path).exists():
            return None
        said = parse_json(read_text(kept, "JSON", MAX_JSON_BYTES))
        features = said["features"]
        if features is not None:
            features = datasets.Features.from_dict(features)
        return said["files"], features
    files = {}
    for split, found in builder.config.data_files.items():
        files[str(split)] = [str(file) for file in found]
    features = builder.info.features
    if not Path(path).exists():
        described = None
        if features is not None:
            described = features.to_dict()
        with atomic_write(kept) as partial:
            partial.write_text(json.dumps({"files": files, "features": described}))
    return files, features


def _pieces(files: Sequence[str], enough: int | None, where: str) -> list[_Piece]:
    """Every row group of `files` as a whole, until there are `enough` rows."""
    pieces: list[_Piece] = []
    num_rows = 0
    for place, file in enumerate(files):
        if enough is not None and num_rows >= enough:
            break
        with _counted(where, f"the footers of {place} of {len(files)} files"):
            footer = _read_footer(file)
        num_rows += footer.num_rows
        for group in range(footer.num_row_groups):
            pieces.append(_Piece(file, group, 0, footer.row_group(group).num_rows))
    return pieces


def _cut(pieces: Sequence[_Piece], first: int, last: int) -> list[_Piece]:
    """What lies from row `first` up to before row `last`."""
    cut = []
    start = 0
    for piece in pieces:
        begin, end = max(first - start, 0), min(last - start, piece.last)
        if begin < end:
            cut.append(_Piece(piece.file, piece.group, begin, end))
        start += piece.last
    return cut


def _features_of(file: str) -> Mapping[str, Any]:
    import datasets

    features: Mapping[str, Any] = datasets.Features.from_arrow_schema(_read_footer(file).schema.to_arrow_schema())
    return features


def _read_footer(file: str) -> Any:
    """What a file says of itself: its columns, and where its row groups lie."""
    import pyarrow.parquet

    if not file.startswith(_ON_HUB):
        return pyarrow.parquet.read_metadata(file)

    def fetch(partial: Path) -> None:
        with _open_on_hub(file) as opened:
            pyarrow.parquet.read_metadata(opened).write_metadata_file(str(partial))

    return _keep(_cache() / f"{_digest('footer', file)}.parquet", fetch, pyarrow.parquet.read_metadata, file)


def _read_group(piece: _Piece, columns: Sequence[str], footer: Any) -> Any:
    """These columns of the row group that a piece is of; `footer` is its file's."""
    import pyarrow.parquet

    def read(opened: Any) -> Any:
        # `pre_buffer` fetches the columns of the group in few requests, not in one for each page of them.
        file = pyarrow.parquet.ParquetFile(opened, metadata=footer, pre_buffer=True)
        return file.read_row_group(piece.group, columns=list(columns))

    if not piece.file.startswith(_ON_HUB):
        return read(piece.file)

    def fetch(partial: Path) -> None:
        with _open_on_hub(piece.file) as opened:
            pyarrow.parquet.write_table(read(opened), partial)

    return _keep(_kept_group(piece, columns), fetch, pyarrow.parquet.read_table, piece.file)


def _keep(path: Path, fetch: Callable[[Path], None], read: Callable[[Path], Any], file: str) -> Any:
    """What `read` makes of `path`, which is fetched from `file` where it is not there or was damaged."""
    import pyarrow

    if path.exists():
        try:
            return read(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            logger.warning("%s: can't be read, is fetched again: %s", path, first_line(error))
    _fetch_patiently(fetch, path, file)
    return read(path)


def _kept_group(piece: _Piece, columns: Sequence[str]) -> Path:
    return _cache() / f"{_digest('rows', piece.file, piece.group, sorted(columns))}.parquet"


def _cache() -> Path:
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "autoreap"


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _open_on_hub(file: str) -> Any:
    """A file of the hub, of which the bytes that are read are fetched, and no more."""
    import datasets
    import huggingface_hub

    return huggingface_hub.HfFileSystem(endpoint=datasets.config.HF_ENDPOINT).open(file, cache_type="none")


def _fetch_patiently(fetch: Callable[[Path], None], path: Path, what: str) -> None:
    """Write to `path` with `fetch`, tried again after a while where the connection breaks."""
    for wait in (*_WAITS, None):
        try:
            with atomic_write(path) as partial:
                fetch(partial)
            return
        except Exception as error:
            if not _may_pass(error):
                raise
            reason = first_line(error)
        if wait is None:
            raise _BrokenError(reason)
        logger.warning("%s: the connection broke: %s; trying again in %g s", what, reason, wait)
        time.sleep(wait)


class _BrokenError(Exception):
    """The connection broke, again and again."""


@contextmanager
def _counted(where: str, num_kept: str) -> Iterator[None]:
    """Say what was kept until the connection broke: so many row groups or footers."""
    try:
        yield
    except _BrokenError as error:
        fix = "these are kept; run it again to continue from there"
        raise InputError(f"the connection broke after {num_kept}: {error}", where=where, fix=fix) from None


def _may_pass(error: BaseException) -> bool:
    """Whether it may work later: the hub is busy, or the connection ended."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in _BUSY
    return isinstance(error, httpx2.TransportError)


def _cast(table: Any, features: Any, where: str) -> Any:
    """`table` with the types of `features`; a column that it has not is empty, as `datasets` has it.

    Raises:
        InputError: a column can't be read as the type that the card of the data set names.
    """
    from datasets.table import table_cast

    try:
        return table_cast(table, features.arrow_schema)
    except _CAST_ERRORS as error:
        name = _wrong_column(table, features)
        raise InputError(
            f"column {name!r} is stored as {table.schema.field(name).type}, and the card of the data set says "
            f"{features[name]}: {one_line(str(error))}",
            where=where,
            fix="tell its owner; or download the file and name it: a Parquet file is read as it is stored",
        ) from None


def _wrong_column(table: Any, features: Any) -> str:
    """The first column that can't be read as its feature."""
    import pyarrow
    from datasets.table import table_cast

    for name in table.column_names:
        try:
            table_cast(table.select([name]), pyarrow.schema([features.arrow_schema.field(name)]))
        except _CAST_ERRORS:
            return str(name)
    raise AssertionError("each column can be cast by itself")
