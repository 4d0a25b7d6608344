#pragma once

#include <sys/resource.h>

namespace isr::test {

/// Limits how many files this process may have open until the end of the scope. 0 allows no further
/// one; files that are open already stay open.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t files) {
    ::getrlimit(RLIMIT_NOFILE, &old_);
    const rlimit limit{files, old_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &old_); }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;

 private:
  rlimit old_{};
};

}  // namespace isr::test
