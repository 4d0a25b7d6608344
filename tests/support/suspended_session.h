#pragma once

#include "session/session.h"
#include "support/session_parts.h"

namespace isr::test {

/// Makes the session look as if a guest with this memory and device state had been suspended.
inline void suspend(Session& session, ByteView memory, ByteView device, bool fresh) {
  session.memory().begin(fresh)->write(0, memory);
  session.memory().begin_run(fresh);
  session.memory().keep({some_stamp(), to_bytes(device), {}});
  session.memory().abandon();
}

inline Bytes memory_of(const Session& session, std::size_t length) {
  return read_image(*session.images().image("memory"), length);
}

/// Returns the first chunk of the disk.
inline Bytes disk_of(const Session& session) { return read_image(*session.images().image("disk"), kChunkSize); }

}  // namespace isr::test
