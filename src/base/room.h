#pragma once

#include <cstdint>
#include <functional>

#include "base/error.h"

namespace isr {

/// Frees about `bytes` of disk space that other data (a cache) uses and can give up. Returns how many bytes were freed,
/// 0 for none. May be empty when there is nothing to free.
using MakeRoom = std::function<std::uint64_t(std::uint64_t bytes)>;

/// Runs write(). When the disk is full, makes room and runs it again, a few times at most because other processes
/// write, too. write() must have no effect when it throws NoSpaceError.
template <class Write>
auto with_room(const MakeRoom& make_room, std::uint64_t bytes, Write write) {
  constexpr int kTries = 3;
  for (int attempt = 1;; ++attempt) {
    try {
      return write();
    } catch (const NoSpaceError&) {
      if (attempt == kTries || !make_room || make_room(bytes) == 0) throw;
    }
  }
}

}  // namespace isr
