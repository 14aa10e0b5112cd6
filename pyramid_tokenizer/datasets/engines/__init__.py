"""Who encodes the shards of a dataset: this process, or processes of this machine.

An engine takes a `datasets.shards.Work` and numbers of shards, and hands over each finished shard, in any order. It never
writes: the one process that holds the dataset's lock does, so that no process that outlives its run can disturb the next one.
"""
