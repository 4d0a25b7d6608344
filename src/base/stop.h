#pragma once

#include <stop_token>
#include <utility>

namespace isr {

/// Requests stop when either of two tokens does.
class EitherStop {
 public:
  EitherStop(std::stop_token first, std::stop_token second)
      : on_first_(std::move(first), Forward{source_}), on_second_(std::move(second), Forward{source_}) {}
  std::stop_token token() const { return source_.get_token(); }

 private:
  struct Forward {
    std::stop_source& to;
    void operator()() const noexcept { to.request_stop(); }
  };
  std::stop_source source_;
  std::stop_callback<Forward> on_first_;
  std::stop_callback<Forward> on_second_;
};

}  // namespace isr
