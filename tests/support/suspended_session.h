#pragma once

#include "session/session.h"
#include "support/session_parts.h"

namespace isr::test {

/// As if a guest had been suspended that has written these to its memory and its devices.
inline void suspend(Session& session, ByteView memory, ByteView device, bool fresh) {
  session.memory().begin(fresh)->write(0, memory);
  session.memory().begin_run(fresh);
  session.memory().keep({some_stamp(), to_bytes(device), {}});
  session.memory().abandon();
}

inline Bytes memory_of(const Session& session, std::size_t length) {
  return read_image(*session.images().image("memory"), length);
}

/// The first chunk of it.
inline Bytes disk_of(const Session& session) { return read_image(*session.images().image("disk"), kChunkSize); }

}  // namespace isr::test
