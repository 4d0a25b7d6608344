#pragma once

#include <pthread.h>

#include <cstddef>

namespace isr::test {

/// Makes every start of a thread fail until the end of the scope.
class NoThreads {
 public:
  NoThreads() {
    ::pthread_getattr_default_np(&usual_);
    pthread_attr_t impossible{};
    ::pthread_attr_init(&impossible);
    ::pthread_attr_setstacksize(&impossible, std::size_t{1} << 47U);  // the whole address space
    ::pthread_setattr_default_np(&impossible);
    ::pthread_attr_destroy(&impossible);
  }
  ~NoThreads() {
    ::pthread_setattr_default_np(&usual_);
    ::pthread_attr_destroy(&usual_);
  }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;

 private:
  pthread_attr_t usual_{};
};

}  // namespace isr::test
