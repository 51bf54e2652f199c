#include "products.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lynx {

// Each is the table of one compilation of products.cc.
#if defined(__x86_64__)
extern const InstructionSet amx_bf16, avx512_bf16, avx512, avx2;
#endif
extern const InstructionSet portable;

namespace {

#if defined(LYNX_EMULATED_TILES)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

// Whether the processor has AMX tiles for bfloat16 and the operating system lets this process use them. Linux saves the
// eight kilobytes of tile registers of a thread only for processes that ask for it.
bool has_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kTiles = 1u << 24, kTilesOfBfloat16 = 1u << 22;
  constexpr long kAskForState = 0x1023, kTileContents = 18;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTiles) && (d & kTilesOfBfloat16) &&
         syscall(SYS_arch_prctl, kAskForState, kTileContents) == 0;
#else
  return false;
#endif
}

constexpr int kMostSets = 6;

struct Available {
  const InstructionSet* sets[kMostSets] = {};

  Available() {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const bool has_bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
    if (kEmulated || (has_bf16 && has_tiles())) sets[count++] = &amx_bf16;
    if (has_bf16) sets[count++] = &avx512_bf16;
    if (has_avx512) sets[count++] = &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[count++] = &avx2;
#endif
    sets[count++] = &portable;
  }
};

}  // namespace

const InstructionSet* instruction_set(int index) {
  static const Available available;
  return index >= 0 && index < kMostSets ? available.sets[index] : nullptr;
}

}  // namespace lynx
