"""Storage servers on loopback for the tests, and a proxy that makes them fail.

`s3`, `rclone_s3` and `azure` are one process each for the whole session, started by the first test
that asks for it; `http` is a thread for each test. See `fixtures`, which tests/conftest.py imports.

    def test_a_save(s3):
        bucket = s3.bucket()                      # fresh; named bucket-00007 or so
        bucket.url("run/model.safetensors")       # s3://bucket-00007/run/model.safetensors
        tk.remote(bucket.url("a"), **bucket.options)
        bucket.environment                        # the same for a process or monkeypatch.setenv

        with Proxy(s3.port) as proxy:             # counts, and fails where it is told to
            proxy.fail(Reset(), on="PUT", only={1})
            behind = bucket.through(proxy)        # the same bucket by way of the proxy
            ...
            assert proxy.count("GET") == 2 and proxy.received("GET") < 1 << 20
"""

from tests.servers.buckets import Bucket, Server
from tests.servers.faults import Answer, Cut, CutUpload, Fault, Hang, Reset, Slow
from tests.servers.files import FileServer
from tests.servers.proxy import Proxy, Seen

__all__ = [
    "Answer",
    "Bucket",
    "Cut",
    "CutUpload",
    "Fault",
    "FileServer",
    "Hang",
    "Proxy",
    "Reset",
    "Seen",
    "Server",
    "Slow",
]
