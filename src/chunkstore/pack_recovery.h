#pragma once

#include "chunkstore/pack_directory.h"
#include "chunkstore/pack_index.h"

namespace isr {

/// Makes index and packs agree after a crash, or after the index was lost:
///   pack that no process writes, longer than the index knows   its tail is scanned
///   pack that the index does not know at all                   scanned as a whole
///   pack without any object, that no process writes            deleted
///   pack in the index without a file                           its rows go
/// A torn record at the end is cut off a cache's pack; settled packs are never cut.
/// What the index does not know of a settled pack was never synced, or its sync failed. It is written
/// once more and synced before the index learns of it: the page cache alone proves nothing.
/// The caller holds the StoreLock.
void recover_packs(PackIndex& index, const fs::path& packs_directory, PackUse use);

}  // namespace isr
