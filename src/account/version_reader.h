#pragma once

#include <memory>

#include "account/account.h"
#include "account/parcel_version.h"
#include "chunkstore/pack_cache.h"
#include "chunkstore/stack.h"
#include "image/image.h"

namespace isr {

/// Reads any version of a parcel without a session: for mount, export and check.
struct VersionReader {
  VersionReader(Account& account, Unreachable unreachable);
  std::shared_ptr<Image> open(const VersionImage& image);

  SourceStats stats;
  std::shared_ptr<PackStore> cache;
  std::shared_ptr<ChunkReader> reader;
};
fs::path cache_directory(const Paths& paths);
std::shared_ptr<PackCache> open_cache(const Paths& paths, const Config& config);

/// The places of a parcel's objects, besides the sources that the configuration names.
struct ReaderParts {
  std::shared_ptr<PackStore> settled;  ///< null without a session
  std::shared_ptr<PackStore> cache;
  BlobStorePtr repository;  ///< null when offline
  Unreachable unreachable = Unreachable::kFail;
};
/// A reader with the sources that are configured on this host. stats must outlive it.
std::shared_ptr<ChunkReader> make_reader(const ReaderParts& parts, SourceStats& stats, const Paths& paths,
                                         const Config& config);

}  // namespace isr
