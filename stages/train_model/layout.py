"""Where the elements of a batch are: documents one after another, sorted by rounded length, with copies of images inserted.

An image that is there several times is [further draws of its noise] [its first draw] [its clean copy]: what later elements read
is last, so that no other copy sees it.
"""

from __future__ import annotations

import numpy as np

from stages.artifacts.tables import BoolArray, DocumentTable, ImageTable, IntArray

# Document lengths are rounded up to a multiple of this, so that few groups remain: 1.15 times faster than 4 on `shapes`,
# though there is more padding.
LENGTH_STEP = 8


class Layout:
    """The flat batch: documents sorted by rounded length; for each element its row, column and position in the document.

    patch_index: indices of the patches of each image, in its first draw. is_real: not padding. has_next: the next element is of
    the same document. first_patch: for each element, the position of the first patch in its document; 0 without images.
    """

    def __init__(
        self,
        documents: DocumentTable,
        images: ImageTable,
        document_of_image: IntArray,
        num_draws: IntArray,
        has_clean_copy: BoolArray,
    ) -> None:
        """
        Args:
            documents: rows of the table.
            images: rows of the table.
            document_of_image: index of each image's document, ascending.
            num_draws: how often the patches of each image are there, without the clean copy.
            has_clean_copy: whether a clean copy of an image follows its patches.
        """
        copies = (num_draws - 1 + has_clean_copy) * images.patches
        added = np.bincount(document_of_image, weights=copies, minlength=len(documents)).astype(np.int64)
        full = documents.length + added
        self.squared_lengths = int((full**2).sum())
        rounded = -(-full // LENGTH_STEP) * LENGTH_STEP
        order = np.argsort(rounded, kind="stable")
        self.lengths = rounded[order]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.num_elements = int(self.starts[-1])
        self.document = document = np.repeat(np.arange(len(order)), self.lengths)
        # The patches of an image are after the copies of the images before it in its document.
        before = np.cumsum(copies) - copies
        before = before - before[np.searchsorted(document_of_image, document_of_image)]
        rank_of_document = np.argsort(order)  # in the order of the batch
        first = self.starts[rank_of_document[document_of_image]] + before
        first = first + images.start - documents.start[document_of_image]
        start = first + (num_draws - 1) * images.patches
        self.patch_index = [np.arange(one, one + count) for one, count in zip(start, images.patches, strict=True)]
        # A copy has the positions of its image, so that everything after it has its position on disk.
        back = np.zeros(self.num_elements, dtype=np.int64)
        for copy in range(1, int((num_draws + has_clean_copy).max(initial=1))):
            has_it = num_draws + has_clean_copy > copy
            back[(first + copy * images.patches)[has_it]] = images.patches[has_it]
        back = np.cumsum(back)
        offset = np.arange(self.num_elements) - self.starts[document]
        self.position = offset - (back - back[self.starts[document]])
        own = documents.take(order[document])
        self.is_real = offset < full[order][document]
        self.has_next = self.position < own.length - 1
        self.row = own.row
        self.column = np.where(self.is_real, own.start + self.position, 0)
        self.caption_dropped = own.caption_dropped == 1
        first_patch = np.zeros(len(documents), dtype=np.int64)
        in_document = images.start - documents.start[document_of_image]
        first_patch[document_of_image[::-1]] = in_document[::-1]  # of several images the first is assigned last
        self.first_patch = first_patch[order][document]
