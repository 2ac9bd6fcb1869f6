"""What a child sets before its first job: on a machine without a GPU only that it is set can be seen."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import os, torch
from workers.device import deterministic
before = torch.backends.cudnn.allow_tf32
deterministic()
print(before, torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
      os.environ["CUBLAS_WORKSPACE_CONFIG"])
"""


def test_a_gpu_would_be_asked_for_equal_bits_and_whole_float32_products() -> None:
    own = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}

    said = [subprocess.run([sys.executable, "-c", SCRIPT], env=own | more, capture_output=True, text=True, check=True).stdout.split()
            for more in ({}, {"CUBLAS_WORKSPACE_CONFIG": ":16:8"})]  # fmt: skip

    assert said[0] == ["True", "True", "False", "False", ":4096:8"]
    assert said[1][-1] == ":16:8"  # what whoever runs the service has set stays
