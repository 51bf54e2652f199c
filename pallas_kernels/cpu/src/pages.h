#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include "threads.h"

namespace lynx {

// Memory in pages of 2 MB, where the system has such pages. It is filled, so that every page has been allocated.
class Pages {
 public:
  explicit Pages(int64_t bytes) {
    constexpr int64_t kHugePage = 2 << 20;
    const int64_t pages = (bytes + kHugePage - 1) / kHugePage;
    data_ = static_cast<char*>(std::aligned_alloc(kHugePage, static_cast<size_t>(pages * kHugePage)));
    if (data_ == nullptr) return;
#if defined(MADV_HUGEPAGE)
    madvise(data_, static_cast<size_t>(pages * kHugePage), MADV_HUGEPAGE);
#endif
    // These bytes are a small number in every type of weight.
    parallel(pages, [&](int64_t page, int64_t) { std::memset(data_ + page * kHugePage, 0x3c, kHugePage); });
  }
  ~Pages() { std::free(data_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  // Null if the memory could not be allocated.
  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
};

// Pages of at least `bytes`, lent to one measurement at a time and kept until the process ends. The host of a virtual
// machine takes back memory that its guest frees, and that would slow down the next measurement.
class LentPages {
 public:
  explicit LentPages(int64_t bytes) : lock_(mutex_) {
    if (bytes <= size_) return;
    kept_.reset();
    kept_ = std::make_unique<const Pages>(bytes);
    size_ = kept_->data() == nullptr ? 0 : bytes;
  }

  // Null if the memory could not be allocated.
  const char* data() const { return kept_ == nullptr ? nullptr : kept_->data(); }

 private:
  inline static std::mutex mutex_;
  inline static std::unique_ptr<const Pages> kept_;
  inline static int64_t size_ = 0;
  const std::lock_guard<std::mutex> lock_;
};

}  // namespace lynx
