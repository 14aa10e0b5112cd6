"""Who encodes the shards of a dataset: this process, processes of this machine, or actors of Ray on many machines.

`contract.py` has what an engine is; `choice.py` makes the one that options ask for; `inline.py`, `local.py` (with `worker.py`)
and `ray.py` (with `ray_actor.py` and `probe.py`) are the engines.
"""
