#pragma once

#include "chunkstore/pack_directory.h"
#include "chunkstore/pack_index.h"

namespace isr {

/// Makes index and packs agree after a crash, or after the index was lost:
///   pack that no process writes, longer than in the index      its tail is scanned
///   pack that is not in the index                              scanned as a whole
///   pack without any object, that no process writes            deleted
///   pack in the index without a file                           its rows are removed
/// A torn record at the end is cut off a cache's pack; settled packs are never cut. Records of a settled pack that are
/// not in the index were never synced, or their sync failed. They are written again and synced before the index gets
/// them, because finding them in the page cache does not prove that they are on the disk. The caller holds the
/// StoreLock.
void recover_packs(PackIndex& index, const fs::path& packs_directory, PackUse use);

}  // namespace isr
