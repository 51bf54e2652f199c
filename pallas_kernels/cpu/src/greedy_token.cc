#include "greedy_token.h"

#include "rows.h"

namespace lynx {

void greedy_token(const InstructionSet& set, const GreedyToken& op) {
  for_each(op.rows, 1, [&](int64_t row) {
    const Largest largest = set.largest(op.logits + row * op.vocabulary, op.vocabulary);
    op.ids[row] = static_cast<int32_t>(largest.place);
    op.finite[row] = largest.finite;
  });
}

}  // namespace lynx
