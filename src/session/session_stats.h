#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "chunkstore/source_stats.h"
#include "session/session_state.h"

/// The numbers of a session, as Session::stats() gives them at one moment. Sizes are in bytes; reads, writes and bytes
/// count from the daemon's start.
namespace isr {

struct ImageStats {
  std::string name;
  std::uint64_t size = 0;
  std::uint64_t changed_chunks = 0;  ///< since the version that `content` names
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t flushes = 0;
  std::uint64_t hot_pages = 0;  ///< pages that the boot pack answered
  std::uint64_t read_errors = 0;
};

/// The progress of fetching ahead of a resumed guest, in chunks.
struct FetchingAhead {
  std::uint64_t order_chunks = 0;  ///< chunks that the guest reads first
  std::uint64_t order_chunks_here = 0;
  bool waiting = false;  ///< waiting for the repository
};
/// The part of the memory that is on this host, in chunks.
struct MemoryHere {
  std::uint64_t chunks = 0;
  std::uint64_t chunks_here = 0;
  std::optional<WallTime> offline_safe_since;  ///< absent while a part of memory is not here
};

struct SessionStats {
  std::string parcel;
  std::uint64_t version = 0;  ///< the session's base
  std::uint64_t content = 0;  ///< the version that it continues: the base, or the older one that was checked out
  SessionPhase phase = SessionPhase::kCheckedOut;
  WallTime since;
  std::uint64_t changed_bytes = 0;
  std::uint64_t journal_bytes = 0;
  std::uint64_t uploaded_bytes = 0;
  std::uint64_t boot_pack_pages = 0;
  std::vector<ImageStats> images;
  FetchStats sources;
  std::optional<FetchingAhead> fetching_ahead;  ///< absent: nothing is fetched ahead
  std::optional<MemoryHere> memory;             ///< absent: not all of memory is fetched ahead
};

}  // namespace isr
