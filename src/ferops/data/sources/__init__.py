"""Where images come from: one module a layout, chosen by `data.source`.

>>> for record in open_source(DataSettings()):  # doctest: +SKIP
...     print(record.name, record.emotion)
"""

from ferops.data.sources.source import Record, Source, SourceError
from ferops.settings import DataSettings

__all__ = ["Record", "Source", "SourceError", "open_source"]


def open_source(data: DataSettings) -> Source:
    """Open the source that the settings name, without reading its images yet.

    Raises:
        SourceError: if the file is absent, unsafe or in another layout.
    """
    # Imported here so that a layout costs nothing unless it is used.
    if data.source == "synthetic":
        from ferops.data.sources.synthetic import Synthetic

        return Synthetic(data.synthetic, data.seed)
    if data.source == "fer2013_csv":
        from ferops.data.sources.fer2013_csv import Fer2013Csv

        return Fer2013Csv(data.path)
    if data.source == "fer2013_images":
        from ferops.data.sources.fer2013_images import Fer2013Images

        return Fer2013Images(data.path)
    from ferops.data.sources.image_tree import ImageTree

    return ImageTree(data.path)
