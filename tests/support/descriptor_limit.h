#pragma once

#include <sys/resource.h>

namespace isr::test {

/// How many files this process may have open until the end of the scope. 0: no further one;
/// those that are open stay so.
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
