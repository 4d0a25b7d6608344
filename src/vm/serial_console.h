#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>

#include "base/handle.h"
#include "base/sync.h"

namespace isr {

/// The output of the guest's serial console. It is the guest's plaintext, so it is kept in memory only and must not
/// reach a disk unsealed. Readers take text by its offset in the stream. The console does not wait for them: one that
/// is more than `keep_bytes` behind loses the oldest text.
/// Threads: all calls, from many threads.
class SerialConsole {
 public:
  /// `connected` is our end of QEMU's chardev. Reads nothing before start().
  explicit SerialConsole(UniqueFd connected, std::size_t keep_bytes = 4U << 20U);
  ~SerialConsole();
  void start();

  struct Text {
    std::uint64_t offset = 0;  ///< of the first byte of text; above the requested one when the oldest text was dropped
    std::string text;
    std::uint64_t end() const { return offset + text.size(); }
  };
  /// Returns the kept bytes from offset on, at most max_bytes, the oldest first.
  Text since(std::uint64_t offset, std::size_t max_bytes = 1U << 20U) const;
  /// The number of bytes that the guest has written so far.
  std::uint64_t said() const;
  /// Waits until said() > offset or the stream has ended. True when there is more to read.
  bool wait_beyond(std::uint64_t offset, std::chrono::milliseconds timeout, std::stop_token stop = {}) const;
  /// True when QEMU has closed its end, so no more text will come.
  bool ended() const;
  /// Sends text to the guest. Error{kVm} when it does not take the text in time, or is gone.
  void write(std::string_view text, std::chrono::milliseconds timeout = std::chrono::seconds(10));

 private:
  struct State {
    std::string kept;
    std::uint64_t first = 0;  ///< offset of kept[0]
    bool ended = false;
  };
  void read_all(const std::stop_token& stop);
  void keep(std::string_view text);

  UniqueFd fd_;
  UniqueFd wake_;
  std::size_t keep_bytes_;
  Sync<State> state_;
  mutable std::condition_variable_any more_;
  std::jthread reader_;
};

}  // namespace isr
