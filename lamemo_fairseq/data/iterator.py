"""Fairseq's iterator over batches, kept in order."""

from typing import Any

from fairseq.data import iterators


class OrderedBatches(iterators.EpochBatchIterator):
    """The batches of streams of a split, segment after segment, never shuffled.

    Args:
        segments: a dataset that can say its ``batches(streams, num_shards)`` and collate them.
        streams: streams per rank.
        num_shards: K, ranks.
        shard_id: this rank.
        num_workers: processes that load data.
        epoch: the first epoch, from 1.
    """

    def __init__(
        self, segments: Any, streams: int, num_shards: int, shard_id: int, num_workers: int, epoch: int = 1
    ) -> None:
        # No buffer_size: workers read ahead by themselves, and the thread that fairseq would add may still be
        # closing them when the process ends, which then aborts.
        super().__init__(
            dataset=segments,
            collate_fn=segments.collater,
            batch_sampler=segments.batches(streams, num_shards),
            num_shards=num_shards,
            shard_id=shard_id,
            num_workers=num_workers,
            epoch=epoch,
            disable_shuffling=True,
        )
        # Workers hold a copy of the layout, which may change from epoch to epoch. (0.12.2 has no argument for it.)
        self.persistent_workers = False
        self.streams = streams
