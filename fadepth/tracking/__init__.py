"""Mirror run folders into MLflow, any number of times.

Training writes plain files and never meets a tracker, so no tracking failure can cost a run, and
the store can be deleted: replaying `runs/` gives the same comparison again.

`store.py` opens stores, `folders.py` reads runs, `replay.py` logs them, `views.py` prepares
MLflow's pages and names their addresses.
"""

from fadepth.tracking.replay import TrackingSummary, track, track_experiments
from fadepth.tracking.store import (
    database_file,
    is_server,
    open_store,
    store_uri,
    without_password,
)
from fadepth.tracking.views import CompareLinks, compare_url, run_links, study_links

__all__ = [
    "CompareLinks",
    "TrackingSummary",
    "compare_url",
    "database_file",
    "is_server",
    "open_store",
    "run_links",
    "store_uri",
    "study_links",
    "track",
    "track_experiments",
    "without_password",
]
