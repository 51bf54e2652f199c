"""The files of measured block sizes: those that are shipped are right, and a wrong one is named with its field."""

import json

import pytest

from pallas_kernels.gpu.block_sizes import Blocks
from pallas_kernels.gpu.tuned_blocks import FOLDER, devices, path_of, read_table, tuned

ENTRY = {"kernel": "row_matmul", "sizes": [16, 64, 2048], "columns": 16, "inner": 256, "warps": 1, "stages": 4}
TABLE = {"device": "NVIDIA X", "measured": "2026-11-30", "how": "by hand", "blocks": [ENTRY]}


def test_every_shipped_file_is_found_by_its_devices_name():
  assert {"NVIDIA H200", "NVIDIA H100 80GB HBM3"} <= set(devices())
  assert {path_of(device) for device in devices()} == set(FOLDER.glob("*.json"))
  assert all(tuned(device) for device in devices())
  h200 = tuned("NVIDIA H200")["row_matmul", (16, 6144, 2048)]
  assert h200 == Blocks(columns=16, inner=256, warps=1, stages=4)


def test_a_device_without_a_file_has_no_measured_blocks():
  assert tuned("NVIDIA A100-SXM4-80GB") == tuned("") == {}


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"device": "NVIDIA Y"}, "device is 'NVIDIA Y': expected 'NVIDIA X'"),
    ({"how": None}, "how is None: expected a str"),
    ({"blocks": [ENTRY | {"warps": 0}]}, r"blocks\[0\].warps is 0: expected a whole number of at least 1"),
    ({"blocks": [ENTRY, ENTRY | {"sizes": []}]}, r"blocks\[1\].sizes is \[\]: expected whole numbers"),
    ({"blocks": [ENTRY | {"kernel": 3}]}, r"blocks\[0\].kernel is 3: expected a kernel's name"),
    ({"blocks": [ENTRY, ENTRY]}, r"blocks\[1\] is a second entry for \('row_matmul'"),
    ({"blocks": ["x"]}, r"blocks\[0\] is 'x': expected an object"),
  ],
)
def test_a_wrong_field_is_named(tmp_path, wrong, message):
  path = tmp_path / "nvidia-x.json"
  path.write_text(json.dumps(TABLE))
  assert read_table(path, "NVIDIA X") == {
    ("row_matmul", (16, 64, 2048)): Blocks(columns=16, inner=256, warps=1, stages=4)
  }
  path.write_text(json.dumps(TABLE | wrong))
  with pytest.raises(ValueError, match=message):
    read_table(path, "NVIDIA X")
