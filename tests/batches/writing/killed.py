"""A child that writes a dataset and is killed meanwhile; see tests.crash.zygote."""

from __future__ import annotations

import time
from typing import Any

from tests.batches.writing.samples import samples
from tests.crash.zygote import Tell

from tensorkeep.data.writing import write


def run(job: dict[str, Any], tell: Tell) -> None:
    count = job.pop("count")
    tell("begun")
    written = write(lambda start: samples(count, start), **job)
    tell("written", written.skipped)
    time.sleep(600)  # whoever is killed has to be there still
