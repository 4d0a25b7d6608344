#pragma once

#include <memory>

#include "account/account.h"
#include "account/parcel_version.h"
#include "chunkstore/pack_cache.h"
#include "chunkstore/stack.h"
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

/// Where the objects of a parcel may be, besides the sources that the configuration names.
struct ReaderParts {
  std::shared_ptr<PackStore> settled;  ///< null: no session
  std::shared_ptr<PackStore> cache;
  BlobStorePtr repository;  ///< null: offline
  Unreachable unreachable = Unreachable::kFail;
};
/// With what is configured on this host. stats must outlive it.
std::shared_ptr<ChunkReader> make_reader(const ReaderParts& parts, SourceStats& stats, const Paths& paths,
                                         const Config& config);

}  // namespace isr
