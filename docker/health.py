"""The container's health check: asks ``/health`` where the service says that it listens.

Exit code 0: it answered. It runs every few seconds, so it needs the standard library alone.
"""

import json
import os
import ssl
import urllib.request
from pathlib import Path

ANY = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}

runtime = Path(os.environ["CYBER_INFERENCE_DATA_DIR"], "service.json")
scheme, _, address = json.loads(runtime.read_text())["url"].partition("://")
host, _, port = address.rpartition(":")
# Neither a proxy nor the name in a certificate stands between a container and itself.
opener = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),  # noqa: S323
)
opener.open(f"{scheme}://{ANY.get(host, host)}:{port}/health", timeout=5)
