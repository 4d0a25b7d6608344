// Reads stored versions: from the cache of this host first, then from the repository.

#include "account/version_reader.h"

#include "base/file.h"

namespace isr {

fs::path cache_directory(const Paths& paths) { return paths.cache / "objects"; }

std::shared_ptr<PackCache> open_cache(const Paths& paths, const Config& config) {
  PackStoreOptions options;
  options.limit_bytes = config.get_bytes("cache.limit");
  options.min_free_bytes = config.get_bytes("cache.min_free");
  try {
    make_private_directory(paths.cache);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kIo) throw;  // the store meets the error again, reports it and goes on
  }
  return open_pack_cache(cache_directory(paths), options);
}

namespace {

/// Every source that a reader asks, in this order. A new source is one line here, before the repository's.
std::vector<Tier> make_tiers(const ReaderParts& parts, SourceStats& stats) {
  std::vector<Tier> tiers;
  if (parts.settled) tiers.push_back(settled_tier(parts.settled));
  tiers.push_back(cache_tier(parts.cache));
  if (parts.repository) tiers.push_back(repository_tier(parts.repository, stats.link));
  return tiers;
}

}  // namespace

std::shared_ptr<ChunkReader> make_reader(const ReaderParts& parts, SourceStats& stats, const Paths& paths,
                                         const Config& config) {
  ReaderOptions options;
  options.link = &stats.link;
  options.spill = {paths.cache, config.get_bytes("cache.decoded"), config.get_bytes("cache.min_free")};
  return std::make_shared<ChunkReader>(open_stack(make_tiers(parts, stats), stats, {.unreachable = parts.unreachable}),
                                       options);
}

VersionReader::VersionReader(Account& account, Unreachable unreachable) {
  cache = open_cache(account.host.paths, account.host.config);
  reader =
      make_reader({.settled = nullptr, .cache = cache, .repository = account.remote.store, .unreachable = unreachable},
                  stats, account.host.paths, account.host.config);
}

std::shared_ptr<Image> VersionReader::open(const VersionImage& image) {
  return std::make_shared<Image>(image.name, image.content, reader, nullptr);
}

}  // namespace isr
