#pragma once

#include <cstdint>
#include <functional>

#include "base/error.h"

namespace isr {

/// Gives back about `bytes` of disk space that something else takes and can do without. Returns how
/// many came, 0 for none. May be empty: there is nothing to give.
using MakeRoom = std::function<std::uint64_t(std::uint64_t bytes)>;

/// Runs write(), and while the disk is full again after room was made, a few times at most: others
/// write, too. write() must leave things as they were when it throws NoSpaceError.
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
