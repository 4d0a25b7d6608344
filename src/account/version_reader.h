#pragma once

#include <memory>

#include "account/account.h"
#include "account/parcel_version.h"
#include "chunkstore/layers.h"
#include "chunkstore/pack_cache.h"
#include "image/image.h"

namespace isr {

/// The reading side of any version of a parcel, without a session: mount, export, check.
struct VersionReader {
  VersionReader(Account& account, Unreachable unreachable);
  std::shared_ptr<Image> open(const VersionImage& image);

  SourceStats stats;
  std::shared_ptr<PackStore> cache;
  std::shared_ptr<ChunkReader> reader;
};
fs::path cache_directory(const Paths& paths);
std::shared_ptr<PackCache> open_cache(const Paths& paths, const Config& config);

/// With what is configured on this host. stats must outlive it.
std::shared_ptr<ChunkReader> make_reader(const StackParts& parts, SourceStats& stats, const Paths& paths,
                                         const Config& config);

}  // namespace isr
