"""Flower for a Frameloom cluster. Passwords come from files, and stand in no list of processes."""

import pathlib
import sys
import urllib.parse

from celery import Celery

SECRETS = pathlib.Path("/run/secrets")


def secret(name: str) -> str:
    """What a file of the secrets holds."""
    return (SECRETS / name).read_text().strip()


password = urllib.parse.quote(secret("redis_password"), safe="")
app = Celery(broker=f"redis://:{password}@redis:6379/0")
# Flower takes its options from the command line of its own process alone.
sys.argv = ["celery", "flower"]
app.start(
    [
        "flower",
        "--port=5555",
        f"--basic-auth=frameloom:{secret('flower_password')}",
    ]
)
