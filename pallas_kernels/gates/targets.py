"""The GPUs that kernels are compiled for, as data sheets: enough for XLA's compiler, which needs no device."""

import dataclasses

# Loops and conditionals become part of a CUDA graph only where driver and toolkit versions are given, from 12.3 on.
_TARGET_CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {shared_memory}
  shared_memory_per_core: {shared_memory_sm}
  core_count: {sms} fpus_per_core: {lanes} clock_rate_ghz: {clock_ghz} memory_bandwidth: {bandwidth}
  l2_cache_size: {l2_bytes} device_memory_size: {memory}
  registers_per_core_limit: {registers_sm} registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  cuda_compute_capability {{ major: {major} }}
  driver_version: "13.0.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0"
}}
platform_name: "CUDA"
device_description_str: "{description}"
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
  """A GPU, by NVIDIA's data sheet.

  Attributes:
    name: what callers say, such as "h100".
    description: the product, as a driver would report it.
    arch: what ptxas compiles for.
    major: compute capability.
    sms: streaming multiprocessors.
    lanes: float32 lanes of one of them.
    clock_ghz: boost clock.
    memory: bytes of device memory.
    bandwidth: bytes a second.
    l2_bytes: level 2 cache.
    shared_memory: the most bytes that one block may have.
    shared_memory_sm: bytes of a multiprocessor; a block costs 1024 more than it asks for.
    registers_sm: 32-bit registers of a multiprocessor.
  """

  name: str
  description: str
  arch: str
  major: int
  sms: int
  lanes: int
  clock_ghz: float
  memory: int
  bandwidth: int
  l2_bytes: int
  shared_memory: int
  shared_memory_sm: int
  registers_sm: int = 65536

  def config(self) -> str:
    """XLA's GpuTargetConfigProto, in text."""
    return _TARGET_CONFIG.format(**dataclasses.asdict(self))


TARGETS = {
  target.name: target
  for target in (
    Target(
      name="a100",
      description="NVIDIA A100-SXM4-80GB",
      arch="sm_80",
      major=8,
      sms=108,
      lanes=64,
      clock_ghz=1.41,
      memory=85_899_345_920,
      bandwidth=2_039_000_000_000,
      l2_bytes=41_943_040,
      shared_memory=166_912,
      shared_memory_sm=167_936,
    ),
    Target(
      name="h100",
      description="NVIDIA H100 80GB HBM3",
      arch="sm_90a",
      major=9,
      sms=132,
      lanes=128,
      clock_ghz=1.98,
      memory=84_942_979_072,
      bandwidth=3_352_320_000_000,
      l2_bytes=52_428_800,
      shared_memory=232_448,
      shared_memory_sm=233_472,
    ),
  )
}

H200 = dataclasses.replace(
  TARGETS["h100"],
  name="h200",
  description="NVIDIA H200",
  memory=150_754_820_096,
  bandwidth=4_800_000_000_000,
)
"""An H100 with more memory, for whole models that do not fit 80 GB: XLA recomputes what it must not keep."""
