"""Which tests run on both forms of the service each time, and not in `make slow` alone."""

import pytest

BOTH_FORMS = pytest.mark.parametrize("live", ["embedded", "distributed"], indirect=True)
"""One process with SQLite; an API, a worker, PostgreSQL and Redis."""
