#include "products.h"

namespace lynx {

// products.cc is built once for each of these names.
#if defined(__x86_64__)
extern const InstructionSet avx512_bf16, avx512, avx2;
#endif
extern const InstructionSet portable;

namespace {

struct Available {
  const InstructionSet* sets[5] = {};

  Available() {
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (has_avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      sets[count++] = &avx512_bf16;
    }
    if (has_avx512) sets[count++] = &avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[count++] = &avx2;
#endif
    sets[count++] = &portable;
  }
};

}  // namespace

const InstructionSet* instruction_set(int index) {
  static const Available available;
  return index >= 0 && index < 5 ? available.sets[index] : nullptr;
}

}  // namespace lynx
