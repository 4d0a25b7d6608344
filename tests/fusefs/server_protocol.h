#pragma once

#include <cstdint>

/// Between a test and the process that serves its mount (mount_server.cpp): one
/// packet there, one back, on a socket that is the server's standard input.
namespace isr::test {

/// A file of the served mount, in the order of their inode numbers.
enum class File : std::uint8_t { kDisk, kVersion, kRam };

/// Of a file's overlay (support/memory_overlay.h). kFailing... are counted down by the calls that fail.
enum class Counter : std::uint8_t { kReads, kFlushes, kFailingReads, kFailingWrites, kFailingAllocations };

enum class Ask : std::uint8_t {
  kReady,        ///< answered once the kernel has the mount
  kGet,          ///< a counter
  kSet,          ///< a counter, to length
  kLoad,         ///< length bytes at offset of the image, which follow the answer
  kStore,        ///< the bytes that follow the question, at offset of the image
  kOpenFiles,    ///< Mount::open_files()
  kRefuse,       ///< Mount::refuse_writers()
  kAdmit,        ///< Mount::admit_writers()
  kEnded,        ///< Mount::ended()
  kWait,         ///< Mount::wait() without a stop
  kStopWaiting,  ///< Mount::wait() that is asked to stop
  kHindrances,   ///< how many changes of memory wait
  kGiveUp,       ///< memory is not needed any more
  kEnd,          ///< unmounts, answers and exits
};

struct Question {
  Ask ask{};
  File file{};
  Counter counter{};
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

struct Answer {
  std::int64_t value = 0;  ///< kFailed: the reason follows
};
constexpr std::int64_t kFailed = -1;

constexpr std::size_t kLargestLoad = 65536;  ///< bytes in one packet

}  // namespace isr::test
