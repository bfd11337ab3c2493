"""Arrays as the seed's code writes them: its chunks, compressors and attributes, in either version of Zarr."""

from pathlib import Path
from typing import Any, Literal

ZarrFormat = Literal[2, 3]
LEVEL = 3


def create_array(
    path: Path,
    shape: tuple[int, int],
    chunks: tuple[int, int],
    compressor: Literal["zstd", "blosc"],
    zarr_format: ZarrFormat,
    attributes: dict[str, Any] | None = None,
) -> Any:
    """A float32 array whose missing chunks are zeros."""
    import zarr

    if zarr_format == 2:
        import numcodecs

        codec: Any = (
            numcodecs.Zstd(LEVEL)
            if compressor == "zstd"
            else numcodecs.Blosc("zstd", LEVEL, numcodecs.Blosc.SHUFFLE)
        )
    elif compressor == "zstd":
        codec = zarr.codecs.ZstdCodec(level=LEVEL)
    else:
        codec = zarr.codecs.BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle")
    return zarr.create_array(
        str(path),
        shape=shape,
        chunks=chunks,
        dtype="float32",
        compressors=codec,
        fill_value=0,
        zarr_format=zarr_format,
        attributes=attributes,
    )


def open_for_writing(path: Path) -> Any:
    """An array that exists, to be filled by a worker with chunks of its own."""
    import zarr

    return zarr.open_array(str(path), mode="r+")
